"""The binary search of Jiang et al. (ICML 2025), appendix F, algorithm 1.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. With the makespan T (here 1 / scale) fixed,
their eq. 3 is linear, and a feasibility solve tells whether T can be met. The search starts from the bound of the linear
relaxation, where theirs starts from the fastest configuration for everything.

A feasibility solve minimises dollars, so that its plan is usable, and stops at the first plan. One that ends undecided counts
as infeasible, as in any plain implementation: the plan may be worse for it, its bound is not, which comes from elsewhere.
"""

from collections.abc import Sequence

from servingplan.model.goal import SCALE, Goal
from servingplan.solve.bounds.certificate import certified
from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.plan.found import Found
from servingplan.solve.plan.incumbent import incumbent_of
from servingplan.solve.problem.constraints import build
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.objective import dollars_stage
from servingplan.solve.search.cover import most_served
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.solver.effort import Effort

STEPS = 10
"""Bisections: the scale is found to about 0.1 % of its bound."""
FEASIBLE_GAP = 0.05
"""Gap of dollars at which a feasibility solve under MaximizeService ends; service is what counts there."""


def binary_search(instance: Instance, effort: Effort) -> Found:
    """The largest service for which a feasibility solve finds copies."""

    def feasible(rates: Sequence[float]) -> Draft | None:
        if effort.stopwatch.expired():
            return None
        plan = build(instance, rates)
        for column, rate in zip(plan.served, rates, strict=True):
            plan.program.set_bounds(column, lower=float(rate > 0), upper=1.0)
        stage = dollars_stage(plan, unit=instance.question.budget_dollars_per_hour or 1.0)
        gap = FEASIBLE_GAP if instance.question.objective == "MaximizeService" else effort.relative_gap
        outcome = plan.program.optimise(stage.terms, stage.sense, effort.limits(gap=gap))
        if not outcome.values:
            return None
        return Draft.of(instance, [round(outcome.values[column]) for column in plan.copies])

    top = service_bound(instance, effort)
    draft = most_served(instance, feasible, steps=STEPS, targets=top)
    plan = incumbent_of(instance, draft.copies) if draft else None
    return certified(instance, effort, plan, known=known_scale(instance, top)) if plan else Found()


def service_bound(instance: Instance, effort: Effort) -> Sequence[float] | None:
    """Rates (requests/s by class) that no plan exceeds under MaximizeService, by the linear relaxation."""
    if instance.question.objective == "MinimizeCost" or not instance.classes:
        return None
    relaxation = Relaxation(instance)
    if not all(relaxation.plan.targets):
        return None
    scale = relaxation.bound(relaxation.stages[0], effort)
    return [scale * cls.requests_per_second for cls in instance.classes]


def known_scale(instance: Instance, rates: Sequence[float] | None) -> dict[Goal, float]:
    """The bound of the scale that these rates stand for."""
    return {SCALE: rates[0] / instance.classes[0].requests_per_second} if rates else {}
