"""Which replicas may leave now.

A replica beyond the plan that serves nobody leaves at once. One that serves leaves when what else is ready carries the
planned rate of each class that it serves, or, in steps of one node, when the plan cannot come true otherwise: it costs
more than the budget, or runs where planned replicas belong. Leaving means: no weight, then ``drainSeconds``, then removal;
while its engine tells that it still has requests, removal waits for these until ``drainDeadlineSeconds``.

Where the gateway can be asked, ``drainSeconds`` begin when it has taken weights without the replica, or when it has not
said so for ``GATEWAY_PATIENCE_SECONDS``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from servingplan.model.fleet import Fleet, ReplicaFacts
from servingplan.model.times import seconds_since
from servingplan.model.world import Pod
from servingplan.planning.pools import CENT, Pool
from servingplan.planning.starts import start_up_left
from servingplan.rollout.growth import planned_size
from servingplan.rollout.placement import Placement
from servingplan.rollout.state import Limits, Rollout

PATIENCE_SECONDS = 900.0
"""How long a plan waits for nodes that it asked for before replicas make room for their successors without them."""
GATEWAY_PATIENCE_SECONDS = 90.0
"""How long a drain waits for the gateway's word: as long as a kubelet takes to hand on a mounted ConfigMap."""
POLL_SECONDS = 2.0
"""How soon a gateway that has not taken the weights, or an engine that has requests left, is asked again."""


@dataclass(frozen=True)
class Departures:
    """Who goes, who begins to go, who comes back."""

    victims: frozenset[str]
    """Uids that may be removed now."""
    drain: tuple[tuple[Pod, str], ...]
    """Pods whose drain begins, with the reason."""
    restore: tuple[Pod, ...]
    """Pods whose drain is called off."""
    unrouted: tuple[Pod, ...]
    """Pods whose grace begins: the gateway has taken weights without them."""
    stuck: tuple[Pod, ...]
    """Wanted, but did not start within their start-up time: to be replaced."""
    wake_in_seconds: float | None
    """When the next drain or start-up time ends."""


class Coming(NamedTuple):
    """The capacity that this turn brings."""

    nodes: bool
    """It asks for nodes."""
    replicas: bool
    """It gives replicas a node."""
    held_back: bool
    """The budget keeps some of it from coming."""


def departures(
    rollout: Rollout,
    limits: Limits,
    placements: Mapping[str, Placement],
    strays: tuple[Pod, ...],
    coming: Coming,
) -> Departures:
    """All departures of this turn.

    ``placements`` are by pool. ``strays`` are pods of pools that the spec no longer has.
    """
    world, pools, facts = rollout.world, rollout.pools, rollout.facts
    surplus = sorted(
        [*strays, *(pod for placement in placements.values() for pod in placement.surplus)],
        key=lambda pod: (_priority(pod, facts), _share(pod, facts), pod.name),
    )
    victims, waiting, deadlines = _drains_under_way(surplus, world.now, limits)
    drain, remaining, waiting = _not_missed(rollout, waiting)
    if limits.exceeded_by(rollout.spend):
        going = {pod.uid for pod, _ in drain} | victims
        for pod, reason in _until_within_budget(rollout, waiting, going, limits.budget_dollars_per_hour):
            going.add(pod.uid)
            drain.append((pod, reason))
        at_once = _without_successor(drain, [pod for pod in remaining if pod.uid not in going], facts)
        victims |= at_once
        drain = [(pod, reason) for pod, reason in drain if pod.uid not in at_once]
    elif waiting and rollout.age_seconds < PATIENCE_SECONDS and (coming.nodes or _nodes_are_coming(pools)):
        deadlines.append(PATIENCE_SECONDS - rollout.age_seconds)
    elif waiting and not (drain or victims or coming.replicas or _in_flight(rollout, placements)):
        drain += _make_room(rollout, placements, waiting, coming.held_back)
    stuck, starting = _starts(rollout, limits, placements)
    return Departures(
        victims=frozenset(victims),
        drain=tuple(drain),
        restore=tuple(
            pod for placement in placements.values() for pod in placement.stay if pod.draining_since is not None
        ),
        unrouted=tuple(
            pod
            for pod in surplus
            if limits.gateway_follows
            and pod.draining_since is not None
            and pod.unrouted_since is None
            and pod.uid not in victims
        ),
        stuck=tuple(stuck),
        wake_in_seconds=min((*deadlines, *starting), default=None),
    )


