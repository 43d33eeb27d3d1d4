"""The planning problem as rows: one function per constraint family, each with its inequality.

`build` adds all families in turn; `lexicographic` optimises the program. Source: the single-MILP form of Jiang et al. (ICML
2025), eq. 1-7. Its product of copies and makespan is avoided: the columns are rates instead of fractions of a makespan
(T = 1/s).

Symbols. p pools, c shapes, k classes; n[p] nodes, y[c] copies (integers); D[k] the target rate of class k in requests/s
(its arrival rate, or what the LP relaxation reaches, so that all numbers are of order 1); x[c,k] the part of D[k] that
all copies of c serve; f[k] = sum_c x[c,k] in [0, 1]; h[c,k] requests/s of one copy; rho[c] the largest utilisation.

No column is above order 1, whatever the ratio of two rates: if all copies of c together can serve only a tiny part of D[k],
the column of x[c,k] counts parts of that tiny part (`PlanProgram.part`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from servingplan.solve.problem.instance import Instance, capacity, most_capacity, utilization
from servingplan.solve.problem.packing import (
    Arc,
    Content,
    all_contents,
    arcs_of,
    is_chain,
    patterns_of,
)
from servingplan.solve.problem.placement import Packing
from servingplan.solve.solver.program import Column, Program, Row, Term
from servingplan.solve.solver.tolerance import HELD

SLIVER = 1e-4
"""If a shape can serve less than this part of a target, its column counts parts of what the shape can serve. Otherwise all
columns of a class have one unit: more factors are then equal, and the solver is quicker."""
MOST_COUNTED = 8
"""Up to this number of nodes, each number has its own capacity in the rows of a mean loss; larger numbers share the last."""


@dataclass(slots=True)
class PlanProgram:
    """A program with its columns, grouped by what they mean."""

    instance: Instance
    targets: tuple[float, ...]
    program: Program
    nodes: list[Column] = field(default_factory=list)
    """n[p]."""
    copies: list[Column] = field(default_factory=list)
    """y[c]."""
    shares: dict[tuple[int, int], Column] = field(default_factory=dict)
    """x[c,k] / part(c, k), only where h[c,k] > 0 and a copy fits."""
    served: list[Column] = field(default_factory=list)
    """f[k]; under MaximizeService all of them are the one column `scale`."""
    loads: dict[int, Row] = field(default_factory=dict)
    """The row that limits the load of the copies of c."""
    tables: dict[int, list[Column]] = field(default_factory=dict)
    """For shapes whose rho depends on the count: w[c,j] = 1 if exactly j copies exist (the last: at least that many)."""
    excess: dict[int, Column] = field(default_factory=dict)
    """Copies beyond the last entry of a table."""
    arcs: dict[int, dict[Arc, Column]] = field(default_factory=dict)
    """For each pool whose sizes are no chain: arcs, and how many nodes have each."""
    contents: dict[int, list[tuple[Content, Column]]] = field(default_factory=dict)
    """For each pool, if the loss of any node must be survived: exact contents over shapes, and how many nodes hold each."""

    exact_contents: bool = False
    """Whether nodes are packed by exact contents, as is needed to survive the loss of any node."""
    moved: dict[int, Column] = field(default_factory=dict)
    """|y[c] - running[c]| for shapes that run; for the others y[c] itself is the number of moves."""

    def with_moved(self, values: tuple[float, ...]) -> tuple[float, ...]:
        """A point from before `moved` was added, completed by the values of its columns; an empty point stays empty."""
        if not values:
            return ()
        running = self.instance.running_copies()
        point = [*values, *(0.0,) * (self.program.columns_count() - len(values))]
        for c, column in self.moved.items():
            point[column] = abs(values[self.copies[c]] - running[c])
        return tuple(point)

    def read(self, values: Sequence[float]) -> tuple[Packing, list[int]]:
        """The packing of copies at a point of the program, and the nodes by pool."""
        copies = [round(values[column]) for column in self.copies]
        patterns = {}
        for p, arcs in self.arcs.items():
            flow = {arc: round(values[column]) for arc, column in arcs.items()}
            patterns[p] = patterns_of(flow, self.instance.pools[p].gpus_per_node)
        packing = Packing.tight(self.instance, copies, patterns)
        if self.exact_contents:
            ways = [[(content, round(values[x])) for content, x in self.contents[p]] for p in range(len(self.nodes))]
            packing = replace(packing, contents=tuple(tuple(one for one in pool if one[1]) for pool in ways))
        return packing, [round(values[column]) for column in self.nodes]

    def part(self, c: int, k: int) -> float:
        """x[c,k] if its column is 1: the whole target, or what all copies of c could serve of it if that is below `SLIVER`."""
        whole = self.load(c, k)
        most = most_capacity(self.instance.shapes[c], self.instance.copies_limit[c])
        return 1.0 if most >= SLIVER * whole else most / whole

    def load(self, c: int, k: int) -> float:
        """Busy copies of c that it takes to serve all of the target of class k: D[k] / h[c,k]."""
        return self.targets[k] / self.instance.rate(c, k)

    def set_capacity(self, part: float) -> None:
        """Scale the capacity of every copy by `part`, which stands for targets that are 1/part times as large. The rows of
        `define_presence` stay as they are, since x[c,k] <= y[c] holds for whole copies of any capacity."""
        for c, row in self.loads.items():
            self.program.set_factors(row, [(column, -part * factor) for column, factor in _capacity_terms(self, c)])

    def share_terms(self, pairs: Iterable[tuple[int, int]], shares: Mapping[tuple[int, int], Column]) -> list[Term]:
        """x[c,k] of these pairs as terms of a row."""
        return [(shares[pair], self.part(*pair)) for pair in pairs]


@dataclass(frozen=True, slots=True)
class Loss:
    """One loss to survive: which copies are lost, and when it can happen."""

    name: str
    protected: tuple[int, ...]
    """Classes that must still be served in full."""
    pool: int | None = None
    """Pool of the node that is lost; None if the loss can always happen."""
    lost: Content = ()
    """What the lost node holds: (shape, copies) pairs."""
    gone: frozenset[int] = frozenset()
    """Shapes that lose all copies."""


@dataclass(frozen=True, slots=True)
class AverageLoss:
    """The mean loss of a node over the nodes of a pool: rows that every plan keeps if it survives each of these losses."""

    pool: int
    protected: tuple[int, ...]
    """Classes that must still be served."""
    reserve: float = 1.0
    """The part of the protected rates that must be kept. Above 1 it compensates for nodes that hold more than others."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A row that every plan keeps if it serves the targets in full; it was not derived from the program's rows."""

    name: str
    terms: tuple[tuple[int, float], ...]
    """(shape, factor of its copies) pairs."""
    least: float


