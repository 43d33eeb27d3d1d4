"""The independent check of an answer: every promise recomputed from the question and the answer alone.

Place in the flow: observe -> model -> solve -> **verify** -> render -> apply -> status. Shares no code with the solver and
imports only the nouns, so that an error in one is not repeated in the other. Numbers agree within a relative tolerance of
1e-6.

What is checked: names, signs and finiteness; nodes within floors and caps; dollars within the budget; copies within
`max_copies`; that the node groups hold exactly the copies, fit their nodes and cover all nodes; that no copy is loaded above
its utilisation; quality; that what is served, unserved and asked for adds up; survival of losses; that objective, bound,
gap, levels and status agree with each other; and the explanation, see `verify_explanation`. What is not: that a bound is
true, or that an infeasible question is so; both would need a proof that the answer does not carry.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from servingplan.model.answer import Answer, Level, Placement
from servingplan.model.question import Pool, Question, RequestClass, Shape
from servingplan.verify_explanation import faults

TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise."""

    promise: str
    """Short name of the promise, e.g. `budget`."""
    message: str
    """Names the field, its value and what it should be."""


def verify(question: Question, answer: Answer) -> tuple[Violation, ...]:
    """Every promise that the answer breaks; empty when it keeps them all.

    Checks that build on broken foundations (an unknown shape, a missing node group) may be skipped: an empty result is
    always a full check, a non-empty one names at least the first fault.
    """
    case = _Case(question, answer)
    found: list[Violation] = []
    for group in (_FOUNDATIONS, _PROMISES if answer.status != "Infeasible" else _INFEASIBLE):
        for promise, check in group.items():
            found += [Violation(promise, message) for message in check(case)]
        if found:
            break
    return tuple(found)


class _Case:
    """A question and an answer with what several checks need."""

    def __init__(self, question: Question, answer: Answer) -> None:
        self.question = question
        self.answer = answer
        self.pools: dict[str, Pool] = {pool.name: pool for pool in question.pools}
        self.classes: dict[str, RequestClass] = {cls.name: cls for cls in question.classes}
        self.shapes: dict[str, Shape] = {shape.name: shape for shape in question.shapes}

    @cached_property
    def served(self) -> dict[str, float]:
        """Requests/s served by class."""
        return {name: math.fsum(self.answer.rates.get(name, {}).values()) for name in self.classes}

    @cached_property
    def dollars(self) -> float:
        """Price of all nodes, in dollars per hour."""
        return math.fsum(self.pools[name].dollars_per_node_hour * n for name, n in self.answer.nodes.items())

    @cached_property
    def scale(self) -> float:
        """Smallest served multiple of the mix."""
        asked = [cls for cls in self.question.classes if cls.requests_per_second > 0]
        return min((self.served[cls.name] / cls.requests_per_second for cls in asked), default=0.0)


def _same(left: float, right: float) -> bool:
    return abs(left - right) <= TOLERANCE * max(abs(left), abs(right)) + 1e-12


def _above(value: float, limit: float) -> bool:
    """Whether value exceeds limit by more than the tolerance."""
    return value > limit + TOLERANCE * abs(limit) + 1e-12


def _numbers(case: _Case) -> Iterator[str]:
    answer = case.answer
    numbers: dict[str, float | None] = {
        "objective": answer.objective,
        "bound": answer.bound,
        "gap": answer.gap,
        "seconds": answer.seconds,
        "scale": answer.scale,
        "dollars_per_hour": answer.dollars_per_hour,
        "startup_dollars": answer.startup_dollars,
    }
    numbers |= {f"nodes.{name}": float(count) for name, count in answer.nodes.items()}
    numbers |= {f"replicas.{name}": float(count) for name, count in answer.replicas.items()}
    numbers |= {f"unserved.{name}": rate for name, rate in answer.unserved.items()}
    numbers |= {f"rates.{k}.{c}": rate for k, rates in answer.rates.items() for c, rate in rates.items()}
    for field, value in numbers.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            yield f"{field} is {value}; it must be a finite number, not below 0"
    for level in answer.levels:
        if not all(math.isfinite(value) for value in (level.value, level.bound, level.gap)):
            yield f"levels.{level.name} has a number that is not finite: {level}"