def _drains_under_way(surplus: list[Pod], now: str, limits: Limits) -> tuple[set[str], list[Pod], list[float]]:
    """Uids of pods that may be removed, pods that still serve, and the seconds until drains end or are looked at again."""
    victims: set[str] = set()
    serving: list[Pod] = []
    deadlines: list[float] = []
    least, most = float(limits.change.drain_seconds), float(limits.change.drain_deadline_seconds)
    for pod in surplus:
        busy = pod.unasked or bool(pod.requests_inside)
        grace_left = _grace_left(pod, now, max(least, most) if busy else least, limits.gateway_follows)
        if pod.draining_since is not None and pod.ready and grace_left > 0:
            asked = busy or limits.gateway_follows is False
            deadlines.append(min(grace_left, POLL_SECONDS) if asked else grace_left)
        elif not pod.ready or pod.draining_since is not None:
            victims.add(pod.uid)
        else:
            serving.append(pod)
    return victims, serving, deadlines


def _not_missed(rollout: Rollout, waiting: list[Pod]) -> tuple[list[tuple[Pod, str]], list[Pod], list[Pod]]:
    """Pods that may drain since others carry what they serve, with the reason; those that serve then; and who still waits."""
    facts, planned = rollout.facts, _planned_rates(rollout.fleet)
    remaining = [
        pod for pod in rollout.world.pods if pod.deployment in facts and pod.reachable and pod.draining_since is None
    ]
    drain: list[tuple[Pod, str]] = []
    left: list[Pod] = []
    for pod in waiting:
        others = [other for other in remaining if other.uid != pod.uid]
        if _carried_without(pod, others, facts, planned):
            remaining = others
            drain.append((pod, "what else is ready carries the planned rate of each class"))
        else:
            left.append(pod)
    return drain, remaining, left


def _starts(rollout: Rollout, limits: Limits, placements: Mapping[str, Placement]) -> tuple[list[Pod], list[float]]:
    """Wanted pods whose start-up time is over, and the seconds that the others have left."""
    stuck: list[Pod] = []
    deadlines: list[float] = []
    for pod in (pod for placement in placements.values() for pod in placement.stay):
        startup_seconds = limits.startup_seconds_of(rollout.facts_of(pod).model)
        left = start_up_left(pod, rollout.world.now, startup_seconds)
        if left is not None and left <= 0:
            stuck.append(pod)
        elif left is not None:
            deadlines.append(left)
    return stuck, deadlines


def _grace_left(pod: Pod, now: str, drain_seconds: float, gateway_follows: bool | None) -> float:
    """Seconds until a replica that drains may be removed."""
    if gateway_follows is None:
        return drain_seconds - seconds_since(pod.draining_since, now)
    if pod.unrouted_since is not None:
        return drain_seconds - seconds_since(pod.unrouted_since, now)
    waited = 0.0 if gateway_follows else GATEWAY_PATIENCE_SECONDS - seconds_since(pod.draining_since, now)
    return drain_seconds + waited


def _priority(pod: Pod, facts: Mapping[str, ReplicaFacts]) -> int:
    return facts[pod.deployment or ""].priority


def _share(pod: Pod, facts: Mapping[str, ReplicaFacts]) -> float:
    return math.fsum(facts[pod.deployment or ""].planned.values())


def _planned_rates(fleet: Fleet) -> dict[tuple[str, str], float]:
    """Requests/s of the plan by model and class."""
    rates: dict[tuple[str, str], float] = defaultdict(float)
    for item in fleet.replica_sets:
        for name, rate in item.planned.items():
            rates[item.model, name] += rate
    return rates


def _carried_without(
    pod: Pod,
    others: list[Pod],
    facts: Mapping[str, ReplicaFacts],
    planned: Mapping[tuple[str, str], float],
) -> bool:
    """Whether each class that the replica serves is carried by the other ready replicas when it is gone: in full where
    the replica was planned for the class, and by some replica that can where it only stands in for absent ones."""
    if not pod.reachable:
        return True
    own = facts[pod.deployment or ""]
    peers = [facts[other.deployment or ""] for other in others if facts[other.deployment or ""].model == own.model]
    for (model, name), rate in planned.items():
        if model != own.model or rate <= 0:
            continue
        carried = math.fsum(peer.planned.get(name, 0.0) for peer in peers)
        if own.planned.get(name, 0.0) > 0:
            if carried < rate * (1 - 1e-6):
                return False
        elif own.capacity.get(name, 0.0) > 0 and not any(
            peer.planned.get(name, 0.0) > 0 or peer.capacity.get(name, 0.0) > 0 for peer in peers
        ):
            return False
    return True


