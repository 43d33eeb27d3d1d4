"""Turns samples of counters into requests by interval, whatever the exporter or Prometheus did to them.

Raw samples are used instead of ``rate()``. It extrapolates, which makes single intervals up to half too noisy, and it hides
resets and gaps that matter here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

Point = tuple[float, float]
"""A sample: Unix seconds, value."""
Interval = tuple[float, float, float]
"""An interval: its end (Unix seconds), length (seconds), requests."""
Step = tuple[float, float, float]
"""A step: its start and end (Unix seconds), and the count between them."""

ALIVE_INTERVALS = 2.5
"""A series has ended, since its pod is gone, if its last sample is older than this many intervals."""
_JITTER = 0.05
"""The share of an interval by which scrapes may be early or late."""


def cleaned(points: Iterable[Sequence[object]]) -> list[Point]:
    """The samples that are numbers and not negative, in order of time."""
    good: list[Point] = []
    for point in points:
        try:
            moment, value = float(str(point[0])), float(str(point[1]))
        except (ValueError, IndexError, TypeError):
            continue
        later = not good or moment > good[-1][0]
        if math.isfinite(moment) and math.isfinite(value) and value >= 0 and later:
            good.append((moment, value))
    return good


def counter_steps(points: Sequence[Point]) -> list[Step]:
    """The counts between samples. A counter that falls has restarted from zero."""
    return [
        (start, end, value - before if value >= before else value) for (start, before), (end, value) in pairwise(points)
    ]


def gauge_steps(points: Sequence[Point]) -> list[Step]:
    """The changes of a gauge between samples."""
    return [(start, end, value - before) for (start, before), (end, value) in pairwise(points)]


def merged(series: Sequence[Sequence[Step]]) -> tuple[Interval, ...]:
    """The sum over series that were not sampled at the same moments, on one grid.

    The grid has the spacing of the samples. It ends where all live series have a sample, and begins where all series that
    existed from the start have one, so that no interval lacks a part. A step over several intervals is divided in
    proportion.
    """
    series = [steps for steps in series if steps]
    if not series:
        return ()
    width = max(median(end - start for start, end, _ in steps) for steps in series)
    newest = max(steps[-1][1] for steps in series)
    oldest = min(steps[0][0] for steps in series)
    last = min(steps[-1][1] for steps in series if newest - steps[-1][1] <= ALIVE_INTERVALS * width)
    first = max(steps[0][0] for steps in series if steps[0][0] - oldest <= ALIVE_INTERVALS * width)
    cells = math.floor((last - first) / width + _JITTER)
    if cells < 1:
        return ()
    if len(series) == 1:
        return tuple((end, end - start, max(0.0, count)) for start, end, count in series[0])
    origin = last - cells * width
    sums = [0.0] * cells
    for steps in series:
        for start, end, count in steps:
            low, high = max(0, math.floor((start - origin) / width)), min(cells, math.ceil((end - origin) / width))
            for cell in range(low, high):
                overlap = min(end, origin + (cell + 1) * width) - max(start, origin + cell * width)
                sums[cell] += count * max(0.0, overlap) / (end - start)
    return tuple((origin + (cell + 1) * width, width, max(0.0, count)) for cell, count in enumerate(sums))


def believable(intervals: Iterable[Interval], most_per_second: float) -> tuple[Interval, ...]:
    """The intervals with a rate of at most ``most_per_second``."""
    return tuple(item for item in intervals if item[1] > 0 and item[2] / item[1] <= most_per_second)