def build(
    instance: Instance,
    targets: Sequence[float],
    *,
    where: "Callable[[Family], bool]" = lambda _: True,
    program: Program | None = None,
    exact_contents: bool = False,
    losses: Sequence[Loss] = (),
    average_losses: Sequence[AverageLoss] = (),
    cuts: Sequence[Cut] = (),
    totals: bool = False,
) -> PlanProgram:
    """The program without an objective, added to `program` (by default a new one).

    It has the families that `where` accepts, by default all. `exact_contents` is needed to survive the loss of any node. With
    `cuts`, the program is right only if all targets are then served in full. `totals` adds columns but excludes no plan.
    """
    plan = PlanProgram(instance, tuple(targets), program or Program("plan"), exact_contents=exact_contents)
    for family in FAMILIES:
        if where(family):
            family.define(plan)
    for loss in losses:
        define_survival(plan, loss)
    for average in average_losses:
        define_average_loss(plan, average)
    for cut in cuts:
        define_cut(plan, cut)
    if totals:
        define_totals(plan)
    return plan


def define_cut(plan: PlanProgram, cut: Cut) -> None:
    """sum_c w[c] y[c] >= least, in units of `least`, with slack for the solver's tolerance in `least`."""
    terms = [(plan.copies[c], factor / cut.least) for c, factor in cut.terms if factor]
    plan.program.add_row(f"least({cut.name})", terms, ">=", 1.0 - HELD)


