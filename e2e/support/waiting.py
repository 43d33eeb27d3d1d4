"""Waiting for a state with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

_POLL_SECONDS = 0.1


def wait_for[T](what: str, look: Callable[[], T], *, seconds: float, shown: Callable[[], object] | None = None) -> T:
    """Look until what is seen is true, and return it. ``shown`` tells, when the time is up, what was there instead."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            instead = f"; instead: {shown()}" if shown is not None else ""
            raise AssertionError(f"not within {seconds:g} s: {what}{instead}")
        time.sleep(_POLL_SECONDS)


def hold[T](what: str, look: Callable[[], T], *, seconds: float, shown: Callable[[], object] | None = None) -> None:
    """Look all the time: what is seen must stay true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not look():
            instead = f"; instead: {shown()}" if shown is not None else ""
            raise AssertionError(f"did not stay so for {seconds:g} s: {what}{instead}")
        time.sleep(_POLL_SECONDS)
