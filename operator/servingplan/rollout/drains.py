"""Decides which replicas may leave now.

A replica beyond the plan that serves no requests leaves at once. One that serves leaves when the other ready replicas carry
the planned rate of each class that it serves. In steps of one node it also leaves if the plan cannot be reached otherwise,
because it costs more than the budget or runs where planned replicas belong. A replica that leaves first gets no weight, then
drains for ``drainSeconds``, and is then removed. If its engine reports that it still has requests, the removal waits for these
until ``drainDeadlineSeconds``.

If the gateway can be asked, ``drainSeconds`` begin when it has weights without the replica, or when it has not reported that
for ``GATEWAY_PATIENCE_SECONDS``.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
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
"""How long a plan waits for nodes that it asked for, before replicas make room for their successors without them."""
GATEWAY_PATIENCE_SECONDS = 90.0
"""How long a drain waits for the gateway's report: as long as a kubelet takes to update a mounted ConfigMap."""
POLL_SECONDS = 2.0
"""How soon a gateway that does not have the weights yet, or an engine that still has requests, is asked again."""
_MAKES_WAY = "it makes way until the successors of a higher priority serve"
Drain = tuple[Pod, str]
"""A pod whose drain begins, and the reason."""


@dataclass(frozen=True)
class Departures:
    """The replicas that are removed, begin to drain, or come back."""

    victims: frozenset[str]
    """The uids of pods that may be removed now."""
    drain: tuple[Drain, ...]
    """The pods whose drain begins, with the reason."""
    restore: tuple[Pod, ...]
    """The pods whose drain is cancelled."""
    unrouted: tuple[Pod, ...]
    """The pods whose grace period begins, because the gateway has weights without them."""
    stuck: tuple[Pod, ...]
    """The wanted pods that were not ready within their start-up time. They are replaced."""
    wake_in_seconds: float | None
    """The seconds until the next drain or start-up time ends; None if none runs."""


class Coming(NamedTuple):
    """The capacity that this turn adds."""

    nodes: bool
    """Whether it asks for nodes."""
    replicas: bool
    """Whether it gives replicas a node, or will within a minute."""
    held_back: bool
    """Whether the budget holds back some of it."""
    room: bool = False
    """Whether it gives back nodes, in whose place the budget may let others come."""


def departures(
    rollout: Rollout,
    limits: Limits,
    placements: Mapping[str, Placement],
    strays: tuple[Pod, ...],
    coming: Coming,
    kept: frozenset[str] = frozenset(),
    whole: Fleet | None = None,
) -> Departures:
    """All departures of this turn. ``placements`` are by pool. ``strays`` are pods of pools that the spec no longer has.
    ``kept``: uids of those that serve until their successors do, for which others of the ``whole`` plan make way
    (``rollout.precedence``)."""
    surplus = sorted(
        [*strays, *(pod for placement in placements.values() for pod in placement.surplus)],
        key=lambda pod: (_importance(pod, rollout), pod.name),
    )
    victims, waiting, deadlines = _drains_under_way(surplus, rollout.world.now, limits)
    # A group that holds no node may be there for good, since those above it serve: nothing waits for its end.
    spare = {pod.uid for pod in surplus if not pod.nodes and (pod.workers or pod.workers_to_come)}
    making_way = frozenset() if whole is None else _fewer(whole, rollout.fleet)
    may_leave = [pod for pod in waiting if not (making_way and pod.uid in kept)]
    drain, remaining, waiting = _not_missed(rollout, may_leave, making_way)
    if limits.exceeded_by(rollout.spend):
        going = {pod.uid for pod in surplus if pod.draining_since is not None} | {pod.uid for pod, _ in drain} | victims
        may_go = [pod for pod in waiting if pod.uid not in kept]
        for pod, reason in _until_within_budget(rollout, may_go, going, limits.budget_dollars_per_hour):
            going.add(pod.uid)
            drain.append((pod, reason))
        at_once = _without_successor(rollout, drain, [pod for pod in remaining if pod.uid not in going])
        victims |= at_once
        drain = [(pod, reason) for pod, reason in drain if pod.uid not in at_once]
    elif waiting and coming.room:
        deadlines.append(POLL_SECONDS)
    elif waiting and rollout.age_seconds < PATIENCE_SECONDS and (coming.nodes or _nodes_are_coming(rollout.pools)):
        deadlines.append(PATIENCE_SECONDS - rollout.age_seconds)
    elif waiting and not (drain or victims - spare or coming.replicas or _in_flight(rollout, placements)):
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
    """The uids of pods that may be removed, the pods that still serve, and the seconds until drains end or are checked
    again."""
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


