"""Whether an answer can be read at all: every number finite, every name known."""

import math
from collections.abc import Iterator, Mapping

from servingplan.verify.case import Case


def numbers(case: Case) -> Iterator[str]:
    """Every number is finite and not below 0."""
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


def names(case: Case) -> Iterator[str]:
    """Every name is known to the question."""
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


def no_plan(case: Case) -> Iterator[str]:
    """An infeasible answer has reasons and no plan."""
    answer = case.answer
    if not answer.reasons:
        yield "status is Infeasible without reasons"
    for field in ("objective", "scale", "dollars_per_hour", "nodes", "replicas", "placements", "rates"):
        if getattr(answer, field):
            yield f"{field} is {getattr(answer, field)!r}; an infeasible answer has no plan"
