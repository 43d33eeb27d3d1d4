"""How many nodes each pool gives, learned from what was asked for and what came.

A cap is one number with its source and its end: *asked for n, got m, so m*. It comes from a refusal that somebody tells
of, or from time that passed. When it ends, one node more is asked for; if that is refused too, the next cap lasts twice
as long. Nothing here looks at a clock: the time is that of the observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from servingplan.model.fleet import LearnedCap, PlanRecord, PoolStock
from servingplan.model.times import later, seconds_between
from servingplan.model.world import Refusal
from servingplan.planning.pools import CENT, FOREVER, Pool

FIRST_BACK_OFF_SECONDS = 300.0
"""How long a first cap lasts: as long as the Cluster Autoscaler leaves a group alone that gave it no node
(cluster-autoscaler/FAQ.md)."""
LONGEST_BACK_OFF_SECONDS = 3600.0
FIRST_PATIENCE_SECONDS = 600.0
"""How long the first nodes of a pool may take to come: a machine with eight GPUs boots within some minutes."""
LEAST_PATIENCE_SECONDS = 120.0
"""The least patience, however soon the last nodes came. It counts only after boots of less than a minute, in which hardly a
machine with GPUs boots from nothing. A node that comes late lifts its cap."""
BOOTS_KEPT = 5
LONGEST_BOOT_SECONDS = 1800.0
"""A boot counts as no longer than this, so that one odd node does not make the pool wait for hours."""
UNSEEN_SECONDS = 60.0
"""Some periods of the loop. If a shortage outlasted the patience by more than this and was not reported, no operator was
looking."""

INSUFFICIENT = "InsufficientCapacity"
NOT_COMING = "NotComing"
NO_GPUS = "NoGPUsVisible"
NOT_OFFERED = "NotOffered"


@dataclass(frozen=True)
class Seen:
    """What one pool was asked for and what it has at one moment."""

    asked: int
    """The number of nodes that were asked for."""
    came: int
    """The number of nodes that show GPUs, in whatever state they are otherwise."""
    existing: int
    """The number of nodes that exist, booting ones included."""
    blind: tuple[str, ...] = ()
    """The names of nodes that are Ready and show no GPUs."""
    refusal: Refusal | None = None
    """The last refusal that the cluster tells of."""
    offered: bool | None = None
    """Whether the source of the pool's nodes says that one can be had; None if it says nothing."""


def patience_seconds(stock: PoolStock) -> float:
    """How long nodes may take to come: twice the longest of the last boots. If nodes did not come in time, it is longer by
    the length of that cap, because they may only be slow. It is not longer if nodes came and show no GPUs, because these
    are paid meanwhile."""
    boots = stock.boot_seconds
    usual = max(LEAST_PATIENCE_SECONDS, 2 * max(boots)) if boots else FIRST_PATIENCE_SECONDS
    cap = stock.cap
    return usual + cap.back_off_seconds if cap is not None and cap.reason == NOT_COMING else usual


def learned(before: PoolStock, seen: Seen, *, now: str, may_probe: bool) -> PoolStock:
    """What is known of a pool after a look at it. ``may_probe``: one more node may be asked for once a cap is over."""
    stock = _timed(before, seen, now)
    cap = stock.cap
    if cap is not None and not cap.probing and may_probe and now_is(now, cap.until):
        cap = cap.model_copy(update={"probing": True})
    if cap is not None and seen.came > cap.nodes:
        # Of one that is over: there is more, and nobody knows how much. Else somebody was late.
        cap = None if cap.probing else cap.model_copy(update={"nodes": seen.came})
    refusal = seen.refusal if _is_new(seen.refusal, before, now) else None
    if refusal is not None:
        stock = stock.model_copy(update={"refused_at": refusal.at})
    if seen.offered is False:
        cap = _not_offered(cap, seen, now)
    elif cap is not None and cap.reason == NOT_OFFERED and seen.offered:
        cap = None
    if refusal is not None and seen.existing < seen.asked:
        cap = _lowered(cap, seen.existing, INSUFFICIENT, refusal.message, now)
    elif stock.short_since is not None and seconds_between(stock.short_since, now) >= patience_seconds(stock):
        waited = f"{seen.came} of {seen.asked} nodes came within {patience_seconds(stock):.0f} s"
        if seen.blind:
            cap = _lowered(cap, seen.came, NO_GPUS, f"{waited}; no GPUs are visible on {', '.join(seen.blind)}", now)
        else:
            cap = _lowered(cap, seen.came, NOT_COMING, waited, now)
    return stock.model_copy(update={"cap": cap})


def _not_offered(cap: LearnedCap | None, seen: Seen, now: str) -> LearnedCap:
    """The cap of a pool whose nodes are not for sale now. It is renewed as long as that is said, and ends when it is no
    longer said."""
    if cap is not None and not cap.probing and not now_is(now, cap.until):
        return cap.model_copy(update={"nodes": min(cap.nodes, seen.existing)})
    message = "its provider says that its cloud has no such nodes at this moment"
    return _lowered(None, seen.existing, NOT_OFFERED, message, now)


def due_in_seconds(stock: PoolStock, now: str) -> float | None:
    """Seconds until what is known changes by the passing of time alone; None: never."""
    due = []
    if stock.short_since is not None:
        due.append(patience_seconds(stock) - seconds_between(stock.short_since, now))
    if stock.cap is not None and not stock.cap.probing:
        due.append(seconds_between(now, stock.cap.until))
    return min((left for left in due if left > 0), default=None)


