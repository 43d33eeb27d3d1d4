"""One request of a log, and how its fields are read: lengths, times, tokens of a text."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import NamedTuple, override

CHARACTERS_PER_TOKEN = 4
"""For logs that hold texts: the rule by which the engine emulator counts too."""
LONGEST_TOKENS = 10_000_000
"""What a plan may declare at most."""
_MILLISECONDS_FROM = 1e11
"""A number above is a time in milliseconds: in seconds it would be after the year 5000."""


class Request(NamedTuple):
    """A request that was answered."""

    input_tokens: int
    output_tokens: int
    max_tokens: int | None = None
    """Bound on the answer that the request declared."""
    at_seconds: float | None = None
    """When it arrived, from any origin."""
    model: str | None = None


class BadRow(NamedTuple):
    """A row that tells of no request."""

    line: int
    column: str
    value: object
    why: str

    @override
    def __str__(self) -> str:
        shown = repr(self.value)
        return f"line {self.line}: {self.column}: {shown if len(shown) <= 60 else shown[:57] + '...'}: {self.why}"


class FieldError(ValueError):
    """A field that cannot be read."""

    def __init__(self, column: str, value: object, why: str) -> None:
        super().__init__(f"{column}: {value!r}: {why}")
        self.column, self.value, self.why = column, value, why


def tokens_in(characters: int) -> int:
    """Tokens of a text of so many characters, rounded up, at least one."""
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


def seconds(column: str, value: object) -> float:
    """A time as seconds: a number (seconds, or milliseconds since 1970), or a date with a time of day (UTC where it
    names no zone).

    Raises:
        FieldError: it is neither.
    """
    number = _number(value)
    if number is not None:
        return number / 1000 if number > _MILLISECONDS_FROM else number
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