def _fewer(whole: Fleet, fleet: Fleet) -> frozenset[str]:
    """The models of which a fleet has fewer replicas than the whole plan."""
    counts: Counter[str] = Counter()
    for sets, sign in ((whole.replica_sets, 1), (fleet.replica_sets, -1)):
        for item in sets:
            counts[item.model] += sign * item.replicas
    return frozenset(+counts)


def _not_missed(
    rollout: Rollout, waiting: list[Pod], making_way: frozenset[str] = frozenset()
) -> tuple[list[Drain], list[Pod], list[Pod]]:
    """The pods that may begin to drain because others carry what they serve, with the reason; the pods that then serve; and
    the pods that still wait. ``making_way``: the models some of whose replicas make way."""
    planned = _planned_rates(rollout.fleet)
    remaining = [
        pod
        for pod in rollout.world.pods
        if pod.deployment in rollout.facts and pod.reachable and pod.draining_since is None
    ]
    drain: list[Drain] = []
    left: list[Pod] = []
    for pod in waiting:
        others = [other for other in remaining if other.uid != pod.uid]
        if not pod.reachable or _carried_without(rollout.facts_of(pod), map(rollout.facts_of, others), planned):
            remaining = others
            way = rollout.facts_of(pod).model in making_way
            drain.append((pod, _MAKES_WAY if way else "what else is ready carries the planned rate of each class"))
        else:
            left.append(pod)
    return drain, remaining, left


def _starts(rollout: Rollout, limits: Limits, placements: Mapping[str, Placement]) -> tuple[list[Pod], list[float]]:
    """The wanted pods whose start-up time is over, and the seconds that the others have left."""
    stuck: list[Pod] = []
    deadlines: list[float] = []
    for pod in (pod for placement in placements.values() for pod in placement.stay):
        left = start_up_left(pod, rollout.world.now, limits.startup_seconds_of(pod))
        if left is not None and left <= 0:
            stuck.append(pod)
        elif left is not None:
            deadlines.append(left)
    return stuck, deadlines


def _grace_left(pod: Pod, now: str, drain_seconds: float, gateway_follows: bool | None) -> float:
    """The seconds until a draining replica may be removed."""
    if gateway_follows is None:
        return drain_seconds - seconds_since(pod.draining_since, now)
    if pod.unrouted_since is not None:
        return drain_seconds - seconds_since(pod.unrouted_since, now)
    waited = 0.0 if gateway_follows else GATEWAY_PATIENCE_SECONDS - seconds_since(pod.draining_since, now)
    return drain_seconds + waited


def _importance(pod: Pod, rollout: Rollout) -> tuple[int, float]:
    """The order of replicas by how little is lost with them: by priority, then by planned requests/s."""
    facts = rollout.facts_of(pod)
    return facts.priority, math.fsum(facts.planned.values())


def _planned_rates(fleet: Fleet) -> dict[tuple[str, str], float]:
    """The plan's requests/s by model and class."""
    rates: dict[tuple[str, str], float] = defaultdict(float)
    for item in fleet.replica_sets:
        for name, rate in item.planned.items():
            rates[item.model, name] += rate
    return rates


def _carried_without(
    own: ReplicaFacts, others: Iterable[ReplicaFacts], planned: Mapping[tuple[str, str], float]
) -> bool:
    """Whether the other replicas carry each class that a replica serves when it is gone. If the replica was planned for the
    class, they must carry the class in full. If it only stands in for absent replicas, one other that can serve the class
    is enough."""
    peers = [other for other in others if other.model == own.model]
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


def _until_within_budget(rollout: Rollout, waiting: Iterable[Pod], going: set[str], budget: float) -> list[Drain]:
    """The waiting pods that must leave so that the emptied nodes bring the spend down to the budget, lowest priority first;
    none whose leaving empties no node that is given back."""
    gone = set(going)
    chosen: list[Pod] = []
    for pod in waiting:
        if _spend_without(rollout.pools, rollout.fleet, gone) <= budget + CENT:
            break
        gone.add(pod.uid)
        chosen.append(pod)
    least = max(budget, _spend_without(rollout.pools, rollout.fleet, gone))
    spared: set[str] = set()
    for pod in reversed(chosen):
        if _spend_without(rollout.pools, rollout.fleet, gone - {pod.uid}) <= least + CENT:
            gone.remove(pod.uid)
            spared.add(pod.uid)
    return [(pod, "spend is over the budget") for pod in chosen if pod.uid not in spared]


