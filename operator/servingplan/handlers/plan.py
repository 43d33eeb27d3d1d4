"""Plans come and go: one daemon per plan takes its turns, one handler retires it. They never run at the same time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, override

import kopf

from servingplan.api.v1alpha1 import GROUP, PLURAL, VERSION
from servingplan.cycle import Turns
from servingplan.errors import ApiError
from servingplan.handlers.wake import Alarm, Interest, Watchers
from servingplan.kube import Kube
from servingplan.metrics.exporter import Exporter, PlanMetrics
from servingplan.observe.cluster import Reader
from servingplan.observe.demand import DemandReader
from servingplan.settings import Settings

log = logging.getLogger("servingplan")

SHORTEST_PAUSE_SECONDS = 0.1
"""Between two turns: a burst of events is one turn."""
AFTER_WRITES_SECONDS = 0.5
"""After our own writes, should no event tell of them."""
LONGEST_RETRY_SECONDS = 30.0

MakeTurns = Callable[[str, str, PlanMetrics], Turns]


class Operator:
    """What the handlers share: made at the start-up, closed at the end."""

    def __init__(self, settings: Settings, make_turns: Callable[[Kube, Reader], MakeTurns], exporter: Exporter) -> None:
        self.settings = settings
        self._exporter = exporter
        self._make_turns = make_turns
        self._locks: dict[str, asyncio.Lock] = {}

    def open(self) -> None:
        """Connect and begin to watch; in the event loop."""
        self.api = Kube.connect()
        self.alarm = Alarm(asyncio.get_running_loop())
        self.demand = DemandReader(ring=self.alarm.wake)
        self.demand.start()
        self.reader = Reader(
            self.api,
            pool_kinds=self.settings.pool_kinds,
            catalogue_namespace=self.settings.catalogue_namespace or None,
            demand=self.demand,
        )
        self.turns = self._make_turns(self.api, self.reader)
        self.watchers = Watchers(api=self.api, settings=self.settings, ring=self.alarm.ring)
        self.watchers.start()

    def close(self) -> None:
        """End what ``open`` began."""
        self.watchers.stop()
        self.demand.close()
        self.reader.close()

    def lock(self, uid: str) -> asyncio.Lock:
        """One writer per plan."""
        return self._locks.setdefault(uid, asyncio.Lock())

    def forget(self, uid: str) -> None:
        """The plan is gone."""
        self._locks.pop(uid, None)

    async def look_after(self, *, namespace: str, name: str, uid: str, stopped: kopf.DaemonStopped) -> None:
        """Turn after turn until the plan is deleted or the operator ends."""
        with self._measured(namespace, name) as metrics:
            await self._take_turns(self.turns(namespace, name, metrics), namespace, name, uid, stopped)

    async def _take_turns(self, turns: Turns, namespace: str, name: str, uid: str, stopped: kopf.DaemonStopped) -> None:
        bell = self.alarm.bell(namespace, name)
        retry = 1.0
        while not stopped:
            bell.clear()
            pause = self.settings.period_seconds
            try:
                async with self.lock(uid):
                    if stopped:
                        return
                    report = await turns.take()
                retry = 1.0
                if report.gone:
                    return
                log.debug("%s/%s: turn of %.3f s, %d writes", namespace, name, report.seconds, report.writes)
                if report.world is not None:
                    self.alarm.care(namespace, name, Interest.of(report.world))
                if report.wake_in_seconds is not None:
                    pause = min(pause, max(SHORTEST_PAUSE_SECONDS, report.wake_in_seconds))
                if report.again:
                    pause = min(pause, AFTER_WRITES_SECONDS)
            except ApiError as error:
                pause, retry = max(retry, error.retry_after_seconds or 0.0), min(2 * retry, LONGEST_RETRY_SECONDS)
                log.warning("%s/%s: the turn did not end: %s; next try in %.0f s", namespace, name, error, pause)
            except Exception:
                log.exception("%s/%s: the turn failed; next try in %.0f s", namespace, name, retry)
                pause, retry = retry, min(2 * retry, LONGEST_RETRY_SECONDS)
            await _sleep(bell, stopped, pause)

    async def retire(self, *, namespace: str, name: str, uid: str) -> None:
        """Steps of retirement until nothing is left to do."""
        with self._measured(namespace, name) as metrics:
            await self._take_leave(self.turns(namespace, name, metrics), namespace, name, uid)
        self.alarm.forget(namespace, name)
        self.forget(uid)

    async def _take_leave(self, turns: Turns, namespace: str, name: str, uid: str) -> None:
        bell = self.alarm.bell(namespace, name)
        while True:
            bell.clear()
            async with self.lock(uid):
                report = await turns.retire()
            if report.gone:
                break
            pause = AFTER_WRITES_SECONDS if report.again else 5.0
            if report.wake_in_seconds is not None:
                pause = min(pause, max(SHORTEST_PAUSE_SECONDS, report.wake_in_seconds))
            await _until(bell, pause)

    @contextmanager
    def _measured(self, namespace: str, name: str) -> Iterator[PlanMetrics]:
        """The plan's metrics, for as long as it is looked after."""
        metrics = self._exporter.plan(namespace, name)
        try:
            yield metrics
        finally:
            self._exporter.forget(namespace, name, metrics)


