"""What the other plans of the cluster say about the objects that size pools of nodes."""

from __future__ import annotations

from servingplan.api.parse import parse_spec
from servingplan.model.world import OtherPlan, PlanObject
from servingplan.observe.pools import reference_text


def other_plans(plans: list[PlanObject], plan: PlanObject) -> tuple[OtherPlan, ...]:
    """All other plans of the cluster, with their prices of pool objects."""
    found = []
    for other in plans:
        if other.uid == plan.uid:
            continue
        prices = _prices(other)
        if prices:
            found.append(OtherPlan(key=other.key, prices=prices))
    return tuple(sorted(found, key=lambda other: other.key))


def _prices(plan: PlanObject) -> dict[str, str]:
    """The prices in a plan's spec, parsed once for each generation; else every turn would parse the specs of all plans."""
    key = (plan.uid, plan.generation)
    if key not in _PRICES:
        while len(_PRICES) >= _MOST_PRICES:
            _PRICES.pop(next(iter(_PRICES)), None)
        spec, _ = parse_spec(plan.spec)
        _PRICES[key] = {
            reference_text(pool.resize): str(pool.dollars_per_node_hour)
            for pool in (spec.node_pools if spec else ())
            if pool.resize is not None and pool.dollars_per_node_hour is not None
        }
    return _PRICES[key]


_PRICES: dict[tuple[str, int], dict[str, str]] = {}
_MOST_PRICES = 2000
