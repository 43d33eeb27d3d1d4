"""What a search brings back, and what it may start from.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from servingplan.model.answer import Level, Stopped
from servingplan.model.goal import SCALE, Goal, Kind
from servingplan.solve.problem.packing import Content
from servingplan.solve.solver.tolerance import gap_of


class Start(Protocol):
    """A plan that is known: what the search needs of an `Incumbent`."""

    @property
    def copies(self) -> Sequence[int]: ...
    @property
    def nodes(self) -> Sequence[int]: ...
    @property
    def rates(self) -> Mapping[tuple[int, int], float]: ...


@dataclass(slots=True)
class Found:
    """What a search found."""

    copies: tuple[int, ...] = ()
    nodes: tuple[int, ...] = ()
    patterns: dict[int, list[tuple[Content, int]]] = field(default_factory=dict)
    contents: Mapping[int, list[tuple[Content, int]]] = field(default_factory=dict)
    targets: tuple[float, ...] = ()
    levels: list[Level] = field(default_factory=list)
    units: dict[Goal, float] = field(default_factory=dict)
    """Size that is natural for each level, in its own unit: differences far below it are the solver's rounding."""
    stopped: Stopped = "proved"
    infeasible: bool = False
    rates: Mapping[tuple[int, int], float] | None = None
    """Requests/s of class k by shape c, of methods that route in their own way; None: the best routing."""

    @property
    def scale(self) -> float:
        """Scale of the plan under MaximizeService; 1 under MinimizeCost."""
        return next((level.value for level in self.levels if level.goal == SCALE), 1.0)

    @property
    def in_full(self) -> bool:
        """Whether every class gets all that it asks for, under MinimizeCost."""
        return all(level.value >= 1.0 for level in self.levels if level.goal.kind == Kind.SERVED_FRACTION)

    def record(
        self, goal: Goal, value: float, bound: float, *, unit: float, tolerance: float = 0.0, proved: bool = False
    ) -> None:
        """Add a level; `unit` is its natural size."""
        self.levels.append(level_of(goal, value, bound, tolerance=tolerance, proved=proved))
        self.units[goal] = unit


def level_of(goal: Goal, value: float, bound: float, *, tolerance: float = 0.0, proved: bool = False) -> Level:
    """The level with its gap, proved also where that is within the tolerance. A bound that rounding has put beyond the value
    is the value."""
    bound = goal.no_worse(bound, value)
    gap = gap_of(value, bound)
    return Level(name=goal.name, value=value, bound=bound, gap=gap, proved=proved or gap <= tolerance)
