"""A percentile, out of counts that engines keep by upper bounds.

The bounds of vLLM's histograms lie up to a factor of 2.5 apart, so a percentile is known for certain only to lie between two of
them. Between these the share of requests below a time is taken to be straight on normal paper: z(share) is linear in ln(time),
z being the quantile function of the normal distribution. This is exact for times whose logarithms are normal, and within the
same two bounds for all others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from servingplan.model.readings import Histogram

FEWEST_BEYOND = 5.0
"""So many requests must be beyond a percentile: fewer are chance. For the 95th, a window needs a hundred requests."""
LEAST_PERCENTILE = 90.0
"""Nearer to the middle most values lie between two bounds, and what is taken of their shape decides: medians of a constant and
an exponential part were off by up to a third. From the 90th on, those of one-humped times were within a tenth."""
_NORMAL = NormalDist()


def together(histograms: Sequence[Histogram | None]) -> Histogram | None:
    """The sum of counts; None if there are none, if one is missing, or if their bounds differ."""
    known = [item for item in histograms if item is not None]
    if not known or len(known) < len(histograms) or len({item.bounds for item in known}) > 1:
        return None
    counts = tuple(math.fsum(column) for column in zip(*(item.counts for item in known), strict=True))
    return Histogram(bounds=known[0].bounds, counts=counts, total=math.fsum(item.total for item in known))


def percentile_of(histogram: Histogram | None, percentile: float) -> float | None:
    """The percentile of the counted values.

    None if the percentile is below ``LEAST_PERCENTILE``, if fewer than ``FEWEST_BEYOND`` values are beyond it, or if it is not
    between two bounds: then the histogram does not tell how small or large it is.
    """
    if (
        histogram is None
        or percentile < LEAST_PERCENTILE
        or histogram.total * (100.0 - percentile) < 100.0 * FEWEST_BEYOND
    ):
        return None
    share = percentile / 100.0
    least, most = 0.5 / histogram.total, 1.0 - 0.5 / histogram.total
    below = None
    for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
        reached = count / histogram.total
        if reached >= share:
            return None if below is None else _between(below, (bound, min(reached, most)), share)
        below = bound, max(reached, least)
    return None


def _between(below: tuple[float, float], above: tuple[float, float], share: float) -> float:
    (low, before), (high, after) = below, above
    first, last = _NORMAL.inv_cdf(before), _NORMAL.inv_cdf(max(after, share))
    part = (_NORMAL.inv_cdf(share) - first) / (last - first)
    return math.exp(math.log(low) + part * (math.log(high) - math.log(low)))


def usual_ratio(spread: float, percentile: float) -> float:
    """The percentile over the mean of lengths with this coefficient of variation, if their logarithms are normal:
    exp(z s - s^2 / 2) with s^2 = ln(1 + spread^2)."""
    sigma = math.sqrt(math.log1p(spread**2))
    return math.exp(_NORMAL.inv_cdf(percentile / 100.0) * sigma - sigma**2 / 2)
