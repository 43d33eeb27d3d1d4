"""The limits of a question that a person set and may change: one class for each kind.

`conflict` drops and eases limits, `sensitivity` asks what one more unit of each would gain, `sentences` puts them into words.
All use the table `KINDS`, so a new kind of limit is written once. The name of a limit is its kind and, after a colon, its pool,
shape, class or event.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar, override

from servingplan.model.answer import Answer
from servingplan.model.question import Question
from servingplan.solve.conflicts.nearest import least_integer, least_part

MOST_NODES = 1_000_000
"""The most nodes that a pool of a question may have."""
LOOSER = 1.01
"""Factor of one more unit of a quality limit: one per cent, as for latency limits."""
Holds = Callable[[float], bool]
"""Whether there is a plan with the limit at this value."""


class LimitKind(ABC):
    """One kind of limit. Values are in the unit of the question's field, by item."""

    name: ClassVar[str]
    field: ClassVar[str]
    """The name of the question's field, for a reader."""
    advice: ClassVar[str] = "raise it to"
    """The words before the sufficient value in a message."""

    @abstractmethod
    def now(self, question: Question) -> Mapping[str, float]:
        """The present values of the limits of this kind that restrict something, by item."""

    @abstractmethod
    def changed(self, question: Question, values: Mapping[str, float]) -> Question:
        """The question with other values."""

    @abstractmethod
    def dropped(self, question: Question, items: Collection[str], enough: int) -> Question:
        """The question in which the limits of these items restrict nothing; no plan needs over `enough` nodes of a pool."""

    def one_more(self, question: Question, answer: Answer) -> Iterable[tuple[str, float]]:  # noqa: ARG002
        """Items with their value after one more unit, limits that the answer reaches first; none if a unit means nothing."""
        return ()


class EasedKind(LimitKind):
    """A kind whose smallest sufficient change is found by trials. For the budget it is the price of the cheapest plan."""

    @abstractmethod
    def nearest(self, question: Question, item: str, holds: Holds, enough: int) -> float | None:
        """The value nearest to the present one with which there is a plan; None if there is none."""


class FieldKind(EasedKind):
    """A kind that is a field of pools, shapes or classes of the question, by name."""

    part: ClassVar[str]
    """The field of the question that holds the items: pools, shapes or classes."""
    free: ClassVar[Any] = None
    """The value that restricts nothing."""

    @override
    def changed(self, question: Question, values: Mapping[str, float]) -> Question:
        return _with(question, self.part, self.field, values)

    @override
    def dropped(self, question: Question, items: Collection[str], enough: int) -> Question:
        return _with(question, self.part, self.field, dict.fromkeys(items, self.free))


class Budget(LimitKind):
    name = "budget"
    field = "budget_dollars_per_hour"
    advice = "raise the budget to"

    @override
    def now(self, question: Question) -> Mapping[str, float]:
        return {"": question.budget_dollars_per_hour}

    @override
    def changed(self, question: Question, values: Mapping[str, float]) -> Question:
        return question.model_copy(update={"budget_dollars_per_hour": values[""]})

    @override
    def dropped(self, question: Question, items: Collection[str], enough: int) -> Question:
        price = 1.0 + math.fsum(pool.max_nodes * pool.dollars_per_node_hour for pool in question.pools)
        return self.changed(question, {"": max(price, question.budget_dollars_per_hour)})

    @override
    def one_more(self, question: Question, answer: Answer) -> Iterable[tuple[str, float]]:
        yield "", question.budget_dollars_per_hour + 1.0


class Cap(FieldKind):
    name = "pool"
    part, field = "pools", "max_nodes"

    @override
    def now(self, question: Question) -> Mapping[str, float]:
        return {pool.name: pool.max_nodes for pool in question.pools if pool.name in _of_use(question)}

    @override
    def changed(self, question: Question, values: Mapping[str, float]) -> Question:
        """The question with other caps. If a cap is below the minimum nodes, the minimum is lowered to it."""
        caps = {name: int(value) for name, value in values.items()}
        floors = {pool.name: min(pool.min_nodes, caps[pool.name]) for pool in question.pools if pool.name in caps}
        return _with(super().changed(question, caps), "pools", "min_nodes", floors)

    @override
    def dropped(self, question: Question, items: Collection[str], enough: int) -> Question:
        most = {pool.name: min(MOST_NODES, enough + pool.max_nodes) for pool in question.pools if pool.name in items}
        return super().changed(question, most)

    @override
    def one_more(self, question: Question, answer: Answer) -> Iterable[tuple[str, float]]:
        pools = [pool for pool in question.pools if pool.name in _of_use(question)]
        for pool in sorted(pools, key=lambda pool: (answer.nodes[pool.name] < pool.max_nodes, pool.name)):
            yield pool.name, pool.max_nodes + 1.0

    @override
    def nearest(self, question: Question, item: str, holds: Holds, enough: int) -> float | None:
        return _raised(question, int(self.now(question)[item]), holds, enough)


