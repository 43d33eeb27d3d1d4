"""Chooses the rates of a measurement and finds the knee, within limits.

1. Warm-up: single requests, which also show how many words make the wanted prompt.
2. Rates are doubled, or multiplied by four, until the server does not keep up.
3. Twice the sustained rate fills the server. The rate at which it then completes requests is the knee: beyond it, open
   arrivals wait without end.
4. Rates below the knee show the times at these loads.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from servingplan.errors import InputError
from servingplan.measure import figures
from servingplan.measure.figures import Interval
from servingplan.measure.load import Load, Outcome, Spent
from servingplan.measure.request import Endpoint, Sample, Trouble

KEEPS_UP = 0.8
"""While rates are doubled, a server keeps up if it completes this share of the arrivals."""
UNMOVED = 1.2
"""Rates are multiplied by four while requests take less than this multiple of the time of one alone."""
OVERLOAD = 2.0
"""The rate that fills a server, as a multiple of its estimated rate."""
FULL = 0.9
"""The server was full if it completed less than this share of the arrivals."""
PARTS_OF_KNEE = (0.25, 0.5, 0.7, 0.8, 0.9)
HALF_WIDTH = 0.02
"""The rate of a full server is measured until its 95 % interval is this narrow, to each side."""
FEWEST = 20
"""The fewest requests of a load that counts."""
MOST_WAITS = 3
LONGEST_WAIT_SECONDS = 60.0
WARM_UP_SHARE = 0.2
"""The share of a load's first requests that are not counted."""


class Lengths(NamedTuple):
    """A class of requests."""

    name: str
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Limits:
    """The limits for one class."""

    requests: int = 4000
    seconds: float = 1800.0
    tokens: int = 20_000_000
    requests_a_load: int = 300
    """The requests at each rate below the knee."""
    most_in_flight: int = 2048


class Point(NamedTuple):
    """The measurement of one load."""

    offered: Interval | None
    """The arrivals per second; None if they were more than the server could take."""
    completed: Interval
    ttft: tuple[float, ...]
    tpot: tuple[float, ...]
    """The times of each request in order of arrival. A full server has no times to the first token."""
    prompt_tokens: float
    answer_tokens: float
    requests: int
    note: str = ""

    @property
    def saturated(self) -> bool:
        """Whether the server was full."""
        return self.offered is None


@dataclass
class Sweep:
    """The results for one class so far. They stay if the rest fails."""

    lengths: Lengths
    points: list[Point] = field(default_factory=list)
    stopped: str | None = None
    """The text of why the sweep ended early; None if it did not."""

    @property
    def knee(self) -> Point | None:
        """The point of the full server; None if it was not found."""
        return next((point for point in self.points if point.saturated), None)


Report = Callable[[str, int, int], None]
"""A callback for progress: the step, its requests so far, and their total."""


async def sweep(
    endpoint: Endpoint, lengths: Lengths, limits: Limits, *, seed: int, stopped: asyncio.Event, report: Report
) -> Sweep:
    """Measure one class.

    Raises:
        InputError: the first request is not answered correctly.
    """
    found = Sweep(lengths)
    loop = asyncio.get_running_loop()
    spent = Spent(limits.requests, limits.tokens, loop.time() + limits.seconds, stopped=stopped)
    random_numbers = random.Random(f"{seed}/{lengths.name}")
    words = _Words(random_numbers)
    alone = await _warm_up(endpoint, lengths, spent, words, report)
    if alone is None:
        found.stopped = spent.exhausted()
        return found
    load = Load(endpoint, spent, words.prompt, lengths.output_tokens, limits.most_in_flight)
    low: list[Point] = []
    try:
        await _measure(found, low, load, limits, random_numbers, alone_seconds=alone, report=report)
    except _Ended as end:
        found.stopped = str(end)
    if found.knee is None:
        found.points = low
    return found


class _Ended(Exception):  # noqa: N818 (no error: what was measured before it stands)
    """The endpoint failed, or a limit is reached."""


