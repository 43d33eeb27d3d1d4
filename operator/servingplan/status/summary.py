"""Short texts about a fleet and its service, for columns of the status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from servingplan.model.fleet import Fleet
from servingplan.planning.pools import Pool
from servingplan.routing.admission import WHOLE
from servingplan.routing.carried import Carried

NONE = "none"


def gpus_of(fleet: Fleet) -> str:
    """The fleet's GPUs by name, for example `2xA100-80GB,8xL4`; empty if it has none."""
    counts: Counter[str] = Counter()
    for item in fleet.replica_sets:
        counts[item.gpu] += item.replicas * item.gpus
    return _listed(counts)


def idle_of(pools: Iterable[Pool]) -> str:
    """The GPUs by name on paid nodes without a ready replica; `none` if all serve."""
    counts: Counter[str] = Counter()
    for pool in pools:
        counts[pool.gpu.name if pool.gpu is not None else "unknown"] += pool.idle_gpus
    return _listed(+counts) or NONE


def caps_of(pools: Iterable[Pool]) -> str:
    """The most nodes that pools are known to give now, by name; `none` where nothing is known of any."""
    return ",".join(f"{pool.name}={pool.cap.nodes}" for pool in pools if pool.cap is not None) or NONE


def served_of(fleet: Fleet) -> str:
    """The share of the demand that the fleet serves, or under MaximizeService the multiple of the mix."""
    if fleet.scale is not None:
        return f"{fleet.scale:.3g}x"
    asked = sum(item.requests_per_second for item in fleet.classes)
    planned = sum(item.planned_requests_per_second for item in fleet.classes)
    return _share(planned, asked, 1 - 1e-6)


def carried_of(fleet: Fleet | None, carried: Iterable[Carried]) -> str:
    """The same for what ready replicas carry now. Under MaximizeService it is the multiple of the least served class."""
    found = tuple(carried)
    if fleet is None:
        return "0%"
    if fleet.scale is not None:
        # Rates are fractions of a mix: the least one is the multiple of the whole mix that is carried.
        return f"{min((item.part for item in found if item.asked_requests_per_second > 0), default=0.0):.3g}x"
    return _share(
        sum(item.requests_per_second for item in found), sum(item.asked_requests_per_second for item in found), WHOLE
    )


def unanswered(carried: Iterable[Carried]) -> list[str]:
    """The classes without a ready replica, as `model/class`: the gateway answers them with 503."""
    return [f"{item.model}/{item.name}" for item in carried if not item.answered]


def shortened(names: list[str]) -> str:
    """Text for a column: the first two names, and how many more there are."""
    return ",".join((*names[:2], *([f"+{len(names) - 2}"] if len(names) > 2 else [])))


def _share(served: float, asked: float, whole: float) -> str:
    if asked <= 0 or served >= asked * whole:
        return "100%"
    return f"{min(0.999, served / asked):.1%}" if served > 0 else "0%"


def _listed(counts: Counter[str]) -> str:
    return ",".join(f"{counts[gpu]}x{gpu}" for gpu in sorted(counts))
