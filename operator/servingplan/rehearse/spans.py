"""What became of the requests of each class, by span of time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from servingplan.replay.run import ClassFigures


@dataclass(frozen=True)
class Counts:
    """Requests of one class in one span."""

    arrived: int
    in_time: int
    """Those that arrived in the span and were served within both limits."""
    turned_away: int
    """Those that the gateway turned away; ``unavailable`` of them because no replica was up (503, else 429)."""
    unavailable: int
    cut: int
    """Those that a lost node or a stopped engine cut during the span."""


_COUNTED = ("arrived", "turned_away", "unavailable", "cut")


class Spans:
    """Spans of time, one after the other. Times are in seconds from the first arrival; the last span is open."""

    def __init__(self, classes: Sequence[ClassFigures]) -> None:
        self._classes = classes
        self.starts = [0.0]
        self._before = [self._so_far()]
        """What was counted before each span, by class."""
        self._in_time = [[0] * len(classes)]

    def begin(self, at: float) -> None:
        """End the open span and begin another. One that began at the same time goes on instead."""
        if at > self.starts[-1]:
            self.starts.append(at)
            self._before.append(self._so_far())
            self._in_time.append([0] * len(self._classes))

    def in_time(self, arrived: float, number: int) -> None:
        """Count a request of a class that was served in time, by its arrival."""
        self._in_time[bisect_right(self.starts, arrived) - 1][number] += 1

    def join_pairs(self) -> None:
        """Make one span of every two, so that their number stays bounded."""
        joined = [
            [sum(counts) for counts in zip(*self._in_time[first : first + 2], strict=True)]
            for first in range(0, len(self.starts), 2)
        ]
        self.starts, self._before, self._in_time = self.starts[::2], self._before[::2], joined

    def all(self) -> Iterator[tuple[float, list[Counts]]]:
        """The start of each span, and its counts by class."""
        after = [*self._before[1:], self._so_far()]
        for start, before, end, in_time in zip(self.starts, self._before, after, self._in_time, strict=True):
            found = []
            for first, last, served in zip(before, end, in_time, strict=True):
                arrived, turned_away, unavailable, cut = (b - a for a, b in zip(first, last, strict=True))
                found.append(Counts(arrived, served, turned_away, unavailable, cut))
            yield start, found

    def _so_far(self) -> list[tuple[int, ...]]:
        return [tuple(getattr(item, field) for field in _COUNTED) for item in self._classes]
