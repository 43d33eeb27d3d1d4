"""Events during a replay: nodes that are lost, engines that are slow, pools that refuse, requests that surge or begin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import InputError, in_words

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class PoolEvent(BaseModel):
    """An event of a pool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: Seconds
    """The time, in seconds from the first arrival."""
    event: Literal["NodeLost", "Slow", "Refused"]
    """NodeLost: the first node of the pool that is up is lost, with its requests. Slow: all engines of the pool take
    ``factor`` times as long. Refused: the pool makes no nodes."""
    pool: str
    seconds: Positive | None = None
    """The duration; None: to the end."""
    factor: Factor = 2.0
    """How many times slower the engines are, for the event Slow."""

    @property
    def words(self) -> str:
        """What happens."""
        if self.event == "NodeLost":
            return f"a node of {self.pool} is lost"
        return f"{self.pool} is slow" if self.event == "Slow" else f"{self.pool} gives no more nodes"


class DemandEvent(BaseModel):
    """An event of generated arrivals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: Seconds
    """The time, in seconds from the start of the arrivals."""
    event: Literal["Surge", "Launch"]
    """Surge: rates are ``factor`` times those of the plan. Launch: there is no request before, and rates rise evenly to
    those of the plan."""
    model: str | None = None
    """The model; None: all. A launch is that of one model."""
    request_class: Annotated[str | None, Field(alias="class")] = None
    """The class of the model; None: all."""
    seconds: Positive | None = None
    """Surge: the duration; None: to the end. Launch: how long rates rise; None: they are there at once."""
    factor: Factor = 2.0
    """By how much rates change, for the event Surge."""

    @property
    def words(self) -> str:
        """What happens."""
        of = "/".join(name for name in (self.model, self.request_class) if name) or "all models"
        return f"requests to {of} begin" if self.event == "Launch" else f"requests to {of} x {self.factor:g}"

    def concerns(self, model: str, name: str) -> bool:
        """Whether it changes the rate of a class."""
        return self.model in (None, model) and self.request_class in (None, name)


Event = PoolEvent | DemandEvent
_KINDS: Mapping[str, type[PoolEvent] | type[DemandEvent]] = {
    "NodeLost": PoolEvent, "Slow": PoolEvent, "Refused": PoolEvent, "Surge": DemandEvent, "Launch": DemandEvent,
}  # fmt: skip


def events_of(items: Iterable[tuple[int, Any]], spec: PlanSpec, *, name: str) -> tuple[Event, ...]:
    """The events of a file for a plan, each given with its line.

    Raises:
        InputError: one makes no sense, or comes before the one above it; with its line, number and field.
    """
    found: list[Event] = []
    pools = {pool.name for pool in spec.node_pools}
    for number, (line, item) in enumerate(items, start=1):
        where = f"{name} line {line}, event {number}"
        if not isinstance(item, dict):
            raise InputError(where, item, "must be a mapping with at, event, and its pool or model")
        kind = item.get("event")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise InputError(f"{where}: event", kind, f"must be one of {', '.join(_KINDS)}")
        if _KINDS[kind] is PoolEvent and "pool" not in item:
            raise InputError(f"{where}: pool", None, f"is required; give one of {', '.join(sorted(pools))}")
        try:
            event = _KINDS[kind].model_validate(item)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "event"
            raise InputError(f"{where}: {field}", first["input"], in_words(first)) from error
        if isinstance(event, PoolEvent):
            _check_name(f"{where}: pool", event.pool, pools, "the plan's pools")
        else:
            _check_demand(where, event, spec, found)
        if found and event.at < found[-1].at:
            raise InputError(
                f"{where}: at", event.at, f"is before the event above it, at {found[-1].at:g}; sort them by time"
            )
        found.append(event)
    return tuple(found)


def _check_demand(where: str, event: DemandEvent, spec: PlanSpec, before: Iterable[Event]) -> None:
    classes = {model.name: {item.name for item in model.effective_classes} for model in spec.models}
    if event.model is None:
        if event.event == "Launch" or event.request_class is not None:
            of = "a Launch" if event.event == "Launch" else "a class"
            raise InputError(
                f"{where}: model", None, f"is required with {of}; give one of {', '.join(sorted(classes))}"
            )
        return
    _check_name(f"{where}: model", event.model, classes, "the plan's models")
    if event.request_class is not None:
        _check_name(f"{where}: class", event.request_class, classes[event.model], f"the classes of {event.model}")
    if event.event == "Launch":
        for other in before:
            if isinstance(other, DemandEvent) and other.event == "Launch" and other.model == event.model:
                mine, theirs = event.request_class, other.request_class
                if mine is None or theirs is None or mine == theirs:
                    raise InputError(f"{where}: model", event.model, "is launched above; leave one of the two out")


def _check_name(field: str, value: str, known: Iterable[str], of: str) -> None:
    if value not in (names := sorted(known)):
        raise InputError(field, value, f"is none of {of}; give one of {', '.join(names)}")
