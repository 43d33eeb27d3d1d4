"""When a search may end: its time is up, its work is done, or it is near enough to what is known.

A criterion is asked with the gap that is reached (infinite where there is no plan yet); `first_of` makes one criterion of
several. Every loop of the solver ends by them.
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
    """So many rounds were begun; it is asked once before each."""

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
    """Stop as soon as one of these would."""
    return lambda gap: any(criterion(gap) for criterion in criteria)
