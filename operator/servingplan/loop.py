"""WHEN TURNS ARE TAKEN. Wake-ups, back-off, one writer per plan, and the detection of a turn that hangs.

A turn reads everything that it needs from the state of the cluster; a notice of a change only ends a plan's sleep. This module
decides nothing about a plan and does not use kopf.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from servingplan.errors import ApiError
from servingplan.metrics.exporter import Exporter, PlanMetrics
from servingplan.model import names
from servingplan.observe.state import News
from servingplan.planning.situation import Situation
from servingplan.reconcile import TurnReport, Turns

log = logging.getLogger("servingplan")

SHORTEST_PAUSE_SECONDS = 0.1
"""The shortest time between two turns, so that a burst of events is one turn."""
AFTER_WRITES_SECONDS = 0.5
"""The pause after our own writes, in case no event reports them."""
RETIRING_PAUSE_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 30.0
TURN_SECONDS = 240.0
"""The longest time of a turn. After it the turn hangs. A turn waits only for searches in haste, whose process is ended
after three minutes at most (``solvers.GRACE_SECONDS``, ``solvers.START_SECONDS``)."""

Plan = tuple[str, str]
"""The namespace and name of a plan."""
MakeTurns = Callable[[str, str, PlanMetrics], Turns]


class Stopped(Protocol):
    """Says whether the plan's loop must end."""

    def __bool__(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> Awaitable[object]:
        """Wait until then, at most ``timeout`` seconds."""
        ...


@dataclass(frozen=True)
class Interest:
    """What the turns of a plan read. A change of anything else does not wake the plan."""

    namespace: str
    label: str
    selectors: tuple[dict[str, str], ...]
    """The node selectors of the plan's pools."""
    nodes: frozenset[str]
    """The nodes of its pools, and the nodes of its pods."""
    profiles: frozenset[str] = frozenset()
    """The ConfigMaps with measured rates that it names."""
    devices: bool = False
    """Whether the GPUs of a pool are devices, which claims of others may hold."""
    queued: bool = True
    """Whether it names a queue of Kueue's; True as long as no turn has told."""

    @classmethod
    def of(cls, situation: Situation) -> Interest:
        """The interest of a plan, as its last turn saw it."""
        world, spec = situation.world, situation.acting
        return cls(
            namespace=world.plan.namespace,
            label=names.label_value(world.plan.name),
            selectors=tuple(pool.node_selector for pool in spec.node_pools) if spec else (),
            nodes=frozenset(node.name for node in world.nodes),
            profiles=frozenset(item.config_map for item in spec.profiles) if spec else frozenset(),
            devices=any(pool.dra is not None for pool in spec.node_pools) if spec else False,
            queued=world.plan.queue is not None,
        )

    def concerns(self, news: News) -> bool:
        """Whether the news may change the result of a turn."""
        if news.source == "nodes":
            return news.node in self.nodes or any(item.items() <= news.labels.items() for item in self.selectors)
        if (news.namespace, news.plan_label) == (self.namespace, self.label):
            return True
        if news.source == "profiles":
            return news.namespace == self.namespace and news.name in self.profiles
        if news.source in ("pods", "ResourceSlices"):
            return news.node in self.nodes
        if news.source in ("ResourceClaims", "DeviceClasses"):
            return self.devices
        if news.source == "queues":
            return self.queued
        return news.source in ("pools", "catalogues", "refusals")  # few


class Alarm:
    """Ends the sleep of plans. ``ring`` and ``wake`` are for any thread, the other methods for the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wake_ups: dict[Plan, asyncio.Event] = {}
        self._interests: dict[Plan, Interest] = {}

    def wake_up(self, plan: Plan) -> asyncio.Event:
        """The event that a plan sleeps on."""
        return self._wake_ups.setdefault(plan, asyncio.Event())

    def care(self, plan: Plan, interest: Interest) -> None:
        """Limit what wakes a plan to its interest. Before the first call every change wakes it."""
        before = self._interests.get(plan)
        self._interests[plan] = interest
        if before is not None and before.selectors != interest.selectors:
            self.wake_up(plan).set()  # for what happened while the interest was still the old one

    def forget(self, plan: Plan) -> None:
        """Forget a plan that is gone."""
        self._wake_ups.pop(plan, None)
        self._interests.pop(plan, None)

    def ring(self, news: News) -> None:
        """Wake the plans that the news concerns."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ring, news)

    def wake(self, namespace: str, name: str) -> None:
        """Wake one plan, from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, (namespace, name))

    def _wake(self, plan: Plan) -> None:
        wake_up = self._wake_ups.get(plan)
        if wake_up is not None:
            wake_up.set()

    def _ring(self, news: News) -> None:
        for plan, wake_up in self._wake_ups.items():
            interest = self._interests.get(plan)
            if interest is None or interest.concerns(news):
                wake_up.set()


class UnderWay:
    """Holds the running turns, and says which of them hang."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[Plan, float] = {}

    @contextmanager
    def turn(self, plan: Plan) -> Iterator[None]:
        """Register a turn while it runs."""
        self._begun[plan] = self._clock()
        try:
            yield
        finally:
            self._begun.pop(plan, None)

    def hanging(self) -> list[str]:
        """The plans whose turn should have ended. Another thread reads it."""
        now = self._clock()
        return sorted(
            f"{namespace}/{name}"
            for (namespace, name), begun in list(self._begun.items())
            if now - begun > TURN_SECONDS
        )


class Loop:
    """Takes the turns of all plans. A plan has one writer: its turns and its retirement never run at the same time."""

    def __init__(
        self,
        *,
        alarm: Alarm,
        turns: MakeTurns,
        exporter: Exporter,
        period_seconds: float,
        settled: Callable[[float], bool],
        under_way: UnderWay,
    ) -> None:
        """``settled`` waits, in a thread, until the state of the cluster is known, at most the given seconds."""
        self._alarm = alarm
        self._turns = turns
        self._exporter = exporter
        self._period_seconds = period_seconds
        self._settled = settled
        self._under_way = under_way
        self._locks: dict[str, asyncio.Lock] = {}
        self._looked_after: dict[Plan, str] = {}
        """The uid of the plan that last had the name."""

    def changed(self, namespace: str, name: str) -> None:
        """Wake a plan whose object was written."""
        self._alarm.wake_up((namespace, name)).set()

    async def look_after(self, *, namespace: str, name: str, uid: str, stopped: Stopped) -> None:
        """Take turns until the plan is deleted or the operator ends."""
        plan = (namespace, name)
        self._looked_after[plan] = uid
        with self._measured(plan) as metrics, self._turns_of(plan, metrics) as turns:
            pauses = Pauses(self._period_seconds)
            wake_up = self._alarm.wake_up(plan)
            was_gone = False
            await self._until_settled(stopped)
            while not stopped:
                wake_up.clear()
                try:
                    async with self._lock(uid):
                        if stopped:
                            return
                        with self._under_way.turn(plan):
                            report = await turns.take()
                    if report.gone and was_gone:
                        return
                    was_gone = (
                        report.gone
                    )  # one answer alone may be wrong, and nobody would look after the plan any more
                    log.debug("%s/%s: turn of %.3f s, %d writes", namespace, name, report.seconds, report.writes)
                    if report.situation is not None:
                        self._alarm.care(plan, Interest.of(report.situation))
                    pause = pauses.after(report)
                except Exception as error:
                    pause = self._failed(plan, pauses, error)
                await _sleep(wake_up, stopped, pause)

    async def retire(self, *, namespace: str, name: str, uid: str) -> None:
        """Take steps of the retirement until nothing is left to do."""
        plan = (namespace, name)
        with self._measured(plan) as metrics:
            turns = self._turns(namespace, name, metrics)
            pauses = Pauses(RETIRING_PAUSE_SECONDS)
            wake_up = self._alarm.wake_up(plan)
            await self._until_settled(_Never())
            while True:
                wake_up.clear()
                try:
                    async with self._lock(uid):
                        with self._under_way.turn(plan):
                            report = await turns.retire(uid)
                    if report.gone:
                        break
                    pause = pauses.after(report)
                except Exception as error:
                    pause = self._failed(plan, pauses, error)
                await _sleep(wake_up, _Never(), pause)
        if self._looked_after.get(plan) in (None, uid):
            self._looked_after.pop(plan, None)
            self._alarm.forget(plan)  # not that of a new plan of the same name
        self._locks.pop(uid, None)

    def _failed(self, plan: Plan, pauses: Pauses, error: Exception) -> float:
        pause = pauses.after_failure(error)
        if isinstance(error, ApiError):
            log.warning("%s/%s: the turn did not end: %s; next try in %.0f s", *plan, error, pause)
        else:
            log.error("%s/%s: the turn failed; next try in %.0f s", *plan, pause, exc_info=error)
        return pause

    async def _until_settled(self, stopped: Stopped) -> None:
        """Wait until every source was listed once; nothing is decided before."""
        settled = False
        while not (stopped or settled):
            settled = await asyncio.to_thread(self._settled, 1.0)

    def _lock(self, uid: str) -> asyncio.Lock:
        return self._locks.setdefault(uid, asyncio.Lock())

    @contextmanager
    def _turns_of(self, plan: Plan, metrics: PlanMetrics) -> Iterator[Turns]:
        """The turns of a plan. Its search ends with them."""
        turns = self._turns(*plan, metrics)
        try:
            yield turns
        finally:
            turns.stop()

    @contextmanager
    def _measured(self, plan: Plan) -> Iterator[PlanMetrics]:
        """The plan's metrics, which are removed when its loop ends."""
        metrics = self._exporter.plan(*plan)
        try:
            yield metrics
        finally:
            self._exporter.forget(*plan, metrics)


class Pauses:
    """The time until the next turn if nothing wakes the plan. Failures back off; a turn that succeeds resets the back-off."""

    def __init__(self, period_seconds: float) -> None:
        self._period_seconds = period_seconds
        self._retry = 1.0

    def after(self, report: TurnReport) -> float:
        """The seconds to wait after a turn that succeeded."""
        self._retry = 1.0
        pause = self._period_seconds
        if report.wake_in_seconds is not None:
            pause = min(pause, max(SHORTEST_PAUSE_SECONDS, report.wake_in_seconds))
        return min(pause, AFTER_WRITES_SECONDS) if report.again else pause

    def after_failure(self, error: Exception) -> float:
        """The seconds to wait after a turn that failed, at least what the API server asked for."""
        asked = error.retry_after_seconds if isinstance(error, ApiError) else None
        pause, self._retry = max(self._retry, asked or 0.0), min(2 * self._retry, LONGEST_RETRY_SECONDS)
        return pause


class _Never:
    """A loop that is never stopped."""

    def __bool__(self) -> bool:
        return False

    async def wait(self, timeout: float | None = None) -> object:
        await asyncio.sleep(timeout or 0.0)
        return None


async def _sleep(wake_up: asyncio.Event, stopped: Stopped, seconds: float) -> None:
    """Sleep until the plan is woken, the loop must end, or the time is up; at least as long as a burst of events."""
    end = time.monotonic() + seconds
    _ = await stopped.wait(min(seconds, SHORTEST_PAUSE_SECONDS))
    left = end - time.monotonic()
    if stopped or left <= 0:
        return
    waits = [asyncio.ensure_future(wake_up.wait()), asyncio.ensure_future(stopped.wait(left))]
    _, pending = await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
