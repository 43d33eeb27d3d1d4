"""Handlers of plans: one daemon per plan takes its turns, one handler retires it. Everything else is in ``loop``."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, override

import kopf

from servingplan import health
from servingplan.api.v1alpha1 import GROUP, PLURAL, VERSION
from servingplan.errors import ApiError, NotFound
from servingplan.kube import PLANS, Api, Kube
from servingplan.lease import Keeper, Lease
from servingplan.loop import Alarm, Loop, MakeTurns, UnderWay
from servingplan.metrics.exporter import Exporter
from servingplan.model.names import FINALIZER
from servingplan.observe.cluster import Reader
from servingplan.observe.demand import DemandReader
from servingplan.observe.engine_figures import EngineReader
from servingplan.observe.offerings import Offerings
from servingplan.observe.state import ClusterState, News, Overlaid
from servingplan.observe.urls import UrlPolicy
from servingplan.settings import Settings
from servingplan.solvers import Solvers

log = logging.getLogger("servingplan")

MOST_THREADS = 256
"""Largest number of threads for turns. A turn holds one thread while it reads, waits for an answer in haste, or writes."""

LOOK_SECONDS = 2.0
"""The time between two looks for the definition of plans."""
MISSING = (
    "the API server knows no LLMServingPlan; this waits until somebody applies the definition (crds/ of the release)"
)
GONE = "the API server knows no LLMServingPlan any more; a new start waits for the definition"

TurnsOf = Callable[[Api, Reader, Solvers, Callable[[str, str], None]], MakeTurns]
"""Makes the turns of plans. The last argument wakes a plan; any thread may call it."""


class Operator:
    """The state that the handlers share. It is connected at once, and takes turns from ``open`` to ``close``."""

    def __init__(self, settings: Settings, turns_of: TurnsOf, exporter: Exporter, api: Kube) -> None:
        self.settings = settings
        self._turns_of = turns_of
        self._exporter = exporter
        self._api = api
        self._alarm: Alarm | None = None
        self.state = ClusterState(
            api,
            namespaces=settings.namespaces,
            catalogue_namespace=settings.catalogue_namespace or None,
            changed=self._tell,
        )
        self.under_way = UnderWay()
        self.waits_for_definition = False
        """Whether the API server knows no plans yet."""

    def open(self) -> None:
        """Start taking turns; call it in the event loop."""
        loop = asyncio.get_running_loop()
        # A turn that waits for the API server holds a thread; the weights of the other plans must not wait for one.
        loop.set_default_executor(ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="turn"))
        self._alarm = alarm = Alarm(loop)
        self._solvers = Solvers(shared=self.settings.solver_processes, most_seconds=self.settings.most_solver_seconds)
        self._solvers.start()
        urls = UrlPolicy(self._api, allowed_hosts=self.settings.allowed_hosts)
        self._demand = DemandReader(urls=urls, shared=self.settings.prometheus, ring=alarm.wake)
        self._demand.start()
        self._engines = EngineReader(urls=urls, shared=self.settings.prometheus)
        self._engines.start()
        self._offerings = Offerings(self.settings.prometheus)
        self._offerings.start()
        api = Overlaid(self._api, self.state)
        self._reader = Reader(
            api,
            self.state,
            pool_kinds=self.settings.pool_kinds,
            urls=urls,
            pod_access=self.settings.pod_access,
            marks_machines=self.settings.marks_machines,
            namespace_budgets=self.settings.namespace_budgets,
            demand=self._demand,
            engines=self._engines,
            offerings=self._offerings,
        )
        self.loop = Loop(
            alarm=alarm,
            turns=self._turns_of(api, self._reader, self._solvers, alarm.wake),
            exporter=self._exporter,
            period_seconds=self.settings.period_seconds,
            settled=self.state.wait_settled,
            under_way=self.under_way,
        )

    def close(self) -> None:
        """Stop what ``open`` started."""
        self._demand.close()
        self._engines.close()
        self._offerings.close()
        self._solvers.stop()
        self._reader.close()

    def _tell(self, news: News) -> None:
        if self._alarm is not None:
            self._alarm.ring(news)

    # --- for probes; in their threads ---

    def not_alive(self) -> str | None:
        """The reason why the process is not alive, or None. A turn that hangs blocks its plan until the process restarts."""
        hanging = self.under_way.hanging()
        return f"the turn of {', '.join(hanging)} does not end" if hanging else None

    def not_ready(self) -> str | None:
        """The reason why the process is not ready, or None. Leader and standby both must have read the cluster."""
        if self.waits_for_definition:
            return MISSING
        return None if self.state.settled else "the cluster was not read yet"


class KeepsNothing(kopf.DiffBaseStorage):
    """A store that keeps nothing. kopf would write each plan's spec into an annotation; turns compare with the cluster."""

    @override
    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Nothing is kept."""
        return None

    @override
    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is kept."""


