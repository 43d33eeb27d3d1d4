"""Reads logs of requests in common formats. The format is recognised by the columns of a table or the keys of JSON.

Tables (CSV, tabs or semicolons, with a header): Azure LLM inference traces (``TIMESTAMP,ContextTokens,GeneratedTokens``),
BurstGPT (``Timestamp,Model,Request tokens,Response tokens,...``), and any with columns such as ``input_tokens`` and
``output_tokens``. JSON, an array or one value a line: ShareGPT (``conversations``), WildChat (``conversation``), vLLM's
benchmark results (``input_lens``, ``output_lens``), Mooncake traces (``hash_ids``), JSON access logs of Envoy AI Gateway
(``gen_ai.usage.input_tokens``), and requests with token counts, a ``usage``, or texts.

A conversation gives one request per answer; its prompt is all the text before the answer. Texts count as one token per four
characters.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from servingplan.classes.json_stream import array_items, line_values, lines_of
from servingplan.classes.request import BadRow, FieldError, Request, length, part_names, seconds, tokens_in
from servingplan.errors import InputError

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "input": (
        "input_tokens",
        "prompt_tokens",
        "contexttokens",
        "context_tokens",
        "request_tokens",
        "prompt_len",
        "input_len",
        "input_length",
        "num_prompt_tokens",
        "num_prefill_tokens",
        "gen_ai_usage_input_tokens",
    ),
    "output": (
        "output_tokens",
        "completion_tokens",
        "generatedtokens",
        "generated_tokens",
        "response_tokens",
        "output_len",
        "output_length",
        "expected_output_len",
        "num_generation_tokens",
        "num_decode_tokens",
        "gen_ai_usage_output_tokens",
    ),
    "max": ("max_tokens", "max_completion_tokens", "max_new_tokens"),
    "time": (
        "timestamp",
        "time",
        "t_s",
        "arrival_time",
        "arrived_at",
        "arrival_seconds",
        "start_time",
        "created",
    ),
    "model": ("model", "gen_ai_request_model"),
}
"""The names of columns and keys by their meaning. The first existing one counts; case, spaces and dashes do not matter."""

_ANSWERS = frozenset({"assistant", "gpt", "chatgpt", "model", "bot", "bing", "bard"})
_KNOWN = "give a header or keys such as input_tokens and output_tokens, or an Azure, BurstGPT, ShareGPT, WildChat or vLLM log"

Rows = Iterator[Request | BadRow]


class Log(NamedTuple):
    """A log whose rows are not read yet."""

    format: str
    """The name of the format for people."""
    rows: Rows
    """The rows in the file's order; a row without a request is a ``BadRow``."""


def read_log(chunks: Iterable[str], *, name: str) -> Log:
    """The log in the pieces of a text; rows are read when they are asked for.

    Raises:
        InputError: the text is empty, or nothing in it tells the lengths of a request.
    """
    pieces = iter(chunks)
    start = ""
    while not start.strip():
        piece = next(pieces, None)
        if piece is None:
            raise InputError(name, start[:60], f"the file is empty; {_KNOWN}")
        start = (start + piece).lstrip("\ufeff")
    text = chain((start,), pieces)
    opening = start.lstrip()[0]
    if opening == "[":
        return _json_log(array_items(text), name)
    return _json_log(line_values(text), name) if opening == "{" else _table(text, name)


def _table(chunks: Iterable[str], name: str) -> Log:
    lines = lines_of(chunks)
    blank = 0
    header = ""
    for header in lines:
        if header.strip():
            break
        blank += 1
    separator = next((mark for mark in ",\t;" if mark in header), ",")
    try:
        titles = next(csv.reader([header], delimiter=separator))
    except (csv.Error, StopIteration):
        titles = [header[:60]]
    places = {role: place for role in COLUMNS if (place := _place(titles, COLUMNS[role])) is not None}
    for role, what in (("input", "prompts"), ("output", "answers")):
        if role not in places:
            shown = ",".join(titles)
            raise InputError(f"{name} line {blank + 1}", shown, f"no column tells the length of {what}; {_KNOWN}")
    normal = {_normal(title) for title in titles}
    kind = "table"
    if "contexttokens" in normal:
        kind = "Azure LLM inference trace"
    elif {"request_tokens", "response_tokens"} <= normal:
        kind = "BurstGPT"
    return Log(kind, _table_rows(lines, separator, titles, places, first=blank + 2))


def _table_rows(
    lines: Iterator[str], separator: str, titles: Sequence[str], places: Mapping[str, int], *, first: int
) -> Rows:
    reader = csv.reader(lines, delimiter=separator)
    while True:
        line = first + reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(line, "row", "", f"is no row of a table: {error}")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) <= max(places["input"], places["output"]):
            yield BadRow(line, "row", separator.join(cells), f"has {len(cells)} columns, the header {len(titles)}")
            continue
        fields = {
            role: (titles[place], cells[place]) for role, place in places.items() if place < len(cells) and cells[place]
        }
        yield _row(line, fields)


def _row(line: int, fields: Mapping[str, tuple[str, Any]]) -> Request | BadRow:
    try:
        return _request(fields)
    except FieldError as error:
        return BadRow(line, error.column, error.value, error.why)


def _request(fields: Mapping[str, tuple[str, Any]]) -> Request:
    for role, what in (("input", "prompt"), ("output", "answer")):
        if role not in fields:
            raise FieldError(what, None, f"nothing tells the length of the {what}")
    at, most, model, prefix = (fields.get(role) for role in ("time", "max", "model", "prefix"))
    return Request(
        input_tokens=length(*fields["input"]),
        output_tokens=length(*fields["output"]),
        max_tokens=None if most is None else _bound(*most),
        at_seconds=None if at is None else seconds(*at),
        model=None if model is None else str(model[1]),
        prefix=() if prefix is None else part_names(*prefix),
    )


