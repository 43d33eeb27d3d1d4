"""Sums up a log by prompt length and declared bound, in memory that does not grow with its rows.

The work of requests is linear in a few sums of their lengths (`work`), so only those sums are kept. Lengths are put on a grid
that is exact up to 128 tokens and within 1 % above. The sums themselves are exact, so the order of the rows changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from servingplan.classes.request import BadRow, Request

EXACT_BITS = 7
SHOWN_BAD_ROWS = 5
_MODELS = 100
"""The most model names that are counted separately."""
OTHER_MODELS = "(others)"
UNBOUNDED = 1 << 62
"""The value for the bound of a request that declares none."""


class Sums(NamedTuple):
    """Sums over requests: their number, prompt lengths i, answer lengths o, and the second-order terms of their work."""

    requests: int = 0
    inputs: int = 0
    outputs: int = 0
    inputs_squared: int = 0
    inputs_times_outputs: int = 0
    outputs_squared: int = 0

    @classmethod
    def of(cls, request: Request) -> Self:
        """The sums of one request."""
        i, o = request.input_tokens, request.output_tokens
        return cls(1, i, o, i * i, i * o, o * o)

    def plus(self, other: Sums) -> Sums:
        """The sums of both."""
        return Sums(
            self.requests + other.requests,
            self.inputs + other.inputs,
            self.outputs + other.outputs,
            self.inputs_squared + other.inputs_squared,
            self.inputs_times_outputs + other.inputs_times_outputs,
            self.outputs_squared + other.outputs_squared,
        )

    @property
    def mean_input(self) -> float:
        """The mean prompt length, in tokens."""
        return self.inputs / self.requests

    @property
    def mean_output(self) -> float:
        """The mean answer length, in tokens."""
        return self.outputs / self.requests


def total(parts: Iterable[Sums]) -> Sums:
    """The sums over all parts."""
    found = Sums()
    for part in parts:
        found = found.plus(part)
    return found


@dataclass
class Tally:
    """The sums of a log by cell of the grid: (least prompt length, greatest declared bound)."""

    output_known: bool = False
    """Whether a request's answer length counts as known at its arrival, whatever bound it declares."""
    only_model: str | None = None
    """If set, only requests of this model count."""
    cells: dict[tuple[int, int], Sums] = field(default_factory=dict)
    models: Counter[str] = field(default_factory=Counter)
    declared: int = 0
    """The number of requests that declare a bound on their answer."""
    timed: int = 0
    first_seconds: float = float("inf")
    last_seconds: float = float("-inf")
    longest_tokens: int = 0
    """The most tokens of one request, prompt and answer together."""
    bad_rows: int = 0
    bad_examples: list[BadRow] = field(default_factory=list)

    def add(self, row: Request | BadRow) -> None:
        """Count a row."""
        if isinstance(row, BadRow):
            self.bad_rows += 1
            if len(self.bad_examples) < SHOWN_BAD_ROWS:
                self.bad_examples.append(row)
            return
        if row.model is not None:
            known = row.model in self.models or len(self.models) < _MODELS
            self.models[row.model if known else OTHER_MODELS] += 1
        if self.only_model is not None and row.model != self.only_model:
            return
        bound = row.output_tokens if self.output_known else row.max_tokens
        key = _grid_down(row.input_tokens), UNBOUNDED if bound is None else _grid_up(bound)
        self.cells[key] = self.cells.get(key, Sums()).plus(Sums.of(row))
        self.declared += row.max_tokens is not None
        self.longest_tokens = max(self.longest_tokens, row.input_tokens + row.output_tokens)
        if row.at_seconds is not None:
            self.timed += 1
            self.first_seconds = min(self.first_seconds, row.at_seconds)
            self.last_seconds = max(self.last_seconds, row.at_seconds)

    def all_of(self, rows: Iterable[Request | BadRow]) -> Iterator[int]:
        """Count rows one after the other. After each it yields the number so far, for a display of progress."""
        for number, row in enumerate(rows, start=1):
            self.add(row)
            yield number

    @property
    def sums(self) -> Sums:
        """The sums over all requests that count."""
        return total(self.cells.values())

    @property
    def requests_per_second(self) -> float | None:
        """The mean rate from the first arrival to the last; None if the log has no times."""
        count = self.sums.requests
        span = self.last_seconds - self.first_seconds
        return count / span if self.timed == count and span > 0 else None


def _grid_down(tokens: int) -> int:
    shift = max(0, tokens.bit_length() - EXACT_BITS)
    return tokens >> shift << shift


def _grid_up(tokens: int) -> int:
    shift = max(0, tokens.bit_length() - EXACT_BITS)
    return -(-tokens >> shift) << shift