def register(registry: kopf.OperatorRegistry, operator: Operator, asked_to_end: threading.Event | None = None) -> None:
    """Register the operator's handlers with kopf. ``asked_to_end``: set if a signal came before kopf listened for any."""

    @kopf.on.startup(registry=registry, errors=kopf.ErrorsMode.PERMANENT)  # the kubelet restarts the process
    async def begin(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.persistence.finalizer = FINALIZER
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
        if asked_to_end is not None:
            _pass_on(asked_to_end, asyncio.get_running_loop(), looks=50)

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:
        operator.close()

    @kopf.on.login(registry=registry)
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return connection(**kwargs)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def changed(namespace: str | None, name: str | None, **_: Any) -> None:
        operator.loop.changed(namespace or "", name or "")

    @kopf.daemon(GROUP, VERSION, PLURAL, registry=registry)
    async def plan(
        namespace: str | None, name: str | None, uid: str | None, stopped: kopf.DaemonStopped, **_: Any
    ) -> None:
        await operator.loop.look_after(namespace=namespace or "", name=name or "", uid=uid or "", stopped=stopped)

    @kopf.on.delete(GROUP, VERSION, PLURAL, registry=registry, backoff=5)
    async def retire(namespace: str | None, name: str | None, uid: str | None, **_: Any) -> None:
        await operator.loop.retire(namespace=namespace or "", name=name or "", uid=uid or "")


def connection(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """How kopf reaches the API server: as the Kubernetes client does, so that both need the same. In a pod this is the address
    in its environment; kopf itself takes a name that the cluster's DNS must know."""
    found = kopf.login_with_service_account(**kwargs)
    if found is None:
        return kopf.login_with_kubeconfig(**kwargs)
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return found
    return replace(found, server=f"https://{f'[{host}]' if ':' in host else host}:{port}")


def run(settings: Settings, turns_of: TurnsOf) -> None:
    """Run the operator until a signal. A standby only watches, and starts kopf after the Lease, as kopf writes finalizers."""
    exporter = Exporter()
    api = Kube.connect()
    operator = Operator(settings, turns_of, exporter, api)
    operator.state.start()
    with (
        exporter.serving(settings.metrics_address),
        health.serving(settings.liveness_address, alive=operator.not_alive, ready=operator.not_ready),
    ):
        keeper = _keeper(settings, api)
        try:
            ended = _listen()
            if (keeper is None or _won(keeper, ended)) and _defined(operator, api, ended):
                _lead(settings, operator, ended)
        except Exception as error:
            if _is_defined(api):
                raise
            log.error("the operator ended", exc_info=error)
            raise SystemExit(GONE) from error
        finally:
            if keeper is not None:
                keeper.stop()
            operator.state.stop()


def _lead(settings: Settings, operator: Operator, ended: threading.Event) -> None:
    registry = kopf.OperatorRegistry()
    register(registry, operator, ended)
    kopf.run(
        registry=registry,
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=list(settings.namespaces),
    )


def _keeper(settings: Settings, api: Kube) -> Keeper | None:
    if not settings.lease_namespace:
        return None
    lease = Lease(
        Kube.connect(timeout_seconds=LEASE_TIMEOUT_SECONDS),
        namespace=settings.lease_namespace,
        namespaces=settings.namespaces,
        identity=settings.identity,
    )
    api.may_write = lambda: lease.held
    # End running turns together with the process, since another operator may act from now on.
    keeper = Keeper(lease, lost=lambda: os._exit(1))
    keeper.start()
    return keeper


LEASE_TIMEOUT_SECONDS = 3.0
"""Time limit of one request for the Lease. A renewal that takes longer is tried again while the Lease is still held."""


def _listen() -> threading.Event:
    """Set by the first signal that asks the process to end. kopf listens itself once it runs. Without this, a signal between
    the Lease and that moment would end the process with the Lease held."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    return ended


def _pass_on(ended: threading.Event, loop: asyncio.AbstractEventLoop, looks: int) -> None:
    """Raise a signal again that came before kopf listened, for ten seconds: kopf begins to listen at about this time."""
    if ended.is_set():
        ended.clear()  # it is set again if kopf does not listen yet
        signal.raise_signal(signal.SIGTERM)
    if looks:
        loop.call_later(0.2, _pass_on, ended, loop, looks - 1)


def _defined(operator: Operator, api: Kube, ended: threading.Event) -> bool:
    """Wait until the API server knows plans, since kopf looks for their definition only once. False if a signal comes first."""
    while not ended.is_set():
        if _is_defined(api):
            operator.waits_for_definition = False
            return True
        if not operator.waits_for_definition:
            log.warning(MISSING)
        operator.waits_for_definition = True
        ended.wait(LOOK_SECONDS)
    return False


def _is_defined(api: Kube) -> bool:
    """Whether the API server knows plans; True if it cannot be asked, since whoever asks next says why."""
    api.forget(PLANS)
    try:
        api.discover(PLANS.api_version, PLANS.kind)
    except NotFound:
        return False
    except ApiError:
        return True
    return True


def _won(keeper: Keeper, ended: threading.Event) -> bool:
    """Wait for the Lease. True once it is held, False if a signal comes first."""
    while not ended.is_set():
        if keeper.wait(0.2):
            return True
    return False
