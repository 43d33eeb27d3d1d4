"""One plan with the values of its levels, and what a method found.

The running fleet, the empty plan, the result of a heuristic and the result of a program all have this one form; `judge` makes
it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from servingplan.model.answer import Stopped
from servingplan.model.goal import DOLLARS, MOVES, SCALE, Goal, Kind
from servingplan.solve.problem.placement import Packing
from servingplan.solve.solver.tolerance import TOLD, gap_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Copies on nodes, who serves what, and the value of every level."""

    packing: Packing
    nodes: tuple[int, ...]
    """Nodes by pool, idle ones included."""
    targets: tuple[float, ...]
    """Rates at which service is measured, in requests/s by class."""
    rates: Mapping[tuple[int, int], float]
    """Requests/s that all copies of shape c serve of class k; positive entries only."""
    values: Mapping[Goal, float]
    """The values in the order of the goals, each in its own unit: service, then dollars, then moves where something runs."""

    @property
    def copies(self) -> tuple[int, ...]:
        """Copies by shape."""
        return self.packing.copies

    @property
    def used(self) -> list[int]:
        """Shapes of which there is a copy."""
        return [c for c, count in enumerate(self.copies) if count]

    @property
    def in_full(self) -> bool:
        """Whether every class is served in full. Always true under MaximizeService, which has no such level."""
        return all(value >= 1.0 for goal, value in self.values.items() if goal.kind == Kind.SERVED_FRACTION)

    def is_better(self, other: "Plan", *, tolerance: float = TOLD) -> bool:
        """Whether this plan is better than another, by `is_better` of their level values."""
        return is_better(self.values, other.values, tolerance=tolerance)

    def gap(self, known: Mapping[Goal, float]) -> float:
        """Relative gap of the scale, or of the dollars of full service, to the known bound; infinite if there is none."""
        goal = SCALE if SCALE in self.values else DOLLARS
        if goal not in known or not self.in_full:
            return math.inf
        return gap_of(self.values[goal], goal.no_worse(known[goal], self.values[goal]))

    def gap_in_all(self, known: Mapping[Goal, float]) -> float:
        """The same gap if the plan is surely at its best on every other level; else infinite."""
        return math.inf if SCALE in self.values or self.values.get(MOVES) else self.gap(known)


def is_better(left: Mapping[Goal, float], right: Mapping[Goal, float], *, tolerance: float = TOLD) -> bool:
    """Whether the level values on the left are better. The first level that differs decides.

    Levels of service differ if they differ by more than the relative `TOLD`, other levels if by more than `tolerance`.
    """
    for goal, ours in left.items():
        theirs = right[goal]
        negligible = TOLD if goal.is_promise else max(tolerance, TOLD)
        if abs(ours - theirs) > negligible * max(abs(ours), abs(theirs)):
            return goal.is_better(ours, theirs)
    return False


def best_of(plans: Iterable[Plan | None]) -> Plan | None:
    """The best plan, the first of equals; None if there is none."""
    best: Plan | None = None
    for plan in plans:
        if plan is not None and (best is None or plan.is_better(best)):
            best = plan
    return best


class Bound(NamedTuple):
    """How good a level could be, given the levels before it."""

    value: float
    unit: float
    """The size of typical values of the level, in its own unit. Differences far below it are the solver's rounding."""
    proved: bool
    """Whether the plan is within the asked gap of the bound."""


@dataclass(slots=True)
class Found:
    """What a method found: a plan, a bound on each of its levels, and what ended the search."""

    plan: Plan | None = None
    bounds: dict[Goal, Bound] = field(default_factory=dict)
    """The bounds in the order of the goals."""
    stopped: Stopped = "proved"
    infeasible: bool = False
    """Whether it is proved that there is no plan."""

    def record(
        self, goal: Goal, bound: float, *, value: float, unit: float, tolerance: float = 0.0, proved: bool = False
    ) -> None:
        """Note the bound of a level that has this value. The level is proved if `proved` says so or if the gap is within the
        tolerance. If rounding made the bound worse than the value, the value is the bound."""
        bound = goal.no_worse(bound, value)
        self.bounds[goal] = Bound(bound, unit, proved or gap_of(value, bound) <= tolerance)

    @property
    def proved(self) -> bool:
        """Whether every level is proved."""
        return all(bound.proved for bound in self.bounds.values())

    def tighten(self, known: Mapping[Goal, float], *, tolerance: float) -> None:
        """Replace bounds by known ones that are tighter. The known bound on dollars holds for full service only."""
        plan = self.plan
        for goal, bound in self.bounds.items() if plan else ():
            if plan and goal in known and (plan.in_full or goal != DOLLARS):
                tight, value = goal.tighter(bound.value, known[goal]), plan.values[goal]
                self.record(goal, tight, value=value, unit=bound.unit, tolerance=tolerance, proved=bound.proved)
        if self.bounds and self.proved:
            self.stopped = "proved"

    def is_worse_than(self, plan: Plan) -> bool:
        """Whether a known plan is better than what was found. After a complete search this can be only if it found none."""
        if self.plan is None or self.stopped == "proved":
            return self.plan is None
        return plan.is_better(self.plan)
