"""The independent check of an answer's explanation: it checks every claim that can be recomputed from question and answer.

It is part of **verify** and shares no code with the solver. The question of each what-if is rebuilt from its change, and its
answer is verified like any other; the gains are recomputed from the two answers. Of limits that exclude each other, names,
values and directions are checked, and minimum nodes against the budget. Not checked are bounds, that these limits exclude every
plan and that no fewer do, and what-ifs about latency limits, because a question does not contain these.
"""

import math
from collections.abc import Callable, Iterator, Mapping

from servingplan.model.answer import Answer, Clash, Level, WhatIf
from servingplan.model.question import Question
from servingplan.verify.case import TOLERANCE, same

NOT_OF_THE_QUESTION = "slo-percent"
UNITS: dict[str, Callable[[float], float]] = {
    "budget": lambda now: now + 1,
    "pool": lambda now: now + 1,
    "floor": lambda now: now - 1,
    "quota": lambda now: now + 1,
    "max_copies": lambda now: now + 1,
    "quality": lambda now: now * 1.01,
}
"""The value after one more unit, by kind of limit."""
LOOSER_WHEN_LOWER = ("floor", "class")


def faults(question: Question, answer: Answer, broken: Callable[[Question, Answer], list[str]]) -> Iterator[str]:
    """The faults of the explanation. `broken` returns the faults of a what-if's answer."""
    explanation = answer.explanation
    if explanation is None:
        return
    limits = _limits(question)
    for field, what_ifs in (("worth", explanation.worth), ("alternatives", explanation.alternatives)):
        for what_if in what_ifs:
            where = f"explanation.{field}.{what_if.name}"
            unknown = what_if.change.keys() - limits.keys() - {NOT_OF_THE_QUESTION}
            if unknown:
                yield f"{where}: change names {sorted(unknown)}, which the question does not limit"
                continue
            if NOT_OF_THE_QUESTION not in what_if.change:
                for fault in broken(_changed(question, what_if.change), what_if.answer):
                    yield f"{where}: {fault}"
            if field == "worth":
                yield from _worth_holds(where, limits, what_if, answer)
    if explanation.clash is not None:
        yield from _clash_holds(question, answer, limits, explanation.clash)


def _limits(question: Question) -> dict[str, float]:
    """The value of every limit, by the names of `Ease.limit`."""
    found: dict[str, float | None] = {"budget": question.budget_dollars_per_hour}
    for pool in question.pools:
        found[f"pool:{pool.name}"] = pool.max_nodes
        found[f"floor:{pool.name}"] = pool.min_nodes
    for quota in question.quotas:
        found[f"quota:{quota.name}"] = quota.max_gpus
    for shape in question.shapes:
        found[f"max_copies:{shape.name}"] = shape.max_copies
    for cls in question.classes:
        found[f"quality:{cls.name}"] = cls.quality_loss_limit
        found[f"class:{cls.name}"] = cls.requests_per_second
    for rule in question.survive:
        name = f"survive:{rule.event}"
        before = found.get(name)
        found[name] = rule.min_priority if before is None else min(rule.min_priority, before)
    return {name: float(value) for name, value in found.items() if value is not None}


def _changed(question: Question, change: Mapping[str, float]) -> Question:
    """The question of a what-if, without the running fleet, rebuilt from plain data."""
    data = question.model_dump(mode="json", exclude_none=True)
    data.pop("running", None)
    data.pop("change", None)
    data["budget_dollars_per_hour"] = change.get("budget", data["budget_dollars_per_hour"])
    fields = {
        "pools": (("pool", "max_nodes", int), ("floor", "min_nodes", int)),
        "quotas": (("quota", "max_gpus", int),),
        "shapes": (("max_copies", "max_copies", int),),
        "classes": (("quality", "quality_loss_limit", float), ("class", "requests_per_second", float)),
    }
    for items, known in fields.items():
        for item in data[items]:
            for kind, field, number in known:
                if (value := change.get(f"{kind}:{item['name']}")) is not None:
                    item[field] = number(value)
    for pool in data["pools"]:
        pool["min_nodes"] = min(pool["min_nodes"], pool["max_nodes"])
    return Question.model_validate(data)


