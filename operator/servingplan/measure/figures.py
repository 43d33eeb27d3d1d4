"""PURE. Turns samples into rates and times with confidence intervals.

Rates and means have 95 % intervals by the method of batch means (Law and Kelton, Simulation Modeling and Analysis). Requests
wait for one another, so single ones are not independent, but means over tenths of the run nearly are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

BATCHES = 10
T_QUANTILE = 2.262
"""Student's t for 97.5 % and 9 degrees of freedom."""
PERCENTILES = (50, 90, 95, 99)
_SLICES = 50


class Interval(NamedTuple):
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval, divided by the figure."""
        return (self.high - self.low) / 2 / self.value if self.value > 0 else math.inf


def rate(ends: Sequence[float], start: float, stop: float) -> Interval:
    """The events per second in a window; an interval needs at least ``BATCHES`` events."""
    length = stop - start
    inside = [end for end in ends if start <= end < stop]
    if length <= 0 or not inside:
        return Interval(0.0, 0.0, math.inf)
    counts = [0] * BATCHES
    for end in inside:
        counts[min(BATCHES - 1, int((end - start) / length * BATCHES))] += 1
    found = mean([count * BATCHES / length for count in counts])
    return found if len(inside) >= BATCHES else Interval(found.value, 0.0, math.inf)


def rate_between(ends: Sequence[float]) -> Interval:
    """The events per second from the first of these to the last, without gaps before or after them."""
    if len(ends) < 2 or ends[-1] <= ends[0]:
        return Interval(0.0, 0.0, math.inf)
    value = (len(ends) - 1) / (ends[-1] - ends[0])
    found = rate(ends[1:], ends[0], math.nextafter(ends[-1], math.inf))
    half = max((found.high - found.low) / 2, value / len(ends))  # an error of one event is always possible
    return Interval(value, max(0.0, value - half), value + half)


def steady(ends: Sequence[float]) -> list[float]:
    """The events of a full server without the time until it was full, cut in the largest gap near either edge.

    Requests of one length that started together end together: a batch leaves in waves, and a cut through a wave would count
    a part of it as a whole one.
    """
    if len(ends) < 2 or ends[-1] <= ends[0]:
        return list(ends)
    length = (ends[-1] - ends[0]) / _SLICES
    counts = [0.0] * _SLICES
    for end in ends:
        counts[min(_SLICES - 1, int((end - ends[0]) / length))] += 1
    start = ends[0] + settled(counts) * length
    kept = [end for end in ends if end >= start]
    near = max(1, len(kept) // 10)
    gaps = [after - before for before, after in pairwise(kept)]
    if len(gaps) < 4 * near:
        return kept
    first = max(range(near), key=gaps.__getitem__)
    last = max(range(len(gaps) - near, len(gaps)), key=gaps.__getitem__)
    return kept[first : last + 1]


def mean(values: Sequence[float]) -> Interval:
    """The mean of values in their order, with its interval by batch means."""
    if not values:
        return Interval(math.nan, 0.0, math.inf)
    whole = math.fsum(values) / len(values)
    if len(values) < BATCHES:
        return Interval(whole, 0.0, math.inf)
    size = len(values) / BATCHES
    cuts = [round(number * size) for number in range(BATCHES + 1)]
    means = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    spread = math.sqrt(math.fsum((item - whole) ** 2 for item in means) / (BATCHES - 1) / BATCHES)
    return Interval(whole, max(0.0, whole - T_QUANTILE * spread), whole + T_QUANTILE * spread)


def percentile(values: Sequence[float], share: float) -> float:
    """The percentile: the smallest sample that ``share`` per cent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]


def settled(counts: Sequence[float]) -> int:
    """The number of first counts to leave out, so that the rest shows the steady state.

    It is the cut d with the least ``variance of the rest / (n - d)``: MSER, White, "An Effective Truncation Heuristic for
    Bias Reduction in Simulation Output", Simulation 69 (1997). At most half is left out.
    """
    best, cut = math.inf, 0
    for skipped in range(len(counts) // 2 + 1):
        rest = counts[skipped:]
        if len(rest) < 2:
            break
        centre = math.fsum(rest) / len(rest)
        score = math.fsum((count - centre) ** 2 for count in rest) / len(rest) ** 2
        if score < best * (1 - 1e-9):
            best, cut = score, skipped
    return cut
