"""Percentiles of a stream of times, in memory that does not grow with it.

Values are counted in buckets whose bounds are powers of ``GROWTH``, so that a percentile is at most half of a bucket's width
beside the true one, as a fraction of it (DDSketch: Masson, Rim and Lee, VLDB 2019). The smallest and the largest are exact.
"""

from __future__ import annotations

import math
from collections import Counter

GROWTH = 1.01
"""The ratio of the bounds of a bucket, so that percentiles are exact to half a per cent."""
PERCENTILES = (5, 25, 50, 75, 90, 95, 99, 100)
"""The percentiles that are reported."""
_LN_GROWTH = math.log(GROWTH)


class Sketch:
    """Counts positive values by bucket. Values up to ``LEAST`` count as 0."""

    LEAST = 1e-9

    __slots__ = ("_buckets", "_zeros", "count", "largest", "smallest", "total")

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._zeros = 0
        self.count = 0
        self.total = 0.0
        self.smallest = math.inf
        self.largest = -math.inf

    def add(self, value: float) -> None:
        """Count a value."""
        self.count += 1
        self.total += value
        self.smallest = min(self.smallest, value)
        self.largest = max(self.largest, value)
        if value > self.LEAST:
            self._buckets[math.ceil(math.log(value) / _LN_GROWTH)] += 1
        else:
            self._zeros += 1

    @property
    def mean(self) -> float | None:
        """Mean of the values; None without any."""
        return self.total / self.count if self.count else None

    def percentile(self, percent: float) -> float | None:
        """The smallest value that at least this percentage of the values do not exceed; None without values."""
        if not self.count:
            return None
        rank = max(1, math.ceil(percent / 100 * self.count - 1e-9))
        if rank == self.count:
            return self.largest
        seen = self._zeros
        if rank <= seen:
            return max(0.0, self.smallest)
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                middle = 2 * GROWTH**bucket / (1 + GROWTH)
                return min(self.largest, max(self.smallest, middle))
        return self.largest

    def percentiles(self) -> dict[str, float]:
        """``p5`` to ``p100``, and the mean; empty without values."""
        if not self.count:
            return {}
        ranked = sorted(PERCENTILES)
        found = {f"p{percent}": self.percentile(percent) or 0.0 for percent in ranked}
        return {**found, "mean": self.total / self.count}