class Floor(FieldKind):
    name = "floor"
    part, field = "pools", "min_nodes"
    free = 0
    advice = "lower it to"

    @override
    def now(self, question: Question) -> Mapping[str, float]:
        return {pool.name: pool.min_nodes for pool in question.pools if pool.min_nodes}

    @override
    def changed(self, question: Question, values: Mapping[str, float]) -> Question:
        caps = {pool.name: pool.max_nodes for pool in question.pools}
        floors = {name: min(caps[name], int(value)) for name, value in values.items()}
        return super().changed(question, floors)

    @override
    def one_more(self, question: Question, answer: Answer) -> Iterable[tuple[str, float]]:
        for pool in question.pools:
            if pool.name in _of_use(question) and 0 < pool.min_nodes == answer.nodes[pool.name]:
                yield pool.name, pool.min_nodes - 1.0

    @override
    def nearest(self, question: Question, item: str, holds: Holds, enough: int) -> float | None:
        now = self.now(question)[item]
        fewer = least_integer(0, int(now), lambda fewer: holds(now - fewer))
        return None if fewer is None else now - fewer


class SharedQuota(FieldKind):
    name = "quota"
    part, field = "quotas", "max_gpus"

    @override
    def now(self, question: Question) -> Mapping[str, float]:
        return {quota.name: quota.max_gpus for quota in question.quotas if _of_use(question) & set(quota.pools)}

    @override
    def changed(self, question: Question, values: Mapping[str, float]) -> Question:
        return super().changed(question, {name: int(value) for name, value in values.items()})

    @override
    def dropped(self, question: Question, items: Collection[str], enough: int) -> Question:
        most = _most_gpus(question, enough)
        return super().changed(question, {q.name: q.max_gpus + most for q in question.quotas if q.name in items})

    @override
    def one_more(self, question: Question, answer: Answer) -> Iterable[tuple[str, float]]:
        gpus = {shape.name: shape.gpus for shape in question.shapes}
        for quota in question.quotas:
            held = sum(
                count * sum(gpus[name].get(pool, 0) for pool in quota.pools) for name, count in answer.replicas.items()
            )
            if quota.name in self.now(question) and held >= quota.max_gpus:
                yield quota.name, quota.max_gpus + 1.0

    @override
    def nearest(self, question: Question, item: str, holds: Holds, enough: int) -> float | None:
        now = int(self.now(question)[item])
        return least_integer(now, now + _most_gpus(question, enough), holds)


class MostCopies(FieldKind):
    name = "max_copies"
    part, field = "shapes", "max_copies"

    @override
    def now(self, question: Question) -> Mapping[str, float]:
        return {shape.name: shape.max_copies for shape in question.shapes if shape.max_copies is not None}

    @override
    def changed(self, question: Question, values: Mapping[str, float]) -> Question:
        return super().changed(question, {name: int(value) for name, value in values.items()})

    @override
    def one_more(self, question: Question, answer: Answer) -> Iterable[tuple[str, float]]:
        for name, most in self.now(question).items():
            if answer.replicas.get(name, 0) >= most:
                yield name, most + 1.0

    @override
    def nearest(self, question: Question, item: str, holds: Holds, enough: int) -> float | None:
        return _raised(question, int(self.now(question)[item]), holds, enough)


class Quality(FieldKind):
    name = "quality"
    part, field = "classes", "quality_loss_limit"

    @override
    def now(self, question: Question) -> Mapping[str, float]:
        lossy = {name for shape in question.shapes for name, loss in shape.quality_loss.items() if loss > 0}
        limits = {cls.name: cls.quality_loss_limit for cls in question.classes if cls.name in lossy}
        return {name: limit for name, limit in limits.items() if limit is not None}

    @override
    def one_more(self, question: Question, answer: Answer) -> Iterable[tuple[str, float]]:
        asked = {cls.name for cls in question.classes if cls.requests_per_second > 0}
        return ((name, limit * LOOSER) for name, limit in self.now(question).items() if limit and name in asked)

    @override
    def nearest(self, question: Question, item: str, holds: Holds, enough: int) -> float | None:
        now = self.now(question)[item]
        losses = [shape.quality_loss.get(item, 0.0) for shape in question.shapes if item in shape.requests_per_second]
        return least_part(now, max(losses, default=now), holds)


