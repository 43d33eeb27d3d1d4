"""What a log amounts to, in memory that does not grow with its rows: sums by prompt length and declared bound.

The work of requests is linear in a few sums of their lengths (`work`), so those sums are all that is kept. Lengths are
put together on a grid that is exact up to 128 tokens and within 1 % above; the sums themselves are exact, so the order of
the rows changes nothing.
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
"""Names that are counted apart."""
OTHER_MODELS = "(others)"
UNBOUNDED = 1 << 62
"""Stands for the bound of a request that declares none."""


class Sums(NamedTuple):
    """Sums over requests: how many, prompt lengths i, answer lengths o, and what their work needs of second order."""

    requests: int = 0
    inputs: int = 0
    outputs: int = 0
    inputs_squared: int = 0
    inputs_times_outputs: int = 0
    outputs_squared: int = 0

    @classmethod
    def of(cls, request: Request) -> Self:
        """Of one request."""
        i, o = request.input_tokens, request.output_tokens
        return cls(1, i, o, i * i, i * o, o * o)

    def plus(self, other: Sums) -> Sums:
        """Of both."""
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
        """Mean prompt length, tokens."""
        return self.inputs / self.requests

    @property
    def mean_output(self) -> float:
        """Mean answer length, tokens."""
        return self.outputs / self.requests


def total(parts: Iterable[Sums]) -> Sums:
    """The sums over all parts."""
    found = Sums()
    for part in parts:
        found = found.plus(part)
    return found


@dataclass
class Tally:
    """Sums by (least prompt length, greatest declared bound) of a cell of the grid."""

    output_known: bool = False
    """Whether a request's answer length counts as known at its arrival, whatever bound it declares."""
    only_model: str | None = None
    """Count requests of this model alone."""
    cells: dict[tuple[int, int], Sums] = field(default_factory=dict)
    models: Counter[str] = field(default_factory=Counter)
    declared: int = 0
    """Requests that declare a bound on their answer."""
    timed: int = 0
    first_seconds: float = float("inf")
    last_seconds: float = float("-inf")
    longest_tokens: int = 0
    """Of one request, prompt and answer."""
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
        """Count rows one after the other; yields after each how many there were, for whoever shows progress."""
        for number, row in enumerate(rows, start=1):
            self.add(row)
            yield number

    @property
    def sums(self) -> Sums:
        """Over all requests that count."""
        return total(self.cells.values())

    @property
    def requests_per_second(self) -> float | None:
        """Mean rate from the first arrival to the last; None where the log does not tell times."""
        count = self.sums.requests
        span = self.last_seconds - self.first_seconds
        return count / span if self.timed == count and span > 0 else None


def _grid_down(tokens: int) -> int:
    shift = max(0, tokens.bit_length() - EXACT_BITS)
    return tokens >> shift << shift


def _grid_up(tokens: int) -> int:
    shift = max(0, tokens.bit_length() - EXACT_BITS)
    return -(-tokens >> shift) << shift
