"""The adapter to the MILP solver: the only module that imports PuLP and HiGHS.

`constraints` fills a `Program` with columns and rows, `lexicographic` optimises it. PuLP is imported when it is first needed,
because the import takes longer than a small plan takes to solve.

Three facts about the solver determine this module. HiGHS fixes its thread count once per process, so `THREADS` is a constant.
A clock makes the answer depend on the machine, so the work limit is a number of branch-and-bound nodes, and if the clock ends
a search, the outcome says so. Ties go to the first column, so callers must add columns in an order that depends on content
alone.
"""

import ctypes
import functools
import importlib
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NewType, override

if TYPE_CHECKING:
    import highspy
    import pulp
from servingplan.solve.solver.clock import Stopwatch
from servingplan.solve.solver.tolerance import EQUAL

THREADS = 1
CONSISTENT = 1e-6
"""Relative difference within which two ways to compute an objective agree."""
READING_PART = 0.5
"""Reading a solution takes about this part of the time that it took to build HiGHS's model."""
PRESOLVE_PART = 1.0
"""Presolve, which does not look at the clock, takes about this part of the same time."""
OVERRUN_SECONDS_PER_COLUMN, OVERRUN_COLUMNS = 6e-5, 10_000
"""HiGHS does not look at its clock while it tries rounded points at the root, each with a linear program of its own. So its
time limit is set earlier by this many seconds per column, and by twice as many if there are `OVERRUN_COLUMNS`. Measured with
limits from 10 ms up in steps of 7 %: at most 0.04 s beyond the limit with 1,200 columns, 0.12 with 2,080 and with 3,500, 0.37
with 9,200, 1.4 with 14,000."""
WIDE_SECONDS, WIDEST = 1.5e-8, 1024
"""At the root, HiGHS notes for up to `WIDEST` values of each whole column from which objective on they are not needed. It looks
through these notes for each of them, and not at the clock. So a column takes this many seconds times the square of its
range. Measured: 8 to 15 ms for each of a hundred columns that may be above 1,000; nothing for ranges below a hundred."""
INTEGRAL = 1e-6
"""Slack when a number of whole steps is rounded down."""
NEAR = 10
"""How far from the relaxation values of whole columns are tried where there is no time for their whole range."""
TRIAL_BRANCHINGS = 8
"""HiGHS's default."""
_UNFIT = re.compile(r"[^A-Za-z0-9_.()]")
"""Characters that the LP format does not allow in names."""
Column = NewType("Column", int)
"""A variable of a `Program`, by position."""
Row = NewType("Row", str)
"""A row of a `Program`, by the name that it has there."""
Term = tuple[Column, float]
Comparison = Literal["<=", ">=", "=="]
Sense = Literal["max", "min"]
Stopped = Literal["proved", "work-limit", "deadline"]


@functools.cache
def load() -> None:
    """Import PuLP and HiGHS now, once, so that the import takes no time from a deadline and HiGHS prints nothing.

    From version 1.16 on, the first `Highs` object of a process writes a banner to standard output, from C++, before any option
    can be set. So the first one is made here, while standard output is redirected to the null device.
    """
    _load_at_first_use("orloge")
    importlib.import_module("pulp")
    highspy: Any = importlib.import_module("highspy")
    with _standard_output_closed():
        highspy.Highs()


def _load_at_first_use(name: str) -> None:
    """Delay the import of a module until it is used. PuLP imports ``orloge``, which reads the logs of other solvers; the import
    takes a tenth of a second, and HiGHS needs nothing of it."""
    if name in sys.modules:
        return
    stand_in = ModuleType(name)

    def load_now(attribute: str) -> Any:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    stand_in.__dict__["__getattr__"] = load_now
    sys.modules[name] = stand_in


