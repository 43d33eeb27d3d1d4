"""Capacity that a provider keeps for a pool for a time: how many nodes it gives now, and until when.

This is one of the sources of what a pool gives (``docs/capacity.md``). Nothing here looks at a clock: the time is that of the
observation.
"""

from __future__ import annotations

from collections.abc import Iterable

from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.api.scalars import seconds_of
from servingplan.model.fleet import LearnedCap
from servingplan.model.times import later, seconds_between
from servingplan.planning.pools import FOREVER, Pool

LONG_AGO = "2000-01-01T00:00:00Z"


def reserved(pool: NodePool, now: str) -> LearnedCap | None:
    """The nodes that the pool's reservation gives now; None if it has none."""
    found = pool.reservation
    if found is None:
        return None
    start = found.start or LONG_AGO
    leave = None if found.end is None else max(start, later(found.end, -seconds_of(found.notice)))
    if now < start:
        return _cap(0, LONG_AGO, start, "NotReservedYet", f"its reservation begins at {start}")
    if found.end is None or leave is None:
        return _cap(found.nodes, start, FOREVER, "Reserved", f"{found.nodes} nodes are reserved")
    if now < leave:
        return _cap(found.nodes, start, leave, "Reserved", f"{found.nodes} nodes are reserved until {found.end}")
    return _cap(0, leave, FOREVER, "ReservationEnds", f"its reservation ends at {found.end}")


def _cap(nodes: int, since: str, until: str, reason: str, message: str) -> LearnedCap:
    return LearnedCap(nodes=nodes, since=since, until=until, reason=reason, message=message, back_off_seconds=0.0)


def change_in_seconds(pools: Iterable[Pool], now: str) -> float | None:
    """Seconds until a reservation gives another number of nodes; None: never."""
    ends = {pool.reserved.until for pool in pools if pool.reserved is not None} - {FOREVER}
    return min((seconds_between(now, moment) for moment in ends), default=None)