def define_totals(plan: PlanProgram) -> None:
    """g[m,p] = sum_c gpus[c,p] y[c];  g[m] = sum_p g[m,p];  y[m] = sum_c y[c], over the shapes of model m; integers.

    The copies determine them. But the search may branch on them: it first divides GPUs and copies among the models, and then
    decides which of many nearly equal shapes gets them.
    """
    totals: dict[str, list[Term]] = {}
    for copies, shape, limit in zip(plan.copies, plan.instance.shapes, plan.instance.copies_limit, strict=True):
        if limit:
            gpus = [(f"gpus({shape.model}.{pool})", count) for pool, count in shape.gpus.items()]
            everywhere = (f"gpus({shape.model})", sum(shape.gpus.values()))
            for name, factor in (*gpus, everywhere, (f"copies_of({shape.model})", 1)):
                totals.setdefault(name, []).append((copies, float(factor)))
    for name, terms in totals.items():
        if len(terms) > 1:
            total = plan.program.add_column(name, integer=True)
            plan.program.add_row(f"total_{name}", [*terms, (total, -1.0)], "==", 0.0)


def define_nodes(plan: PlanProgram) -> None:
    """min_nodes[p] <= n[p] <= nodes_limit[p], integer."""
    for pool, limit in zip(plan.instance.pools, plan.instance.nodes_limit, strict=True):
        column = plan.program.add_column(f"nodes({pool.name})", lower=pool.min_nodes, upper=limit, integer=True)
        plan.nodes.append(column)


def define_copies(plan: PlanProgram) -> None:
    """0 <= y[c] <= copies_limit[c], integer; `max_copies` is part of the limit."""
    for shape, limit in zip(plan.instance.shapes, plan.instance.copies_limit, strict=True):
        plan.copies.append(plan.program.add_column(f"copies({shape.name})", upper=limit, integer=True))


def define_shares(plan: PlanProgram) -> None:
    """0 <= x[c,k] <= 1."""
    for k, cls in enumerate(plan.instance.classes):
        for c in plan.instance.serving[k]:
            name = f"share({plan.instance.shapes[c].name}.{cls.name})"
            plan.shares[c, k] = plan.program.add_column(name, upper=1.0)