async def _measure(
    found: Sweep,
    low: list[Point],
    load: Load,
    limits: Limits,
    random_numbers: random.Random,
    *,
    alone_seconds: float,
    report: Report,
) -> None:
    """Run one load after the other. The result of each is kept before the next one begins.

    Args:
        low: gets the results below the knee, in case no knee is found.

    Raises:
        _Ended: the sweep ends early.
    """
    rate, seconds = 1.0 / alone_seconds, alone_seconds
    kept_up_rate = rate / 2  # every server can serve one request at a time
    while found.knee is None:
        kept = 1.0
        while True:
            requests = min(limits.requests_a_load, max(FEWEST + FEWEST // 2, math.ceil(4 * seconds * rate)))
            load.report = _named(report, f"{rate:.3g} requests/s")
            outcome = await load.run(rate, random_numbers, requests=requests)
            kept = _last_half(outcome)
            point = _below(outcome)
            if point is not None and kept >= KEEPS_UP:
                low.append(point)
            _go_on(outcome)
            if kept < KEEPS_UP:
                break
            kept_up_rate = rate
            seconds = _seconds_per_request(outcome) or seconds
            rate *= 2.0 if seconds > UNMOVED * alone_seconds else 4.0
        # If the estimate was too low, it does not fill the server, and the doubling continues from there.
        offered = max(OVERLOAD * rate * kept, 1.5 * kept_up_rate)
        load.report = _named(report, f"full, {offered:.3g} requests/s")
        kept_back = len(PARTS_OF_KNEE) * limits.requests_a_load + FEWEST
        most = max(FEWEST, limits.requests - load.spent.used_requests - kept_back)
        outcome = await load.run(offered, random_numbers, requests=most, enough=_narrow, drain=False)
        full = _full(outcome)
        if full is not None and full.completed.value * _arrival_seconds(outcome) < FULL * outcome.sent:
            found.points.append(full)
        _go_on(outcome)
        rate = 2.0 * offered
    knee = found.points[-1].completed.value
    await _calm(load, seconds_alone=alone_seconds)
    for part in PARTS_OF_KNEE:
        load.report = _named(report, f"{part:g} of the knee, {part * knee:.3g} requests/s")
        outcome = await load.run(part * knee, random_numbers, requests=limits.requests_a_load)
        below = _below(outcome)
        if below is not None:
            found.points.append(below)
        _go_on(outcome)


def _go_on(outcome: Outcome) -> None:
    reason = outcome.broken or outcome.ended
    if reason:
        raise _Ended(reason)


def _named(report: Report, what: str) -> Callable[[int, int], None]:
    return lambda done, all_of: report(what, done, all_of)


async def _warm_up(endpoint: Endpoint, lengths: Lengths, spent: Spent, words: _Words, report: Report) -> float | None:
    """The seconds of a single request, once the prompts have the right length; None if a limit came first."""
    alone = 0.0
    words.count = lengths.input_tokens
    waits = 0
    tries = 0
    while tries < 4:
        if spent.exhausted():
            return None
        report("warm-up", tries, 4)
        sample = await endpoint.ask_alone(words.prompt(), lengths.output_tokens)
        spent.used_requests += 1
        spent.used_tokens += sample.prompt_tokens + sample.answer_tokens
        if sample.trouble is Trouble.LIMITED and waits < MOST_WAITS:
            waits += 1
            await asyncio.sleep(min(LONGEST_WAIT_SECONDS, sample.retry_after_seconds or 1.0))
            continue
        if not sample.served:
            if _simpler(endpoint, sample):
                continue
            raise InputError("--url", endpoint.url, f"{sample.trouble}: {sample.message}")
        if endpoint.answers_as is None:
            endpoint.answers_as = sample.model
        assert sample.end is not None
        alone = sample.end - sample.sent
        if sample.prompt_tokens:
            words.count = max(1, round(words.count * lengths.input_tokens / sample.prompt_tokens))
        tries += 1
    return max(alone, 1e-4)


def _simpler(endpoint: Endpoint, sample: Sample) -> bool:
    """Whether to ask again more simply: first without options beyond OpenAI's API, then as a chat."""
    if sample.trouble is not Trouble.STATUS or not sample.message.startswith("4"):
        return False
    if endpoint.options:
        endpoint.options = {}
        return True
    if not endpoint.chat and sample.message.startswith(("404", "405")):
        endpoint.chat = True
        return True
    return False


async def _calm(load: Load, *, seconds_alone: float) -> None:
    """Wait until a request is as fast as one alone, which shows that cancelled requests have left the server."""
    loop = asyncio.get_running_loop()
    until = loop.time() + 60 * seconds_alone + 5.0
    while loop.time() < until and load.spent.exhausted() is None:
        sample = await load.endpoint.ask_alone(load.prompts(), load.answer_tokens)
        load.spent.used_requests += 1
        load.spent.used_tokens += sample.prompt_tokens + sample.answer_tokens
        if sample.end is None or sample.end - sample.sent < 3 * seconds_alone:
            return


def _arrival_seconds(outcome: Outcome) -> float:
    return outcome.arrivals_end - outcome.started


def _seconds_per_request(outcome: Outcome) -> float | None:
    times = [sample.end - sample.due for sample in outcome.served if sample.end is not None]
    return math.fsum(times) / len(times) if times else None


def _last_half(outcome: Outcome) -> float:
    """The ratio of completed to arrived requests, in the second half of the arrivals."""
    middle = outcome.started + _arrival_seconds(outcome) / 2
    ended = sum(1 for item in outcome.served if item.end is not None and middle <= item.end < outcome.arrivals_end)
    came = sum(1 for item in outcome.samples if middle <= item.due < outcome.arrivals_end)
    return ended / came if came else 0.0


def _full_window(outcome: Outcome) -> list[float]:
    """The ends of requests in the steady state of a full server, in order."""
    ends = sorted(sample.end for sample in outcome.served if sample.end is not None)
    return figures.steady([end for end in ends if end < outcome.arrivals_end])


def _narrow(outcome: Outcome) -> bool:
    """Whether a full server's rate is known well enough, or it does not fill. It is checked rarely, since it costs time."""
    if outcome.sent < 6 * FEWEST or outcome.sent % (2 * FEWEST):
        return False
    if outcome.sent - len(outcome.samples) < (1 - FULL) * outcome.sent:
        return True
    ends = _full_window(outcome)
    return len(ends) >= 5 * FEWEST and figures.rate_between(ends).half_width <= HALF_WIDTH


def _full(outcome: Outcome) -> Point | None:
    ends = _full_window(outcome)
    if len(ends) < FEWEST:
        return None
    inside = [sample for sample in outcome.served if sample.end is not None and ends[0] <= sample.end <= ends[-1]]
    return _point(None, figures.rate_between(ends), inside, outcome)


def _below(outcome: Outcome) -> Point | None:
    served = sorted(outcome.served, key=lambda sample: sample.due)
    inside = served[math.floor(WARM_UP_SHARE * len(served)) :]
    if len(inside) < FEWEST:
        return None
    start, stop = inside[0].due, outcome.arrivals_end
    came = figures.rate([sample.due for sample in outcome.samples], start, stop)
    ended = figures.rate([sample.end for sample in outcome.served if sample.end is not None], start, stop)
    return _point(came, ended, inside, outcome)


def _point(offered: Interval | None, completed: Interval, inside: list[Sample], outcome: Outcome) -> Point:
    notes = [f"{outcome.failed} requests failed"] if outcome.failed else []
    notes += [text for text in (outcome.broken, outcome.ended) if text]
    ttft, tpot = [], []
    for sample in inside:
        assert sample.first is not None
        assert sample.end is not None
        ttft.append(sample.first - sample.due)
        if sample.answer_tokens > 1:
            tpot.append((sample.end - sample.first) / (sample.answer_tokens - 1))
    count = len(inside)
    return Point(
        offered=offered,
        completed=completed,
        ttft=() if offered is None else tuple(ttft),
        tpot=tuple(tpot),
        prompt_tokens=math.fsum(sample.prompt_tokens for sample in inside) / count,
        answer_tokens=math.fsum(sample.answer_tokens for sample in inside) / count,
        requests=count,
        note="; ".join(notes),
    )


class _Words:
    """Prompts of random words with different beginnings, so that no prefix cache helps."""

    def __init__(self, random_numbers: random.Random) -> None:
        self._random = random_numbers
        self.count = 1
        """The number of words of a prompt."""

    def prompt(self) -> str:
        return " ".join(self._one() for _ in range(max(1, self.count)))

    def _one(self) -> str:
        return self._random.choice(_VOCABULARY)


def _vocabulary() -> Iterator[str]:
    for first in "bdfgklmnprst":
        for vowel in "aeiou":
            for last in ("n", "t", "r", "l"):
                yield f"{first}{vowel}{last}"


_VOCABULARY = tuple(_vocabulary())
