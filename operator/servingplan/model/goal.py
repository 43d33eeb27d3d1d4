"""The goals of a plan, in the order in which they count: what each level of an answer is the value of.

Flow: observe -> **model** -> solve -> render -> apply -> status. `solve.problem.objective` says which goals a question has.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What is measured, by the first part of a level's name."""

    SCALE = "scale"
    """Multiple of the asked mix that is served; the first goal of MaximizeService."""
    SERVED_FRACTION = "served-fraction"
    """Smallest served fraction of the classes of a priority; under MinimizeCost, as is the next."""
    SERVED_TOTAL = "served-total"
    """Requests/s that are served of all classes of a priority."""
    DOLLARS = "dollars"
    """Price of the nodes in $/h."""
    MOVES = "moves"
    """Replicas that are added or removed."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal: larger is better, or smaller."""

    kind: Kind
    priority: int | None = None
    """The priority whose classes are served; None where the kind is not by priority."""

    @classmethod
    def named(cls, name: str) -> "Goal":
        """The goal of a level's name.

        Raises:
            ValueError: no level has this name.
        """
        kind, _, priority = name.partition("/priority=")
        return cls(Kind(kind), int(priority) if priority else None)

    @property
    def name(self) -> str:
        """The name that a level of an answer has."""
        return str(self.kind) if self.priority is None else f"{self.kind}/priority={self.priority}"

    @property
    def rises(self) -> bool:
        """Whether larger is better."""
        return self.kind not in (Kind.DOLLARS, Kind.MOVES)

    @property
    def is_promise(self) -> bool:
        """Whether it is service that MinimizeCost must give before it counts dollars."""
        return self.kind in (Kind.SERVED_FRACTION, Kind.SERVED_TOTAL)

    def is_better(self, value: float, other: float) -> bool:
        """Whether the first value is better than the second."""
        return value > other if self.rises else value < other

    def tighter(self, bound: float, other: float) -> float:
        """The tighter one of two bounds."""
        return min(bound, other) if self.rises else max(bound, other)

    def no_worse(self, bound: float, value: float) -> float:
        """The bound; the value where that is beyond it, as only rounding can make it."""
        return max(bound, value) if self.rises else min(bound, value)


SCALE = Goal(Kind.SCALE)
DOLLARS = Goal(Kind.DOLLARS)
MOVES = Goal(Kind.MOVES)


def tighter(known: Mapping[Goal, float], bounds: Mapping[Goal, float]) -> dict[Goal, float]:
    """The bounds that are known, and these where they are tighter."""
    return {**known, **{goal: goal.tighter(bound, known.get(goal, bound)) for goal, bound in bounds.items()}}