def _without_successor(rollout: Rollout, leaving: list[Drain], staying: list[Pod]) -> set[str]:
    """The uids of pods over the budget whose requests nobody can take over, because no other replica serves any of their
    classes.

    A drain would only answer their requests with 503 on a node that is paid for. They serve until they are removed, and finish
    what they have within their pod's grace period.
    """
    left = {
        (facts.model, name)
        for facts in map(rollout.facts_of, staying)
        for name, rate in facts.capacity.items()
        if rate > 0
    }
    return {
        pod.uid
        for pod, _ in leaving
        for own in [rollout.facts_of(pod)]
        if pod.reachable and not any((own.model, name) in left for name in {*own.planned, *own.capacity})
    }


def _spend_without(pools: tuple[Pool, ...], fleet: Fleet, gone: set[str]) -> float:
    """$/h once these pods are gone, and those that end already. On a node that has fallen silent nobody ends a pod."""
    total = 0.0
    for pool in pools:
        held = sum(
            any(pod.uid not in gone and not (pod.terminating and node.node.ready) for pod in node.our_pods)
            for node in pool.nodes
        )
        price = pool.dollars_per_node_hour or 0.0
        if pool.sized_by_us:
            total += price * (held if pool.contradiction is not None else max(held, planned_size(pool, fleet)))
        elif pool.rented:
            total += pool.spend
        elif pool.spec.resize is None:
            total += price * held
    return total


def _nodes_are_coming(pools: tuple[Pool, ...]) -> bool:
    return any(pool.sized_by_us and (pool.wanted != len(pool.nodes) or pool.boots) for pool in pools)


def _in_flight(rollout: Rollout, placements: Mapping[str, Placement]) -> bool:
    """Whether something that has begun may still free or add capacity by itself."""
    # On a node that has fallen silent nobody ends a pod: it may be on its way out for ever.
    silent = {node.name for node in rollout.world.nodes if not node.ready}
    going = (
        (pod.terminating and not (pod.nodes and silent.issuperset(pod.nodes))) or pod.draining_since is not None
        for pod in rollout.world.pods
        if pod.deployment in rollout.facts
    )
    # A replica that does not come up keeps the others where they are: they serve.
    starting = (not pod.reachable for placement in placements.values() for pod in placement.stay)
    return any(going) or any(starting)


def _make_room(
    rollout: Rollout, placements: Mapping[str, Placement], waiting: list[Pod], held_back: bool
) -> list[Drain]:
    """The fewest replicas whose leaving lets the plan continue: those on one node, or on the nodes of one replica."""
    unused = {node.name: node.unused_gpus for pool in rollout.pools for node in pool.nodes}
    blocked = [
        item
        for placement in placements.values()
        for item in placement.assigned
        if not (item.free_now or item.pod.kept_back)
    ]
    for item in sorted(blocked, key=lambda item: (-rollout.facts_of(item.pod).priority, item.nodes, item.pod.name)):
        chosen: dict[str, Drain] = {}
        short = 0
        for node in sorted(set(item.nodes) - set(item.pod.nodes)):
            free = unused[node]
            for pod in waiting:
                if free >= item.pod.gpus:
                    break
                if node in pod.nodes:
                    free += pod.gpus
                    chosen.setdefault(pod.uid, (pod, f"planned replicas belong on node {node}"))
            short += free < item.pod.gpus
        if not short:
            return list(chosen.values())
    leaving = {name for placement in placements.values() for name in placement.leaving}
    return _clear_a_node(rollout, waiting, leaving) if held_back else []


def _clear_a_node(rollout: Rollout, waiting: list[Pod], leaving: set[str]) -> list[Drain]:
    """The replicas on the node with which least is lost. If the plan does without some nodes (``leaving``), it is one of
    these."""
    by_node: dict[str, list[Pod]] = defaultdict(list)
    for pod in waiting:
        for name in pod.nodes:
            by_node[name].append(pod)
    if not by_node:
        return []

    def importance(name: str) -> tuple[int, float, str]:
        priorities, rates = zip(*(_importance(pod, rollout) for pod in by_node[name]), strict=True)
        return max(priorities), math.fsum(rates), name

    node = min([name for name in by_node if name in leaving] or by_node, key=importance)
    return [(pod, f"node {node} must leave before the budget lets others come") for pod in by_node[node]]
