"""What several checks derive from a question and its answer, and the comparisons of numbers."""

import math
from collections.abc import Collection
from functools import cached_property

from servingplan.model.answer import Answer
from servingplan.model.question import Pool, Question, RequestClass, Shape

TOLERANCE = 1e-6


class Case:
    """A question, its answer, and values that follow from both."""

    def __init__(self, question: Question, answer: Answer) -> None:
        self.question = question
        self.answer = answer
        self.pools: dict[str, Pool] = {pool.name: pool for pool in question.pools}
        self.classes: dict[str, RequestClass] = {cls.name: cls for cls in question.classes}
        self.shapes: dict[str, Shape] = {shape.name: shape for shape in question.shapes}

    @cached_property
    def served(self) -> dict[str, float]:
        """Served requests/s, by class."""
        return {name: math.fsum(self.answer.rates.get(name, {}).values()) for name in self.classes}

    def gpus_on(self, pools: Collection[str]) -> int:
        """The GPUs that all copies hold on some pools."""
        return sum(
            count * gpus
            for name, count in self.answer.replicas.items()
            for pool, gpus in self.shapes[name].gpus.items()
            if pool in pools
        )

    @cached_property
    def dollars(self) -> float:
        """The price of all nodes, in dollars/hour."""
        return math.fsum(self.pools[name].dollars_per_node_hour * n for name, n in self.answer.nodes.items())

    @cached_property
    def scale(self) -> float:
        """The smallest served multiple of a class's rate; 0 if no class has a rate."""
        asked = [cls for cls in self.question.classes if cls.requests_per_second > 0]
        return min((self.served[cls.name] / cls.requests_per_second for cls in asked), default=0.0)


def same(left: float, right: float) -> bool:
    """Whether two numbers agree within the tolerance."""
    return abs(left - right) <= TOLERANCE * max(abs(left), abs(right)) + 1e-12


def above(value: float, limit: float) -> bool:
    """Whether value exceeds limit by more than the tolerance."""
    return value > limit + TOLERANCE * abs(limit) + 1e-12


def utilization(shape: Shape, copies: int) -> float:
    """The busy copies that `copies` copies of a shape may sustain."""
    if copies <= 0:
        return 0.0
    limits = shape.max_utilization
    return copies * (limits if isinstance(limits, float) else limits[min(copies, len(limits)) - 1])
