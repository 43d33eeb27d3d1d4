"""Finds where the rate of arrivals changed, by a likelihood-ratio test on counts.

Given the requests x, y that came in s and t seconds, are they of one rate? The generalised likelihood ratio of two rates
against one is

    G = x ln(x / s) + y ln(y / t) - (x + y) ln((x + y) / (s + t))

(Basseville and Nikiforov, Detection of Abrupt Changes, 1993, section 2.6, for the Poisson family). Given x + y, y is
binomial, and G is the exponent of Chernoff's bound, so under one rate P(G >= h) <= 2 exp(-h) for every x, y, s and t: no
large counts are assumed. With one test per split and a look per interval the chance of a false alarm within a day is at
most 2 exp(-h) x splits x looks, which gives the threshold.

Real arrivals scatter more than Poisson's. G is divided by the dispersion of the counts around their neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from statistics import median

from servingplan.demand.counts import Interval

FALSE_ALARMS_PER_DAY = 1e-3
"""The accepted rate per class, under Poisson arrivals of a steady rate. It is a bound, not an estimate."""
FEWEST_AFTER = 2
"""The intervals after a change before it is believed. It must also show without its strongest interval, since a single one may
be a burst or a wrong value."""
SHORTEST_FALL_SECONDS = 60.0
"""A falling rate is believed after this time. A pause between bursts is no reason to plan for less, and waiting loses nothing,
since a fleet that could be smaller still serves."""
_FEWEST_PAIRS = 6
_NO_REQUEST = 1e-9
"""Smaller shares of requests count as none, since their squares would vanish."""
_CHI_SQUARE_MEDIAN = 0.4549
"""The median for one degree of freedom."""
_DAY = 86_400.0


def likelihood_gain(x: float, s: float, y: float, t: float) -> float:
    """G of the module's docstring, with the natural logarithm; 0 if the rates are equal."""
    return max(0.0, _term(x, s) + _term(y, t) - _term(x + y, s + t))


def gain_over(rate: float, requests: float, seconds: float) -> float:
    """The same against a given rate: x ln(x / (rate s)) - x + rate s. P(gain >= h) <= 2 exp(-h) (Chernoff)."""
    expected = max(rate * seconds, 1e-9)
    return max(0.0, (requests * math.log(requests / expected) if requests > 0 else 0.0) - requests + expected)


def threshold(intervals: Sequence[Interval]) -> float:
    """The threshold h for this many splits and this time between checks."""
    spacing = median(item[1] for item in intervals)
    return math.log(2.0 * len(intervals) * _DAY / spacing / FALSE_ALARMS_PER_DAY)


def dispersion(intervals: Sequence[Interval]) -> float:
    """The variance of the counts in units of Poisson's, at least 1.

    It comes from the median of the differences of neighbours, so that one step in the rate does not raise it.
    """
    ratios = []
    for (_, s, x), (_, t, y) in pairwise(intervals):
        if x + y > _NO_REQUEST:
            ratios.append((x / s - y / t) ** 2 / (x / s**2 + y / t**2))
    return max(1.0, median(ratios) / _CHI_SQUARE_MEDIAN) if len(ratios) >= _FEWEST_PAIRS else 1.0


def latest_change(intervals: Sequence[Interval]) -> int:
    """The index of the first interval of the present rate; 0 if the rate did not change.

    That interval may contain the moment of the change, and then be a mix of both rates.
    """
    if len(intervals) <= FEWEST_AFTER:
        return 0
    scale = dispersion(intervals)
    needed = threshold(intervals) * scale
    first = 0
    while (split := _best_split(intervals[first:], needed)) > 0:
        first += split
    return first


def _best_split(intervals: Sequence[Interval], needed: float) -> int:
    """The index where two rates gain most over one, if that is enough; else 0."""
    counts = list(accumulate(item[2] for item in intervals))
    seconds = list(accumulate(item[1] for item in intervals))
    gains = []
    for split in range(1, len(intervals) - FEWEST_AFTER + 1):
        x, s = counts[split - 1], seconds[split - 1]
        gain = likelihood_gain(x, s, counts[-1] - x, seconds[-1] - s)
        if gain >= needed:
            gains.append((gain, split))
    for _, split in sorted(gains, reverse=True):
        x, s = counts[split - 1], seconds[split - 1]
        if _shows_without_the_strongest(intervals[split:], x, s, needed):
            rises = (counts[-1] - x) / (seconds[-1] - s) > x / s
            lasts = seconds[-1] - seconds[split] >= SHORTEST_FALL_SECONDS
            # A fall that is too recent counts with the intervals before it.
            return split if rises or lasts else _best_split(intervals[:split], needed)
    return 0


def _shows_without_the_strongest(after: Sequence[Interval], x: float, s: float, needed: float) -> bool:
    y, t = sum(item[2] for item in after), sum(item[1] for item in after)
    rising = y / t > x / s
    gains = [likelihood_gain(x, s, count, length) for _, length, count in after]
    _, length, count = after[gains.index(max(gains))]
    left, left_seconds = y - count, t - length
    return (left / left_seconds > x / s) == rising and likelihood_gain(x, s, left, left_seconds) >= needed


def _term(count: float, seconds: float) -> float:
    return count * math.log(count / seconds) if count > _NO_REQUEST else 0.0