class Survival(EasedKind):
    name = "survive"
    field = "min_priority"

    @override
    def now(self, question: Question) -> Mapping[str, float]:
        events = sorted({rule.event for rule in question.survive})
        return {it: min(rule.min_priority for rule in question.survive if rule.event == it) for it in events}

    @override
    def changed(self, question: Question, values: Mapping[str, float]) -> Question:
        rules = tuple(
            rule.model_copy(update={"min_priority": max(rule.min_priority, int(values[rule.event]))})
            if rule.event in values
            else rule
            for rule in question.survive
        )
        return question.model_copy(update={"survive": rules})

    @override
    def dropped(self, question: Question, items: Collection[str], enough: int) -> Question:
        kept = tuple(rule for rule in question.survive if rule.event not in items)
        return question.model_copy(update={"survive": kept})

    @override
    def nearest(self, question: Question, item: str, holds: Holds, enough: int) -> float | None:
        now = self.now(question)[item]
        steps = sorted({cls.priority + 1.0 for cls in question.classes if cls.priority >= now})
        index = least_integer(-1, len(steps) - 1, lambda index: holds(steps[index]))
        return None if index is None else steps[index]


class Rate(FieldKind):
    name = "class"
    part, field = "classes", "requests_per_second"
    free = 0.0
    advice = "lower it to"

    @override
    def now(self, question: Question) -> Mapping[str, float]:
        return {cls.name: cls.requests_per_second for cls in question.classes if cls.requests_per_second > 0}

    @override
    def nearest(self, question: Question, item: str, holds: Holds, enough: int) -> float | None:
        if question.objective == "MaximizeService":  # any multiple of the mix is a plan, so only a rate of 0 can help
            return 0.0 if holds(0.0) else None
        return least_part(self.now(question)[item], 0.0, holds)


KINDS: tuple[LimitKind, ...] = (Budget(), Cap(), Floor(), SharedQuota(), MostCopies(), Quality(), Survival(), Rate())
"""All kinds, in the order in which they are reported."""
_BY_NAME = {kind.name: kind for kind in KINDS}


def limits_of(question: Question) -> dict[str, float]:
    """Every limit that restricts something, with its value, in the order of the kinds."""
    return {_full_name(kind, item): float(value) for kind in KINDS for item, value in kind.now(question).items()}


def kind_of(limit: str) -> tuple[LimitKind, str]:
    """The kind and the item of a limit."""
    name, _, item = limit.partition(":")
    return _BY_NAME[name], item


def changed(question: Question, change: Mapping[str, float]) -> Question:
    """The question with these limits at other values. If a cap is below a pool's minimum nodes, the minimum is lowered too."""
    for kind in KINDS:
        values = {item: value for limit, value in change.items() for of, item in [kind_of(limit)] if of is kind}
        question = kind.changed(question, values) if values else question
    return question


def without(question: Question, limits: Iterable[str], *, enough: int) -> Question:
    """The question with these limits set to values at which they restrict nothing; no plan needs more than `enough` nodes of a
    pool."""
    parts = [kind_of(limit) for limit in limits]
    for kind in reversed(KINDS):  # the budget last, because it must pay for all nodes of the changed pools
        items = {item for of, item in parts if of is kind}
        question = kind.dropped(question, items, enough) if items else question
    return question


def one_more(question: Question, answer: Answer) -> Iterable[tuple[str, float]]:
    """Limits with their value after one more unit, in the order of the kinds."""
    for kind in KINDS:
        yield from ((_full_name(kind, item), value) for item, value in kind.one_more(question, answer))


def _full_name(kind: LimitKind, item: str) -> str:
    return f"{kind.name}:{item}" if item else kind.name


def _of_use(question: Question) -> set[str]:
    """The names of pools that some shape uses."""
    return {name for shape in question.shapes for name in shape.gpus}


def _most_gpus(question: Question, enough: int) -> int:
    """GPUs beyond which no quota restricts a plan that needs no more than `enough` nodes of a pool."""
    return sum((pool.max_nodes + enough) * pool.gpus_per_node for pool in question.pools)


def _raised(question: Question, now: int, holds: Holds, enough: int) -> float | None:
    """The least number of nodes or copies above `now` with which there is a plan; None if there is none."""
    return least_integer(now, min(MOST_NODES, now + enough * max(pool.gpus_per_node for pool in question.pools)), holds)


def _with(question: Question, part: str, field: str, values: Mapping[str, Any]) -> Question:
    """The question with this field of some of its pools, shapes or classes at other values, by name."""
    items = getattr(question, part)
    new = tuple(item.model_copy(update={field: values[item.name]}) if item.name in values else item for item in items)
    return question.model_copy(update={part: new})
