"""Estimates the rate to plan for from counted requests.

It is the quantile of the rates in the window, cut to the time since the last change. A significant trend raises it, and so does
the rate of the same hour on earlier days. Docs: ``docs/demand.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from servingplan.demand.change import dispersion, latest_change
from servingplan.demand.counts import Interval, Point

MOST_BINS = 40
"""The most intervals for the trend; neighbours are merged until there are no more."""
FEWEST_BINS_OF_A_TREND = 8
TREND_SIGNIFICANCE = 4.0
"""Standard deviations of Kendall's S from 0: one steady window in 30,000."""
SPREAD_SIGNIFICANCE = 3.0
"""Standard errors by which a variance must exceed that of counting: one steady window in 100."""
LARGEST_TREND = 0.5
"""A trend adds at most this share of the rate."""
LARGEST_PATTERN = 3.0
"""Earlier days raise the rate to at most this multiple of the present rate."""
FEWEST_DAYS = 2
MOST_DAYS = 7
_DAY, _HOUR = 86_400.0, 3_600.0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The rate to plan for, and how it was estimated."""

    requests_per_second: float
    standard_error: float
    """The standard error of the mean, requests/s."""
    mean: float
    """The mean since the last change, requests/s."""
    seconds: float
    """The seconds in the mean."""
    dispersion: float
    """The variance of the counts in units of Poisson's."""
    changed_at: float | None
    """When a change cut the window, in Unix seconds; None if none did."""
    how: str
    """How the rate was estimated, for people."""


def estimate(
    intervals: Sequence[Interval],
    *,
    history: Sequence[Point] = (),
    quantile: float,
    horizon_seconds: float,
) -> Estimate | None:
    """The rate to plan for over the next ``horizon_seconds``; None if nothing was counted."""
    intervals = [item for item in intervals if item[1] > 0]
    if not intervals:
        return None
    first = latest_change(intervals)
    # The interval in which the rate changed is a mix of both rates.
    kept = intervals[first + 1 :] if first else intervals
    requests, seconds = sum(item[2] for item in kept), sum(item[1] for item in kept)
    mean = requests / seconds
    scale = dispersion(kept)
    rate = _quantile_without_noise(kept, mean, quantile)
    how = [f"quantile {quantile:g}"]
    if first:
        how.append("since a change")
    rising = _trend(kept, horizon_seconds)
    if rising is not None and rising > rate:
        rate = min(rising, (1.0 + LARGEST_TREND) * rate)
        how.append("rising trend")
    usual = _usual(history, kept[-1][0])
    if usual is not None and usual > rate:
        rate = min(usual, LARGEST_PATTERN * rate)
        how.append("daily pattern")
    return Estimate(
        requests_per_second=rate,
        standard_error=math.sqrt(max(requests, 1.0) * scale) / seconds,
        mean=mean,
        seconds=seconds,
        dispersion=scale,
        changed_at=intervals[first][0] - intervals[first][1] if first else None,
        how=", ".join(how),
    )


def _quantile_without_noise(intervals: Sequence[Interval], mean: float, quantile: float) -> float:
    """The quantile of the intervals' rates, moved to the mean by the share of the spread that is the noise of counting.

    A steady Poisson stream has only this noise, and the queueing model already pays for it (``profiles.latency``). The
    spread must exceed the noise by ``SPREAD_SIGNIFICANCE`` standard errors before any of it counts as real.
    """
    number = len(intervals)
    if number < 2 or mean <= 0:
        return mean
    total = sum(item[1] for item in intervals)
    spread = sum(item[1] * (item[2] / item[1] - mean) ** 2 for item in intervals) / total * number / (number - 1)
    noise = mean * number / total * (1.0 + SPREAD_SIGNIFICANCE * math.sqrt(2.0 / (number - 1)))
    if spread <= noise:
        return mean
    passed = 0.0
    for rate, length in sorted((count / length, length) for _, length, count in intervals):
        passed += length
        if passed >= quantile * total - 1e-9:
            return max(0.0, mean + (rate - mean) * math.sqrt(1.0 - noise / spread))
    raise AssertionError("the lengths sum to their total")


def _trend(intervals: Sequence[Interval], horizon_seconds: float) -> float | None:
    """The rate at the end of the horizon by the Theil-Sen slope if Kendall's test finds a rise; else None. The slope is
    carried ahead at most as long as it was seen.

    Sen, JASA 63 (1968): slope = median over pairs. Kendall: S = sum of signs, variance n (n - 1) (2n + 5) / 18.
    """
    bins = list(intervals)
    while len(bins) > MOST_BINS:
        pairs = [bins[index : index + 2] for index in range(0, len(bins), 2)]
        bins = [(pair[-1][0], sum(item[1] for item in pair), sum(item[2] for item in pair)) for pair in pairs]
    number = len(bins)
    if number < FEWEST_BINS_OF_A_TREND:
        return None
    points = [(end - length / 2.0, count / length) for end, length, count in bins]
    signs = sum((right > left) - (right < left) for (_, left), (_, right) in combinations(points, 2))
    if signs <= TREND_SIGNIFICANCE * math.sqrt(number * (number - 1) * (2 * number + 5) / 18.0):
        return None
    slope = median((right[1] - left[1]) / (right[0] - left[0]) for left, right in combinations(points, 2))
    end = bins[-1][0] + min(horizon_seconds, sum(item[1] for item in bins))
    return median(rate + slope * (end - moment) for moment, rate in points)


def _usual(history: Sequence[Point], now: float) -> float | None:
    """The rate of the coming hour on earlier days: the median over the days, each with its busiest overlapping hour."""
    days = []
    for day in range(1, MOST_DAYS + 1):
        then = now - day * _DAY
        rates = [rate for end, rate in history if then < end < then + 2 * _HOUR]
        if rates:
            days.append(max(rates))
    return median(days) if len(days) >= FEWEST_DAYS else None
