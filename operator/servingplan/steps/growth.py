"""How far pools may grow and shrink now. No write of ours lifts spend over the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from servingplan.model.actions import ResizePool
from servingplan.model.fleet import Fleet
from servingplan.planning.pools import Pool

CENT = 1e-6
"""Dollars per hour below which two amounts are the same."""


@dataclass(frozen=True)
class Growth:
    """Pools to grow, and whether the budget held some of it back."""

    resize: tuple[ResizePool, ...]
    spend_after: float
    """$/h once these are written; ``nan`` where a price is unknown."""
    held_back: bool


def total_spend(pools: tuple[Pool, ...]) -> float:
    """$/h of all pools now; ``nan`` where it cannot be computed."""
    return math.fsum(pool.spend for pool in pools)


def planned_size(pool: Pool, fleet: Fleet) -> int:
    """Nodes of a sized pool under the plan, within the user's floor and cap."""
    return min(max(fleet.nodes.get(pool.name, 0), pool.spec.min_nodes), max(pool.spec.cap, pool.spec.min_nodes))


def grow(*, pools: tuple[Pool, ...], fleet: Fleet, budget: float, spend: float) -> Growth:
    """Raise pools towards the plan, those of the highest priority first, as far as the budget lets them."""
    if math.isnan(spend):
        return Growth((), spend, held_back=True)
    importance: Mapping[str, int] = {
        pool.name: max((item.priority for item in fleet.replica_sets if item.pool == pool.name), default=-(2**31))
        for pool in pools
    }
    resize: list[ResizePool] = []
    held_back = False
    for pool in sorted(pools, key=lambda pool: (-importance[pool.name], pool.name)):
        wish = planned_size(pool, fleet) if pool.sized_by_us else 0
        if wish <= pool.wanted or not pool.sized_by_us:
            continue
        others = spend - pool.spend
        size = wish
        while size > pool.wanted and others + pool.spend_at(size) > budget + CENT:
            size -= 1
        held_back = held_back or size < wish
        if size > pool.wanted:
            spend = others + pool.spend_at(size)
            why = f"{pool.name} from {pool.wanted} to {size} nodes: {spend:.2f} $/h of {budget:.2f} $/h"
            resize.append(ResizePool(pool=pool.name, before=pool.wanted, nodes=size, why=why))
    return Growth(tuple(resize), spend, held_back)


def shrink(*, pools: tuple[Pool, ...], fleet: Fleet) -> tuple[ResizePool, ...]:
    """Lower pools to the plan, but never below the nodes that still hold our pods: empty nodes leave first."""
    out = []
    for pool in pools:
        if not pool.sized_by_us:
            continue
        size = max(planned_size(pool, fleet), pool.occupied)
        if size < pool.wanted:
            why = f"{pool.name} from {pool.wanted} to {size} nodes: the others are empty"
            out.append(ResizePool(pool=pool.name, before=pool.wanted, nodes=size, why=why))
    return tuple(out)