async def _sleep(bell: asyncio.Event, stopped: kopf.DaemonStopped, seconds: float) -> None:
    """Until the bell, the end, or the time is up; never shorter than a burst of events."""
    end = time.monotonic() + seconds
    _ = await stopped.wait(min(seconds, SHORTEST_PAUSE_SECONDS))
    left = end - time.monotonic()
    if stopped or left <= 0:
        return
    waits = [asyncio.ensure_future(bell.wait()), asyncio.ensure_future(stopped.wait(left))]
    _, pending = await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()
    await asyncio.gather(*pending, return_exceptions=True)


async def _until(bell: asyncio.Event, seconds: float) -> None:
    await asyncio.sleep(SHORTEST_PAUSE_SECONDS)
    try:
        async with asyncio.timeout(seconds):
            await bell.wait()
    except TimeoutError:
        return


class KeepsNothing(kopf.DiffBaseStorage):
    """kopf would write each plan's spec into an annotation to compare it later; turns compare with the cluster."""

    @override
    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Nothing is kept."""
        return None

    @override
    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is kept."""


def register(registry: kopf.OperatorRegistry, operator: Operator) -> None:
    """Hang the operator into kopf."""

    @kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)  # whoever runs us starts us again
    async def begin(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.persistence.finalizer = f"{GROUP}/retire"
        settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
        settings.persistence.diffbase_storage = KeepsNothing()
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.watching.server_timeout = 240
        settings.watching.client_timeout = 270
        settings.watching.connect_timeout = 10
        settings.background.cancellation_polling = 1
        settings.background.instant_exit_timeout = 0.5
        settings.process.ultimate_exiting_timeout = 30
        operator.open()

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:
        operator.close()

    @kopf.on.login(registry=registry)
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.probe(registry=registry, id="turns")
    async def alive(**_: Any) -> str:
        return "the event loop answers"

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def changed(namespace: str | None, name: str | None, **_: Any) -> None:
        operator.alarm.bell(namespace or "", name or "").set()

    @kopf.daemon(GROUP, VERSION, PLURAL, registry=registry)
    async def plan(
        namespace: str | None, name: str | None, uid: str | None, stopped: kopf.DaemonStopped, **_: Any
    ) -> None:
        await operator.look_after(namespace=namespace or "", name=name or "", uid=uid or "", stopped=stopped)

    @kopf.on.delete(GROUP, VERSION, PLURAL, registry=registry, backoff=5)
    async def retire(namespace: str | None, name: str | None, uid: str | None, **_: Any) -> None:
        await operator.retire(namespace=namespace or "", name=name or "", uid=uid or "")


def run(settings: Settings, make_turns: Callable[[Kube, Reader], MakeTurns]) -> None:
    """The operator until a signal ends it."""
    exporter = Exporter()
    registry = kopf.OperatorRegistry()
    register(registry, Operator(settings, make_turns, exporter))
    liveness = f"http://{settings.liveness_address}/healthz" if settings.liveness_address else None
    with exporter.serving(settings.metrics_address):
        kopf.run(
            registry=registry,
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=list(settings.namespaces),
            liveness_endpoint=liveness,
        )
