"""Finds the best boundaries by an exact dynamic programme over bands of rows, each cut into runs of columns.

Bands are intervals of prompt lengths. Inside a band, classes are intervals of declared bounds. An ordered list of `match`
fields can express exactly these. The caller gives the cost of a rectangle, and costs add up. Of two equal ways the one with
the smaller boundaries is taken, so the same table always gives the same classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


class Rectangle(NamedTuple):
    """A rectangle: rows and columns from the first up to, but without, the second."""

    row: int
    next_row: int
    column: int
    next_column: int


Cost = Callable[[Rectangle], float]
"""The cost of a rectangle as one class; infinite if it has no request."""


class Split(NamedTuple):
    """A way to cut the table."""

    cost: float
    classes: tuple[Rectangle, ...]
    """The classes by rows, then by columns."""


_NONE = Split(math.inf, ())


def best_splits(rows: int, columns: int, most: int, cost: Cost) -> tuple[Split, ...]:
    """The cheapest split into at most 1, 2, ... ``most`` classes. If more do not help, the smaller split is repeated."""
    bands = {
        (first, after): _within(first, after, columns, min(most, columns), cost)
        for first in range(rows)
        for after in range(first + 1, rows + 1)
    }
    # exactly[k][r] is for the first r rows in k classes.
    exactly = [[_NONE] * (rows + 1) for _ in range(most + 1)]
    exactly[0][0] = Split(0.0, ())
    for count in range(1, most + 1):
        for after in range(1, rows + 1):
            found = _NONE
            for first in range(after):
                for inside, band in enumerate(bands[first, after][:count], start=1):
                    before = exactly[count - inside][first]
                    if before.cost + band.cost < found.cost:
                        found = Split(before.cost + band.cost, (*before.classes, *band.classes))
            exactly[count][after] = found
    splits: list[Split] = []
    for count in range(1, most + 1):
        found = exactly[count][rows]
        splits.append(splits[-1] if splits and splits[-1].cost <= found.cost else found)
    return tuple(splits)


def _within(first: int, after: int, columns: int, most: int, cost: Cost) -> list[Split]:
    """The cheapest way to cut a band into exactly 1, 2, ... classes by columns."""
    costs = {
        (low, high): cost(Rectangle(first, after, low, high))
        for low in range(columns)
        for high in range(low + 1, columns + 1)
    }
    best = [Split(0.0, ()), *[_NONE] * columns]
    found = []
    for _ in range(most):
        following = [_NONE] * (columns + 1)
        for high in range(1, columns + 1):
            for low in range(high):
                total = best[low].cost + costs[low, high]
                if total < following[high].cost:
                    following[high] = Split(total, (*best[low].classes, Rectangle(first, after, low, high)))
        best = following
        found.append(best[columns])
    return found
