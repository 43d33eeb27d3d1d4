"""How far pools may grow and shrink now. No write of ours lifts spend over the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from servingplan.model.actions import ResizePool
from servingplan.model.fleet import Fleet
from servingplan.planning.pools import CENT, Pool
from servingplan.rollout.placement import Placement

MACHINES_GROUP = "cluster.x-k8s.io/"
"""The API group of Cluster API."""


@dataclass(frozen=True)
class Growth:
    """Pools to grow, and whether the budget held some of it back."""

    resize: tuple[ResizePool, ...]
    spend_after: float
    """$/h once these are written; ``nan`` where a price is unknown."""
    held_back: bool
    """Whether the budget holds back nodes of the plan."""
    held_back_beside: bool = False
    """Whether it holds back some of these, or of those that successors need beside them."""


def planned_size(pool: Pool, fleet: Fleet) -> int:
    """Nodes of a sized pool under the plan, those that foreign pods hold included, within the user's floor and cap and what
    the pool is known to give."""
    if pool.contradiction is not None:
        return pool.wanted
    size = fleet.nodes.get(pool.name, 0) + pool.foreign_nodes
    size = pool.holding(min(max(size, pool.least_nodes), max(pool.most_nodes, pool.least_nodes)))
    return size if pool.withdrawn is None else min(size, pool.wanted)


def that_can_exist(fleet: Fleet, missing: Mapping[str, int]) -> Fleet:
    """The fleet without the nodes that only replicas without a pod would use (``missing``, by Deployment)."""
    if not missing:
        return fleet
    left = {
        item.deployment: (item.replicas - missing.get(item.deployment, 0)) * item.nodes for item in fleet.replica_sets
    }
    nodes = dict(fleet.nodes)
    for group in fleet.groups:
        needed = 0
        for name, per_node in group.replicas.items():
            held = min(left.get(name, 0), per_node * group.nodes)
            left[name] = left.get(name, 0) - held
            needed = max(needed, math.ceil(held / per_node) if per_node else 0)
        nodes[group.pool] = nodes.get(group.pool, 0) - (group.nodes - needed)
    return fleet.model_copy(update={"nodes": {name: max(0, count) for name, count in nodes.items()}})


def wished_size(pool: Pool, fleet: Fleet, placement: Placement) -> int:
    """The number of nodes that the pool should have now, never above the user's cap.

    These are the nodes of the plan. While replicas that still serve run where planned ones belong, as many more are added as
    their successors need to come first.
    Nodes that take nobody any more are replaced: they count beside those of the plan until their successors are there, and
    as long as replicas serve on them. One that is being taken away asks for none: whoever takes it also replaces it.
    """
    held = {node.name for node in pool.nodes if node.our_pods and not node.node.disrupted}
    occupied = len(held)
    held |= {node for item in placement.assigned if item.free_now for node in item.nodes} | placement.kept
    planned = planned_size(pool, fleet)
    if pool.contradiction is not None:
        return planned
    most = max(planned, pool.most_to_ask_for if pool.withdrawn is None else pool.wanted)
    spent = [node for node in pool.spent_nodes if node.our_pods or _is_short(pool, fleet)]
    return max(
        planned,
        min(most, planned + len(spent)) if planned else 0,
        min(most, len(held) + _nodes_for(placement.blocked, pool.gpus_per_node)),
        occupied,
    )


def given_back_first(pool: Pool, fleet: Fleet) -> int | None:
    """The size without nodes that take nobody and hold nobody, where the budget or the pool has no room for their successors
    beside them; None: nothing has to go first."""
    planned = planned_size(pool, fleet)
    empty = sum(not node.our_pods for node in pool.spent_nodes)
    lacks = planned > 0 and _is_short(pool, fleet) and pool.wanted < planned + len(pool.spent_nodes)
    others_are_held = pool.occupied + empty == pool.existing  # else the provider could take one that is to be used
    if pool.contradiction is not None or not (
        pool.sized_by_us and empty and lacks and others_are_held and pool.wanted == pool.existing
    ):
        return None
    return max(pool.wanted - empty, pool.occupied)


def nodes_to_leave(pools: tuple[Pool, ...], fleet: Fleet, budget: float) -> frozenset[str]:
    """Cordoned nodes whose replicas are to move: those that the budget and the pool let be replaced. What serves on the
    others goes on serving there."""
    found: set[str] = set()
    cost = {pool.name: _cost_of_plan(pool, fleet) for pool in pools}
    for pool in pools:
        spent = sorted(pool.spent_nodes, key=lambda node: (node.node.ready, node.name))
        if not (pool.sized_by_us and spent):
            continue
        most, price = pool.most_to_ask_for, pool.dollars_per_node_hour or 0.0
        if price > 0:
            left = budget + CENT - math.fsum(cost[name] for name in cost if name != pool.name)
            most = min(most, max(0, math.floor(left / price)))
        staying = max(0, planned_size(pool, fleet) - (most - len(spent)))
        found.update(node.name for node in spent[: max(0, len(spent) - staying)])
    return frozenset(found)


def _cost_of_plan(pool: Pool, fleet: Fleet) -> float:
    """$/h once the plan is there."""
    price = pool.dollars_per_node_hour or 0.0
    if pool.spec.resize is None:
        return price * fleet.nodes.get(pool.name, 0)
    return price * planned_size(pool, fleet) if pool.sized_by_us else pool.spend


def _is_short(pool: Pool, fleet: Fleet) -> bool:
    """Whether nodes of the plan are not there, or replicas that belong on them are not on them yet: until these are, a
    provider that is to take an empty node could take one of theirs."""
    usable, planned = pool.usable_nodes, planned_size(pool, fleet)
    held = sum(any(pod.bound and not pod.terminating for pod in node.our_pods) for node in usable)
    needed = sum(group.nodes for group in fleet.groups if group.pool == pool.name)
    return len(usable) + pool.foreign_nodes < planned or held < min(needed, fleet.nodes.get(pool.name, 0))


def _nodes_for(gpus: tuple[int, ...], gpus_per_node: int) -> int:
    """Empty nodes that take replicas of these many GPUs, largest first into the first that fits."""
    free: list[int] = []
    for need in sorted(gpus, reverse=True):
        index = next((index for index, left in enumerate(free) if left >= need), None)
        if index is None:
            free.append(gpus_per_node - need)
        else:
            free[index] -= need
    return len(free)


def grow(*, pools: tuple[Pool, ...], fleet: Fleet, sizes: Mapping[str, int], budget: float, spend: float) -> Growth:
    """Raise pools as far as the budget lets them, those of the highest priority first: towards the plan, then, with
    what is left, towards ``sizes``, which hold what successors need beyond it."""
    if math.isnan(spend):
        return Growth((), spend, held_back=True)
    importance: Mapping[str, int] = {
        pool.name: max((item.priority for item in fleet.replica_sets if item.pool == pool.name), default=-(2**31))
        for pool in pools
    }
    ordered = [pool for pool in sorted(pools, key=lambda pool: (-importance[pool.name], pool.name)) if pool.sized_by_us]
    reached = {pool.name: pool.wanted for pool in ordered}
    held_back = held_back_beside = False
    for wishes in ({pool.name: planned_size(pool, fleet) for pool in ordered}, sizes):
        for pool in ordered:
            before, size = reached[pool.name], wishes[pool.name]
            others = spend - pool.spend_at(before)
            allowed = size = min(pool.holding(size), max(before, pool.most_to_ask_for))
            while size > before and others + _spend_raised(pool, size) > budget + CENT:
                size -= pool.step
            held_back = held_back or (wishes is not sizes and size < allowed)
            held_back_beside = held_back_beside or size < allowed
            if size > before:
                spend = others + _spend_raised(pool, size)
                reached[pool.name] = size
    resize = tuple(
        ResizePool(
            pool=pool.name,
            before=pool.wanted,
            nodes=reached[pool.name],
            why=f"{pool.name} from {pool.wanted} to {reached[pool.name]} nodes: {spend:.2f} $/h of {budget:.2f} $/h",
        )
        for pool in ordered
        if reached[pool.name] > pool.wanted
    )
    return Growth(resize, spend, held_back, held_back_beside)


def _spend_raised(pool: Pool, size: int) -> float:
    """$/h of a pool whose size is raised: nodes that it is giving back come on top until they are gone."""
    return pool.spend_at(size + max(0, pool.existing - pool.wanted))


def shrink(
    *, pools: tuple[Pool, ...], sizes: Mapping[str, int], leaving: Mapping[str, tuple[str, ...]] | None = None
) -> tuple[ResizePool, ...]:
    """Lower pools to ``sizes``, which are never below the nodes that still hold our pods: empty nodes leave first.

    ``leaving``: by pool, the nodes that the plan does without, where the operator may choose which of them go.
    """
    return tuple(
        ResizePool(
            pool=pool.name,
            before=pool.wanted,
            nodes=size,
            machines=marks[0],
            spared=marks[1],
            why=f"{pool.name} from {pool.wanted} to {size} nodes: the others are empty",
        )
        for pool in pools
        if pool.sized_by_us and (size := pool.holding(sizes[pool.name])) < pool.wanted
        for marks in [((), ()) if leaving is None else _marks(pool, pool.wanted - size, leaving.get(pool.name, ()))]
    )


def _marks(pool: Pool, count: int, leaving: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The Machines of the empty nodes that go, and of those that stay. Nodes that take nobody any more and those that the plan
    does without go first, nodes with pods of others last."""
    if pool.spec.resize is None or not pool.spec.resize.api_version.startswith(MACHINES_GROUP):
        return (), ()
    known = [item for item in pool.nodes if item.node.machine]
    empty = sorted(
        (item for item in known if not item.our_pods),
        key=lambda item: (item.foreign_gpus > 0, item.node.usable, item.name not in leaving, item.name),
    )
    go = {item.node.machine for item in empty[:count]}
    return tuple(sorted(go)), tuple(sorted({item.node.machine for item in known} - go))
