"""Reads logs in pieces, plain or gzip, and shows the progress."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, override

SHOW_EVERY = 5000
"""Rows between two displays of progress."""
_CHUNK = 1 << 16
_GZIP = b"\x1f\x8b"


class _Joined(io.RawIOBase):
    """A stream whose first bytes were read already, since standard input cannot go back."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        super().__init__()
        self._start, self._rest = start, rest

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any, /) -> int:
        data = self._start[: len(buffer)] or self._rest.read(len(buffer))
        self._start = self._start[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def opened(log: str) -> Iterator[tuple[Iterator[str], Callable[[], None]]]:
    """The text of a file in pieces, unpacked if it is gzip, and a function that shows the progress."""
    import gzip

    with nullcontext(sys.stdin.buffer) if log == "-" else Path(log).open("rb") as raw:
        size = 0 if log == "-" else Path(log).stat().st_size
        start = raw.read(len(_GZIP))
        whole = io.BufferedReader(_Joined(start, raw))
        plain = io.BufferedReader(gzip.GzipFile(fileobj=whole)) if start == _GZIP else whole
        # A byte that is not UTF-8 spoils at most its own row.
        text = io.TextIOWrapper(plain, encoding="utf-8", errors="replace", newline=None)
        with progress_bar("reading") as report:
            yield iter(lambda: text.read(_CHUNK), ""), lambda: report(raw.tell() if size else 0, size)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; elsewhere none."""
    if not sys.stderr.isatty():
        yield lambda _done, _all: None
        return
    from rich.progress import Progress

    from servingplan.cli.show import console

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, all_of: bar.update(task, completed=done, total=all_of or None)
