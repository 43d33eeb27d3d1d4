"""A second formulation of the planning problem, solved with SciPy's MILP interface: a cross-check that shares no code.

It reads the question alone. Where the planner has whole numbers of copies, this has one binary per copy, in order; where the
planner counts GPUs or node patterns, this puts every piece on a node of its own choosing; and it prunes nothing:

* b[c,k] = 1 if shape c has at least k copies, b[c,k] >= b[c,k+1];
  what c may be busy is sum_k (busy_c(k) - busy_c(k-1)) b[c,k], so a table of utilisation needs nothing more;
* a[p,i,c] pieces of c on node i of pool p, u[p,i] = 1 if that node is rented; pieces of whole nodes count as such;
* f[k,c] the share of class k's mean rate that shape c serves, and `scale` their sum under MaximizeService.

Losses to survive and running fleets are not covered.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csr_array

from servingplan.model.answer import Level
from servingplan.model.question import Pool, Question, RequestClass, Shape

HELD = 3e-6
"""Slack of a level that is held while the next is optimised; SciPy lets rows be broken by 1e-6 and offers no choice."""
NO_PLAN = 2
"""SciPy's status of a program without a feasible point."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best value of one level of the objective, and what is proved of it."""

    name: str
    """As in an answer: `scale`, `served-fraction/priority=P`, `served-total/priority=P`, `dollars`."""
    value: float
    bound: float


class SecondSolverError(RuntimeError):
    """SciPy brought back neither a point nor a proof that there is none."""


def second_optimum(
    question: Question, *, relative_gap: float = 1e-4, deadline_seconds: float = 60.0, first_level_only: bool = False
) -> tuple[Optimum, ...] | None:
    """The levels of the best plan, in order; None where there is no plan or no multiple of the mix can be served.

    The deadline is of each level. Raises `SecondSolverError` when it passes without a point, and where a level
    has no plan although the one before has.
    """
    assert not question.survive
    assert question.running is None
    form = _Form(question)
    found: list[Optimum] = []
    for name, terms, sign in form.levels():
        optimum = form.best(name, terms, sign, relative_gap, deadline_seconds)
        if optimum is None and found:
            raise SecondSolverError(f"{name}: no plan, although {found[-1].name} has one")
        if optimum is None or (name == "scale" and optimum.value <= 1e-9):
            return None
        found.append(optimum)
        if first_level_only:
            break
        form.hold(terms, sign, optimum.value)
    return tuple(found)


