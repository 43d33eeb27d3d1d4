"""The budget of a namespace, and how much of it the other plans take.

The oldest plan comes first: each plan gets its own budget as far as older plans leave it. A younger plan keeps its present
spend until it has given it back, so that no edit lets two plans have the same dollar.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from servingplan.errors import InputError
from servingplan.model.names import words
from servingplan.model.world import NamespaceBudget, PlanObject

EVERY_OTHER = "*"
"""Means the namespaces that are not listed."""
_DOLLARS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
_ENTRY = re.compile(r"(?P<namespace>\*|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)=(?P<dollars>[^,]*)")


def parse_budgets(text: str) -> dict[str, float]:
    """Dollars per hour by namespace, from ``NAMESPACE=DOLLARS`` separated by commas. Raises ``InputError``."""
    found: dict[str, float] = {}
    for part in words(text):
        entry = _ENTRY.fullmatch(part)
        if entry is None or not _DOLLARS.fullmatch(entry["dollars"]) or entry["namespace"] in found:
            advice = "must be NAMESPACE=DOLLARS once for each namespace, such as llm=40 (* stands for all others)"
            raise InputError("namespace budgets", part, advice)
        found[entry["namespace"]] = float(entry["dollars"])
    return found


def has_budget(namespace: str, budgets: Mapping[str, float]) -> bool:
    """Whether the plans of a namespace share a budget."""
    return namespace in budgets or EVERY_OTHER in budgets


def namespace_budget(
    plan: PlanObject, plans: Iterable[PlanObject], budgets: Mapping[str, float]
) -> NamespaceBudget | None:
    """The budget of a plan's namespace and what its other plans take; None if it has no budget."""
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
    """The larger budget of the present spec and of the spec in force, $/h; 0 for a plan in mode Preview."""
    if plan.deleting_since is not None or _at(plan.spec, "mode") == "Preview":
        return 0.0
    return max(
        _dollars(_at(plan.spec, "budget", "dollarsPerHour")), _dollars(_at(plan.status, "cost", "budgetPerHour"))
    )


def _spends(plan: PlanObject) -> float:
    """The larger of its present spend and the cost of its plan in force, $/h; its budget if these are unknown."""
    told = _at(plan.status, "cost", "spendPerHour")
    if told is None:
        return 0.0  # it has had no turn yet
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
