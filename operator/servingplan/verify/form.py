"""Checks that an answer can be read at all: every number is finite, and every name is known."""

import math
from collections.abc import Iterator, Mapping

from servingplan.model.answer import METHOD_NAMES
from servingplan.verify.case import Case

PLAN_FIELDS = (
    "objective", "bound", "gap", "scale", "dollars_per_hour", "startup_dollars", "nodes", "replicas", "placements", "rates",
    "unserved", "binding", "levels",
)  # fmt: skip
"""Fields that only an answer with a plan has."""


def numbers(case: Case) -> Iterator[str]:
    """The numbers that are not finite or below 0."""
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
    numbers["relative_gap"] = answer.relative_gap
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
    """The names that are not in the question, and a method that is not known."""
    answer = case.answer
    if answer.method not in METHOD_NAMES:
        yield f"method is {answer.method!r}; it must be one of {', '.join(METHOD_NAMES)}"
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
    for group in answer.placements:
        if not group.nodes:
            yield f"placements: a group of pool {group.pool!r} with {dict(group.replicas)} has 0 nodes; leave it out"
    for name, rates in answer.rates.items():
        for shape in rates:
            if shape not in case.shapes:
                yield f"rates.{name} names {shape!r}, which the question does not know"
            elif name not in case.shapes[shape].requests_per_second:
                yield f"rates.{name}.{shape}: shape {shape!r} cannot serve class {name!r}"
    kinds: dict[str, Mapping[str, object]] = {"pool": case.pools, "max_copies": case.shapes, "quality": case.classes}
    kinds["quota"] = {quota.name: quota for quota in case.question.quotas}
    for entry in answer.binding:
        kind, _, name = entry.partition(":")
        if entry != "budget" and name not in kinds.get(kind, {}):
            yield f"binding names {entry!r}, which the question does not know"


def no_plan(case: Case) -> Iterator[str]:
    """The faults of an infeasible answer, which must have reasons and no plan."""
    answer = case.answer
    if not answer.reasons:
        yield "status is Infeasible without reasons"
    for field in PLAN_FIELDS:
        if getattr(answer, field):
            yield f"{field} is {getattr(answer, field)!r}; an infeasible answer has no plan"
