"""Polls for the plans whose turns ask, beside the turns and several at a time.

A server that hangs delays the plans that name it, and at most those of their namespace. Each reading has to end by itself:
every query of ``observe.prometheus`` has a deadline.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.observe.asking import SharedThreads
from servingplan.observe.sources import Plan

LOOK_SECONDS = 1.0
"""How often plans that are due are looked for."""
POLLS_AT_ONCE = 8
POLLS_AT_ONCE_PER_NAMESPACE = 2
PAUSE_AFTER_ERROR_SECONDS = 120.0
"""The time until the next reading of a plan whose reading raised."""
FORGOTTEN_AFTER_SECONDS = 600.0
"""A plan is forgotten if no turn has asked for its readings for this long."""


@dataclass
class Watched:
    """The state of one plan's readings; each reader adds what it keeps of them."""

    spec: PlanSpec
    asked_at: float
    """When a turn last asked for it, in monotonic seconds."""
    next_poll: float = 0.0
    """When it is read next, in monotonic seconds; infinite while it is being read."""


class Polling[W: Watched]:
    """The plans that a reader polls, and the thread that finds those that are due. Thread-safe."""

    def __init__(self, name: str, poll: Callable[[Plan], None]) -> None:
        """``poll`` reads one plan and sets its next poll. ``name`` is that of the threads and of the log."""
        self._name = name
        self._poll = poll
        self._plans: dict[Plan, W] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._log = logging.getLogger(f"servingplan.{name}")

    def start(self) -> None:
        """Start polling. The thread does not keep the process alive."""
        threading.Thread(target=self._poll_on, name=self._name, daemon=True).start()

    def close(self) -> None:
        """Stop after the queries that are under way."""
        self._stopped.set()

    def get(self, plan: Plan) -> W | None:
        """The plan's state; None if it is not watched."""
        with self._lock:
            return self._plans.get(plan)

    def asked(self, plan: Plan, update: Callable[[W | None], W]) -> W:
        """The plan's state, after a turn asked for it: what ``update`` makes of the state before."""
        with self._lock:
            watched = self._plans[plan] = update(self._plans.get(plan))
            watched.asked_at = time.monotonic()
            return watched

    def forget(self, plan: Plan) -> None:
        """Poll this plan no more, and keep nothing of it."""
        with self._lock:
            self._plans.pop(plan, None)

    def due(self, now: float) -> list[Plan]:
        """The plans to be read at ``now``, in monotonic seconds. Until they have been read, they are not due again. Plans
        that no turn has asked for lately are forgotten."""
        with self._lock:
            gone = [plan for plan, item in self._plans.items() if now - item.asked_at > FORGOTTEN_AFTER_SECONDS]
            for plan in gone:
                del self._plans[plan]
            due = [plan for plan, item in self._plans.items() if now >= item.next_poll]
            for plan in due:
                self._plans[plan].next_poll = math.inf
            return due

    def _poll_on(self) -> None:
        threads = SharedThreads(POLLS_AT_ONCE, share=POLLS_AT_ONCE_PER_NAMESPACE, name=self._name)
        try:
            while not self._stopped.wait(LOOK_SECONDS):
                for plan in self.due(time.monotonic()):
                    namespace, _ = plan
                    threads.of(namespace).submit(self._poll_safely, plan)
        finally:
            threads.shutdown()

    def _poll_safely(self, plan: Plan) -> None:
        try:
            self._poll(plan)
        except Exception:
            self._log.exception("%s/%s: the reading failed", *plan)
            watched = self.get(plan)
            if watched is not None:
                watched.next_poll = time.monotonic() + PAUSE_AFTER_ERROR_SECONDS
