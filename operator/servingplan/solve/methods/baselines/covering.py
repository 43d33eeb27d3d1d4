"""The form of most heuristics of the papers: a rule covers given rates, and the same code bisects and bounds for all."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from servingplan.model.goal import SCALE
from servingplan.solve.bounds.certificate import certified
from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.plan.judge import judge
from servingplan.solve.plan.plan import Found
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.cover import Cover, most_served
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.solver.effort import Effort


@dataclass(frozen=True, slots=True, kw_only=True)
class Covering:
    """A method that finds, by bisection, the most service that its rule can cover."""

    rule: Callable[[Instance, Effort], Cover]
    """Makes the rule for one question."""
    steps: int
    """Bisection steps on the rates."""
    below_relaxation: bool = False
    """Whether the bisection of the scale starts at the bound of the linear relaxation instead of the reachable rates."""

    def __call__(self, instance: Instance, effort: Effort) -> Found:
        """The plan with the most service that the rule covers, with its bounds."""
        rule = self.rule(instance, effort)

        def cover(rates: Sequence[float]) -> Draft | None:
            return None if effort.stop() else rule(rates)

        scale = _scale_bound(instance, effort) if self.below_relaxation else None
        top = None if scale is None else [scale * cls.requests_per_second for cls in instance.classes]
        draft = most_served(instance, cover, steps=self.steps, targets=top)
        known = {} if scale is None else {SCALE: scale}
        return certified(instance, effort, judge(instance, draft.copies) if draft else None, known=known)


def _scale_bound(instance: Instance, effort: Effort) -> float | None:
    """A bound on the scale by the linear relaxation; None under MinimizeCost, or if some class cannot be served."""
    if instance.question.objective == "MinimizeCost" or not all(instance.reachable_targets):
        return None
    relaxation = Relaxation(instance)
    return relaxation.bound(relaxation.stages[0], effort)
