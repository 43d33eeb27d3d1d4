"""Criteria for the end of a search: its time is up, its rounds are done, or its gap is within the tolerance.

A criterion is called with the gap that is reached (infinite if there is no plan yet); `first_of` combines several criteria.
"""

from collections.abc import Callable
from dataclasses import dataclass

from servingplan.solve.solver.clock import Stopwatch
from servingplan.solve.solver.tolerance import EQUAL

Stop = Callable[[float], bool]
"""Whether to stop at this gap."""


@dataclass(frozen=True, slots=True)
class OutOfTime:
    """The deadline has passed."""

    stopwatch: Stopwatch

    def __call__(self, gap: float) -> bool:  # noqa: ARG002
        return self.stopwatch.expired()


@dataclass(slots=True)
class OutOfWork:
    """`most` rounds were begun. It must be called once before each round."""

    most: int
    begun: int = 0

    def __call__(self, gap: float) -> bool:  # noqa: ARG002
        self.begun += 1
        return self.begun > self.most


@dataclass(frozen=True, slots=True)
class NearEnough:
    """The gap is within the tolerance."""

    relative_gap: float

    def __call__(self, gap: float) -> bool:
        return gap <= self.relative_gap * (1 + EQUAL)


def first_of(*criteria: Stop) -> Stop:
    """A criterion that stops as soon as one of these would."""
    return lambda gap: any(criterion(gap) for criterion in criteria)
