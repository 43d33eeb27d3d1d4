"""The binary search of Jiang et al. (ICML 2025), appendix F, algorithm 1.

If the makespan T (here 1 / scale) is fixed, their eq. 3 is linear, and a feasibility solve decides whether T can be reached.
This search starts from the bound of the linear relaxation; theirs starts from the fastest configuration for everything.

A feasibility solve minimises dollars, so that its plan is usable, and under MaximizeService it stops within `FEASIBLE_GAP`. A
solve that ends undecided counts as infeasible. This may make the plan worse, but not the bound, which comes from `certificate`.
"""

from collections.abc import Sequence

from servingplan.solve.methods.baselines.covering import Covering
from servingplan.solve.problem.constraints import build
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.objective import Objective
from servingplan.solve.search.cover import Cover
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.solver.effort import Effort

FEASIBLE_GAP = 0.05
"""Gap of dollars at which a feasibility solve under MaximizeService ends; it is large, because service matters more there."""


def _feasible(instance: Instance, effort: Effort) -> Cover:
    def cover(rates: Sequence[float]) -> Draft | None:
        plan = build(instance, rates)
        for column, rate in zip(plan.served, rates, strict=True):
            plan.program.set_bounds(column, lower=float(rate > 0), upper=1.0)
        stage = Objective(plan).dollars(unit=instance.question.budget_dollars_per_hour or 1.0)
        gap = FEASIBLE_GAP if instance.question.objective == "MaximizeService" else effort.relative_gap
        outcome = plan.program.optimise(stage.terms, stage.sense, effort.limits(gap=gap))
        if not outcome.values:
            return None
        return Draft.of(instance, [round(outcome.values[column]) for column in plan.copies])

    return cover


binary_search = Covering(rule=_feasible, steps=10, below_relaxation=True)
"""Finds the most service for which a feasibility solve finds copies; the scale is found to about 0.1 % of its bound."""
