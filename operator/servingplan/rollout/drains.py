"""Which replicas may leave now.

A replica beyond the plan that serves nobody leaves at once. One that serves leaves when what else is ready carries the
planned rate of each class that it serves, or, in steps of one node, when the plan cannot come true otherwise: it costs
more than the budget, or sits where planned replicas belong. Leaving means: no weight, then ``drainSeconds``, then removal;
while its engine tells that it still has requests, removal waits for these until ``drainDeadlineSeconds``.

Where the gateway can be asked, ``drainSeconds`` begin when it has taken weights without the replica, or when it has not
said so for ``GATEWAY_PATIENCE_SECONDS``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from servingplan.model.fleet import Fleet, ReplicaFacts
from servingplan.model.times import seconds_since
from servingplan.model.world import Observation, Pod
from servingplan.planning.pools import CENT, Pool
from servingplan.planning.starts import start_up_left
from servingplan.rollout.growth import planned_size
from servingplan.rollout.placement import Seating


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


PATIENCE_SECONDS = 900.0
"""How long a plan waits for nodes that it asked for before replicas make room for their successors without them."""


GATEWAY_PATIENCE_SECONDS = 90.0
"""How long a drain waits for the gateway's word: as long as a kubelet takes to hand on a mounted ConfigMap."""
POLL_SECONDS = 2.0
"""How soon a gateway that has not taken the weights, or an engine that has requests left, is asked again."""


def departures(
    *,
    world: Observation,
    pools: tuple[Pool, ...],
    fleet: Fleet,
    facts: Mapping[str, ReplicaFacts],
    seatings: Mapping[str, Seating],
    strays: tuple[Pod, ...],
    spend: float,
    budget: float,
    growing: bool,
    placing: bool,
    growth_held_back: bool,
    plan_age_seconds: float,
    drain_seconds: float,
    deadline_seconds: float = 0.0,
    gateway_follows: bool | None = None,
    startup_seconds: Callable[[str], float],
) -> Departures:
    """Decide all departures of this turn.

    ``strays`` are pods of pools that the spec no longer has. ``growing`` and ``placing``: this turn asks for nodes, and
    gives replicas a node. ``startup_seconds`` is by model. ``gateway_follows``: the gateway has taken the published weights;
    None: there is none to ask.
    """
    surplus = sorted(
        [*strays, *(pod for seating in seatings.values() for pod in seating.surplus)],
        key=lambda pod: (_priority(pod, facts), _share(pod, facts), pod.name),
    )
    deadlines: list[float] = []
    victims: set[str] = set()
    waiting: list[Pod] = []
    for pod in surplus:
        busy = pod.unasked or bool(pod.requests_inside)
        least = max(drain_seconds, deadline_seconds) if busy else drain_seconds
        grace_left = _grace_left(pod, world.now, least, gateway_follows)
        if pod.draining_since is not None and pod.ready and grace_left > 0:
            asked = busy or gateway_follows is False
            deadlines.append(min(grace_left, POLL_SECONDS) if asked else grace_left)
        elif not pod.ready or pod.draining_since is not None:
            victims.add(pod.uid)
        else:
            waiting.append(pod)
    drain: list[tuple[Pod, str]] = []
    remaining = [pod for pod in world.pods if pod.deployment in facts and pod.reachable and pod.draining_since is None]
    planned_rate = _planned_rates(fleet)
    for pod in list(waiting):
        others = [other for other in remaining if other.uid != pod.uid]
        if _carried_without(pod, others, facts, planned_rate):
            remaining = others
            drain.append((pod, "what else is ready carries the planned rate of each class"))
            waiting.remove(pod)
    if spend > budget + CENT:
        going = {pod.uid for pod, _ in drain} | victims
        for pod, reason in _until_within_budget(pools, fleet, waiting, going, budget):
            going.add(pod.uid)
            drain.append((pod, reason))
        at_once = _without_successor(drain, [pod for pod in remaining if pod.uid not in going], facts)
        victims |= at_once
        drain = [(pod, reason) for pod, reason in drain if pod.uid not in at_once]
    elif waiting and plan_age_seconds < PATIENCE_SECONDS and (growing or _nodes_are_coming(pools)):
        deadlines.append(PATIENCE_SECONDS - plan_age_seconds)
    elif waiting and not (drain or victims or placing) and not _in_flight(world, seatings, facts):
        drain += _make_room(pools, seatings, waiting, facts, growth_held_back)
    stuck = []
    for seating in seatings.values():
        for pod in seating.stay:
            left = start_up_left(pod, world.now, startup_seconds(facts[pod.deployment or ""].model))
            if left is None:
                continue
            if left <= 0:
                stuck.append(pod)
            else:
                deadlines.append(left)
    return Departures(
        victims=frozenset(victims),
        drain=tuple(drain),
        restore=tuple(pod for seating in seatings.values() for pod in seating.stay if pod.draining_since is not None),
        unrouted=tuple(
            pod
            for pod in surplus
            if gateway_follows
            and pod.draining_since is not None
            and pod.unrouted_since is None
            and pod.uid not in victims
        ),
        stuck=tuple(stuck),
        wake_in_seconds=min(deadlines, default=None),
    )


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
    pools: tuple[Pool, ...], fleet: Fleet, waiting: list[Pod], going: set[str], budget: float
) -> list[tuple[Pod, str]]:
    """Lowest priority first, as many as it takes for the emptied nodes to bring spend down to the budget."""
    gone = set(going)
    chosen: list[tuple[Pod, str]] = []
    for pod in waiting:
        if _spend_without(pools, fleet, gone) <= budget + CENT:
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


def _in_flight(world: Observation, seatings: Mapping[str, Seating], facts: Mapping[str, ReplicaFacts]) -> bool:
    """Whether something that was begun may still free or bring capacity by itself."""
    for pod in world.pods:
        if pod.deployment in facts and (pod.terminating or pod.draining_since is not None):
            return True
    for seating in seatings.values():
        for pod in seating.stay:
            # One that does not come up keeps the others where they are: they serve.
            if not pod.reachable:
                return True
    return False


def _make_room(
    pools: tuple[Pool, ...],
    seatings: Mapping[str, Seating],
    waiting: list[Pod],
    facts: Mapping[str, ReplicaFacts],
    growth_held_back: bool,
) -> list[tuple[Pod, str]]:
    """The fewest replicas whose leaving lets the plan go on: those on one node."""
    unused = {node.name: node.unused_gpus for pool in pools for node in pool.nodes}
    blocked = [
        seat for seating in seatings.values() for seat in seating.seats if not (seat.free_now or seat.pod.other_gates)
    ]
    for seat in sorted(blocked, key=lambda seat: (-_priority(seat.pod, facts), seat.node, seat.pod.name)):
        chosen: list[tuple[Pod, str]] = []
        free = unused[seat.node]
        for pod in waiting:
            if free >= seat.pod.gpus:
                break
            if pod.node == seat.node:
                free += pod.gpus
                chosen.append((pod, f"planned replicas belong on node {seat.node}"))
        if free >= seat.pod.gpus:
            return chosen
    if not growth_held_back:
        return []
    by_node: dict[str, list[Pod]] = defaultdict(list)
    for pod in waiting:
        if pod.node is not None:
            by_node[pod.node].append(pod)
    leaving = {name for seating in seatings.values() for name in seating.leaving}
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
