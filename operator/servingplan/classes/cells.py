"""The table for the search of boundaries: rows of prompt lengths and columns of declared bounds, few enough for an exact
search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from servingplan.classes.tally import Sums, Tally, total

ROWS = 64
"""The most prompt lengths to choose boundaries from, if the answer is not known at arrival."""
ROWS_AND_COLUMNS = (24, 8)
"""The most prompt lengths and declared bounds, if the answer is known at arrival."""


@dataclass(frozen=True)
class Cells:
    """The sums of requests by row and column; a pair without requests is absent."""

    rows: tuple[int, ...]
    """The least prompt length of each row, rising."""
    columns: tuple[int, ...]
    """The greatest declared bound of each column, rising; the last one has no bound."""
    sums: Mapping[tuple[int, int], Sums]

    def part(self, rows: range, columns: range) -> Sums:
        """The sums of a rectangle."""
        return total(self.sums[key] for row in rows for column in columns if (key := (row, column)) in self.sums)


def cells_of(tally: Tally, *, most_rows: int | None = None, most_columns: int | None = None) -> Cells:
    """The tally on at most ``most_rows`` rows and ``most_columns`` columns of about equal weight.

    Half of the weight is requests and half is tokens, so that rare long prompts, which are much of the work, get own rows.
    """
    bounds = {bound for _, bound in tally.cells}
    default = (ROWS, 1) if len(bounds) == 1 else ROWS_AND_COLUMNS
    rows = _edges(tally, 0, default[0] if most_rows is None else most_rows)
    columns = _edges(tally, 1, default[1] if most_columns is None else most_columns)
    sums: dict[tuple[int, int], Sums] = {}
    for (least, bound), part in sorted(tally.cells.items()):
        row = max(index for index, edge in enumerate(rows) if edge[0] <= least)
        column = min(index for index, edge in enumerate(columns) if bound <= edge[1])
        sums[row, column] = sums.get((row, column), Sums()).plus(part)
    return Cells(tuple(low for low, _ in rows), tuple(high for _, high in columns), sums)


def _edges(tally: Tally, axis: int, most: int) -> list[tuple[int, int]]:
    """The first and last grid length of each group."""
    weights: dict[int, float] = {}
    whole = tally.sums
    tokens = whole.inputs + whole.outputs
    for key, part in sorted(tally.cells.items()):
        weight = part.requests / whole.requests + (part.inputs + part.outputs) / tokens
        weights[key[axis]] = weights.get(key[axis], 0.0) + weight
    groups: list[list[int]] = []
    if len(weights) <= most:
        groups = [[value] for value in sorted(weights)]
    else:
        reached = 0.0
        for value in sorted(weights):
            if len(groups) < 1 + int(reached / 2 * most * (1 - 1e-12)) and len(groups) < most:
                groups.append([])
            groups[-1].append(value)
            reached += weights[value]
    return [(group[0], group[-1]) for group in groups]
