"""Checks that objective, levels, bound, gap and status agree with each other and with the plan."""

import math
from collections.abc import Iterator

from servingplan.model.answer import Level
from servingplan.verify.case import TOLERANCE, Case, above, same


def objective(case: Case) -> Iterator[str]:
    """The faults of the objective and of the start-up dollars, which must be those of the plan."""
    answer = case.answer
    if case.question.objective == "MaximizeService":
        if answer.scale is None or answer.objective is None or not same(answer.objective, answer.scale):
            yield f"objective is {answer.objective}; under MaximizeService it is scale {answer.scale}"
    else:
        if answer.scale is not None:
            yield f"scale is {answer.scale}; MinimizeCost has none"
        if answer.objective is None or not same(answer.objective, case.dollars):
            yield f"objective is {answer.objective}; under MinimizeCost it is dollars_per_hour {case.dollars}"
    if case.question.running is None:
        if answer.startup_dollars:
            yield f"startup_dollars is {answer.startup_dollars}; nothing runs in the question"
    elif answer.startup_dollars is None or not same(answer.startup_dollars, _startup(case)):
        yield f"startup_dollars is {answer.startup_dollars}; the added copies cost {_startup(case)}"


def _startup(case: Case) -> float:
    before = case.question.running.replicas if case.question.running else {}
    total = 0.0
    for name, count in case.answer.replicas.items():
        shape = case.shapes[name]
        prices = (
            gpus * case.pools[p].dollars_per_node_hour / case.pools[p].gpus_per_node for p, gpus in shape.gpus.items()
        )
        total += max(0, count - before.get(name, 0)) * shape.startup_seconds / 3600 * math.fsum(prices)
    return total


def proof(case: Case) -> Iterator[str]:
    """The faults of the proof. Every level of the objective must be present, in order, with its value, a bound on the right
    side of it, and their gap. Proved levels must be within the asked gap. The status must follow from the levels."""
    answer = case.answer
    names = [level.name for level in answer.levels]
    if names != _level_names(case):
        yield f"levels are {names}; this question has {_level_names(case)}, in this order"
    for level in answer.levels:
        expected = _level_value(case, level.name)
        if expected is None:
            yield f"levels names {level.name!r}, which this objective does not have"
        elif not same(level.value, expected):
            yield f"levels.{level.name}.value is {level.value}; recomputed it is {expected}"
        yield from _gap_holds(f"levels.{level.name}", level.value, level.bound, level.gap, rises=_rises(level))
        least = TOLERANCE if level.name.startswith("served") else max(answer.relative_gap, TOLERANCE)
        if level.proved and level.gap > least * (1 + TOLERANCE):
            yield f"levels.{level.name} counts as proved with a gap of {level.gap}; at most {least} was asked for"
    if answer.bound is None or answer.gap is None or answer.objective is None:
        yield f"objective, bound or gap is missing: {answer.objective}, {answer.bound}, {answer.gap}"
        return
    own = "scale" if case.question.objective == "MaximizeService" else "dollars"
    open_level = next((level for level in answer.levels if not level.proved), None)
    told = open_level or next((level for level in answer.levels if level.name == own), None)
    if told is not None and not (same(answer.bound, told.bound) and same(answer.gap, told.gap)):
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
    if above(value, bound) if rises else above(bound, value):
        yield f"{field}: bound {bound} is on the wrong side of value {value}"


def _level_names(case: Case) -> list[str]:
    """The levels of this objective, in order."""
    moves = [] if case.question.running is None else ["moves"]
    if case.question.objective == "MaximizeService":
        return ["scale", "dollars", *moves]
    priorities = sorted({cls.priority for cls in case.question.classes if cls.requests_per_second > 0}, reverse=True)
    service = [f"{kind}/priority={priority}" for priority in priorities for kind in ("served-fraction", "served-total")]
    return [*service, "dollars", *moves]


def _rises(level: Level) -> bool:
    return level.name not in ("dollars", "moves")


def _level_value(case: Case, name: str) -> float | None:
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
