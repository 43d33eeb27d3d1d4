"""Draws bars in the terminal, and the same in a file."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path

from rich.bar import Bar
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table

from servingplan.cli.files import fail

WIDTH = 40
FILE_WIDTH = 130


def bars(title: str, columns: Iterable[str], rows: Iterable[tuple[Iterable[str], float]]) -> RenderableType:
    """The view of rows of words, each with a bar; all bars have one scale from 0. ``nan`` has no bar."""
    rows = [(tuple(words), value) for words, value in rows]
    most = max((value for _, value in rows if math.isfinite(value)), default=0.0) or 1.0
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=True)
    table.add_column("")
    for words, value in rows:
        bar = Bar(size=most, begin=0, end=value, width=WIDTH) if math.isfinite(value) else ""
        table.add_row(*words, bar)
    return table


def save(view: RenderableType, path: str) -> None:
    """Write a view to a file, in the form of its ending ``.svg``, ``.html`` or ``.txt``. Ends the command if it cannot."""
    kinds = (".svg", ".html", ".txt")
    ending = Path(path).suffix.lower()
    if ending not in kinds:
        fail(f"--plot: {path!r}: must end with one of {', '.join(kinds)}")
    console = Console(record=True, width=FILE_WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(view)
    match ending:
        case ".svg":
            text = console.export_svg(title="servingplan profile")
        case ".html":
            text = console.export_html()
        case _:
            text = console.export_text()
    try:
        Path(path).write_text(text)
    except OSError as error:
        fail(f"--plot: {path!r}: cannot be written: {error}")