def _until_within_budget(
    rollout: Rollout, waiting: Iterable[Pod], going: set[str], budget: float
) -> list[tuple[Pod, str]]:
    """As many of the waiting as it takes for the emptied nodes to bring spend down to the budget, lowest priority first."""
    gone = set(going)
    chosen: list[tuple[Pod, str]] = []
    for pod in waiting:
        if _spend_without(rollout.pools, rollout.fleet, gone) <= budget + CENT:
            break
        gone.add(pod.uid)
        chosen.append((pod, "spend is over the budget"))
    return chosen


def _without_successor(
    leaving: list[tuple[Pod, str]], staying: list[Pod], facts: Mapping[str, ReplicaFacts]
) -> set[str]:
    """Uids of those over the budget whose requests nobody takes over: of no class that they serve is a replica left.

    A drain would only answer these with 503 on a node that is paid for. They serve until they are removed, and finish what
    they have in their time to stop.
    """
    left = {
        (facts[pod.deployment or ""].model, name)
        for pod in staying
        for name, rate in facts[pod.deployment or ""].capacity.items()
        if rate > 0
    }
    return {
        pod.uid
        for pod, _ in leaving
        for own in [facts[pod.deployment or ""]]
        if pod.reachable and not any((own.model, name) in left for name in {*own.planned, *own.capacity})
    }


def _spend_without(pools: tuple[Pool, ...], fleet: Fleet, gone: set[str]) -> float:
    total = 0.0
    for pool in pools:
        held = sum(1 for node in pool.nodes if any(pod.uid not in gone for pod in node.our_pods))
        price = pool.dollars_per_node_hour or 0.0
        if pool.sized_by_us:
            total += price * (held if pool.contradiction is not None else max(held, planned_size(pool, fleet)))
        elif pool.rented:
            total += pool.spend
        elif pool.spec.resize is None:
            total += price * held
    return total


def _nodes_are_coming(pools: tuple[Pool, ...]) -> bool:
    return any(pool.sized_by_us and pool.wanted != len(pool.nodes) for pool in pools)


def _in_flight(rollout: Rollout, placements: Mapping[str, Placement]) -> bool:
    """Whether something that was begun may still free or bring capacity by itself."""
    going = (
        pod.terminating or pod.draining_since is not None
        for pod in rollout.world.pods
        if pod.deployment in rollout.facts
    )
    # A replica that does not come up keeps the others where they are: they serve.
    starting = (not pod.reachable for placement in placements.values() for pod in placement.stay)
    return any(going) or any(starting)


def _make_room(
    rollout: Rollout, placements: Mapping[str, Placement], waiting: list[Pod], held_back: bool
) -> list[tuple[Pod, str]]:
    """The fewest replicas whose leaving lets the plan go on: those on one node."""
    facts = rollout.facts
    unused = {node.name: node.unused_gpus for pool in rollout.pools for node in pool.nodes}
    blocked = [
        item
        for placement in placements.values()
        for item in placement.assigned
        if not (item.free_now or item.pod.other_gates)
    ]
    for item in sorted(blocked, key=lambda item: (-_priority(item.pod, facts), item.node, item.pod.name)):
        chosen: list[tuple[Pod, str]] = []
        free = unused[item.node]
        for pod in waiting:
            if free >= item.pod.gpus:
                break
            if pod.node == item.node:
                free += pod.gpus
                chosen.append((pod, f"planned replicas belong on node {item.node}"))
        if free >= item.pod.gpus:
            return chosen
    if not held_back:
        return []
    by_node: dict[str, list[Pod]] = defaultdict(list)
    for pod in waiting:
        if pod.node is not None:
            by_node[pod.node].append(pod)
    leaving = {name for placement in placements.values() for name in placement.leaving}
    candidates = [name for name in by_node if name in leaving] or list(by_node)
    if not candidates:
        return []
    node = min(
        candidates,
        key=lambda name: (
            max(_priority(pod, facts) for pod in by_node[name]),
            math.fsum(_share(pod, facts) for pod in by_node[name]),
            name,
        ),
    )
    return [(pod, f"node {node} must leave before the budget lets others come") for pod in by_node[node]]
