"""The planning question: everything the solver may know, free of Kubernetes and of profiles.

Place in the flow: observe -> **model** -> solve -> render -> apply -> status. The field names are the JSON keys of a
question file. Lists are sorted by name when a question is made, so two questions that differ only in the order of their
items are equal, and order can never change a plan.
"""

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from servingplan.errors import in_words, shown

Objective = Literal["MinimizeCost", "MaximizeService"]
CapacityType = Literal["OnDemand", "Spot", "Reserved"]
SurviveEvent = Literal["AnyNode", "SpotPools"]


def sorted_by_key[V](mapping: Mapping[str, V]) -> Mapping[str, V]:
    """The same mapping with its keys in order, so that no order of input survives."""
    return {key: mapping[key] for key in sorted(mapping)}


Name = Annotated[str, Field(min_length=1, max_length=253)]
MOST_COUNTED = 1_000_000
"""The largest count in a question or an answer. A plan has no more nodes of a pool and no more copies of a shape."""
Count = Annotated[int, Field(ge=0, le=MOST_COUNTED)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Counts = Annotated[Mapping[Name, Count], AfterValidator(sorted_by_key)]
Rates = Annotated[Mapping[Name, Positive], AfterValidator(sorted_by_key)]
Amounts = Annotated[Mapping[Name, NonNegative], AfterValidator(sorted_by_key)]


class QuestionError(ValueError):
    """A question that cannot be answered as it stands; the message names the field, the value and what to do."""


class Value(BaseModel):
    """Base of every noun: frozen, closed to unknown keys, strict about types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Pool(Value):
    """Nodes of one kind that can be rented together."""

    name: Name
    """Unique name of the pool."""
    gpus_per_node: Annotated[int, Field(ge=1, le=1024)]
    """GPUs of one node, all of one type."""
    dollars_per_node_hour: NonNegative
    """Price of one node, in dollars per hour; a node is paid whole however little of it is used."""
    min_nodes: Count = 0
    """Floor: nodes that are rented whatever the plan needs."""
    max_nodes: Count
    """Cap: the most nodes that exist or may be rented."""
    capacity_type: CapacityType = "OnDemand"
    """How the nodes are rented; all Spot pools vanish together in the event `SpotPools`."""
    zone: str | None = None
    """Zone of the nodes; told to users, not used by the solver (shapes already respect zones)."""

    @model_validator(mode="after")
    def _floor_within_cap(self) -> Self:
        if self.min_nodes > self.max_nodes:
            raise ValueError(
                f"pool {self.name!r}: min_nodes {self.min_nodes} exceeds max_nodes {self.max_nodes}; "
                f"lower min_nodes or raise max_nodes"
            )
        return self


class RequestClass(Value):
    """Requests of one model with like lengths and one service-level objective."""

    name: Name
    """Unique name of the class, over all models."""
    model: Name
    """Model that the requests call."""
    requests_per_second: NonNegative
    """Arrival rate; under `MaximizeService` its proportion of the mix. A class with rate 0 asks for nothing."""
    priority: int = 0
    """Higher is served first under `MinimizeCost`; `MaximizeService` ignores it."""
    quality_loss_limit: NonNegative | None = None
    """Largest allowed mean quality loss, weighted over the class's served traffic; absent: no limit."""


class Shape(Value):
    """One way to run one replica: a model on so many GPUs of these pools."""

    name: Name
    """Unique name of the shape, over all models."""
    model: Name
    """Model that a replica of this shape serves."""
    gpus: Annotated[Mapping[Name, Annotated[int, Field(ge=1)]], Field(min_length=1), AfterValidator(sorted_by_key)]
    """GPUs of one replica by pool. Up to `gpus_per_node` they are inside one node; beyond, they are whole nodes."""
    requests_per_second: Annotated[Rates, Field(min_length=1)]
    """Sustainable rate by class when one copy serves only that class; a class left out cannot be served."""
    quality_loss: Amounts = Field(default_factory=dict)
    """Quality loss by class, in the unit of `quality_loss_limit`; a class left out loses nothing."""
    startup_seconds: NonNegative = 0.0
    """Seconds from renting a node to the first served request."""
    max_copies: Count | None = None
    """Most copies of this shape; absent: as many as fit."""
    max_utilization: Fraction | Annotated[tuple[Fraction, ...], Field(min_length=1, strict=False)] = 1.0
    """Largest busy fraction of a copy: one number, or one for 1, 2, ... copies of which the last holds for more."""

    @model_validator(mode="after")
    def _quality_of_served_classes(self) -> Self:
        for name in self.quality_loss:
            if name not in self.requests_per_second:
                raise ValueError(
                    f"shape {self.name!r}: quality_loss names class {name!r}, which its requests_per_second lacks; "
                    f"add the rate or drop the loss"
                )
        return self


class Quota(Value):
    """The most GPUs that the copies on some pools may hold together, whatever nodes there are."""

    name: Annotated[str, Field(min_length=1)]
    """Unique name of the quota."""
    pools: Annotated[
        tuple[Name, ...], Field(min_length=1, strict=False), AfterValidator(lambda names: tuple(sorted(names)))
    ]
    """The pools that share it, sorted by name."""
    max_gpus: Annotated[int, Field(ge=0)]
    """GPUs of all copies on these pools."""


class Running(Value):
    """The live fleet that a plan starts from."""

    nodes: Counts = Field(default_factory=dict)
    """Nodes by pool."""
    replicas: Counts = Field(default_factory=dict)
    """Copies by shape; shapes that the question does not offer any more are allowed and count as removals."""


class Change(Value):
    """When a better plan is worth moving to."""

    min_gain: NonNegative = 0.0
    """Relative gain below which the running plan is kept (0.05: five per cent)."""
    life_seconds: Positive | None = None
    """Expected life of a plan, over which its start-up cost must pay back; absent: start-up cost is not weighed."""


class SurviveRule(Value):
    """A loss after which classes must still be served in full, by re-routing alone."""

    event: SurviveEvent
    """`AnyNode`: any single node is lost; `SpotPools`: all nodes of all Spot pools are lost."""
    min_priority: int = 0
    """Classes with at least this priority are protected."""


def _unique_sorted[T: (Pool, RequestClass, Shape, Quota)](items: tuple[T, ...]) -> tuple[T, ...]:
    names = sorted(item.name for item in items)
    for left, right in pairwise(names):
        if left == right:
            raise ValueError(f"the name {left!r} is used twice; names must be unique")
    return tuple(sorted(items, key=lambda item: item.name))


class Question(Value):
    """One planning question; see the module docstring."""

    version: Literal[1] = 1
    """Version of this document."""
    objective: Objective
    """`MinimizeCost`: serve by priority, then cheaply. `MaximizeService`: the largest multiple of the whole mix."""
    budget_dollars_per_hour: NonNegative
    """Most that all nodes together may cost, in dollars per hour."""
    pools: Annotated[tuple[Pool, ...], Field(min_length=1, strict=False), AfterValidator(_unique_sorted)]
    """Node pools, sorted by name."""
    classes: Annotated[tuple[RequestClass, ...], Field(min_length=1, strict=False), AfterValidator(_unique_sorted)]
    """Request classes, sorted by name."""
    shapes: Annotated[tuple[Shape, ...], Field(strict=False), AfterValidator(_unique_sorted)]
    """Replica shapes, sorted by name; none at all is allowed under `MinimizeCost`, which then serves nothing."""
    quotas: Annotated[tuple[Quota, ...], Field(strict=False), AfterValidator(_unique_sorted)] = ()
    """GPUs that several pools share, sorted by name; a limit of one pool alone is its `max_nodes`."""
    running: Running | None = None
    """The live fleet; absent: nothing runs and moves are not counted."""
    change: Change | None = None
    """When to leave the running plan; absent: whenever another plan is better by more than the solver's gap."""
    survive: Annotated[tuple[SurviveRule, ...], Field(strict=False)] = ()
    """Losses to survive."""

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        for check in (_known_references, _gpus_fit_nodes, _mix_is_servable):
            for complaint in check(self):
                raise ValueError(complaint)
        return self


def _known_references(question: Question) -> Iterable[str]:
    pools = {pool.name for pool in question.pools}
    classes = {cls.name: cls for cls in question.classes}
    for shape in question.shapes:
        for name in shape.gpus:
            if name not in pools:
                yield f"shape {shape.name!r}: gpus names pool {name!r}, which is not in pools; add it or correct the name"
        for name in shape.requests_per_second:
            if name not in classes:
                yield (
                    f"shape {shape.name!r}: requests_per_second names class {name!r}, which is not in classes; "
                    f"add it or correct the name"
                )
            elif classes[name].model != shape.model:
                yield (
                    f"shape {shape.name!r} runs model {shape.model!r} but has a rate for class {name!r} of model "
                    f"{classes[name].model!r}; drop that rate or correct the model"
                )
    for quota in question.quotas:
        for name in quota.pools:
            if name not in pools:
                yield f"quota {quota.name!r}: pools names pool {name!r}, which is not in pools; add it or correct the name"
    for name in question.running.nodes if question.running else ():
        if name not in pools:
            yield f"running.nodes names pool {name!r}, which is not in pools; add it (max_nodes 0 is allowed) or drop it"


def _gpus_fit_nodes(question: Question) -> Iterable[str]:
    per_node = {pool.name: pool.gpus_per_node for pool in question.pools}
    for shape in question.shapes:
        for name, gpus in shape.gpus.items():
            if gpus > per_node[name] and gpus % per_node[name]:
                yield (
                    f"shape {shape.name!r}: {gpus} GPUs of pool {name!r} exceed a node of {per_node[name]} and are not "
                    f"whole nodes; use at most {per_node[name]} or a multiple of it"
                )


def _mix_is_servable(question: Question) -> Iterable[str]:
    if question.objective != "MaximizeService":
        return
    asked = [cls for cls in question.classes if cls.requests_per_second > 0]
    if not asked:
        yield "classes: every requests_per_second is 0, so MaximizeService has no mix to multiply; give one class a rate"
    served = {name for shape in question.shapes for name in shape.requests_per_second}
    for cls in asked:
        if cls.name not in served:
            yield (
                f"class {cls.name!r} of model {cls.model!r}: no shape serves it, so no multiple of the mix can be served; "
                f"add a shape with a rate for it, or set its requests_per_second to 0"
            )


def question_from_json(text: str | bytes) -> Question:
    """Read a question file.

    Raises `QuestionError` whose message has one line per fault: field, value, what to do.
    """
    return validated(Question, text)


def validated[M: BaseModel](kind: type[M], text: str | bytes) -> M:
    """Parse and validate one document of the given kind; raises `QuestionError`."""
    try:
        return kind.model_validate(parse_json(text))
    except ValidationError as error:
        raise QuestionError("\n".join(_complaints(error))) from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON strictly: a key given twice is an error, and so are `NaN` and `Infinity`, which JSON does not have."""
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise QuestionError(f"not JSON: {error}; correct the file") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise QuestionError(f"key {twice!r} is given twice in one object; keep one")
    return found


def _no_constant(constant: str) -> Any:
    raise QuestionError(f"the number {constant} is not finite; give a finite number")


def _complaints(error: ValidationError) -> Iterable[str]:
    for fault in error.errors(include_url=False):
        field = ".".join(str(part) for part in fault["loc"]) or "document"
        if fault["type"] == "value_error":
            message = str(fault["ctx"]["error"])
            yield message if field == "document" else f"{field}: {message}"
        elif fault["type"] == "extra_forbidden":
            yield f"{field}: unknown key; remove it or correct its spelling"
        elif fault["type"] == "missing":
            yield f"{field}: missing; add it"
        else:
            yield f"{field}: {shown(fault['input'], 60)} is wrong: {in_words(fault)}"


def canonical_json(value: Value) -> str:
    """One stable text per value: sorted keys, keys at their defaults left out (but for `version`), newline at the end."""
    data = value.model_dump(mode="json", exclude_defaults=True)
    if "version" in type(value).model_fields:
        data["version"] = 1
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