class _Form:
    """Columns and rows of one question."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._pools = {pool.name: pool for pool in question.pools}
        self._classes = [cls for cls in question.classes if cls.requests_per_second > 0]
        self._upper: list[float] = []
        self._whole: list[int] = []
        self._rows: list[tuple[Mapping[int, float], float, float]] = []
        self._smallest: dict[int, int] = {}
        service = question.objective == "MaximizeService"
        self._scale = self._column(np.inf) if service else None
        self._copies = {shape.name: self._columns_of_copies(shape) for shape in question.shapes}
        self._share = {
            (cls.name, shape.name): self._column(np.inf if service else 1.0)
            for cls in self._classes
            for shape in question.shapes
            if cls.name in shape.requests_per_second
        }
        self._nodes = {pool.name: self._column(pool.max_nodes, whole=True) for pool in question.pools}
        for shape in question.shapes:
            self._add_load(shape)
        for cls in self._classes:
            self._add_service(cls)
        for pool in question.pools:
            self._add_nodes(pool)
        self._row(self._dollars(), high=question.budget_dollars_per_hour)

    def levels(self) -> Iterator[tuple[str, Mapping[int, float], float]]:
        """Name, terms and sense (1 to maximise, -1 to minimise) of every level, first things first."""
        if self._scale is not None:
            yield "scale", {self._scale: 1.0}, 1.0
        else:
            for priority in sorted({cls.priority for cls in self._classes}, reverse=True):
                members = [cls for cls in self._classes if cls.priority == priority]
                yield f"served-fraction/priority={priority}", {self._smallest[priority]: 1.0}, 1.0
                total = {
                    column: cls.requests_per_second for cls in members for column in self._serving(cls)
                }  # of each share, in requests/s
                yield f"served-total/priority={priority}", total, 1.0
        yield "dollars", self._dollars(), -1.0

    def hold(self, terms: Mapping[int, float], sign: float, value: float) -> None:
        """Keep a level where it is while later ones are optimised."""
        slack = HELD * max(1.0, abs(value))
        self._row(terms, low=value - slack if sign > 0 else -np.inf, high=np.inf if sign > 0 else value + slack)

    def best(
        self, name: str, terms: Mapping[int, float], sign: float, relative_gap: float, deadline_seconds: float
    ) -> Optimum | None:
        """Value and bound of one level; None where no plan exists."""
        if not terms:
            return Optimum(name, 0.0, 0.0)
        cost = np.zeros(len(self._upper))
        for column, factor in terms.items():
            cost[column] = -sign * factor
        entries = [(r, c, v) for r, (row, _, _) in enumerate(self._rows) for c, v in row.items()]
        where_row, where_column, values = zip(*entries, strict=True)
        matrix = csr_array((values, (where_row, where_column)), shape=(len(self._rows), len(self._upper)))
        found: OptimizeResult = milp(
            cost,
            integrality=np.array(self._whole),
            bounds=Bounds(np.zeros(len(self._upper)), np.array(self._upper)),
            constraints=LinearConstraint(matrix, [row[1] for row in self._rows], [row[2] for row in self._rows]),
            options={"mip_rel_gap": relative_gap, "time_limit": deadline_seconds},
        )
        if found.status == NO_PLAN:
            return None
        if found.x is None:
            raise SecondSolverError(f"{name}: {found.message}")
        bound = found.fun if found.mip_dual_bound is None else found.mip_dual_bound
        return Optimum(name, -sign * found.fun, -sign * bound)

    def _column(self, upper: float, *, whole: bool = False) -> int:
        self._upper.append(upper)
        self._whole.append(int(whole))
        return len(self._upper) - 1

    def _row(self, terms: Mapping[int, float], *, low: float = -np.inf, high: float = np.inf) -> None:
        if terms:
            self._rows.append((terms, low, high))

    def _columns_of_copies(self, shape: Shape) -> list[int]:
        fits = [
            self._pools[name].max_nodes * self._pools[name].gpus_per_node // gpus for name, gpus in shape.gpus.items()
        ]
        most = min(fits) if shape.max_copies is None else min(*fits, shape.max_copies)
        columns = [self._column(1.0, whole=True) for _ in range(most)]
        for one, next_one in pairwise(columns):
            self._row({next_one: 1.0, one: -1.0}, high=0.0)
        return columns

    def _serving(self, cls: RequestClass) -> list[int]:
        return [column for (name, _), column in self._share.items() if name == cls.name]

    def _dollars(self) -> dict[int, float]:
        return {self._nodes[pool.name]: pool.dollars_per_node_hour for pool in self._question.pools}

    def _add_load(self, shape: Shape) -> None:
        columns = self._copies[shape.name]
        steps = [_busy(shape, k + 1) - _busy(shape, k) for k in range(len(columns))]
        terms = {column: -step for column, step in zip(columns, steps, strict=True)}
        for cls in self._classes:
            if (cls.name, shape.name) in self._share:
                load = cls.requests_per_second / shape.requests_per_second[cls.name]
                terms[self._share[cls.name, shape.name]] = load
        self._row(terms, high=0.0)

    def _add_service(self, cls: RequestClass) -> None:
        served = dict.fromkeys(self._serving(cls), 1.0)
        if self._scale is not None:
            self._row({**served, self._scale: -1.0}, low=0.0, high=0.0)
        else:
            self._row(served, high=1.0)
            smallest = self._smallest.setdefault(cls.priority, -1)
            if smallest < 0:
                smallest = self._smallest[cls.priority] = self._column(1.0)
            self._row({**served, smallest: -1.0}, low=0.0)
        if cls.quality_loss_limit is not None:
            losses = {shape.name: shape.quality_loss.get(cls.name, 0.0) for shape in self._question.shapes}
            self._row(
                {
                    column: losses[shape] - cls.quality_loss_limit
                    for (name, shape), column in self._share.items()
                    if name == cls.name
                },
                high=0.0,
            )

    def _add_nodes(self, pool: Pool) -> None:
        nodes = self._nodes[pool.name]
        self._row({nodes: 1.0}, low=float(pool.min_nodes))
        taken = {nodes: -1.0}
        parts: list[Shape] = []
        for shape in self._question.shapes:
            gpus = shape.gpus.get(pool.name, 0)
            if gpus and gpus % pool.gpus_per_node == 0:
                taken |= dict.fromkeys(self._copies[shape.name], float(gpus // pool.gpus_per_node))
            elif gpus:
                parts.append(shape)
        slots = [self._column(1.0, whole=True) for _ in range(pool.max_nodes if parts else 0)]
        placed: dict[str, dict[int, float]] = {shape.name: {} for shape in parts}
        for slot in slots:
            room = {slot: -float(pool.gpus_per_node)}
            for shape in parts:
                piece = self._column(float(pool.gpus_per_node // shape.gpus[pool.name]), whole=True)
                placed[shape.name][piece] = 1.0
                room[piece] = float(shape.gpus[pool.name])
            self._row(room, high=0.0)
        for shape in parts:
            copies = dict.fromkeys(self._copies[shape.name], -1.0)
            self._row({**placed[shape.name], **copies}, low=0.0, high=0.0)
        for one, next_one in pairwise(slots):
            self._row({next_one: 1.0, one: -1.0}, high=0.0)
        self._row({**taken, **dict.fromkeys(slots, 1.0)}, high=0.0)


def _busy(shape: Shape, copies: int) -> float:
    """How many copies' worth of work so many copies may carry."""
    if not copies:
        return 0.0
    table = shape.max_utilization
    return copies * (table[min(copies, len(table)) - 1] if isinstance(table, tuple) else table)


def contradictions(levels: tuple[Level, ...], second: tuple[Optimum, ...], *, tolerance: float = 1e-4) -> list[str]:
    """What the two say that cannot both be true: a value beyond the other's bound. One line each, empty when they agree.

    A level is only compared while both plans are equally good on those before it. The default tolerance is for several
    levels: the slack of a held one buys many times as much on the next.
    """
    found = []
    for ours, theirs in zip(levels, second, strict=True):
        assert ours.name == theirs.name, (ours.name, theirs.name)
        sign = -1.0 if ours.name == "dollars" else 1.0
        reach = tolerance * max(0.1, abs(ours.value), abs(theirs.value))
        if sign * ours.value > sign * theirs.bound + reach:
            found.append(f"{ours.name}: the planner has {ours.value!r}, the second solver proves {theirs.bound!r}")
        if sign * theirs.value > sign * ours.bound + reach:
            found.append(f"{ours.name}: the second solver has {theirs.value!r}, the planner proves {ours.bound!r}")
        if abs(ours.value - theirs.value) > reach:
            break
    return found