def _names(case: _Case) -> Iterator[str]:
    answer = case.answer
    for field, names, known in (
        ("nodes", answer.nodes, case.pools),
        ("replicas", answer.replicas, case.shapes),
        ("rates", answer.rates, case.classes),
        ("unserved", answer.unserved, case.classes),
        ("placements", [group.pool for group in answer.placements], case.pools),
        ("placements.replicas", [name for group in answer.placements for name in group.replicas], case.shapes),
    ):
        for name in names:
            if name not in known:
                yield f"{field} names {name!r}, which the question does not know"
    for name, rates in answer.rates.items():
        for shape in rates:
            if shape not in case.shapes:
                yield f"rates.{name} names {shape!r}, which the question does not know"
            elif name not in case.shapes[shape].requests_per_second:
                yield f"rates.{name}.{shape}: shape {shape!r} cannot serve class {name!r}"
    kinds: dict[str, Mapping[str, object]] = {"pool": case.pools, "max_copies": case.shapes, "quality": case.classes}
    for entry in answer.binding:
        kind, _, name = entry.partition(":")
        if entry != "budget" and name not in kinds.get(kind, {}):
            yield f"binding names {entry!r}, which the question does not know"


def _nodes(case: _Case) -> Iterator[str]:
    for name, pool in case.pools.items():
        count = case.answer.nodes.get(name)
        if count is None:
            yield f"nodes.{name} is missing; every pool must be listed"
        elif not pool.min_nodes <= count <= pool.max_nodes:
            yield f"nodes.{name} is {count}; it must be between min_nodes {pool.min_nodes} and max_nodes {pool.max_nodes}"


def _budget(case: _Case) -> Iterator[str]:
    told, budget = case.answer.dollars_per_hour, case.question.budget_dollars_per_hour
    if told is None or not _same(told, case.dollars):
        yield f"dollars_per_hour is {told}; the nodes cost {case.dollars}"
    if _above(case.dollars, budget):
        yield f"the nodes cost {case.dollars} $/h, above budget_dollars_per_hour {budget}"


def _copies(case: _Case) -> Iterator[str]:
    for name, count in case.answer.replicas.items():
        most = case.shapes[name].max_copies
        if most is not None and count > most:
            yield f"replicas.{name} is {count}, above max_copies {most}"


def _placements(case: _Case) -> Iterator[str]:
    nodes: Counter[str] = Counter()
    placed: Counter[tuple[str, str]] = Counter()
    for group in case.answer.placements:
        yield from _group_fits(case, group)
        nodes[group.pool] += group.nodes
        for name, count in group.replicas.items():
            placed[group.pool, name] += count
    for name in case.pools:
        if nodes[name] != case.answer.nodes.get(name, 0):
            yield f"placements cover {nodes[name]} nodes of pool {name!r}; nodes.{name} is {case.answer.nodes.get(name)}"
    for name, shape in case.shapes.items():
        count = case.answer.replicas.get(name, 0)
        for pool in shape.gpus:
            if placed[pool, name] != count:
                yield f"placements hold {placed[pool, name]} copies of {name!r} on {pool!r}; replicas.{name} is {count}"


