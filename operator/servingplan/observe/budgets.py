"""What plans of one namespace may spend together, and what the others of them take of it.

The oldest plan comes first: each may have its own budget as far as those before it leave it. What younger plans still spend is
left to them until they have given it back, so that no edit lets two plans have one dollar.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from servingplan.errors import InputError
from servingplan.model.world import NamespaceBudget, PlanObject

EVERY_OTHER = "*"
"""Stands for the namespaces that are not listed."""
_DOLLARS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
_ENTRY = re.compile(r"(?P<namespace>\*|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)=(?P<dollars>[^,]*)")


def parse_budgets(text: str) -> dict[str, float]:
    """Dollars per hour by namespace from ``NAMESPACE=DOLLARS``, by comma. Raises ``InputError``."""
    found: dict[str, float] = {}
    for part in (item.strip() for item in text.split(",") if item.strip()):
        entry = _ENTRY.fullmatch(part)
        if entry is None or not _DOLLARS.fullmatch(entry["dollars"]) or entry["namespace"] in found:
            advice = "must be NAMESPACE=DOLLARS once for each namespace, such as llm=40 (* stands for all others)"
            raise InputError("namespace budgets", part, advice)
        found[entry["namespace"]] = float(entry["dollars"])
    return found


def namespace_budget(
    plan: PlanObject, plans: Iterable[PlanObject], budgets: Mapping[str, float]
) -> NamespaceBudget | None:
    """The budget of a plan's namespace and what its other plans take; None where it has none."""
    limit = budgets.get(plan.namespace, budgets.get(EVERY_OTHER))
    if limit is None:
        return None
    taken = {}
    for other in plans:
        if other.namespace != plan.namespace or other.uid == plan.uid:
            continue
        older = (other.created, other.name) < (plan.created, plan.name)
        dollars = max(_spends(other), _may_spend(other)) if older else _spends(other)
        if dollars > 0:
            taken[other.name] = dollars
    return NamespaceBudget(dollars_per_hour=limit, taken=dict(sorted(taken.items())))


def _may_spend(plan: PlanObject) -> float:
    """By its own budget, of the spec that stands or the one that is in force; a plan that is only shown spends nothing."""
    if plan.deleting_since is not None or _at(plan.spec, "mode") == "Preview":
        return 0.0
    return max(
        _dollars(_at(plan.spec, "budget", "dollarsPerHour")), _dollars(_at(plan.status, "cost", "budgetPerHour"))
    )


def _spends(plan: PlanObject) -> float:
    """What its status says that it spends, and its plan in force will; where that is not known, all that it may."""
    told = _at(plan.status, "cost", "spendPerHour")
    if told is None:
        return 0.0  # no turn has been taken for it
    in_force = _at(plan.status, "cost", "perHour") if plan.status.get("planHash") else "0"
    spend, planned = _dollars(told, unreadable=math.inf), _dollars(in_force, unreadable=math.inf)
    found = max(spend, planned)
    return found if math.isfinite(found) else _may_spend(plan)


def _dollars(value: Any, *, unreadable: float = 0.0) -> float:
    text = str(value)
    return float(text) if _DOLLARS.fullmatch(text) else unreadable


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
