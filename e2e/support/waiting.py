"""Waiting for a state with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

_POLL_SECONDS = 0.1
PATIENCE = 10
"""How many times longer than a quiet machine needs is waited before something counts as not coming."""


def wait_for[T](
    what: str,
    look: Callable[[], T | Literal[False] | None],
    *,
    seconds: float,
    shown: Callable[[], object] | None = None,
    poll_seconds: float = _POLL_SECONDS,
) -> T:
    """Look until what is seen is true, and return it. ``shown`` tells, when the time is up, what was there instead.

    ``seconds`` are those of a quiet machine: how busy this one is decides no test. The last look comes after the time is
    up: a machine that stood still meanwhile may have brought it.
    """
    deadline = time.monotonic() + PATIENCE * seconds
    while True:
        late = time.monotonic() > deadline
        seen = look()
        if seen:
            return seen
        if late:
            instead = f"; instead: {shown()}" if shown is not None else ""
            raise AssertionError(f"not within {PATIENCE * seconds:g} s: {what}{instead}")
        time.sleep(poll_seconds)


def hold[T](what: str, look: Callable[[], T], *, seconds: float, shown: Callable[[], object] | None = None) -> None:
    """Look all the time, and once more at its end: what is seen must stay true, however slow the machine is."""
    deadline = time.monotonic() + seconds
    while True:
        over = time.monotonic() >= deadline
        if not look():
            instead = f"; instead: {shown()}" if shown is not None else ""
            raise AssertionError(f"did not stay so for {seconds:g} s: {what}{instead}")
        if over:
            return
        time.sleep(_POLL_SECONDS)
