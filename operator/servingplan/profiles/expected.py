"""What the profiles expect of replicas at a given load: to be compared with what their engines measured.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. The rate is the median of the estimate and the
latencies are those of ``latency.open_loop`` at that pace: nothing here is cautious.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from servingplan.profiles import latency
from servingplan.profiles.estimate import Estimate, Made, unlimited
from servingplan.profiles.floor import first_token_seconds
from servingplan.profiles.latency import Spread
from servingplan.profiles.measured import MeasuredRows
from servingplan.profiles.promise import HIGHEST_UTILIZATION, LEAST_UTILIZATION, MOST_PACE, Limits, Requests

_SHARES = np.linspace(LEAST_UTILIZATION, HIGHEST_UTILIZATION, 96)
"""The shares of the highest rate at which latencies are computed, all at once; between them they are interpolated."""


class Latencies(NamedTuple):
    """Times, s: means, and one percentile of requests."""

    ttft_seconds: float
    tpot_seconds: float
    ttft_percentile_seconds: float = math.nan
    tpot_percentile_seconds: float = math.nan


@dataclass(frozen=True)
class Expected:
    """What the profiles say of one of several equal replicas."""

    highest_requests_per_second: float
    """Its highest rate."""
    at: Callable[[float], Latencies]
    """The latencies by the share of that rate which arrives, at most ``HIGHEST_UTILIZATION``."""


def expected(
    made: Made,
    *,
    input_tokens: float,
    output_tokens: float,
    spread: Spread,
    copies: int,
    rows: MeasuredRows,
    percentile: float = 95.0,
) -> Expected | None:
    """What is expected of each of ``copies`` replicas; None if such requests do not fit.

    Args:
        input_tokens: the mean length of prompts, at least 1.
        output_tokens: the mean length of answers, likewise.
        spread: the spread of both lengths.
        rows: the measurements that correct the formulas.
        percentile: the percentile of the latencies that is told beside their means.
    """
    lengths = max(1, round(input_tokens)), max(1, round(output_tokens))
    found = unlimited(made, [Requests("", *lengths, Limits(None, None))], confidence=0.5, rows=rows)[""]
    if not isinstance(found, Estimate):
        return None
    floor_seconds = first_token_seconds(made.settings, made.model)
    plain = latency.tabulate(made.steps(), *lengths, spread, floor_seconds=floor_seconds)
    pace = np.clip(plain.top_rate / found.requests_per_second, 1 / MOST_PACE, MOST_PACE)
    table = latency.at_pace(plain, pace)

    rates = _SHARES[None, :] * table.top_rate[:, None]
    loop = latency.open_loop(table, rates, copies=copies, percentile=percentile, end_to_end=False)
    curves = loop.ttft_seconds, loop.tpot_seconds, loop.ttft_percentile_seconds, loop.tpot_percentile_seconds

    def at(utilization: float) -> Latencies:
        return Latencies(*(float(np.interp(utilization, _SHARES, curve[0])) for curve in curves))

    return Expected(found.requests_per_second, at)


class Part(NamedTuple):
    """A class of requests among those that replicas get."""

    requests_per_second: float
    input_tokens: float
    output_tokens: float


class Mix(NamedTuple):
    """The lengths of requests of several classes."""

    input_tokens: float
    output_tokens: float
    spread: Spread


def mix_of(parts: Sequence[Part]) -> Mix | None:
    """The mean lengths of all requests and their spread, if those of each class have the usual one; None without a rate.

    The second moment of a mixture is the mean of those of its parts.
    """
    rate = math.fsum(part.requests_per_second for part in parts)
    if rate <= 0:
        return None
    usual = Spread()

    def moments(lengths: Sequence[float], spread: float) -> tuple[float, float]:
        weights = [part.requests_per_second / rate for part in parts]
        mean = math.fsum(weight * length for weight, length in zip(weights, lengths, strict=True))
        square = math.fsum(
            weight * length**2 * (1 + spread**2) for weight, length in zip(weights, lengths, strict=True)
        )
        return mean, math.sqrt(max(0.0, square / mean**2 - 1))

    prompt, prompt_spread = moments([part.input_tokens for part in parts], usual.prompt)
    answer, answer_spread = moments([part.output_tokens for part in parts], usual.answer)
    return Mix(prompt, answer, Spread(prompt_spread, answer_spread))