def define_utilization_tables(plan: PlanProgram) -> None:
    """sum_j w[c,j] <= 1;  y[c] = sum_j j w[c,j] + e[c];  e[c] <= (limit - J) w[c,J], for shapes whose rho is a list.

    This makes y rho(y) linear: sum_j j rho(j) w[c,j] + rho(J) e[c]. The list is extended by the most copies that one node can
    hold, so that the capacity after the loss of a node is linear too.
    """
    for c, shape in enumerate(plan.instance.shapes):
        limit = plan.instance.copies_limit[c]
        if not limit or isinstance(shape.max_utilization, float) or len(set(shape.max_utilization)) == 1:
            continue
        longest = max((plan.instance.pools[p].gpus_per_node // g for p, g in _gpus(plan.instance, c)), default=1)
        last = min(limit, len(shape.max_utilization) + max(1, longest))
        plan.tables[c] = [
            plan.program.add_column(f"exactly({shape.name}.{j})", upper=1.0, integer=True) for j in range(1, last + 1)
        ]
        plan.excess[c] = plan.program.add_column(f"excess({shape.name})", upper=max(0, limit - last))
        counted = [(column, float(j)) for j, column in enumerate(plan.tables[c], start=1)]
        counted += [(plan.excess[c], 1.0), (plan.copies[c], -1.0)]
        plan.program.add_row(f"table_one({shape.name})", [(column, 1.0) for column in plan.tables[c]], "<=", 1.0)
        plan.program.add_row(f"table_count({shape.name})", counted, "==", 0.0)
        if limit > last:
            beyond = [(plan.excess[c], 1.0), (plan.tables[c][-1], -float(limit - last))]
            plan.program.add_row(f"table_tail({shape.name})", beyond, "<=", 0.0)


def define_demand(plan: PlanProgram) -> None:
    """sum_c x[c,k] = f[k], f[k] in [0, 1]; under MaximizeService one f, the scale, for all classes."""
    one = plan.instance.question.objective == "MaximizeService"
    for k, cls in enumerate(plan.instance.classes):
        if one and plan.served:
            plan.served.append(plan.served[0])
        else:
            plan.served.append(plan.program.add_column("scale" if one else f"served({cls.name})", upper=1.0))
        shares = plan.share_terms(((c, k) for c in plan.instance.serving[k]), plan.shares)
        plan.program.add_row(f"demand({cls.name})", [*shares, (plan.served[k], -1.0)], "==", 0.0)


def define_load(plan: PlanProgram) -> None:
    """sum_k D[k]/h[c,k] x[c,k] <= y[c] rho[c](y[c])."""
    for c, shape in enumerate(plan.instance.shapes):
        busy = _busy_terms(plan, c, plan.shares)
        if busy:
            room = [(column, -factor) for column, factor in _capacity_terms(plan, c)]
            plan.loads[c] = plan.program.add_row(f"load({shape.name})", [*busy, *room], "<=", 0.0)


def define_presence(plan: PlanProgram) -> None:
    """x[c,k] <= y[c], if one copy could serve more than the whole target.

    For whole copies `load` implies it (eq. 4 of Jiang et al.). But it is far stronger than `load` in the relaxation, and the
    only row that makes a class with a very small load need a copy.
    """
    for (c, k), share in plan.shares.items():
        if plan.load(c, k) < 1.0:
            name = f"presence({plan.instance.shapes[c].name}.{plan.instance.classes[k].name})"
            plan.program.add_row(name, [(share, plan.part(c, k)), (plan.copies[c], -1.0)], "<=", 0.0)


def define_quality(plan: PlanProgram) -> None:
    """sum_c (loss[c,k] - limit[k]) x[c,k] <= 0: the mean loss over the served traffic of a class is within its limit."""
    for k, cls in enumerate(plan.instance.classes):
        terms = _quality_terms(plan, k, plan.shares)
        if terms:
            plan.program.add_row(f"quality({cls.name})", terms, "<=", 0.0)


def define_budget(plan: PlanProgram) -> None:
    """sum_p price[p] n[p] <= budget, in units of the budget. Whole nodes are paid, also where half of one is idle."""
    budget = plan.instance.question.budget_dollars_per_hour
    unit = budget or 1.0
    prices = [pool.dollars_per_node_hour / unit for pool in plan.instance.pools]
    terms = [(column, price) for column, price in zip(plan.nodes, prices, strict=True) if price]
    if terms:
        plan.program.add_row("budget", terms, "<=", budget / unit)


def define_quotas(plan: PlanProgram) -> None:
    """sum_c gpus[c,q] y[c] <= max_gpus[q], in units of max_gpus: the copies on the pools that share a quota keep to it."""
    for quota, gpus in plan.instance.quota_gpus:
        unit = float(max(1, quota.max_gpus))
        terms = [(plan.copies[c], count / unit) for c, count in gpus.items()]
        if terms:
            plan.program.add_row(f"quota({quota.name})", terms, "<=", quota.max_gpus / unit)


def define_placement(plan: PlanProgram) -> None:
    """The pieces of every pool fit on its nodes: `define_packing`, or `define_contents` if exact contents are needed."""
    for p in range(len(plan.instance.pools)):
        if plan.exact_contents:
            define_contents(plan, p)
        else:
            define_packing(plan, p)


def define_packing(plan: PlanProgram, p: int) -> None:
    """The pieces on pool p fit on its nodes: rows per size for chains, else arcs; `packing` has the proof.

    Chain, for each size d: sum_{e >= d} e Y[e] + d floor(G/d) W <= d floor(G/d) n[p], Y[e] = copies of size e, W = whole
    nodes taken.
    """
    pool = plan.instance.pools[p]
    sizes, whole = plan.instance.sizes_on[p]
    taken: list[Term] = [(plan.copies[c], float(count)) for c, count in whole.items()]
    if not is_chain(sizes.values()):
        define_arcs(plan, p)
        return
    for size in sorted(set(sizes.values())):
        usable = pool.gpus_per_node // size
        terms = [(plan.copies[c], e / size) for c, e in sizes.items() if e >= size]
        terms += [(column, count * usable) for column, count in taken]
        plan.program.add_row(f"packing({pool.name}.{size})", [*terms, (plan.nodes[p], -float(usable))], "<=", 0.0)
    if taken and (pool.gpus_per_node not in sizes.values()):
        plan.program.add_row(f"packing({pool.name}.whole)", [*taken, (plan.nodes[p], -1.0)], "<=", 0.0)


def define_arcs(plan: PlanProgram, p: int) -> None:
    """sum_i v[i,d] >= Y[d] for each size d;  sum_d v[i-d,d] = sum_d v[i,d] + v[i,0] at each GPU i of a node;
    sum_d v[0,d] + W <= n[p], with v[i,d] the nodes that hold a piece of size d on the GPUs from i on; `packing` explains."""
    pool, limit = plan.instance.pools[p], plan.instance.nodes_limit[p]
    sizes, whole = plan.instance.sizes_on[p]
    arcs = plan.arcs[p] = {
        (first, size): plan.program.add_column(f"arc({pool.name}.{first}.{size})", upper=limit, integer=True)
        for first, size in arcs_of(sizes.values(), pool.gpus_per_node)
    }
    for size in sorted(set(sizes.values())):
        room = [(column, -1.0) for (_, held), column in arcs.items() if held == size]
        pieces = [(plan.copies[c], 1.0) for c, e in sizes.items() if e == size]
        plan.program.add_row(f"packing({pool.name}.{size})", [*pieces, *room], "<=", 0.0)
    for gpu in range(1, pool.gpus_per_node):
        ending = [(column, 1.0) for (first, size), column in arcs.items() if size and first + size == gpu]
        starting = [(column, -1.0) for (first, _), column in arcs.items() if first == gpu]
        if ending:
            plan.program.add_row(f"packing({pool.name}.gpu{gpu})", [*ending, *starting], "==", 0.0)
    filled: list[Term] = [(column, 1.0) for (first, _), column in arcs.items() if first == 0]
    taken: list[Term] = [(plan.copies[c], float(count)) for c, count in whole.items()]
    plan.program.add_row(f"packing({pool.name}.nodes)", [*filled, *taken, (plan.nodes[p], -1.0)], "<=", 0.0)


def define_contents(plan: PlanProgram, p: int) -> None:
    """sum_q a[q,c] v[q] = y[c] for shapes inside a node; sum_q v[q] + W <= n[p]; q runs over every exact content.

    These rows say what is lost with a node. Raises `QuestionError` if there are too many contents.
    """
    pool = plan.instance.pools[p]
    sizes, whole = plan.instance.sizes_on[p]
    limit = plan.instance.nodes_limit[p]
    plan.contents[p] = []
    for content in all_contents(sizes, pool.gpus_per_node, pool=pool.name) if sizes else []:
        label = ".".join(f"{count}x{plan.instance.shapes[c].name}" for c, count in content)
        column = plan.program.add_column(f"content({pool.name}.{label})", upper=limit, integer=True)
        plan.contents[p].append((content, column))
    for c in sizes:
        held = [(column, float(dict(q)[c])) for q, column in plan.contents[p] if c in dict(q)]
        name = f"content({pool.name}.{plan.instance.shapes[c].name})"
        plan.program.add_row(name, [*held, (plan.copies[c], -1.0)], "==", 0.0)
    used: list[Term] = [(column, 1.0) for _, column in plan.contents[p]]
    used += [(plan.copies[c], float(count)) for c, count in whole.items()]
    if used:
        plan.program.add_row(f"content({pool.name}.nodes)", [*used, (plan.nodes[p], -1.0)], "<=", 0.0)


def define_survival(plan: PlanProgram, loss: Loss) -> None:
    """After the loss, other rates x' serve every protected class in full with the copies that are left.

    Let b = 1 if the loss can happen (a node with that content exists; b is fixed to 1 for Spot pools), and a[c] the lost copies
    of c: sum_k D[k]/h[c,k] x'[c,k] <= cap(y[c] - a[c] b);  x'[c,k] <= y[c] - a[c] b;  sum_c x'[c,k] >= f[k] - (1 - b);
    quality as in normal service; v[q] <= limit[p] b. A class is protected at its planned rate: f[k] = 1 under MinimizeCost,
    the scale under MaximizeService.
    """
    instance, program = plan.instance, plan.program
    lost = dict(loss.lost)
    happens = program.add_column(f"can_happen({loss.name})", upper=1.0, integer=True)
    if loss.pool is None:
        program.set_bounds(happens, lower=1.0, upper=1.0)
    else:
        program.add_row(f"event({loss.name})", [*_event_terms(plan, loss), (happens, -1.0)], "<=", 0.0)
    _define_rerouting(
        plan,
        loss.name,
        {k: [c for c in instance.serving[k] if c not in loss.gone] for k in loss.protected},
        kept=lambda k: ([(plan.served[k], -1.0), (happens, -1.0)], -1.0),
        room=lambda c: _capacity_terms(plan, c, lost=lost.get(c, 0), happens=happens),
        left=lambda c: [(plan.copies[c], -1.0), (happens, float(lost.get(c, 0)))],
    )


def _define_rerouting(
    plan: PlanProgram,
    name: str,
    serving: Mapping[int, Sequence[int]],
    *,
    kept: Callable[[int], tuple[list[Term], float]],
    room: Callable[[int], list[Term]],
    left: Callable[[int], list[Term]],
) -> None:
    """Rates x' after a loss, of the classes and by the shapes in `serving`.

    sum_c x'[c,k] + kept[k] >= its limit; quality as in normal service; busy copies within `room`; x'[c,k] + left[c] <= 0 if
    `left` has terms and one copy could serve more than the whole target.
    """
    instance, program = plan.instance, plan.program
    shares: dict[tuple[int, int], Column] = {}
    for k, able in serving.items():
        cls = instance.classes[k].name
        for c in able:
            shares[c, k] = program.add_column(f"share({name}.{instance.shapes[c].name}.{cls})", upper=1.0)
        terms, limit = kept(k)
        terms = [*plan.share_terms(((c, k) for c in able), shares), *terms]
        program.add_row(f"survival({name}.{cls})", terms, ">=", limit)
        if quality := _quality_terms(plan, k, shares):
            program.add_row(f"quality({name}.{cls})", quality, "<=", 0.0)
    for c, shape in enumerate(instance.shapes):
        busy = _busy_terms(plan, c, shares)
        if not busy:
            continue
        taken = [(column, -factor) for column, factor in room(c)]
        program.add_row(f"load({name}.{shape.name})", [*busy, *taken], "<=", 0.0)
        for (d, k), column in shares.items():
            if d == c and plan.load(c, k) < 1.0 and left(c):
                row = f"presence({name}.{shape.name}.{instance.classes[k].name})"
                program.add_row(row, [(column, plan.part(c, k)), *left(c)], "<=", 0.0)


def define_average_loss(plan: PlanProgram, loss: AverageLoss) -> None:
    """sum_j u[j] <= 1;  n[p] = sum_j j u[j] + e;  r[c,j] <= cap(j nodes full of c) u[j];  sum_j r[c,j] <= cap(y[c]);
    sum_k D[k]/h[c,k] x'[c,k] <= sum_j (1 - w[c]/j) r[c,j] for c on p, <= cap(y[c]) for others;  sum_c x'[c,k] >= f[k].

    u[j] = 1 if the pool has j nodes. A plan that survives the loss of each of its j nodes has a routing after each loss; x' is
    the mean of these. A copy inside a node is lost in one of the j losses, a copy on w nodes in w of them, and each remaining
    copy may be no busier than rho(y). If rho rises with the copies, cap(y - a) <= (1 - a/y) cap(y), so the mean keeps these
    rows. The rows are necessary, not sufficient: a plan that keeps them may fail after a single loss.
    """
    instance, program, p = plan.instance, plan.program, loss.pool
    pool, limit = instance.pools[p], instance.nodes_limit[p]
    if not limit:
        return
    name = f"mean.{pool.name}"
    last = min(limit, MOST_COUNTED)
    counts = [program.add_column(f"count({pool.name}.{j})", upper=1.0, integer=True) for j in range(1, last + 1)]
    beyond = program.add_column(f"count({pool.name}.more)", upper=max(0, limit - last))
    counted = [(column, float(j)) for j, column in enumerate(counts, start=1)]
    program.add_row(f"count_one({pool.name})", [(column, 1.0) for column in counts], "<=", 1.0)
    program.add_row(f"count({pool.name})", [*counted, (beyond, 1.0), (plan.nodes[p], -1.0)], "==", 0.0)
    program.add_row(f"count_more({pool.name})", [(beyond, 1.0), (counts[-1], -float(limit - last))], "<=", 0.0)

    def room(c: int) -> list[Term]:
        """r[c,j], less the mean part that is lost with a node."""
        shape, whole = instance.shapes[c], _capacity_terms(plan, c)
        if pool.name not in shape.gpus:
            return whole
        gpus, left, rooms = shape.gpus[pool.name], list[Term](), list[Term]()
        for j, column in enumerate(counts, start=1):
            nodes = limit if j == last else j
            most = nodes * (pool.gpus_per_node // gpus) or nodes * pool.gpus_per_node // gpus
            most = min(most, instance.copies_limit[c])
            if most:
                label, size = f"room({name}.{shape.name}.{j})", most_capacity(shape, most)
                held = program.add_column(label, upper=size)
                program.add_row(label, [(held, 1.0), (column, -size)], "<=", 0.0)
                rooms.append((held, 1.0))
                left.append((held, max(0.0, 1.0 - max(1.0, gpus / pool.gpus_per_node) / nodes)))
        program.add_row(f"room({name}.{shape.name})", [*rooms, *((q, -f) for q, f in whole)], "<=", 0.0)
        return left

    _define_rerouting(
        plan,
        name,
        {k: instance.serving[k] for k in loss.protected},
        kept=lambda k: ([(plan.served[k], -loss.reserve)], 0.0),
        room=room,
        left=lambda c: [(plan.copies[c], -1.0)] if pool.name in instance.shapes[c].gpus else [],
    )


def _event_terms(plan: PlanProgram, loss: Loss) -> list[Term]:
    """Terms whose sum exceeds 0 if such a node can be lost, and never exceeds 1."""
    assert loss.pool is not None
    for content, column in plan.contents[loss.pool]:
        if content == loss.lost:
            return [(column, 1.0 / max(1, plan.instance.nodes_limit[loss.pool]))]
    ((c, _),) = loss.lost  # a shape that takes whole nodes
    return [(plan.copies[c], 1.0 / max(1, plan.instance.copies_limit[c]))]


def _capacity_terms(
    plan: PlanProgram, c: int, *, lost: int = 0, happens: Column | None = None
) -> list[tuple[Column, float]]:
    """cap(y[c] - lost), the busy copies that shape c may sustain, as a linear expression."""
    shape = plan.instance.shapes[c]
    if c not in plan.tables:
        rho = utilization(shape, 1)
        terms = [(plan.copies[c], rho)]
        return terms if not lost or happens is None else [*terms, (happens, -rho * lost)]
    table = [(column, capacity(shape, max(0, j - lost))) for j, column in enumerate(plan.tables[c], start=1)]
    return [*table, (plan.excess[c], utilization(shape, 1_000_000))]


def _quality_terms(plan: PlanProgram, k: int, shares: dict[tuple[int, int], Column]) -> list[Term]:
    limit = plan.instance.classes[k].quality_loss_limit
    if limit is None:
        return []
    losses = {c: plan.instance.loss(c, k) for (c, served) in shares if served == k}
    worst = max(losses.values(), default=0.0)
    if worst <= limit:
        return []
    return [(shares[c, k], plan.part(c, k) * (loss - limit) / worst) for c, loss in losses.items()]


def _busy_terms(plan: PlanProgram, c: int, shares: Mapping[tuple[int, int], Column]) -> list[Term]:
    """sum_k D[k]/h[c,k] x[c,k], the busy copies of c, as a linear expression."""
    classes = (k for k in plan.instance.served_by[c] if (c, k) in shares)
    return [(shares[c, k], plan.part(c, k) * plan.load(c, k)) for k in classes]


def _gpus(instance: Instance, c: int) -> list[tuple[int, int]]:
    index = instance.pool_index
    return [(index[name], gpus) for name, gpus in instance.shapes[c].gpus.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of constraint, and where it holds."""

    define: Callable[[PlanProgram], None]
    """Adds the columns and rows; its docstring has the inequality."""
    per_model: bool
    """Whether it holds for each model that is served by itself with the whole stock. A family that joins what models share is
    left out of the programs of single models; their bounds are true without it."""
    copies_fixed: bool
    """Whether it still matters if the copies are given and only the routing is open."""
    on_counts: bool = False
    """Whether its rows are over nodes and copies alone. `plan.judge` checks these rows for every plan, however it was found."""


FAMILIES: tuple[Family, ...] = (
    Family(define=define_nodes, per_model=True, copies_fixed=False, on_counts=True),
    Family(define=define_copies, per_model=True, copies_fixed=True, on_counts=True),
    Family(define=define_shares, per_model=True, copies_fixed=True),
    Family(define=define_utilization_tables, per_model=True, copies_fixed=False),
    Family(define=define_demand, per_model=True, copies_fixed=True),
    Family(define=define_load, per_model=True, copies_fixed=True),
    Family(define=define_presence, per_model=True, copies_fixed=False),
    Family(define=define_quality, per_model=True, copies_fixed=True),
    Family(define=define_budget, per_model=False, copies_fixed=False, on_counts=True),
    Family(define=define_quotas, per_model=True, copies_fixed=False, on_counts=True),
    Family(define=define_placement, per_model=True, copies_fixed=False),
)
"""Every constraint of the planning problem except for the losses to survive, in the order of its rows."""
