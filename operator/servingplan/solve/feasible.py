"""Whether there is a plan at all, and what the cheapest one costs: the question that `clash` asks again and again.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. A plan must pay for the floors and serve in
full whatever some `survive` rule protects; under MaximizeService it must serve some multiple of the mix, however small.
"""

import math
from dataclasses import dataclass, replace

from servingplan.model.question import Question, QuestionError, RequestClass
from servingplan.solve.exact import guarded_search
from servingplan.solve.instance import instance_of
from servingplan.solve.levels import Effort, Found

HARDLY_ANY = 1e-6
"""Part of the mix that counts as "served at all" under MaximizeService."""
ANY_GAP = 0.99
"""Gap of a search that only asks whether there is a plan."""


@dataclass(slots=True)
class Feasible:
    """Asks whether questions have a plan, and counts how often."""

    effort: Effort
    full_service: bool = False
    """Every class must be served in full, not only those that a rule protects. Only under MinimizeCost."""
    most: int = 200
    """How many searches may be made."""
    asked: int = 0

    def spent(self) -> bool:
        """Whether no more searches may be made."""
        return self.asked >= self.most or self.effort.stopwatch.expired()

    def holds(self, question: Question) -> bool | None:
        """Whether the question has a plan; None where that is not known."""
        verdict = _without_search(question, full_service=self.full_service)
        if verdict is not None:
            return verdict
        found = self._search(question, gap=ANY_GAP)
        return None if found is None or not (found.nodes or found.infeasible) else bool(found.nodes)

    def cheapest(self, question: Question) -> tuple[float | None, bool]:
        """$/h of the cheapest plan of the question, None where there is none, and whether that is proved."""
        verdict = _without_search(question, full_service=self.full_service)
        if verdict is False:
            return None, True
        if verdict:
            return floor_dollars(question), True
        found = self._search(question, gap=0.0)
        if found is None or not (found.nodes or found.infeasible):
            return None, False
        if found.infeasible:
            return None, True
        price = {pool.name: pool.dollars_per_node_hour for pool in question.pools}
        pools = instance_of(needs_of(question, full_service=self.full_service)).pools
        return math.fsum(price[pool.name] * n for pool, n in zip(pools, found.nodes, strict=True)), (
            found.stopped == "proved"
        )

    def _search(self, question: Question, *, gap: float) -> Found | None:
        if self.spent():
            return None
        self.asked += 1
        try:
            instance = instance_of(needs_of(question, full_service=self.full_service))
            return guarded_search(instance, replace(self.effort, relative_gap=gap), all_classes=True)
        except QuestionError:  # a loss that cannot be guarded against, for the many ways to fill a node
            return None


def floor_dollars(question: Question) -> float:
    """$/h of the nodes that floors force."""
    return math.fsum(pool.min_nodes * pool.dollars_per_node_hour for pool in question.pools)


def floors_fit(question: Question) -> bool:
    """Whether the budget pays for the floors."""
    return floor_dollars(question) <= question.budget_dollars_per_hour * (1 + 1e-9) + 1e-12


def needs_of(question: Question, *, full_service: bool = False) -> Question:
    """What has to be served, as a MinimizeCost question without running plan: all its classes are needed in full."""
    classes = _needed(question, full_service=full_service)
    if question.objective == "MaximizeService":
        slowest = min(
            shape.requests_per_second[cls.name] / cls.requests_per_second
            for cls in classes
            for shape in question.shapes
            if cls.name in shape.requests_per_second
        )
        part = HARDLY_ANY * slowest
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
    """The verdict where it needs no search."""
    if not floors_fit(question):
        return False
    needed = _needed(question, full_service=full_service)
    served = {name for shape in question.shapes for name in shape.requests_per_second}
    if any(cls.name not in served for cls in needed):
        return False
    return None if needed else True
