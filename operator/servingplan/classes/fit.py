"""Finds k classes in a tally: the boundaries with the least work planned wrongly, as classes for a plan.

A plan counts every request of a class with the class's mean lengths. The loss is the GPU time that is thereby planned
wrongly. Over the cells of the table it is the difference between their requests' work and the work by their class's mean
lengths, for prompts and answers separately, as a share of all work, as the mean over the GPU types. Variation that a gateway
cannot see, such as answers that vary among prompts of one length, is not a loss of the classes: cells are compared by their
sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from servingplan.api.models_v1alpha1 import Match, RequestClass
from servingplan.classes.cells import Cells
from servingplan.classes.split import Rectangle, best_splits
from servingplan.classes.tally import Sums, total
from servingplan.classes.work import Pace, Work

GAIN = 0.02
"""More classes are not worth it if they gain less."""
_RATE_DIGITS = 6


@dataclass(frozen=True)
class Proposed:
    """One class: its match, and the sums of its requests."""

    name: str
    match: Match
    sums: Sums
    where: Rectangle

    def in_plan(self, requests_per_second: float) -> RequestClass:
        """The class in the form of a plan, at its share of a rate; at least one request in a million seconds."""
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
    """The best classes, at most as many as were asked for."""

    loss: float
    """The share of the work that is planned wrongly for single requests: too much for some, too little for others."""
    missing: float
    """The share of all work that a plan from mean lengths does not see; below 0 if it sees too much."""
    classes: tuple[Proposed, ...]
    """The classes in order of matching."""


def fit(cells: Cells, paces: Sequence[Pace], *, most: int) -> tuple[Fit, ...]:
    """The best classes for k = 1 to ``most``, or for fewer k if the table has fewer cells. The loss never rises with k."""
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
        """The work that the parts' mean lengths leave out, as a share of all work, as the mean over the GPU types."""
        sums = [
            self._cells.part(range(part.row, part.next_row), range(part.column, part.next_column)) for part in parts
        ]
        found = 0.0
        for pace, whole in zip(self._paces, self._whole, strict=True):
            planned = math.fsum(pace.planned(part.requests, part.mean_input, part.mean_output).seconds for part in sums)
            found += 1 - planned / whole
        return found / len(self._paces)


def enough(losses: Sequence[float]) -> int:
    """The index of the fewest classes from which more classes gain less than ``GAIN``."""
    return next(index for index, loss in enumerate(losses) if loss - min(losses) < GAIN)


def _named(cells: Cells, parts: Sequence[Rectangle]) -> tuple[Proposed, ...]:
    """The classes with names in order of matching: longest prompts first, short answers before long ones."""
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
    """The name of a band of prompt lengths; empty if it has all lengths."""
    first, after = band
    if first > 0:
        return f"from-{cells.rows[first]}"
    return f"below-{cells.rows[after]}" if after < len(cells.rows) else ""


def _name(band: str, most: int | None, *, alone: bool) -> str:
    if most is not None:
        return f"{band}-max-{most}".lstrip("-")
    return band or ("all" if alone else "rest")
