"""Events during a replay: nodes that are lost, engines that are slow, pools that refuse."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from servingplan.errors import InputError, in_words

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Event(BaseModel):
    """One event."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: Seconds
    """The time, in seconds from the first arrival."""
    event: Literal["NodeLost", "Slow", "Refused"]
    """NodeLost: the first node of the pool that is up is lost, with its requests. Slow: all engines of the pool take
    ``factor`` times as long. Refused: the pool makes no nodes."""
    pool: str
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The duration; None: to the end."""
    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    """How many times slower the engines are, for the event Slow."""


def events_of(items: Iterable[tuple[int, Any]], pools: Collection[str], *, name: str) -> tuple[Event, ...]:
    """The events of a file, each given with its line.

    Raises:
        InputError: one makes no sense, or comes before the one above it; with its line, number and field.
    """
    found: list[Event] = []
    for number, (line, item) in enumerate(items, start=1):
        where = f"{name} line {line}, event {number}"
        try:
            event = Event.model_validate(item)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "event"
            raise InputError(f"{where}: {field}", first["input"], in_words(first)) from error
        if event.pool not in pools:
            known = ", ".join(sorted(pools))
            raise InputError(f"{where}: pool", event.pool, f"is none of the plan's pools; give one of {known}")
        if found and event.at < found[-1].at:
            raise InputError(
                f"{where}: at", event.at, f"is before the event above it, at {found[-1].at:g}; sort them by time"
            )
        found.append(event)
    return tuple(found)
