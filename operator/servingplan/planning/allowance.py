"""What a plan may spend: its own budget, and what its namespace has left for it."""

from __future__ import annotations

from decimal import Decimal

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import InputError
from servingplan.model.world import NamespaceBudget, Observation
from servingplan.planning.record import effective_spec, read_record
from servingplan.profiles.catalogue import Catalogue

CENT = 1e-6


def acting_spec(
    world: Observation, catalogue: Catalogue | None = None
) -> tuple[PlanSpec | None, tuple[InputError, ...]]:
    """As ``effective_spec``, with the budget that the namespace leaves to the plan."""
    spec, errors = effective_spec(world.plan.spec, read_record(world), catalogue)
    return (None if spec is None else within_allowance(spec, world)), errors


def within_allowance(spec: PlanSpec, world: Observation) -> PlanSpec:
    """The spec with no more budget than the namespace leaves to the plan."""
    allowed = world.namespace_budget
    if allowed is None or float(spec.budget.dollars_per_hour) <= allowed.left:
        return spec
    left = Decimal(f"{allowed.left:.6f}")
    return spec.model_copy(update={"budget": spec.budget.model_copy(update={"dollars_per_hour": left})})


def binding_allowance(spec: PlanSpec, world: Observation) -> NamespaceBudget | None:
    """The namespace's budget, where it and not the plan's own is what the plan counts on (``spec`` as ``acting_spec``)."""
    allowed = world.namespace_budget
    binds = allowed is not None and float(spec.budget.dollars_per_hour) >= allowed.left - CENT
    return allowed if binds else None