def _worth_holds(where: str, limits: Mapping[str, float], what_if: WhatIf, answer: Answer) -> Iterator[str]:
    if NOT_OF_THE_QUESTION not in what_if.change:
        unit = UNITS.get(what_if.name.partition(":")[0])
        expected = {what_if.name: unit(limits[what_if.name])} if unit and what_if.name in limits else None
        if expected is None or any(abs(what_if.change.get(k, math.inf) - v) > 1e-9 for k, v in expected.items()):
            yield f"{where}: change is {dict(what_if.change)}; one more unit of it is {expected}"
    level, gain, at_most, sure = _gain(answer.levels, what_if.answer.levels)
    if what_if.level != level:
        yield f"{where}: level is {what_if.level}; recomputed it is {level}"
        return
    for field, told, found in (("gain", what_if.gain, gain), ("at_most", what_if.at_most, at_most)):
        if not same(told, found):
            yield f"{where}: {field} is {told}; the levels of both answers make it {found}"
    if what_if.distinguishable != sure:
        yield f"{where}: distinguishable is {what_if.distinguishable}; the bounds of both answers make it {sure}"


def _gain(before: tuple[Level, ...], after: tuple[Level, ...]) -> tuple[str | None, float, float, bool]:
    """The first level that may be better, the gain on it, the largest possible gain, and whether the gain is certain."""
    by_name = {level.name: level for level in after}
    fell = False
    for old in before:
        if old.name == "moves" or old.name not in by_name:
            continue
        new = by_name[old.name]
        # Compare every level as one that is maximised, so take the negative of dollars.
        was, could_be, now, may_be = old.value, old.bound, new.value, new.bound
        if old.name == "dollars":
            was, could_be, now, may_be = -was, -could_be, -now, -may_be
        slack = TOLERANCE * max(abs(was), abs(now)) + 1e-12
        if may_be - was > slack:
            gain = 0.0 if fell else max(0.0, now - was)
            return old.name, gain, may_be - was, not fell and now - could_be > slack
        fell = fell or was - now > slack
    return None, 0.0, 0.0, True


def _clash_holds(question: Question, answer: Answer, limits: Mapping[str, float], clash: Clash) -> Iterator[str]:
    where = "explanation.clash"
    if (clash.goal == "any plan") != (answer.status == "Infeasible"):
        yield f"{where}: goal is {clash.goal!r} of an answer with status {answer.status}"
    if clash.goal == "full service" and not answer.unserved:
        yield f"{where}: goal is 'full service', but nothing is unserved"
    floors = math.fsum(pool.min_nodes * pool.dollars_per_node_hour for pool in question.pools)
    names = [ease.limit for ease in clash.limits]
    if not names or len(set(names)) < len(names):
        yield f"{where}: limits are {names}; each must be named once"
    for ease in clash.limits:
        if ease.limit not in limits:
            yield f"{where} names {ease.limit!r}, which the question does not limit"
            continue
        if abs(ease.now - limits[ease.limit]) > 1e-9 * abs(ease.now):
            yield f"{where}.{ease.limit}: now is {ease.now}; the question says {limits[ease.limit]}"
        lower = ease.limit.partition(":")[0] in LOOSER_WHEN_LOWER
        if ease.needed is not None and not (ease.needed < ease.now if lower else ease.needed > ease.now):
            yield f"{where}.{ease.limit}: needed {ease.needed} is no looser than {ease.now}"
        if ease.limit == "budget" and ease.needed is not None and ease.needed < floors * (1 - TOLERANCE):
            yield f"{where}.budget: needed {ease.needed} does not pay for the floors, which cost {floors}"
    if names and all(name == "budget" or name.startswith("floor:") for name in names):
        price = {f"floor:{pool.name}": pool.min_nodes * pool.dollars_per_node_hour for pool in question.pools}
        cost = math.fsum(price.get(name, 0.0) for name in names)
        if cost <= question.budget_dollars_per_hour:
            yield f"{where}: the floors of {names} cost {cost} $/h, which the budget pays"