@contextmanager
def _standard_output_closed() -> Iterator[None]:
    """A context in which everything that is written to file descriptor 1 is lost, with what C has in its buffer at the end."""
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # a process without standard output
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
        ctypes.CDLL(None).fflush(None)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When one optimisation may end before its proof is complete."""

    relative_gap: float
    """The point counts as optimal if |bound - value| / |value| is at most this."""
    nodes: int
    """Work limit in branch-and-bound nodes."""
    seconds: float | None = None
    """Limit on the wall clock."""
    pace: float = 1.0
    """How many times slower the machine is now than in the measurements."""
    target: float | None = None
    """The search ends at a point with this objective, whatever its bound is, because the caller knows a better bound."""
    bound_first: bool = False
    """Whether to leave out the searches in neighbourhoods of good points, because the caller needs the bound more."""
    trial_branchings: int = TRIAL_BRANCHINGS
    """Trial branchings on a column before its pseudo-costs are used. With fewer, nodes are cheaper but less well chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one optimisation found."""

    stopped: Stopped
    infeasible: bool = False
    """Whether it is proved that no point satisfies the rows."""
    value: float | None = None
    """Objective of the point that was found, if any."""
    bound: float | None = None
    """The dual bound: no point has a better objective. None if no bound is known."""
    values: tuple[float, ...] = field(default=(), repr=False)
    """Value of every column, in order; empty without a point."""
    reduced_costs: tuple[float, ...] = field(default=(), repr=False)
    """Reduced cost of every column, in order, after a relaxed optimisation."""


class Program:
    """A mixed-integer linear program that is filled once and optimised for several objectives in turn."""

    def __init__(self, name: str) -> None:
        import pulp

        load()
        self._pulp = pulp
        self._problem = pulp.LpProblem(name, pulp.LpMinimize)
        self._columns: list[pulp.LpVariable] = []
        self._labels: set[str] = set()
        self._start: tuple[float, ...] = ()
        self._worth_of_rows: list[float] = []
        self._building_seconds = 0.0
        """The time that it last took to build HiGHS's model."""

    def add_column(self, name: str, *, lower: float = 0.0, upper: float | None = None, integer: bool = False) -> Column:
        """Add a variable; `upper=None` leaves it unbounded above."""
        kind: Literal["Integer", "Continuous"] = "Integer" if integer else "Continuous"
        self._columns.append(self._problem.add_variable(self._label(name), lower, upper, kind))
        return Column(len(self._columns) - 1)

    def columns_count(self) -> int:
        """The number of columns so far."""
        return len(self._columns)

    def add_row(self, name: str, terms: Iterable[Term], sense: Comparison, limit: float) -> Row:
        """Add the row `sum(coefficient * column) sense limit`; a row without terms gets a column that is 0."""
        expression = self._expression(terms)
        if not len(expression):
            expression = self._pulp.LpAffineExpression.from_variable(self._nought())
        compared = {"<=": expression.__le__, ">=": expression.__ge__, "==": expression.__eq__}[sense](limit)
        label = self._label(name)
        self._problem.addConstraint(compared, label)
        return Row(label)

    def set_bounds(self, column: Column, *, lower: float, upper: float) -> None:
        """Replace the bounds of a column."""
        self._columns[column].lowBound = lower
        self._columns[column].upBound = upper

    def set_factors(self, row: Row, terms: Iterable[Term]) -> None:
        """Replace the factors of some columns of a row."""
        constraint = self._problem.get_constraint_by_name(row)
        assert constraint is not None, f"{row} is no row of {self._problem.name}"
        for column, factor in terms:
            constraint.set_coefficient(self._columns[column], factor)

    def start_from(self, values: tuple[float, ...]) -> None:
        """Give the solver a warm start: one value per column, in order; none if it is empty."""
        self._start = values

    def optimise(self, terms: Iterable[Term], sense: Sense, limits: Limits, *, relaxed: bool = False) -> Outcome:
        """The best point found for the objective `terms`. `relaxed` drops integrality. A point of an integer search is the warm
        start of the next one."""
        if not self._columns:
            return Outcome(stopped="proved", value=0.0, bound=0.0)
        terms, clock = list(terms), Stopwatch(limits.seconds)
        found = self._search(terms, sense, limits, relaxed=relaxed)
        if found is None:
            found = self._narrowed(terms, sense, replace(limits, seconds=clock.remaining_seconds()))
        return found

    def _search(
        self,
        terms: Sequence[Term],
        sense: Sense,
        limits: Limits,
        *,
        relaxed: bool = False,
        reduced_costs: Sequence[float] = (),
    ) -> Outcome | None:
        """What HiGHS finds; None if whole columns have too many values for the time. `reduced_costs`: those of the relaxation,
        if they are known."""
        if limits.seconds is not None and limits.seconds <= self._building_seconds:
            return Outcome(stopped="deadline")
        clock = Stopwatch(limits.seconds)
        pulp = self._pulp
        self._problem.sense = pulp.LpMaximize if sense == "max" else pulp.LpMinimize
        self._problem.setObjective(self._expression(terms))
        starts = len(self._start) == len(self._columns) and not relaxed
        if starts:
            for column, value in zip(self._columns, self._start, strict=True):
                column.setInitialValue(value, check=False)
        solver = pulp.HiGHS(
            msg=False,
            mip=not relaxed,
            threads=THREADS,
            warmStart=starts,
            gapRel=limits.relative_gap,
            gapAbs=EQUAL,
            mip_max_nodes=limits.nodes,
            mip_allow_restart=False,  # restarts and symmetry detection cost more than they save on near-tied shapes
            mip_detect_symmetry=False,
            mip_pscost_minreliable=limits.trial_branchings,
            mip_feasibility_tolerance=EQUAL,
            **({} if limits.target is None else {"objective_target": limits.target}),
            **(dict.fromkeys(_NEIGHBOURHOODS, False) if limits.bound_first else {}),
            primal_feasibility_tolerance=EQUAL,
            dual_feasibility_tolerance=EQUAL,
        )
        # These are the steps of `LpProblem.solve`, done one by one, so that HiGHS gets only the time that is left after its
        # model is built.
        if clock.expired():
            return Outcome(stopped="deadline")
        solver.createAndConfigureSolver(self._problem)
        solver.buildSolverModel(self._problem)
        highs: Any = self._problem.solverModel
        left, self._building_seconds = clock.remaining_seconds(), clock.elapsed_seconds()
        if left is not None:
            left -= READING_PART * self._building_seconds
            left -= 0.0 if relaxed else limits.pace * self._overrun_seconds()
            wide_seconds = 0.0 if relaxed else limits.pace * self._wide_seconds(reduced_costs)
            if 0 < left <= wide_seconds:
                return None
            left -= wide_seconds
            if left <= (0.0 if relaxed else PRESOLVE_PART * self._building_seconds):
                return Outcome(stopped="deadline")
            highs.setOptionValue("time_limit", left)
        highs.run()
        failed = str(highs.getModelStatus().name) not in _VERDICTS
        if failed or (starts and not self._is_consistent(highs)):
            highs.clearSolver()  # the start too
            if failed:
                highs.setOptionValue("presolve", "off")
            if (left := clock.remaining_seconds()) is not None:
                highs.setOptionValue("time_limit", left)
            highs.run()
        return self._outcome(highs, relaxed=relaxed)

    def _narrowed(self, terms: Sequence[Term], sense: Sense, limits: Limits) -> Outcome:
        """The best point among few values of each whole column: first those near the relaxation; if that is not good enough,
        all those that its reduced costs leave possible for a better point."""
        clock = Stopwatch(limits.seconds)
        relaxed = self._search(terms, sense, limits, relaxed=True)
        assert relaxed is not None, "a relaxation has no whole columns"
        if relaxed.value is None:
            return relaxed
        costs, start = relaxed.reduced_costs, self._start
        near = [(math.floor(value) - NEAR, math.ceil(value) + NEAR) for value in relaxed.values]
        self._start = ()
        found = self._within(near, terms, sense, replace(limits, seconds=clock.remaining_seconds()))
        possible = [(-math.inf, math.inf)] * len(costs)
        if found.value is None:
            self._start = start
        else:
            loss = abs(relaxed.value - found.value)
            if loss <= limits.relative_gap * abs(found.value):
                return replace(found, stopped="proved", bound=relaxed.value)
            slack = loss + EQUAL * max(1.0, abs(relaxed.value))
            steps = [slack / max(abs(cost), EQUAL) + INTEGRAL for cost in costs]
            possible = [(value - step, value + step) for value, step in zip(relaxed.values, steps, strict=True)]
        more = self._within(possible, terms, sense, replace(limits, seconds=clock.remaining_seconds()), costs)
        sign = 1.0 if sense == "max" else -1.0
        if found.value is not None and (more.value is None or sign * more.value < sign * found.value):
            return replace(found, stopped="deadline", bound=relaxed.value)
        return more if more.infeasible or more.bound is not None else replace(more, bound=relaxed.value)

    def _within(
        self,
        ranges: Sequence[tuple[float, float]],
        terms: Sequence[Term],
        sense: Sense,
        limits: Limits,
        reduced_costs: Sequence[float] = (),
    ) -> Outcome:
        """What is found with whole columns within their range."""
        before = [(column.lowBound, column.upBound) for column in self._columns]
        for column, (lower, upper) in zip(self._columns, ranges, strict=True):
            if column.cat == self._pulp.LpInteger:
                column.lowBound = max(column.lowBound or 0.0, lower)
                column.upBound = min(math.inf if column.upBound is None else column.upBound, upper)
        try:
            found = self._search(terms, sense, limits, reduced_costs=reduced_costs)
        finally:
            for column, (low, high) in zip(self._columns, before, strict=True):
                column.lowBound, column.upBound = low, high
        return found or Outcome(stopped="deadline")

    def _wide_seconds(self, reduced_costs: Sequence[float]) -> float:
        """What HiGHS spends at the root on whole columns with many values, at most. A column without a reduced cost costs
        nothing."""
        most, costs = float(WIDEST), reduced_costs or [math.inf] * len(self._columns)
        ranges = (
            most if column.upBound is None else min(most, column.upBound - (column.lowBound or 0.0))
            for column, cost in zip(self._columns, costs, strict=True)
            if column.cat == self._pulp.LpInteger and abs(cost) > EQUAL
        )
        return WIDE_SECONDS * sum(width * width for width in ranges)

    def _is_consistent(self, highs: "highspy.Highs") -> bool:
        """Whether the point that HiGHS returns has the objective that it reports. HiGHS 1.16, with a warm start and tolerances
        of 1e-9, sometimes returns the start together with the objective of the optimum."""
        told, lp, point = float(highs.getInfo().objective_function_value), highs.getLp(), highs.getSolution().col_value
        if not (math.isfinite(told) and len(point) == len(lp.col_cost_)):
            return True
        found = math.fsum(cost * value for cost, value in zip(lp.col_cost_, point, strict=True)) + lp.offset_
        return abs(found - told) <= CONSISTENT * max(1.0, abs(told))

    def _overrun_seconds(self) -> float:
        columns = len(self._columns)
        return OVERRUN_SECONDS_PER_COLUMN * columns * (1 + columns / OVERRUN_COLUMNS)

    def _outcome(self, highs: "highspy.Highs", *, relaxed: bool) -> Outcome:
        """What HiGHS found."""
        verdict = str(highs.getModelStatus().name)
        infeasible = verdict in _INFEASIBLE
        info, found = highs.getInfo(), highs.getSolution()
        empty = verdict == "kModelEmpty"  # no row and no objective uses any column
        proved = empty or verdict == "kOptimal"
        objective = 0.0 if empty else float(info.objective_function_value)
        # A relaxation that was cut short has a point, but its rows need not hold there.
        has_point = proved or (verdict in _LIMITS and not relaxed and math.isfinite(objective))
        if verdict not in _VERDICTS:  # twice; neither a point nor a proof that there is none
            return Outcome(stopped="work-limit")
        values: tuple[float, ...] = ()
        costs: tuple[float, ...] = ()
        self._worth_of_rows = []
        if has_point:
            places = [column.id for column in self._problem.exported_variables()]
            values = self._placed(places, found.col_value)
            if relaxed:
                costs = self._placed(places, found.col_dual, absent=0.0)
                self._worth_of_rows = list(found.row_dual)
            else:
                self._start = values
        bound: float | None = None  # absent after a stop before the first relaxation was solved
        if not (relaxed or empty):
            bound = float(info.mip_dual_bound)
        if (bound is None or not math.isfinite(bound)) and proved:
            bound = objective
        return Outcome(
            stopped=_LIMITS.get(verdict, "proved"),
            infeasible=infeasible,
            value=objective if has_point else None,
            bound=bound if bound is not None and math.isfinite(bound) else None,
            values=values,
            reduced_costs=costs,
        )

    def _placed(
        self, places: Sequence[int], numbers: Sequence[float], absent: float | None = None
    ) -> tuple[float, ...]:
        """One number per column. PuLP passes HiGHS only columns that some row or the objective uses; the others get `absent`,
        or their lower bound."""
        if len(places) == len(self._columns):
            return tuple(numbers)
        placed = [column.lowBound or 0.0 if absent is None else absent for column in self._columns]
        for place, number in zip(places, numbers, strict=True):
            placed[place] = number
        return tuple(placed)

    def dual(self, row: str) -> float:
        """The dual value of a row in the last relaxed optimisation; 0 if there is no such row or no dual values."""
        constraint = self._problem.get_constraint_by_name(row)
        if constraint is None or not self._worth_of_rows:
            return 0.0
        return float(self._worth_of_rows[constraint.id])

    def completed(self, fixed: Mapping[Column, float], terms: Iterable[Term], limits: Limits) -> tuple[float, ...]:
        """Values of all columns at the maximum of the terms, with some columns fixed; empty if no such point was found."""
        before = {column: (self._columns[column].lowBound, self._columns[column].upBound) for column in fixed}
        for column, value in fixed.items():
            self._columns[column].lowBound = self._columns[column].upBound = value
        start, self._start = self._start, ()
        outcome = self.optimise(terms, "max", limits)
        for column, (lower, upper) in before.items():
            self._columns[column].lowBound, self._columns[column].upBound = lower, upper
        self._start = outcome.values or start
        return outcome.values

    def write_lp(self, path: Path, terms: Iterable[Term], sense: Sense) -> None:
        """Write the program with this objective as an LP file."""
        self._problem.sense = self._pulp.LpMaximize if sense == "max" else self._pulp.LpMinimize
        self._problem.setObjective(self._expression(terms))
        self._problem.writeLP(str(path))

    def _expression(self, terms: Iterable[Term]) -> "pulp.LpAffineExpression":
        pairs = [(self._columns[column], float(coefficient)) for column, coefficient in terms if coefficient]
        return self._pulp.LpAffineExpression.from_list(pairs)

    def _nought(self) -> "pulp.LpVariable":
        return self._columns[self.add_column("nought", upper=0.0)]

    def _label(self, name: str) -> str:
        """A name that the LP format allows, unique in this program."""
        label = plain = _UNFIT.sub("_", name)
        count = 1
        while label in self._labels:
            count += 1
            label = f"{plain}.{count}"
        self._labels.add(label)
        return label


