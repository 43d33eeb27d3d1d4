"""Reads JSON values from a text in pieces: lines of JSON, one array, or one document. It never holds the whole text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from servingplan.classes.request import BadRow

LONGEST_VALUE = 1 << 26
"""The most characters of one value; a longer one is not the record of a request."""
_DECODER = json.JSONDecoder()


def lines_of(chunks: Iterable[str]) -> Iterator[str]:
    """The lines of a text with their ends. A line above ``LONGEST_VALUE`` is split."""
    rest = ""
    for chunk in chunks:
        if "\n" not in chunk and len(rest) < LONGEST_VALUE:
            rest += chunk
            continue
        *whole, rest = (rest + chunk).split("\n")
        for line in whole:
            yield line + "\n"
        if len(rest) >= LONGEST_VALUE:
            yield rest
            rest = ""
    if rest:
        yield rest


def array_items(chunks: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """The line and value of every item of a JSON array; a ``BadRow`` instead of a value ends it."""
    pieces = iter(chunks)
    text, line, position = "", 1, 0
    opened = False
    while True:
        position, line = _skip(text, position, line)
        if not opened and text[position : position + 1] == "[":
            opened = True
            position, line = _skip(text, position + 1, line)
        if position < len(text) and text[position] == "]":
            return
        try:
            value, end = _DECODER.raw_decode(text, position)
            if end == len(text) and not isinstance(value, dict | list):
                raise json.JSONDecodeError("may go on", text, end)
        except (json.JSONDecodeError, RecursionError) as error:
            more = _more(pieces, at_least=max(1, len(text) - position))
            if not more or len(text) - position > LONGEST_VALUE or isinstance(error, RecursionError):
                why = "the array does not end" if position == len(text) else "is no JSON; what follows is not read"
                yield line, BadRow(line, "value", text[position : position + 60], why)
                return
            text, position = text[position:] + more, 0
            continue
        yield line, value
        line += text.count("\n", position, end)
        position = end


def line_values(chunks: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """The line number and value of every line of JSON; a ``BadRow`` instead of a wrong value.

    If the first line is not a value by itself, the text is read as one document over all its lines.
    """
    lines = lines_of(chunks)
    first = ""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            if number == 1:
                first = line
                break
            yield number, BadRow(number, "value", line.strip()[:60], "is no JSON")
    else:
        return
    parts, size = [first], len(first)
    for line in lines:
        parts.append(line)
        size += len(line)
        if size > LONGEST_VALUE:
            break
    try:
        yield 1, json.loads("".join(parts))
    except (ValueError, RecursionError):
        yield 1, BadRow(1, "value", first.strip()[:60], "neither this line nor the whole text is JSON")
        yield from _values_after_a_bad_line(parts[1:], lines)


def _values_after_a_bad_line(read: list[str], rest: Iterator[str]) -> Iterator[tuple[int, Any]]:
    number = 1
    for lines in (read, rest):
        for line in lines:
            number += 1
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, BadRow(number, "value", line.strip()[:60], "is no JSON")


def _skip(text: str, position: int, line: int) -> tuple[int, int]:
    start = position
    while position < len(text) and text[position] in ", \t\r\n":
        position += 1
    return position, line + text.count("\n", start, position)


def _more(pieces: Iterator[str], *, at_least: int) -> str:
    """More text, at least ``at_least`` characters if there are so many. A long value is then parsed few times."""
    found: list[str] = []
    size = 0
    while size < at_least:
        piece = next(pieces, None)
        if piece is None:
            break
        found.append(piece)
        size += len(piece)
    return "".join(found)
