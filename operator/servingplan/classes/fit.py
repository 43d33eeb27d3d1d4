"""k classes from a tally: the boundaries that plan the least work wrongly, as classes that a plan can hold.

A plan counts every request of a class with the class's mean lengths. The loss is the GPU time that this plans wrongly:
over the cells of the table, the difference between their requests' work and what their class's mean lengths give, for
prompts and answers apart, as a share of all work; the mean over the GPU types. What a gateway cannot see, such as answers
that vary among prompts of one length, is no loss of the classes: cells are compared by their sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from servingplan.api.v1alpha1 import Match, RequestClass
from servingplan.classes.cells import Cells
from servingplan.classes.split import Rectangle, best_splits
from servingplan.classes.tally import Sums, total
from servingplan.classes.work import Pace, Work

GAIN = 0.02
"""More classes that gain less are not worth their while."""
_RATE_DIGITS = 6


@dataclass(frozen=True)
class Proposed:
    """One class: what a gateway matches, and what falls into it."""

    name: str
    match: Match
    sums: Sums
    where: Rectangle

    def in_plan(self, requests_per_second: float) -> RequestClass:
        """As a plan has it, at its share of a rate; at least one request in a million seconds."""
        rate = max(round(requests_per_second, _RATE_DIGITS), 10**-_RATE_DIGITS)
        return RequestClass(
            name=self.name,
            input_tokens=max(1, round(self.sums.mean_input)),
            output_tokens=max(1, round(self.sums.mean_output)),
            requests_per_second=Decimal(f"{rate:.{_RATE_DIGITS}f}").normalize(),
            match=self.match,
        )


@dataclass(frozen=True)
class Fit:
    """The best classes, at most so many as were asked for."""

    loss: float
    """Share of the work that is planned wrongly, for single requests: too much for some, too little for others."""
    missing: float
    """Share of all work that a plan made from mean lengths does not see; below 0 where it sees too much."""
    classes: tuple[Proposed, ...]
    """In order of matching."""


def fit(cells: Cells, paces: Sequence[Pace], *, most: int) -> tuple[Fit, ...]:
    """The best classes for k = 1 to ``most``; fewer where the table has fewer cells. More classes never lose more."""
    loss = loss_of(cells, paces)
    most = min(most, len(cells.sums))
    return tuple(
        Fit(split.cost, loss.missing(split.classes), _named(cells, split.classes))
        for split in best_splits(len(cells.rows), len(cells.columns), most, loss)
    )


def loss_of(cells: Cells, paces: Sequence[Pace]) -> _Loss:
    """The loss of one rectangle of cells as one class."""
    return _Loss(cells, paces)


class _Loss:
    def __init__(self, cells: Cells, paces: Sequence[Pace]) -> None:
        self._cells = cells
        self._paces = paces
        self._works: list[Mapping[tuple[int, int], Work]] = [
            {key: pace.work(sums) for key, sums in cells.sums.items()} for pace in paces
        ]
        self._whole = [math.fsum(work.seconds for work in works.values()) for works in self._works]

    def __call__(self, where: Rectangle) -> float:
        keys = [
            key
            for row in range(where.row, where.next_row)
            for column in range(where.column, where.next_column)
            if (key := (row, column)) in self._cells.sums
        ]
        if not keys:
            return math.inf
        sums = total(self._cells.sums[key] for key in keys)
        lost = 0.0
        for pace, works, whole in zip(self._paces, self._works, self._whole, strict=True):
            planned = pace.planned(1, sums.mean_input, sums.mean_output)
            wrong = 0.0
            for key in keys:
                work, requests = works[key], self._cells.sums[key].requests
                wrong += abs(work.prefill_seconds - requests * planned.prefill_seconds)
                wrong += abs(work.decode_seconds - requests * planned.decode_seconds)
            lost += wrong / whole
        return lost / len(self._paces)

    def missing(self, parts: Sequence[Rectangle]) -> float:
        """Work that the parts' mean lengths leave out, as a share of all; the mean over the GPU types."""
        sums = [
            self._cells.part(range(part.row, part.next_row), range(part.column, part.next_column)) for part in parts
        ]
        found = 0.0
        for pace, whole in zip(self._paces, self._whole, strict=True):
            planned = math.fsum(pace.planned(part.requests, part.mean_input, part.mean_output).seconds for part in sums)
            found += 1 - planned / whole
        return found / len(self._paces)


def enough(losses: Sequence[float]) -> int:
    """The fewest classes from which on more of them gain less than ``GAIN``, as an index."""
    return next(index for index, loss in enumerate(losses) if loss - min(losses) < GAIN)


def _named(cells: Cells, parts: Sequence[Rectangle]) -> tuple[Proposed, ...]:
    """Longest prompts first, short answers before long ones: the order in which their matches hold."""
    bands = sorted({(part.row, part.next_row) for part in parts})
    found = []
    for band in reversed(bands):
        inside = sorted(part for part in parts if (part.row, part.next_row) == band)
        least = cells.rows[band[0]] if band[0] > 0 else None
        band_name = _band_name(cells, band)
        for part in inside:
            most = cells.columns[part.next_column - 1] if part is not inside[-1] else None
            found.append(
                Proposed(
                    name=_name(band_name, most, alone=len(inside) == 1),
                    match=Match(input_tokens_at_least=least, max_tokens_at_most=most),
                    sums=cells.part(range(part.row, part.next_row), range(part.column, part.next_column)),
                    where=part,
                )
            )
    return tuple(found)


def _band_name(cells: Cells, band: tuple[int, int]) -> str:
    """Empty where prompts of all lengths are in it."""
    first, after = band
    if first > 0:
        return f"from-{cells.rows[first]}"
    return f"below-{cells.rows[after]}" if after < len(cells.rows) else ""


def _name(band: str, most: int | None, *, alone: bool) -> str:
    if most is not None:
        return f"{band}-max-{most}".lstrip("-")
    return band or ("all" if alone else "rest")
