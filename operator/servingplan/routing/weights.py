"""Spreads each class of a model over the ready replicas: in proportion to their planned rates, and as whole weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from servingplan.api.models_v1alpha1 import Model
from servingplan.model.fleet import ClassService, ReplicaFacts
from servingplan.routing.admission import admitted_parts
from servingplan.routing.spill import Spill, spills

WEIGHT_TOTAL = 10_000
"""The sum of the weights of a class."""


@dataclass(frozen=True)
class Spread:
    """The spread of one model's classes over its ready replicas."""

    shares: Mapping[str, Mapping[str, float]]
    """By class: numbers by Deployment that its weights are proportional to; empty if no ready replica takes it in time."""
    parts: Mapping[str, float]
    """By class: the admitted share, 0 to 1, of its planned rate."""
    spilled: Mapping[str, Spill]
    """By class: its spill, if no ready replica takes it in time and others of the model can."""


def spread(
    model: Model,
    services: Iterable[ClassService],
    facts: Mapping[str, ReplicaFacts],
    ready: Mapping[str, int],
    contexts: Mapping[str, int],
    *,
    all_admitted: bool = False,
) -> Spread:
    """The spread of a model's classes.

    ``services``: what the plan says of them. ``facts``, ``ready``: by Deployment. ``contexts``: the longest sequence by
    Deployment, tokens. ``all_admitted``: the planned rate is admitted even if the ready replicas miss their SLO with it.
    """
    classes = {item.name: item for item in model.effective_classes}
    planned = {item.name: item.planned_requests_per_second for item in services if item.name in classes}
    shares = {name: shares_of(model, name, facts, ready) for name in classes}
    parts = dict.fromkeys(planned, 1.0)
    if not all_admitted:
        parts = admitted_parts(planned=planned, shares=shares, facts=facts, ready=ready)
    spilled: Mapping[str, Spill] = {}
    if model.spill:
        spilled = spills(
            classes=classes,
            away=frozenset(name for name, rate in planned.items() if rate > 0 and not shares[name]),
            planned={name: rate * parts[name] for name, rate in planned.items()},
            shares=shares,
            facts={name: item for name, item in facts.items() if item.model == model.name},
            ready=ready,
            contexts=contexts,
        )
    return Spread(shares, parts, spilled)


def shares_of(
    model: Model, class_name: str, facts: Mapping[str, ReplicaFacts], ready: Mapping[str, int]
) -> dict[str, float]:
    """Numbers by Deployment that the weights of a class are proportional to; empty if no ready replica takes it in time."""
    candidates = {
        name: facts[name] for name in sorted(facts) if facts[name].model == model.name and ready.get(name, 0) > 0
    }
    planned = {name: item.planned.get(class_name, 0.0) * ready[name] for name, item in candidates.items()}
    if sum(planned.values()) > 0:
        return {name: share for name, share in planned.items() if share > 0}
    if not model.spill:
        return {}
    able = {name: item.capacity.get(class_name, 0.0) * ready[name] for name, item in candidates.items()}
    return {name: share for name, share in able.items() if share > 0}


def largest_remainder(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers that sum to ``total``, as near to ``shares`` as possible; ties go to the name that sorts first.

    Hamilton's method: each gets the floor of its quota, and the rest goes to the largest remainders.
    """
    whole = sum(shares.values())
    if whole <= 0:
        return {}
    quota = {name: share / whole * total for name, share in shares.items()}
    floors = {name: int(value) for name, value in quota.items()}
    left = total - sum(floors.values())
    by_remainder = sorted(quota, key=lambda name: (-(quota[name] - floors[name]), name))
    for name in by_remainder[:left]:
        floors[name] += 1
    return floors
