"""Answers whether a question has a plan at all, and what the cheapest plan costs; `conflict` asks this many times.

A plan must pay for the minimum nodes and serve in full every class that a `survive` rule protects; under MaximizeService it
must serve some multiple of the mix, however small.
"""

import math
from dataclasses import dataclass, replace

from servingplan.model.goal import DOLLARS
from servingplan.model.question import Question, QuestionError, RequestClass
from servingplan.solve.plan.judge import judge
from servingplan.solve.plan.plan import Found, Plan, best_of
from servingplan.solve.problem.instance import Instance, floor_dollars, floors_fit, instance_of
from servingplan.solve.search.cover import covers_with_spare
from servingplan.solve.search.guarded import guarded_search
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import TOLD

ANY_GAP = 0.99
"""Gap of a search that only decides whether there is a plan."""
SHARE_OF_TIME = 0.2
"""The part of the remaining time that one search for any plan may take."""
SHARE_OF_CHEAPEST = 0.5
"""The same for the search for the cheapest plan; there is at most one such search."""
SPARE = (1.0, 1.5, 2.0, 3.0)
"""The multiples of the asked rates that constructed plans carry, as a reserve for the loss of nodes."""


@dataclass(slots=True)
class Feasible:
    """Decides whether questions have a plan, and counts the searches that this takes."""

    effort: Effort
    full_service: bool = False
    """Whether every class must be served in full, not only those that a rule protects. Only under MinimizeCost."""
    most: int = 200
    """The most searches that may be made."""
    asked: int = 0

    def spent(self) -> bool:
        """Whether no more searches may be made."""
        return self.asked >= self.most or self.effort.stop()

    def holds(self, question: Question) -> bool | None:
        """Whether the question has a plan; None if that is not known."""
        verdict = _without_search(question, full_service=self.full_service)
        if verdict is not None:
            return verdict
        if self.spent():
            return None
        if _constructed(self._instance(question), self.effort):
            return True
        found = self._search(question, gap=ANY_GAP, share=SHARE_OF_TIME)
        return None if found is None or not (found.plan or found.infeasible) else found.plan is not None

    def cheapest(self, question: Question) -> tuple[float | None, bool]:
        """Dollars/hour of the cheapest plan that was found, None if there is none, and whether that is proved."""
        verdict = _without_search(question, full_service=self.full_service)
        if verdict is False:
            return None, True
        if verdict:
            return floor_dollars(question), True
        found = self._search(question, gap=0.0, share=SHARE_OF_CHEAPEST)
        if found is None or not (found.plan or found.infeasible):
            return None, False
        if found.plan is None:
            return None, True
        return found.plan.values[DOLLARS], found.stopped == "proved"

    def _instance(self, question: Question) -> Instance:
        return instance_of(needs_of(question, full_service=self.full_service))

    def _search(self, question: Question, *, gap: float, share: float) -> Found | None:
        if self.spent():
            return None
        self.asked += 1
        instance = self._instance(question)
        effort = replace(self.effort.share(share), relative_gap=gap)
        try:
            return guarded_search(instance, effort, start=_constructed(instance, effort), all_classes=True)
        except QuestionError:  # there are too many node contents to guard against the loss of each
            return None


def _constructed(instance: Instance, effort: Effort) -> Plan | None:
    """The cheapest plan of greedy covers that serves all classes in full, if any; a search may take long to find one."""
    asked = [cls.requests_per_second for cls in instance.classes]
    spare = SPARE if instance.question.survive else SPARE[:1]
    covers = covers_with_spare(instance, spare, range(len(asked)), effort.stop)
    plans = [judge(instance, draft.copies, asked) for draft in covers]
    return best_of(plan for plan in plans if plan and plan.in_full)


def needs_of(question: Question, *, full_service: bool = False) -> Question:
    """A MinimizeCost question without running plan that has only the classes that must be served, each in full.

    Under MaximizeService the rates are a very small multiple of the mix.
    """
    classes = _needed(question, full_service=full_service)
    if question.objective == "MaximizeService":
        slowest = min(
            shape.requests_per_second[cls.name] / cls.requests_per_second
            for cls in classes
            for shape in question.shapes
            if cls.name in shape.requests_per_second
        )
        part = TOLD * slowest
        classes = [cls.model_copy(update={"requests_per_second": part * cls.requests_per_second}) for cls in classes]
    kept = {cls.name for cls in classes}
    shapes = []
    for shape in question.shapes:
        rates = {name: rate for name, rate in shape.requests_per_second.items() if name in kept}
        losses = {name: loss for name, loss in shape.quality_loss.items() if name in kept}
        if rates:
            shapes.append(shape.model_copy(update={"requests_per_second": rates, "quality_loss": losses}))
    update = {
        "objective": "MinimizeCost",
        "classes": tuple(classes),
        "shapes": tuple(shapes),
        "running": None,
        "change": None,
    }
    return question.model_copy(update=update)


def _needed(question: Question, *, full_service: bool) -> list[RequestClass]:
    classes = [cls for cls in question.classes if cls.requests_per_second > 0]
    if full_service or question.objective == "MaximizeService":
        return classes
    floor = min((rule.min_priority for rule in question.survive), default=math.inf)
    return [cls for cls in classes if cls.priority >= floor]


def _without_search(question: Question, *, full_service: bool) -> bool | None:
    """Whether the question has a plan, if that needs no search; else None."""
    if not floors_fit(question):
        return False
    needed = _needed(question, full_service=full_service)
    served = {name for shape in question.shapes for name in shape.requests_per_second}
    if any(cls.name not in served for cls in needed):
        return False
    return None if needed else True
