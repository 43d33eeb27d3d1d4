"""Reads what engines measured beside the turns: no turn waits for it, also not the first one.

Nothing that is kept here is missed after a restart: what was learned stands in the plan record.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.demand.signals import Query
from servingplan.learning.figures import WINDOW_SECONDS, query, read
from servingplan.model.times import text_of
from servingplan.model.world import SeenEngines
from servingplan.observe.prometheus import ask
from servingplan.observe.sources import FORGOTTEN_AFTER_SECONDS, NO_ANSWER, NotAsked, Plan, source_of
from servingplan.observe.urls import NoAnswer, UrlPolicy
from servingplan.settings import SharedPrometheus

log = logging.getLogger("servingplan.learning")

POLL_SECONDS = 60.0
LOOK_SECONDS = 1.0
"""How often a plan that is new here is looked for."""


class Engines(Protocol):
    """A source that knows what engines measured."""

    def seen(self, namespace: str, name: str, spec: PlanSpec | None) -> SeenEngines | None:
        """The last reading for a plan; None if its spec does not ask to learn. Raises nothing and waits for nothing."""
        ...


@dataclass
class _Watched:
    """One plan's readings."""

    spec: PlanSpec
    asked_at: float
    """The time at which a turn last asked for it, in monotonic seconds."""
    next_poll: float = 0.0
    seen: SeenEngines = field(default_factory=SeenEngines)
    told: str = ""
    """What was last written to the log."""


class EngineReader:
    """Polls Prometheus for the plans whose turns ask. Thread-safe."""

    def __init__(self, *, urls: UrlPolicy, shared: SharedPrometheus, clock: Callable[[], float] = time.time) -> None:
        """``urls`` decides which URLs of plans may be asked. ``shared`` is the Prometheus of plans without a URL. ``clock``
        returns Unix seconds."""
        self._urls = urls
        self._shared = shared
        self._clock = clock
        self._plans: dict[Plan, _Watched] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start polling. The thread does not keep the process alive."""
        threading.Thread(target=self._poll_on, name="engines", daemon=True).start()

    def close(self) -> None:
        """Stop after the present query."""
        self._stopped.set()

    def seen(self, namespace: str, name: str, spec: PlanSpec | None) -> SeenEngines | None:
        """The last reading for a plan; None if its spec does not ask to learn. Raises nothing and waits for nothing."""
        plan = (namespace, name)
        with self._lock:
            if spec is None or not spec.planning.learn:
                self._plans.pop(plan, None)
                return None
            watched = self._plans.setdefault(plan, _Watched(spec, 0.0))
            watched.spec, watched.asked_at = spec, time.monotonic()
            return watched.seen

    def poll(self, plan: Plan) -> None:
        """Read once, and keep the result or the failure."""
        with self._lock:
            watched = self._plans.get(plan)
        if watched is None:
            return
        watched.next_poll = time.monotonic() + POLL_SECONDS
        seen, cause = self._read(watched.spec, plan[0])
        watched.seen = seen
        told = cause or f"{len(seen.engines)} engines were read"
        if told != watched.told:
            watched.told = told
            log.info("%s/%s: %s", *plan, told)

    def _read(self, spec: PlanSpec, namespace: str) -> tuple[SeenEngines, str]:
        """The reading, and the cause of a failure for the log."""
        now = self._clock()
        try:
            source, own = source_of(spec, namespace, self._urls, self._shared)
            text = query(
                (model.name for model in spec.models),
                namespace=namespace,
                namespace_label=None if own else self._shared.namespace_label,
            )
            engines = read(ask(source, Query(text), now, reach=0))
        except NotAsked as error:
            return SeenEngines(refused=str(error), refused_reason=error.reason), str(error)
        except NoAnswer as error:
            return SeenEngines(problem=f"Prometheus {NO_ANSWER}"), str(error)
        except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            return SeenEngines(problem=f"Prometheus {NO_ANSWER}"), f"its answer is not what is promised: {error}"
        return SeenEngines(at=text_of(now), window_seconds=WINDOW_SECONDS, engines=engines), ""

    def _due(self, now: float) -> list[Plan]:
        """The plans to be read at a time in monotonic seconds. Those that no turn has asked for lately are forgotten."""
        with self._lock:
            gone = [plan for plan, item in self._plans.items() if now - item.asked_at > FORGOTTEN_AFTER_SECONDS]
            for plan in gone:
                del self._plans[plan]
            return [plan for plan, item in self._plans.items() if now >= item.next_poll]

    def _poll_on(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            for plan in self._due(time.monotonic()):
                try:
                    self.poll(plan)
                except Exception:
                    log.exception("%s/%s: the reading of engines failed", *plan)