class RowBook(Program):
    """Notes columns and rows without a solver, to check given points against them."""

    def __init__(self) -> None:
        self.bounds: list[tuple[float, float]] = []
        """Lower and upper bound of each column."""
        self.rows: list[tuple[tuple[Term, ...], Comparison, float]] = []

    @override
    def add_column(self, name: str, *, lower: float = 0.0, upper: float | None = None, integer: bool = False) -> Column:
        """Note a variable."""
        self.bounds.append((lower, math.inf if upper is None else upper))
        return Column(len(self.bounds) - 1)

    @override
    def columns_count(self) -> int:
        """The number of columns so far."""
        return len(self.bounds)

    @override
    def add_row(self, name: str, terms: Iterable[Term], sense: Comparison, limit: float) -> Row:
        """Note a row."""
        self.rows.append((tuple(terms), sense, limit))
        return Row(name)

    def holds(self, values: Sequence[float]) -> bool:
        """Whether a point keeps every bound and every row, within the solver's tolerance."""
        if any(
            not lower - EQUAL <= value <= upper + EQUAL
            for value, (lower, upper) in zip(values, self.bounds, strict=True)
        ):
            return False
        for terms, sense, limit in self.rows:
            excess = math.fsum(factor * values[column] for column, factor in terms) - limit
            slack = EQUAL * max(1.0, abs(limit))
            if (sense != ">=" and excess > slack) or (sense != "<=" and excess < -slack):
                return False
        return True


_NEIGHBOURHOODS = (
    "mip_heuristic_run_feasibility_jump",
    "mip_heuristic_run_rens",
    "mip_heuristic_run_rins",
    "mip_heuristic_run_root_reduced_cost",
)
_LIMITS: dict[str, Stopped] = {
    "kTimeLimit": "deadline",
    "kSolutionLimit": "work-limit",  # HiGHS says so when it reaches mip_max_nodes
    "kIterationLimit": "work-limit",
    "kObjectiveTarget": "work-limit",
}
_INFEASIBLE = ("kInfeasible", "kUnboundedOrInfeasible")  # every program of ours is bounded
_VERDICTS = frozenset({"kModelEmpty", "kOptimal", *_INFEASIBLE, *_LIMITS})
"""Model statuses with a result. Any other status is a failure of the solver, for example for numerical reasons."""
