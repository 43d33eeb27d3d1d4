"""What "better" means: the levels of the lexicographic objective, in the order of the interface.

Each level is a `Stage`. The search optimises the stages in turn and holds the value of each while it works on the next.

MaximizeService has the scale, then dollars, moves and a fixed tie-break. MinimizeCost has, for each priority from the top, the
smallest served fraction of its classes and then their total served rate; then dollars, moves and the tie-break.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from servingplan.model.goal import DOLLARS, MOVES, SCALE, Goal, Kind
from servingplan.solve.problem.constraints import PlanProgram
from servingplan.solve.solver.program import Column, Program, Term
from servingplan.solve.solver.tolerance import EQUAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One level. The terms are scaled so that the best value is of order 1; a value times `unit` is the reported value."""

    goal: Goal
    terms: tuple[Term, ...]
    unit: float
    best: float = 0.0
    """A trivial bound on the value, in the reported unit."""
    implied_by: Goal | None = None
    """The goal of an earlier stage. If that stage reached 1, this one is at its best."""

    @property
    def sense(self) -> Literal["max", "min"]:
        """Whether the solver maximises or minimises the terms."""
        return "max" if self.goal.rises else "min"

    def redundant(self, values: Mapping[Goal, float]) -> bool:
        """Whether this stage is already decided: nothing can be served, or the stage that implies it reached 1."""
        return self.unit <= 0.0 or (self.implied_by is not None and values.get(self.implied_by, 0.0) >= 1.0 - EQUAL)

    def value(self, values: Sequence[float]) -> float:
        """The scaled value at a point of the program."""
        return sum(values[column] * factor for column, factor in self.terms)

    def hold(self, program: Program, value: float, *, slack: float) -> None:
        """Keep the stage at `value` (scaled) or better while later stages are optimised. `slack` is relative; if it is above 0,
        the row's slack is at least 10 times the solver's tolerance."""
        room = max(slack * max(abs(value), 1e-2), 10 * EQUAL) if slack else 0.0
        if self.goal.rises:
            program.add_row(f"level({self.goal.name})", self.terms, ">=", value - room)
        else:
            program.add_row(f"level({self.goal.name})", self.terms, "<=", value + room)


class Objective:
    """The levels of one program, each as a stage of its search."""

    def __init__(self, plan: PlanProgram) -> None:
        self._plan = plan

    def service(self) -> list[Stage]:
        """The stages of service. Adds the columns and rows of the smallest served fractions to the program."""
        plan, instance = self._plan, self._plan.instance
        if not instance.classes:
            return []
        if instance.question.objective == "MaximizeService":
            unit = plan.targets[0] / instance.classes[0].requests_per_second
            return [Stage(goal=SCALE, terms=((plan.served[0], 1.0),), unit=unit, best=unit)]
        stages: list[Stage] = []
        indices = sorted(range(len(instance.classes)), key=lambda k: (-instance.classes[k].priority, k))
        for priority, group in groupby(indices, key=lambda k: instance.classes[k].priority):
            members = list(group)
            rates = {k: instance.classes[k].requests_per_second for k in members}
            fraction = Stage(
                goal=Goal(Kind.SERVED_FRACTION, priority),
                terms=((self._smallest_fraction(priority, members), 1.0),),
                unit=(unit := min(plan.targets[k] / rates[k] for k in members)),
                best=unit,
            )
            most = sum(plan.targets[k] for k in members)
            total = Stage(
                goal=Goal(Kind.SERVED_TOTAL, priority),
                terms=tuple((plan.served[k], plan.targets[k] / most) for k in members) if most else (),
                unit=most,
                best=most,
                implied_by=fraction.goal,
            )
            stages += [fraction, total]
        return stages

    def dollars(self, *, unit: float) -> Stage:
        """The stage of the price of all nodes; `unit` is the expected size of the value, in dollars/hour."""
        plan = self._plan
        prices = [pool.dollars_per_node_hour for pool in plan.instance.pools]
        terms = tuple((column, price / unit) for column, price in zip(plan.nodes, prices, strict=True))
        return Stage(goal=DOLLARS, terms=terms, unit=unit)

    def moves(self) -> Stage:
        """The stage of moves, which are added plus removed copies: sum_c |y[c] - running[c]|.

        Adds the rows moved[c] >= y[c] - running[c] and moved[c] >= running[c] - y[c] to the program.
        """
        plan, moved = self._plan, list[Term]()
        for c, running in enumerate(plan.instance.running_copies()):
            name = plan.instance.shapes[c].name
            if not running:
                moved.append((plan.copies[c], 1.0))
                continue
            column = plan.moved[c] = plan.program.add_column(f"moved({name})")
            plan.program.add_row(f"added({name})", [(plan.copies[c], 1.0), (column, -1.0)], "<=", running)
            plan.program.add_row(f"removed({name})", [(plan.copies[c], -1.0), (column, -1.0)], "<=", -running)
            moved.append((column, 1.0))
        return Stage(goal=MOVES, terms=tuple(moved), unit=1.0)

    def tie_break(self) -> list[Term]:
        """Terms that are minimised last, so that the same question has the same plan: nodes and copies, with small weights for
        the positions of pools and shapes in their lists."""
        plan = self._plan
        count = max(1, len(plan.copies), len(plan.nodes))
        terms: list[Term] = [(column, 2.0 + p / count) for p, column in enumerate(plan.nodes)]
        terms += [(column, 1.0 + c / count) for c, column in enumerate(plan.copies)]
        return terms

    def _smallest_fraction(self, priority: int, members: Sequence[int]) -> Column:
        """t <= (D[k]/lambda[k]) / u f[k] for every class k of a priority; u scales t to at most 1."""
        plan = self._plan
        rates = [plan.instance.classes[k].requests_per_second for k in members]
        reachable = [plan.targets[k] / rate for k, rate in zip(members, rates, strict=True)]
        unit = min(reachable)
        smallest = plan.program.add_column(f"smallest_fraction({priority})", upper=1.0)
        for k, part in zip(members, reachable, strict=True):
            factor = part / unit if unit else 0.0
            name = f"smallest_fraction({priority}.{plan.instance.classes[k].name})"
            plan.program.add_row(name, [(smallest, 1.0), (plan.served[k], -factor)], "<=", 0.0)
        return smallest
