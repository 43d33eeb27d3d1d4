"""Lower priorities make way for the successors of higher ones.

While a class is served only by replicas that the plan replaces, one of them stays until a successor serves. If the budget or a
pool has no room for both, the planned nodes of lower priority are done without meanwhile, the lowest first, and no more than it
takes. If even that would not be enough, nobody makes way, since the class would lose its replica anyway.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from servingplan.model.fleet import Fleet, ReplicaSet
from servingplan.model.world import Pod
from servingplan.planning.fleet import Content, contents_of, without_contents
from servingplan.planning.pools import CENT, LEFT, Pool
from servingplan.rollout.growth import planned_size
from servingplan.rollout.placement import Placement
from servingplan.rollout.state import Limits, Rollout, missing_replicas

type Place = Callable[[Rollout], Mapping[str, Placement]]
"""The placement of the pods of a rollout, by pool."""


@dataclass(frozen=True)
class Precedence:
    """What is aimed at while successors of higher priority come."""

    rollout: Rollout
    """The rollout, whose fleet lacks what makes way."""
    placements: Mapping[str, Placement]
    """The placement of its pods, by pool."""
    kept: frozenset[str] = frozenset()
    """The uids of replicas that serve until their successors do."""
    gone: tuple[Content, ...] = ()
    """What makes way: nodes of the whole plan that its fleet lacks."""

    @cached_property
    def staying(self) -> frozenset[str]:
        """The uids of the replicas that are where the plan wants them."""
        return frozenset(pod.uid for placement in self.placements.values() for pod in placement.stay)


@dataclass(frozen=True)
class _Lack:
    """What is missing for a plan and the replicas that are kept beside it."""

    dollars_per_hour: float
    nodes: Mapping[str, int]
    """Nodes by pool, beyond the most that it can have."""

    def __bool__(self) -> bool:
        return self.dollars_per_hour > CENT or bool(self.nodes)


def precedence(rollout: Rollout, limits: Limits, placed: Place) -> Precedence:
    """The rollout in which lower priorities make way, by model, the highest priority first."""
    found, whole = Precedence(rollout, placed(rollout)), rollout.fleet
    if math.isnan(rollout.spend) or not (limits.may_grow or limits.exceeded_by(rollout.spend)):
        return found
    lowest = min((item.priority for item in whole.replica_sets), default=0)
    serving = _serving(rollout)
    for priority, model in sorted({(-item.priority, item.model) for item in whole.replica_sets}):
        # Where planned replicas make way, those that run may find room.
        if -priority > lowest or found.gone:
            kept = found.kept.union(_without_successor(found, whole, model, serving[model]))
            found = found if kept == found.kept else _made(rollout, found, limits, placed, kept, -priority) or found
    return found


def _serving(rollout: Rollout) -> dict[str, list[Pod]]:
    """The replicas that gateways can reach, that do not drain, and whose nodes are not about to go, by model."""
    there = {node.name for node in rollout.world.nodes if node.ready and not node.disrupted}
    found: dict[str, list[Pod]] = defaultdict(list)
    for pod in rollout.world.pods:
        serves = pod.reachable and pod.draining_since is None and there.issuperset(pod.nodes)
        if serves and pod.deployment in rollout.facts:
            found[rollout.facts_of(pod).model].append(pod)
    return found


def _without_successor(found: Precedence, whole: Fleet, model: str, serving: list[Pod]) -> Iterator[str]:
    """The uids of the replicas of a model that are to be kept: the one that costs least, for each of its classes in the whole
    plan that no replica of the plan serves yet. ``serving``: all that serve."""
    rollout = found.rollout
    sets = [item for item in whole.replica_sets if item.model == model]
    prices = {item.name.removesuffix(LEFT): item.dollars_per_node_hour or 0.0 for item in rollout.pools}

    def cost(pod: Pod) -> tuple[float, str]:
        return len(pod.nodes) * prices.get(rollout.facts_of(pod).pool, 0.0), pod.name

    for name in sorted({name for item in sets for name, rate in item.planned.items() if rate > 0}):
        able = [pod for pod in serving if rollout.facts_of(pod).capacity.get(name, 0.0) > 0]
        if able and found.staying.isdisjoint(pod.uid for pod in able) and any(_comes(rollout, item) for item in sets):
            yield min(able, key=cost).uid


def _comes(rollout: Rollout, item: ReplicaSet) -> bool:
    """Whether replicas of a Deployment may come: the API server does not refuse its pods, and no gate of others holds them."""
    live = rollout.world.live(item.kind, item.deployment)
    if live is not None and (live.manifest.get("status") or {}).get("replicaFailure"):
        return False
    pods = rollout.world.pods_of(item.deployment)
    return not pods or any(not pod.kept_back for pod in pods)


def _made(
    rollout: Rollout, found: Precedence, limits: Limits, placed: Place, kept: frozenset[str], priority: int
) -> Precedence | None:
    """What is found so far, without what makes way for these replicas of a priority too; None if that is not enough.
    ``rollout``: of the whole plan."""
    left = [item for item in contents_of(rollout.fleet, rollout.pools) if item.priority < priority]
    for item in found.gone:
        if item in left:
            left.remove(item)
    price = {pool.name: pool.dollars_per_node_hour or 0.0 for pool in rollout.pools}

    def without(gone: list[Content]) -> Precedence:
        every = (*before, *gone)
        fleet = without_contents(rollout.fleet, every)
        less = replace(rollout, fleet=fleet, missing=missing_replicas(rollout.world, fleet))
        return Precedence(less, placed(less), kept, every)

    before, gone = found.gone, list[Content]()
    found = replace(found, kept=kept)
    while lack := _lack(found, limits):
        dollars, nodes = lack.dollars_per_hour, Counter(lack.nodes)
        going: list[Content] = []
        staying: list[Content] = []
        for item in left:
            if (dollars > CENT and price[item.pool] > 0) or nodes[item.pool] > 0:
                going.append(item)
                dollars -= item.nodes * price[item.pool]
                nodes[item.pool] -= item.nodes
            else:
                staying.append(item)
        if not going:
            return None
        gone, left = gone + going, staying
        found = without(gone)
    # Some may have freed no money, as in a pool that somebody else sizes or that is at its least size. They stay.
    for item in sorted(gone, key=lambda item: -item.priority):
        fewer = list(gone)
        fewer.remove(item)
        if not _lack(again := without(fewer), limits):
            gone, found = fewer, again
    return found


def _lack(found: Precedence, limits: Limits) -> _Lack:
    """What is missing for the plan and the kept replicas beside it."""
    fleet, cost, nodes = found.rollout.fleet, 0.0, {}
    pods = [pod for pod in found.rollout.world.pods if pod.uid in found.kept]
    for pool in found.rollout.pools:
        planned, price = fleet.nodes.get(pool.name, 0), pool.dollars_per_node_hour or 0.0
        size = planned + nodes_beside(pool, found.placements[pool.name], pods)
        most = len(pool.nodes)
        if pool.sized_by_us:
            size = max(planned_size(pool, fleet), size + pool.foreign_nodes)
            most = max(pool.most_to_ask_for, planned_size(pool, fleet), pool.wanted)
            cost += price * pool.holding(size)
        else:
            cost += pool.spend if pool.rented else price * size
        if size > most:
            nodes[pool.name] = size - most
    return _Lack(cost - limits.budget_dollars_per_hour, nodes)


def nodes_beside(pool: Pool, placement: Placement, kept: list[Pod]) -> int:
    """The nodes that a pool needs beyond those of the plan while these replicas are kept: those on which the plan does not
    stay, and one for each on which a successor has no room beside them."""
    leaving = set(placement.leaving)
    staying = {pod.uid for pod in placement.stay if pod not in kept}
    beside = 0
    for node in pool.nodes:
        own = [pod for pod in kept if node.name in pod.nodes]
        if not own:
            continue
        planned = placement.to_come.get(node.name, 0) + sum(pod.gpus for pod in node.our_pods if pod.uid in staying)
        beside += node.name in leaving or planned + sum(pod.gpus for pod in own) > node.free_gpus
    return beside
