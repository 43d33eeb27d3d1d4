"""One plan and what it is worth, and what a method says of it.

The running fleet, the empty plan, what a rule constructs and what a program finds all take this one form; `judge` gives it
out.
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
    """By pool, idle ones included."""
    targets: tuple[float, ...]
    """Requests/s by class at which service is measured."""
    rates: Mapping[tuple[int, int], float]
    """Requests/s that all copies of shape c serve of class k; positive entries only."""
    values: Mapping[Goal, float]
    """In the order of the goals, each in its own unit: service, then dollars, then moves where something runs."""

    @property
    def copies(self) -> tuple[int, ...]:
        """By shape."""
        return self.packing.copies

    @property
    def used(self) -> list[int]:
        """Shapes of which there is a copy."""
        return [c for c, count in enumerate(self.copies) if count]

    @property
    def in_full(self) -> bool:
        """Whether every class gets all that it asks for, under MinimizeCost."""
        return all(value >= 1.0 for goal, value in self.values.items() if goal.kind == Kind.SERVED_FRACTION)

    def is_better(self, other: "Plan", *, tolerance: float = TOLD) -> bool:
        """Whether this plan is better than another, as `is_better` says."""
        return is_better(self.values, other.values, tolerance=tolerance)

    def gap(self, known: Mapping[Goal, float]) -> float:
        """Gap of the scale, or of the dollars of full service, to the bound that is known; infinite where there is none."""
        goal = SCALE if SCALE in self.values else DOLLARS
        if goal not in known or not self.in_full:
            return math.inf
        return gap_of(self.values[goal], goal.no_worse(known[goal], self.values[goal]))

    def gap_in_all(self, known: Mapping[Goal, float]) -> float:
        """The same where every other level is at its best; else infinite."""
        return math.inf if SCALE in self.values or self.values.get(MOVES) else self.gap(known)


def is_better(left: Mapping[Goal, float], right: Mapping[Goal, float], *, tolerance: float = TOLD) -> bool:
    """Whether the level values on the left are better: the first level that differs decides.

    Levels but for the served ones, which must be met, differ where they differ by more than `tolerance`.
    """
    for goal, ours in left.items():
        theirs = right[goal]
        telling = TOLD if goal.is_promise else max(tolerance, TOLD)
        if abs(ours - theirs) > telling * max(abs(ours), abs(theirs)):
            return goal.is_better(ours, theirs)
    return False


def best_of(plans: Iterable[Plan | None]) -> Plan | None:
    """The best plan, the first of equals; None where there is none."""
    best: Plan | None = None
    for plan in plans:
        if plan is not None and (best is None or plan.is_better(best)):
            best = plan
    return best


class Bound(NamedTuple):
    """How good a level could be, given the levels before it."""

    value: float
    unit: float
    """Size that is natural for the level, in its own unit: differences far below it are the solver's rounding."""
    proved: bool
    """Whether the plan is within the asked gap of it."""


@dataclass(slots=True)
class Found:
    """What a method found: a plan, how good it could be at most, and what ended the search."""

    plan: Plan | None = None
    bounds: dict[Goal, Bound] = field(default_factory=dict)
    """In the order of the goals."""
    stopped: Stopped = "proved"
    infeasible: bool = False
    """There is no plan; proved."""

    def record(
        self, goal: Goal, bound: float, *, value: float, unit: float, tolerance: float = 0.0, proved: bool = False
    ) -> None:
        """Note the bound of a level that has this value, proved also where the gap is within the tolerance. A bound that
        rounding has put beyond the value is the value."""
        bound = goal.no_worse(bound, value)
        self.bounds[goal] = Bound(bound, unit, proved or gap_of(value, bound) <= tolerance)

    @property
    def proved(self) -> bool:
        """Whether every level is."""
        return all(bound.proved for bound in self.bounds.values())

    def tighten(self, known: Mapping[Goal, float], *, tolerance: float) -> None:
        """Make the bounds no worse than what is known, by level; of dollars, for full service."""
        plan = self.plan
        for goal, bound in self.bounds.items() if plan else ():
            if plan and goal in known and (plan.in_full or goal != DOLLARS):
                tight, value = goal.tighter(bound.value, known[goal]), plan.values[goal]
                self.record(goal, tight, value=value, unit=bound.unit, tolerance=tolerance, proved=bound.proved)
        if self.bounds and self.proved:
            self.stopped = "proved"

    def is_worse_than(self, plan: Plan) -> bool:
        """Whether a plan that is known is better, which can be only where the search was cut short."""
        if self.plan is None or self.stopped == "proved":
            return self.plan is None
        return plan.is_better(self.plan)
