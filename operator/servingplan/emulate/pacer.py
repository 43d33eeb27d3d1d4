"""One timer for all engines of a process.

Every engine says when its running iteration ends; the timer goes off at the earliest of these times, but not sooner than
``interval_seconds`` after the last time. What an iteration did is stamped with the iteration's own end, so metrics stay
exact; only what clients see is late, by the interval at most, and several tokens of a stream then leave as one event.

The interval is one millisecond while the process has time to spare, and grows, to a quarter of a second at most, while it
uses more than ``TARGET_SHARE`` of the core time that it can get.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from servingplan.simulate.tally import Histogram

SHORTEST_SECONDS: Final = 0.001
LONGEST_SECONDS: Final = 0.25
TARGET_SHARE: Final = 0.5
WINDOW_SECONDS: Final = 0.2
"""How often the interval is looked at."""

LAG_BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Clock:
    """Engine time: wall time times ``speed``, from 0."""

    def __init__(self, speed: float = 1.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._origin = self._loop.time()
        self.speed = speed

    def now(self) -> float:
        """Engine seconds since the start."""
        return (self._loop.time() - self._origin) * self.speed

    def wall(self, at: float) -> float:
        """The loop's time at an engine time."""
        return self._origin + at / self.speed

    def call_after(self, seconds: float, action: Callable[[], None]) -> asyncio.TimerHandle:
        """Call ``action()`` after so many engine seconds."""
        return self._loop.call_later(seconds / self.speed, action)


class Paced(Protocol):
    """What the pacer drives."""

    def due(self) -> float | None:
        """Engine time at which there is something to do; None while there is not."""

    def catch_up(self) -> None:
        """Do what is due by now."""


def next_interval(interval_seconds: float, busy_share: float) -> float:
    """The interval after a window in which the process used ``busy_share`` of the core time that it could get."""
    if busy_share > TARGET_SHARE:
        return min(LONGEST_SECONDS, interval_seconds * min(2.0, busy_share / TARGET_SHARE))
    return max(SHORTEST_SECONDS, interval_seconds * 0.9)


class Pacer:
    """Drives engines. ``wake`` one after it got work."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.interval_seconds = SHORTEST_SECONDS
        self.lag = Histogram(LAG_BOUNDS)
        """How late the timer went off, in seconds of the wall clock: how long the loop was busy with other things."""
        self._loop = asyncio.get_running_loop()
        self._busy: dict[Paced, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._last_pass = 0.0
        self._window = self._loop.time(), time.process_time(), 0.0

    def wake(self, engine: Paced) -> None:
        """Look after an engine until it has nothing to do."""
        due = engine.due()
        if due is None:
            return
        self._busy[engine] = None
        self._schedule(due)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._busy.clear()

    def _schedule(self, due: float) -> None:
        when = max(self.clock.wall(due), self._last_pass + self.interval_seconds)
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._pass)

    def _pass(self) -> None:
        assert self._timer is not None
        now = self._loop.time()
        self.lag.observe(max(0.0, now - self._timer.when()))
        self._timer = None
        self._last_pass = now
        self._adapt(now)
        present = self.clock.now()
        earliest: float | None = None
        for engine in list(self._busy):
            due = engine.due()
            if due is not None and due <= present:
                engine.catch_up()
                due = engine.due()
            if due is None:
                self._busy.pop(engine, None)
            elif earliest is None or due < earliest:
                earliest = due
        if earliest is not None:
            self._schedule(earliest)

    def _adapt(self, now: float) -> None:
        began, used, late = self._window
        if now - began < WINDOW_SECONDS:
            return
        cpu = time.process_time()
        # While the timer was due and did not go off, the loop or the machine was taken.
        free = now - began - (self.lag.total - late)
        self.interval_seconds = next_interval(self.interval_seconds, (cpu - used) / max(1e-3, free))
        self._window = now, cpu, self.lag.total
