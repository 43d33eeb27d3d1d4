"""One request of a log, and the parsers of its fields: lengths, times, tokens of a text."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import NamedTuple, override

CHARACTERS_PER_TOKEN = 4
"""The characters of a token in logs with texts; the engine emulator counts the same."""
LONGEST_TOKENS = 10_000_000
"""The most tokens that a plan may declare."""
_MOST_SECONDS = 1e11
"""A time above this number is in milliseconds, or in a smaller unit: in seconds it would be after the year 5000."""


class Request(NamedTuple):
    """A request that was answered."""

    input_tokens: int
    output_tokens: int
    max_tokens: int | None = None
    """The bound on the answer that the request declared; None if it declared none."""
    at_seconds: float | None = None
    """The arrival time in seconds from any origin; None if the log has no times."""
    model: str | None = None
    prefix: tuple[int, ...] = ()
    """The names of the parts of its prompt, of 512 tokens each; equal names mean equal texts up to there. Empty: not known."""


class BadRow(NamedTuple):
    """A row that contains no request."""

    line: int
    column: str
    value: object
    why: str

    @override
    def __str__(self) -> str:
        if self.value is None:
            return f"line {self.line}: {self.column}: {self.why}"
        shown = repr(self.value)
        return f"line {self.line}: {self.column}: {shown if len(shown) <= 60 else shown[:57] + '...'}: {self.why}"


class FieldError(ValueError):
    """A field that cannot be read."""

    def __init__(self, column: str, value: object, why: str) -> None:
        super().__init__(f"{column}: {value!r}: {why}")
        self.column, self.value, self.why = column, value, why


def tokens_in(characters: int) -> int:
    """The tokens of a text with this many characters, rounded up, at least one."""
    return max(1, -(-characters // CHARACTERS_PER_TOKEN))


def length(column: str, value: object) -> int:
    """A number of tokens, at least 1.

    Raises:
        FieldError: it is no whole number, or not from 1 to ten million.
    """
    number = _number(value)
    if number is None or number != math.floor(number):
        raise FieldError(column, value, "is no whole number of tokens")
    if not 1 <= number <= LONGEST_TOKENS:
        raise FieldError(column, value, f"must be from 1 to {LONGEST_TOKENS} tokens")
    return int(number)


def part_names(column: str, value: object) -> tuple[int, ...]:
    """The names of the parts of a prompt.

    Raises:
        FieldError: it is no list of whole numbers, or one is there twice.
    """
    if not isinstance(value, list) or any(isinstance(item, bool) or not isinstance(item, int) for item in value):
        raise FieldError(column, value, "is no list of whole numbers")
    if len(set(value)) < len(value):
        raise FieldError(column, value, "has a number twice, which would be a text that begins with itself")
    return tuple(value)


def seconds(column: str, value: object) -> float:
    """A time in seconds: from a number (seconds, or milli-, micro- or nanoseconds since 1970), or from a date with a time of
    day (UTC if it names no zone).

    Raises:
        FieldError: it is neither.
    """
    number = _number(value)
    if number is not None:
        while number > _MOST_SECONDS:
            number /= 1000
        return number
    try:
        when = datetime.fromisoformat(str(value).strip())
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise FieldError(column, value, "is neither seconds nor a date such as 2023-11-16 18:15:46") from error


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