def _bound(column: str, value: object) -> int | None:
    """The declared bound; None if there is none, for which some clients write 0 or -1."""
    try:
        return length(column, value)
    except FieldError:
        return None


def _json_log(values: Iterator[tuple[int, Any]], name: str) -> Log:
    first = next(values, None)
    if first is None:
        raise InputError(name, "[]", f"holds no request; {_KNOWN}")
    line, value = first
    kind = _kind(value)
    if kind is None and not isinstance(value, BadRow):
        shown = ",".join(sorted(map(str, value))) if isinstance(value, dict) else value
        raise InputError(f"{name} line {line}", shown, f"no key tells the lengths of requests; {_KNOWN}")
    return Log(kind or "JSON", _json_rows(chain((first,), values)))


def _kind(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    if "conversations" in value:
        return "ShareGPT"
    if "conversation" in value:
        return "WildChat"
    if "input_lens" in value:
        return "vLLM benchmark result"
    if "hash_ids" in value:
        return "Mooncake trace"
    record = _flat(value)
    known = {_normal(key) for key in record}
    if "gen_ai_usage_input_tokens" in known:
        return "Envoy AI Gateway access log"
    if known & {"prompt", "messages"}:
        return "requests with texts (vLLM, OpenAI)"
    return "requests with token counts" if known & set(COLUMNS["input"]) else None


def _json_rows(values: Iterator[tuple[int, Any]]) -> Rows:
    for line, value in values:
        if isinstance(value, BadRow):
            yield value
        elif not isinstance(value, dict):
            yield BadRow(line, "value", value, "is no object")
        elif "input_lens" in value:
            yield from _benchmark(line, value)
        elif "conversations" in value or "conversation" in value:
            yield from _conversation(line, value)
        else:
            fields = _fields(_flat(value))
            if "hash_ids" in value and isinstance(value.get("timestamp"), int | float):
                fields["time"] = ("timestamp", value["timestamp"] / 1000)  # milliseconds from its start
            if value.get("hash_ids") is not None:
                fields["prefix"] = ("hash_ids", value["hash_ids"])
            yield _row(line, fields)


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a record on one level: ``usage``, ``body``, ``request`` and ``sampling_params`` contain some of them."""
    nested = [value[key] for key in ("body", "request", "sampling_params", "usage") if isinstance(value.get(key), dict)]
    found: dict[str, Any] = {}
    for part in (value, *nested):
        found.update(part)
    return found


def _fields(record: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """The fields of a record by role: its counts, else counts from the characters of its texts."""
    by_name = {_normal(key): (key, item) for key, item in record.items() if item is not None}
    found = {
        role: by_name[name]
        for role, names in COLUMNS.items()
        for name in reversed(names)
        if name in by_name  # the last assignment wins, which is that of the first name
    }
    for role, keys in (("input", ("messages", "prompt")), ("output", ("response", "completion", "output", "choices"))):
        text = next((characters for key in keys if (characters := _characters(record.get(key))) is not None), None)
        if role not in found and text is not None:
            found[role] = (role, tokens_in(text) if text or role == "input" else 0)
    return found


def _characters(value: object) -> int | None:
    """The characters of a text, of a message's parts, of messages, or of choices; None if there is no text."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return next(
            (_characters(value[key]) for key in ("content", "value", "text", "message") if value.get(key)), None
        )
    if isinstance(value, list):
        found = [count for item in value if (count := _characters(item)) is not None]
        return sum(found) if found else None
    return None


def _conversation(line: int, value: Mapping[str, Any]) -> Rows:
    key = "conversations" if "conversations" in value else "conversation"
    turns = value[key]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        yield BadRow(line, key, turns, "is no list of turns")
        return
    said, answers = 0, 0
    for turn in turns:
        characters = _characters(turn) or 0
        if str(turn.get("from", turn.get("role", ""))).lower() in _ANSWERS:
            answers += 1
            if said == 0:
                yield BadRow(line, key, "", "an answer without a prompt")
            elif characters == 0:
                yield BadRow(line, key, "", "an empty answer")
            else:
                at = turn.get("timestamp") or value.get("timestamp")
                fields = {"input": ("prompt", tokens_in(said)), "output": ("answer", tokens_in(characters))}
                fields |= {"time": ("timestamp", at)} if at is not None else {}
                fields |= {"model": ("model", value["model"])} if value.get("model") else {}
                yield _row(line, fields)
        said += characters
    if not answers:
        yield BadRow(line, key, "", "it has no answer")


def _benchmark(line: int, value: Mapping[str, Any]) -> Rows:
    prompts, answers, starts = value["input_lens"], value.get("output_lens"), value.get("start_times")
    if not isinstance(prompts, list) or not isinstance(answers, list) or len(prompts) != len(answers):
        yield BadRow(line, "output_lens", None, "must be a list as long as input_lens")
        return
    times = starts if isinstance(starts, list) and len(starts) == len(prompts) else [None] * len(prompts)
    model = value.get("model_id")
    for number, (prompt, answer, start) in enumerate(zip(prompts, answers, times, strict=True)):
        fields = {"input": (f"input_lens[{number}]", prompt), "output": (f"output_lens[{number}]", answer)}
        fields |= {"time": (f"start_times[{number}]", start)} if start is not None else {}
        fields |= {"model": ("model_id", model)} if model else {}
        yield _row(line, fields)


def _place(titles: Sequence[str], names: Iterable[str]) -> int | None:
    normal = [_normal(title) for title in titles]
    return next((normal.index(name) for name in names if name in normal), None)


def _normal(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