def _group_fits(case: _Case, group: Placement) -> Iterator[str]:
    where = f"placements: {group.nodes} nodes of {group.pool!r} with {dict(group.replicas)}"
    per_node = case.pools[group.pool].gpus_per_node
    used = 0
    for name, count in group.replicas.items():
        gpus = case.shapes[name].gpus.get(group.pool)
        if gpus is None:
            yield f"{where}: shape {name!r} does not run on this pool"
        elif gpus > per_node:
            if len(group.replicas) > 1 or group.nodes * per_node != count * gpus:
                yield f"{where}: {name!r} takes {gpus // per_node} whole nodes for each of {count} copies"
        elif not group.nodes or count % group.nodes:
            yield f"{where}: {count} copies of {name!r} do not spread evenly over the nodes"
        else:
            used += gpus * (count // group.nodes)
    if used > per_node:
        yield f"{where}: {used} GPUs per node, above gpus_per_node {per_node}"


def _utilization(shape: Shape, copies: int) -> float:
    """Busy copies that so many copies may sustain."""
    if copies <= 0:
        return 0.0
    limits = shape.max_utilization
    return copies * (limits if isinstance(limits, float) else limits[min(copies, len(limits)) - 1])


def _load(case: _Case) -> Iterator[str]:
    busy: defaultdict[str, float] = defaultdict(float)
    for k, rates in case.answer.rates.items():
        for c, rate in rates.items():
            busy[c] += rate / case.shapes[c].requests_per_second[k]
    for c, load in busy.items():
        copies = case.answer.replicas.get(c, 0)
        limit = _utilization(case.shapes[c], copies)
        if _above(load, limit):
            yield f"rates keep {load} copies of {c!r} busy; {copies} copies may be busy with {limit} at most"


def _service(case: _Case) -> Iterator[str]:
    answer = case.answer
    for name, cls in case.classes.items():
        served, asked = case.served[name], cls.requests_per_second
        if case.question.objective == "MaximizeService":
            if answer.scale is None or not _same(served, answer.scale * asked):
                yield f"rates.{name} sum to {served}; scale {answer.scale} times {asked} is needed"
            if name in answer.unserved:
                yield f"unserved.{name} is {answer.unserved[name]}; MaximizeService leaves nothing unserved"
            continue
        unserved = answer.unserved.get(name, 0.0)
        if _above(served, asked):
            yield f"rates.{name} sum to {served}, above requests_per_second {asked}"
        if abs(served + unserved - asked) > TOLERANCE * asked + 1e-12:
            yield f"rates.{name} sum to {served} and unserved is {unserved}; together they must be {asked}"


def _quality(case: _Case) -> Iterator[str]:
    for name, cls in case.classes.items():
        if cls.quality_loss_limit is None:
            continue
        rates = case.answer.rates.get(name, {})
        lost = math.fsum(rate * case.shapes[c].quality_loss.get(name, 0.0) for c, rate in rates.items())
        if _above(lost, cls.quality_loss_limit * case.served[name]):
            mean = lost / case.served[name]
            yield f"rates.{name} have a mean quality loss of {mean}, above quality_loss_limit {cls.quality_loss_limit}"


def _survival(case: _Case) -> Iterator[str]:
    for rule in case.question.survive:
        demand = {}
        for name, cls in case.classes.items():
            if cls.priority >= rule.min_priority and cls.requests_per_second > 0:
                if name in case.answer.unserved:
                    yield f"unserved.{name} is {case.answer.unserved[name]}; survive {rule.event} protects this class"
                scale = case.scale if case.question.objective == "MaximizeService" else 1.0
                demand[name] = scale * cls.requests_per_second
        for event, lost in _events(case, rule.event):
            left = {name: count - lost.get(name, 0) for name, count in case.answer.replicas.items()}
            if demand and not can_serve(case.question, left, demand):
                yield f"survive {rule.event}: after the loss of {event} the copies left cannot serve {sorted(demand)} in full"


def _events(case: _Case, event: str) -> Iterator[tuple[str, Mapping[str, int]]]:
    """What can be lost at once: a description and the copies lost by shape."""
    if event == "SpotPools":
        spot = {name for name, pool in case.pools.items() if pool.capacity_type == "Spot"}
        yield "all Spot pools", {c: n for c, n in case.answer.replicas.items() if spot & case.shapes[c].gpus.keys()}
        return
    seen: set[tuple[tuple[str, int], ...]] = set()
    for group in case.answer.placements:
        per_node = case.pools[group.pool].gpus_per_node
        content = tuple(
            (name, 1 if case.shapes[name].gpus[group.pool] > per_node else count // group.nodes)
            for name, count in group.replicas.items()
        )
        if content and content not in seen:
            seen.add(content)
            yield f"a node of {group.pool!r} with {dict(content)}", dict(content)


def can_serve(question: Question, copies: Mapping[str, int], demand: Mapping[str, float]) -> bool:
    """Whether these copies can serve this demand (requests/s by class) in full; an exact test up to rounding.

    Maximises the sum of served fractions by the simplex method. With x[k,c] the fraction of class k that shape c serves:
    load rows sum_k D/h x <= y rho(y), class rows sum_c x <= 1, quality rows sum_c (loss - limit) x <= 0. No traffic at
    all satisfies every row, so the method starts there and needs no first phase.
    """
    shapes = {shape.name: shape for shape in question.shapes if copies.get(shape.name, 0) > 0}
    columns = [(k, c) for k in sorted(demand) for c in sorted(shapes) if k in shapes[c].requests_per_second]
    rows: list[list[float]] = []
    limits: list[float] = []
    for c in sorted(shapes):
        rows.append([demand[k] / shapes[c].requests_per_second[k] if d == c else 0.0 for k, d in columns])
        limits.append(_utilization(shapes[c], copies[c]))
    for cls in question.classes:
        if cls.name in demand:
            rows.append([1.0 if k == cls.name else 0.0 for k, _ in columns])
            limits.append(1.0)
            if cls.quality_loss_limit is not None:
                losses = [shapes[c].quality_loss.get(cls.name, 0.0) for _, c in columns]
                quality = [
                    (loss - cls.quality_loss_limit) if k == cls.name else 0.0
                    for (k, _), loss in zip(columns, losses, strict=True)
                ]
                size = max(map(abs, quality), default=0.0) or 1.0
                rows.append([value / size for value in quality])
                limits.append(0.0)
    return _largest_sum(rows, limits) >= len(demand) * (1 - TOLERANCE)


def _largest_sum(rows: list[list[float]], limits: list[float]) -> float:
    """max sum(x) subject to rows x <= limits, x >= 0, limits >= 0: the simplex tableau with Bland's rule."""
    width = len(rows[0]) if rows else 0
    table = [
        [*row, *(float(i == j) for j in range(len(rows))), limit]
        for i, (row, limit) in enumerate(zip(rows, limits, strict=True))
    ]
    gain = [1.0] * width + [0.0] * len(rows) + [0.0]
    basis = list(range(width, width + len(rows)))
    while True:
        entering = next((j for j, value in enumerate(gain[:-1]) if value > 1e-10), None)
        if entering is None:
            return -gain[-1]
        ratios = [(row[-1] / row[entering], basis[i], i) for i, row in enumerate(table) if row[entering] > 1e-10]
        _, _, pivot = min(ratios)
        factor = table[pivot][entering]
        table[pivot] = [value / factor for value in table[pivot]]
        basis[pivot] = entering
        for row in (*(row for i, row in enumerate(table) if i != pivot), gain):
            if row[entering]:
                factor = row[entering]
                row[:] = [value - factor * lead for value, lead in zip(row, table[pivot], strict=True)]


def _objective(case: _Case) -> Iterator[str]:
    answer = case.answer
    if case.question.objective == "MaximizeService":
        if answer.scale is None or answer.objective is None or not _same(answer.objective, answer.scale):
            yield f"objective is {answer.objective}; under MaximizeService it is scale {answer.scale}"
    else:
        if answer.scale is not None:
            yield f"scale is {answer.scale}; MinimizeCost has none"
        if answer.objective is None or not _same(answer.objective, case.dollars):
            yield f"objective is {answer.objective}; under MinimizeCost it is dollars_per_hour {case.dollars}"
    if case.question.running is None:
        if answer.startup_dollars:
            yield f"startup_dollars is {answer.startup_dollars}; nothing runs in the question"
    elif answer.startup_dollars is None or not _same(answer.startup_dollars, _startup(case)):
        yield f"startup_dollars is {answer.startup_dollars}; the added copies cost {_startup(case)}"


def _startup(case: _Case) -> float:
    before = case.question.running.replicas if case.question.running else {}
    total = 0.0
    for name, count in case.answer.replicas.items():
        shape = case.shapes[name]
        prices = (
            gpus * case.pools[p].dollars_per_node_hour / case.pools[p].gpus_per_node for p, gpus in shape.gpus.items()
        )
        total += max(0, count - before.get(name, 0)) * shape.startup_seconds / 3600 * math.fsum(prices)
    return total


def _proof(case: _Case) -> Iterator[str]:
    answer = case.answer
    names = [level.name for level in answer.levels]
    if len(set(names)) < len(names):
        yield f"levels are named twice: {names}"
    for level in answer.levels:
        expected = _level_value(case, level.name)
        if expected is None:
            yield f"levels names {level.name!r}, which this objective does not have"
        elif not _same(level.value, expected):
            yield f"levels.{level.name}.value is {level.value}; recomputed it is {expected}"
        yield from _gap_holds(f"levels.{level.name}", level.value, level.bound, level.gap, rises=_rises(level))
    if answer.bound is None or answer.gap is None or answer.objective is None:
        yield f"objective, bound or gap is missing: {answer.objective}, {answer.bound}, {answer.gap}"
        return
    own = "scale" if case.question.objective == "MaximizeService" else "dollars"
    open_level = next((level for level in answer.levels if not level.proved), None)
    told = open_level or next((level for level in answer.levels if level.name == own), None)
    if told is None:
        rises = own == "scale"
        yield from _gap_holds("objective", answer.objective, answer.bound, answer.gap, rises=rises)
    elif not (_same(answer.bound, told.bound) and _same(answer.gap, told.gap)):
        yield f"bound {answer.bound} and gap {answer.gap} are not those of level {told.name}: {told.bound} and {told.gap}"
    if answer.status == "Optimal" and (open_level is not None or answer.stopped != "proved"):
        yield f"status is Optimal, but the search stopped for {answer.stopped!r} with level {open_level} open"
    if answer.status == "Feasible" and answer.levels and open_level is None:
        yield "status is Feasible, but every level is proved"


def _gap_holds(field: str, value: float, bound: float, gap: float, *, rises: bool) -> Iterator[str]:
    largest = max(abs(value), abs(bound))
    expected = abs(bound - value) / largest if largest else 0.0
    if abs(gap - expected) > TOLERANCE:
        yield f"{field}: gap is {gap}; bound {bound} and value {value} make it {expected}"
    if _above(value, bound) if rises else _above(bound, value):
        yield f"{field}: bound {bound} is on the wrong side of value {value}"


def _rises(level: Level) -> bool:
    return level.name not in ("dollars", "moves")


def _level_value(case: _Case, name: str) -> float | None:
    if name == "dollars":
        return case.dollars
    if name == "scale" and case.question.objective == "MaximizeService":
        return case.scale
    if name == "moves" and case.question.running is not None:
        before, now = case.question.running.replicas, case.answer.replicas
        return float(sum(abs(now.get(c, 0) - before.get(c, 0)) for c in case.shapes))
    kind, _, priority = name.partition("/priority=")
    members = [c for c in case.question.classes if str(c.priority) == priority and c.requests_per_second > 0]
    if not members or case.question.objective != "MinimizeCost":
        return None
    if kind == "served-fraction":
        return min(case.served[cls.name] / cls.requests_per_second for cls in members)
    return math.fsum(case.served[cls.name] for cls in members) if kind == "served-total" else None


def _no_plan(case: _Case) -> Iterator[str]:
    answer = case.answer
    if not answer.reasons:
        yield "status is Infeasible without reasons"
    for field in ("objective", "scale", "dollars_per_hour", "nodes", "replicas", "placements", "rates"):
        if getattr(answer, field):
            yield f"{field} is {getattr(answer, field)!r}; an infeasible answer has no plan"


def _explanation(case: _Case) -> Iterator[str]:
    def broken(question: Question, answer: Answer) -> list[str]:
        return [f"{found.promise}: {found.message}" for found in verify(question, answer)]

    return faults(case.question, case.answer, broken)


_Check = Callable[[_Case], Iterator[str]]
_FOUNDATIONS: dict[str, _Check] = {"numbers": _numbers, "names": _names}
_INFEASIBLE: dict[str, _Check] = {"reasons": _no_plan, "explanation": _explanation}
_PROMISES: dict[str, _Check] = {
    "nodes": _nodes,
    "budget": _budget,
    "max_copies": _copies,
    "placements": _placements,
    "load": _load,
    "service": _service,
    "quality": _quality,
    "survive": _survival,
    "objective": _objective,
    "proof": _proof,
    "explanation": _explanation,
}