def _timed(before: PoolStock, seen: Seen, now: str) -> PoolStock:
    """Since when the pool is short, and how long the nodes took that have come since the last look.

    Only nodes that were asked for while none was missing are timed, because a node that comes back took no boot.
    """
    since, booting, boots = before.short_since, before.booting, before.boot_seconds
    if seen.came > before.came and since is not None and booting and _was_watched(before, since, now):
        boots = (*boots, min(seconds_between(since, now), LONGEST_BOOT_SECONDS))[-BOOTS_KEPT:]
    if seen.came >= seen.asked:
        since, booting = None, False
    elif seen.came < before.came:
        since, booting = now, False
    elif since is None or seen.asked > before.asked:
        since, booting = now, booting or since is None
    update = {
        "asked": seen.asked,
        "came": seen.came,
        "short_since": since,
        "booting": booting,
        "boot_seconds": boots,
    }
    return before.model_copy(update=update)


def _was_watched(before: PoolStock, since: str, now: str) -> bool:
    """Whether turns looked at the pool while it was short. If none did, nobody noted that the patience had ended."""
    told = before.cap is not None and seconds_between(since, before.cap.since) >= 0
    return told or seconds_between(since, now) <= patience_seconds(before) + UNSEEN_SECONDS


def _is_new(refusal: Refusal | None, before: PoolStock, now: str) -> bool:
    """Whether a refusal says something about the present. One from before the first look counts for as long as a first cap
    lasts."""
    if refusal is None:
        return False
    if before.refused_at is not None:
        return seconds_between(before.refused_at, refusal.at) > 0
    return seconds_between(refusal.at, now) < FIRST_BACK_OFF_SECONDS


def _lowered(cap: LearnedCap | None, nodes: int, reason: str, message: str, now: str) -> LearnedCap:
    """The next cap. While a cap holds, it can only be lowered; after one that is over, the next lasts twice as long."""
    if cap is not None and not cap.probing:
        return cap.model_copy(update={"nodes": min(cap.nodes, nodes)})
    back_off = FIRST_BACK_OFF_SECONDS if cap is None else min(2 * cap.back_off_seconds, LONGEST_BACK_OFF_SECONDS)
    return LearnedCap(
        nodes=nodes,
        since=now,
        until=later(now, back_off),
        reason=reason,
        message=message[:300],
        back_off_seconds=back_off,
    )


def with_stock(pools: tuple[Pool, ...], stock: Mapping[str, PoolStock]) -> tuple[Pool, ...]:
    """The pools with what is known of their stock, by name."""
    return tuple(replace(pool, stock=stock.get(pool.name)) for pool in pools)


def cap_lines(pools: tuple[Pool, ...]) -> list[str]:
    """The caps that hold, in words, one per line."""
    return [
        f"{pool.name} gives at most {cap.nodes} nodes{until(cap.until)} ({cap.reason}: {cap.message})"
        for pool in pools
        if (cap := pool.cap) is not None
    ]


def until(moment: str) -> str:
    """Text with the end of a cap; empty if it does not end."""
    return "" if moment == FOREVER else f" until {moment}"


def look(pools: tuple[Pool, ...], record: PlanRecord, *, now: str, budget: float, spend: float) -> PlanRecord:
    """The record with what is learned from the pools at this moment. ``budget`` and ``spend`` are $/h.

    After a cap is over, one more node is asked for only if the budget has room for it beside what is there: nothing that
    serves is given up for a node that may not come.
    """
    stock = {}
    for pool in pools:
        before = record.stock.get(pool.name, PoolStock())
        room = has_room_for_a_node(pool.name, pools, record, budget=budget, spend=spend)
        found = before if not pool.sized_by_us else learned(before, seen_of(pool), now=now, may_probe=room)
        if pool.sized_by_us:
            shown = {"node_cpu_millicores": pool.node_cpu_millicores, "node_memory_bytes": pool.node_memory_bytes}
            found = found.model_copy(update=shown)
        if found != PoolStock():
            stock[pool.name] = found
    return record.model_copy(update={"stock": stock})


def has_room_for_a_node(name: str, pools: tuple[Pool, ...], record: PlanRecord, *, budget: float, spend: float) -> bool:
    """Whether one more node of a pool (one per zone if its size counts by zone) fits into the budget. It may also be tried
    if nothing can be lost, because some class is served nothing."""
    if record.fleet is None or any(
        item.requests_per_second > 0 and item.planned_requests_per_second <= 0 for item in record.fleet.classes
    ):
        return True
    pool = next((pool for pool in pools if pool.name == name), None)
    if pool is None or pool.dollars_per_node_hour is None:
        return False
    return spend + pool.step * pool.dollars_per_node_hour <= budget + CENT


def seen_of(pool: Pool) -> Seen:
    """What is seen of a pool in this turn."""
    return Seen(
        asked=pool.wanted,
        came=sum(node.node.gpus > 0 and (not node.closed or node.held_by_others) for node in pool.nodes),
        existing=pool.existing,
        blind=tuple(node.name for node in pool.blind_nodes),
        refusal=None if pool.object is None else pool.object.refusal,
        offered=None if pool.object is None or pool.object.offered is None else pool.object.offered.available,
    )


def now_is(now: str, moment: str) -> bool:
    """Whether a moment has come."""
    return seconds_between(moment, now) >= 0
