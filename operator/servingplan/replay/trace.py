"""Turns the rows of a log into arrivals, in the order of their times, each with its model and class.

Every fault of a row is reported. Rows without a request are left out and counted, the first ones by line. Rows that are out of
order are sorted within ``WINDOW`` rows; rows that are later than that arrive together with the row before them.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from servingplan.api.matching import class_that_matches, default_class, matching_order
from servingplan.api.models_v1alpha1 import RequestClass
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.classes.request import BadRow, Request
from servingplan.errors import InputError

WINDOW = 10_000
"""The number of rows that are held at a time to put them in order."""
TOLD_ROWS = 5
"""The most bad rows that are reported with their line."""
NO_TIMES = "tells no arrival times; give --rate REQUESTS_PER_SECOND, and its requests arrive at that rate"


class Arrival(NamedTuple):
    """One request as it arrives."""

    at: float
    """Seconds from the first arrival."""
    model: str
    name: str
    """The name of its class."""
    prompt_tokens: int
    output_tokens: int
    prefix: tuple[int, ...] = ()
    """The names of the parts of its prompt; empty if they are not known."""


@dataclass
class Told:
    """Facts of a trace, and what was repaired. They are complete when all arrivals were taken."""

    format: str
    requests: int = 0
    seconds: float = 0.0
    """The time from the first arrival to the last."""
    bad_rows: int = 0
    bad_examples: list[str] = field(default_factory=list)
    """The first bad rows, by line."""
    sorted_rows: int = 0
    """The rows that came out of order and were sorted."""
    late_rows: int = 0
    """The rows that were too far out of order. They arrive together with the row before them."""
    uncovered: Counter[str] = field(default_factory=Counter)
    """The requests whose lengths match no class, by model. They go to its default class."""
    other_models: Counter[str] = field(default_factory=Counter)
    """The requests to models that the plan does not have, by name. They go to the model that replaces these."""
    unnamed: int = 0
    """The requests that name no model. They go there too."""
    stands_in: str = ""
    """That model."""
    with_prefix: int = 0
    """The requests that name the beginning of their prompt."""


@dataclass(frozen=True)
class Reading:
    """How a log is read."""

    model: str | None = None
    """The model that takes requests to models that the plan does not have; None: the first model of the plan."""
    faster: float = 1.0
    """The factor on the speed of arrivals."""
    most_requests: int | None = None
    strict: bool = False
    """Raise at the first bad or late row instead of repairing it."""
    gaps: Iterator[float] | None = None
    """Seconds between arrivals, which replace the log's times."""
    origin: float | None = None
    """The time of the rows that counts as 0; None: that of the first arrival."""


def arrivals_of(
    rows: Iterable[Request | BadRow], spec: PlanSpec, told: Told, reading: Reading, *, name: str
) -> Iterator[Arrival]:
    """The arrivals of a log, in order; ``told`` is filled as they are taken.

    Raises:
        InputError: the log has no times and ``reading`` no gaps; under ``strict`` also at a bad or late row.
    """
    classify = _Classifier(spec, told, reading, name)
    last, first = -math.inf, reading.origin
    for at, late, request in _in_order(_usable(rows, told, reading, name), told):
        if late:
            told.late_rows += 1
            if reading.strict:
                raise InputError(
                    name, at, f"a time is more than {WINDOW} rows late; sort the log, or leave out --strict"
                )
        first = at if first is None else first
        last = max(last, (at - first) / reading.faster)
        model, cls = classify(request)
        told.requests += 1
        told.with_prefix += bool(request.prefix)
        told.seconds = last
        yield Arrival(last, model, cls, request.input_tokens, request.output_tokens, request.prefix)
        if told.requests == reading.most_requests:
            return


def _usable(
    rows: Iterable[Request | BadRow], told: Told, reading: Reading, name: str
) -> Iterator[tuple[float, Request]]:
    now = 0.0
    for row in rows:
        if isinstance(row, BadRow):
            if reading.strict:
                raise InputError(f"{name} {row}", None, "correct the row, or leave out --strict to go on without it")
            told.bad_rows += 1
            if len(told.bad_examples) < TOLD_ROWS:
                told.bad_examples.append(str(row))
        elif reading.gaps is not None:
            yield now, row
            now += next(reading.gaps)
        elif row.at_seconds is None:
            raise InputError(name, None, NO_TIMES)
        else:
            yield row.at_seconds, row


def _in_order(rows: Iterable[tuple[float, Request]], told: Told) -> Iterator[tuple[float, bool, Request]]:
    """Rows by time as far as ``WINDOW`` rows reach, and whether a row is too late for that."""
    held: list[tuple[float, int, Request]] = []
    latest, given = -math.inf, -math.inf
    for number, (at, request) in enumerate(rows):
        told.sorted_rows += at < latest
        latest = max(latest, at)
        heapq.heappush(held, (at, number, request))
        if len(held) > WINDOW:
            at, _, request = heapq.heappop(held)
            yield at, at < given, request
            given = max(given, at)
    while held:
        at, _, request = heapq.heappop(held)
        yield at, at < given, request
        given = max(given, at)


class _Classifier:
    """The model and class of a request."""

    def __init__(self, spec: PlanSpec, told: Told, reading: Reading, name: str) -> None:
        names = [model.name for model in spec.models]
        if reading.model is not None and reading.model not in names:
            raise InputError("--model", reading.model, f"is none of the plan's models; give one of {', '.join(names)}")
        if not names:
            raise InputError(name, None, "the plan has no model")
        self._classes: Mapping[str, tuple[RequestClass, ...]] = {
            model.name: matching_order(model) for model in spec.models
        }
        self._stands_in = told.stands_in = reading.model or names[0]
        self._told = told

    def __call__(self, request: Request) -> tuple[str, str]:
        model = request.model
        if model is None or model not in self._classes:
            if model is not None:
                self._told.other_models[model] += 1
            else:
                self._told.unnamed += 1
            model = self._stands_in
        ordered = self._classes[model]
        found = class_that_matches(ordered, input_tokens=request.input_tokens, max_tokens=request.max_tokens)
        if found is None:
            self._told.uncovered[model] += 1
            found = default_class(ordered)
        return model, found
