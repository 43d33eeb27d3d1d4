"""The form that the heuristics of the papers have in common: a rule that covers given rates, and one ending for all."""

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
    """A method that serves as much as its rule manages to cover, found by bisection."""

    rule: Callable[[Instance, Effort], Cover]
    """The rule for one question."""
    steps: int
    """Bisections on the rates."""
    below_relaxation: bool = False
    """Whether the bisection of the scale begins at the bound of the linear relaxation, not at what each class could reach."""

    def __call__(self, instance: Instance, effort: Effort) -> Found:
        """The plan of the most service that the rule covers, with its bounds."""
        rule = self.rule(instance, effort)

        def cover(rates: Sequence[float]) -> Draft | None:
            return None if effort.stop() else rule(rates)

        scale = _scale_bound(instance, effort) if self.below_relaxation else None
        top = None if scale is None else [scale * cls.requests_per_second for cls in instance.classes]
        draft = most_served(instance, cover, steps=self.steps, targets=top)
        known = {} if scale is None else {SCALE: scale}
        return certified(instance, effort, judge(instance, draft.copies) if draft else None, known=known)


def _scale_bound(instance: Instance, effort: Effort) -> float | None:
    """The scale that no plan exceeds under MaximizeService, by the linear relaxation."""
    if instance.question.objective == "MinimizeCost" or not all(instance.reachable_targets):
        return None
    relaxation = Relaxation(instance)
    return relaxation.bound(relaxation.stages[0], effort)
