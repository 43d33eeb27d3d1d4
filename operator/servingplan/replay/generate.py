"""Arrivals without a log: each class by itself at its rate, or a published mix, with the swing of a day, surges and launches.

Gaps are drawn from a gamma distribution of unit mean whose coefficient of variation is given: 1 is a Poisson stream, more is
burstier, 0 is regular. Changes of the rate stretch the clock: the stream runs on the integral of the rate (``pattern``), so
that counts follow the rate and gaps keep their law.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.classes.request import Request
from servingplan.errors import InputError
from servingplan.replay.events import DemandEvent
from servingplan.replay.mixes import LENGTHS
from servingplan.replay.pattern import Pattern
from servingplan.replay.trace import Arrival


@dataclass(frozen=True)
class Stream:
    """How arrivals are drawn."""

    seconds: float
    """How long."""
    burstiness: float = 1.0
    """Coefficient of variation of the gaps; 1: Poisson."""
    amplitude: float = 0.0
    """The swing of the rate over a day, as a part of its mean, from 0 to 1."""
    length_variation: float = 0.0
    """Coefficient of variation of both lengths, which are lognormal around those of the class; 0: all are equal."""
    faster: float = 1.0
    """Factor on all rates."""
    seed: int = 1
    events: tuple[DemandEvent, ...] = ()
    """Surges and launches."""

    def __post_init__(self) -> None:
        checks = (
            ("--generate", self.seconds, self.seconds > 0, "must be above 0"),
            ("--burstiness", self.burstiness, self.burstiness >= 0, "must be 0 or more"),
            ("--day", self.amplitude, 0 <= self.amplitude <= 1, "must be from 0 to 1"),
            ("--length-variation", self.length_variation, self.length_variation >= 0, "must be 0 or more"),
            ("--faster", self.faster, self.faster > 0, "must be above 0"),
        )
        for field, value, holds, advice in checks:
            if not (holds and math.isfinite(value)):
                raise InputError(field, value, advice)


def generated(spec: PlanSpec, stream: Stream) -> Iterator[Arrival]:
    """The arrivals of all classes in order, from time 0."""
    streams = [
        _of_class(stream, model.name, item.name, float(item.requests_per_second), item.input_tokens, item.output_tokens)
        for model in spec.models
        for item in model.effective_classes
        if item.requests_per_second > 0
    ]
    return heapq.merge(*streams)


def mixed(percent: Sequence[float], model: str, requests_per_second: float, stream: Stream) -> Iterator[Request]:
    """The requests of a mix (``mixes``) to one model, in order, from time 0. Their classes are still to be found.

    Events of single classes of the model have no effect, since a mix has its own types of requests.
    """
    chance = random.Random(f"{stream.seed}/{model}")
    events = [event for event in stream.events if event.model in (None, model) and event.request_class is None]
    for at in _times(chance, requests_per_second, Pattern(stream.amplitude, events), stream):
        prompt, output = chance.choices(LENGTHS, weights=percent)[0]
        tokens_in, tokens_out = (_length(chance, mean, stream.length_variation) for mean in (prompt, output))
        yield Request(tokens_in, tokens_out, max_tokens=tokens_out, at_seconds=at)


def gaps(requests_per_second: float, burstiness: float, *, seed: int) -> Iterator[float]:
    """Seconds between arrivals, without end."""
    chance = random.Random(seed)
    while True:
        yield _gap(chance, burstiness) / requests_per_second


def _of_class(stream: Stream, model: str, name: str, rate: float, prompt: int, output: int) -> Iterator[Arrival]:
    chance = random.Random(f"{stream.seed}/{model}/{name}")
    pattern = Pattern(stream.amplitude, [event for event in stream.events if event.concerns(model, name)])
    for at in _times(chance, rate, pattern, stream):
        tokens_in, tokens_out = (_length(chance, mean, stream.length_variation) for mean in (prompt, output))
        yield Arrival(at, model, name, tokens_in, tokens_out)


def _times(chance: random.Random, rate: float, pattern: Pattern, stream: Stream) -> Iterator[float]:
    passed = _gap(chance, stream.burstiness) * chance.random()
    rate *= stream.faster
    while (at := pattern.when(passed / rate)) < stream.seconds:
        yield at
        passed += _gap(chance, stream.burstiness)


def _gap(chance: random.Random, variation: float) -> float:
    """A gap of unit mean from the gamma distribution with shape 1/variation^2."""
    if variation == 0:
        return 1.0
    shape = 1 / variation**2
    return chance.gammavariate(shape, 1 / shape)


def _length(chance: random.Random, mean: int, variation: float) -> int:
    """A length of at least 1 from the lognormal distribution with this mean and coefficient of variation."""
    if variation == 0:
        return mean
    square = math.log1p(variation**2)
    return max(1, round(mean * math.exp(chance.gauss(-square / 2, math.sqrt(square)))))
