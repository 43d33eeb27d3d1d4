"""Reads what engines measured, beside the turns: no turn waits for a reading, not even the first one.

After a restart nothing of this is missed, because what was learned is in the plan record.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.demand.signals import Query
from servingplan.learning.figures import WINDOW_SECONDS, query, query_counts, read, with_counts
from servingplan.model.readings import EngineFigures, SeenEngines
from servingplan.model.times import text_of
from servingplan.observe.polling import Polling, Watched
from servingplan.observe.prometheus import ask
from servingplan.observe.sources import NO_ANSWER, NotAsked, Plan, source_of
from servingplan.observe.urls import NoAnswer, UrlPolicy
from servingplan.settings import SharedPrometheus

log = logging.getLogger("servingplan.learning")

POLL_SECONDS = 60.0


class Engines(Protocol):
    """A source of what engines measured."""

    def seen(self, namespace: str, name: str, spec: PlanSpec | None) -> SeenEngines | None:
        """The last reading for a plan; None if its spec does not ask to learn. Raises nothing and waits for nothing."""
        ...


@dataclass
class _Watched(Watched):
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
        self._plans = Polling[_Watched]("learning", self.poll)

    def start(self) -> None:
        """Start polling."""
        self._plans.start()

    def close(self) -> None:
        """Stop after the queries that are under way."""
        self._plans.close()

    def seen(self, namespace: str, name: str, spec: PlanSpec | None) -> SeenEngines | None:
        """The last reading for a plan; None if its spec does not ask to learn. Raises nothing and waits for nothing."""
        plan = (namespace, name)
        if spec is None or not spec.planning.learn:
            self._plans.forget(plan)
            return None

        def update(before: _Watched | None) -> _Watched:
            watched = before or _Watched(spec, asked_at=0.0)
            watched.spec = spec
            return watched

        return self._plans.asked(plan, update).seen

    def poll(self, plan: Plan) -> None:
        """Read once, and keep the result or the failure."""
        watched = self._plans.get(plan)
        if watched is None:
            return
        seen, cause = self._read(watched.spec, plan[0])
        watched.seen = seen
        watched.next_poll = time.monotonic() + POLL_SECONDS
        told = cause or f"{len(seen.engines)} engines were read"
        if told != watched.told:
            watched.told = told
            log.info("%s/%s: %s", *plan, told)

    def _read(self, spec: PlanSpec, namespace: str) -> tuple[SeenEngines, str]:
        """The reading, and the cause of a failure for the log."""
        now = self._clock()
        try:
            source, own = source_of(spec, namespace, self._urls, self._shared)
            models = [model.name for model in spec.models]
            label = None if own else self._shared.namespace_label
            asked = query(models, namespace=namespace, namespace_label=label)
            engines = read(ask(source, Query(asked), now, reach=0))
            counts = query_counts(models, namespace=namespace, namespace_label=label)
            engines = _with_counts(engines, lambda: ask(source, Query(counts), now, reach=0))
        except NotAsked as error:
            return SeenEngines(refused=str(error), refused_reason=error.reason), str(error)
        except NoAnswer as error:
            return SeenEngines(problem=f"Prometheus {NO_ANSWER}"), str(error)
        except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            return SeenEngines(problem=f"Prometheus {NO_ANSWER}"), f"its answer is not what is promised: {error}"
        return SeenEngines(at=text_of(now), window_seconds=WINDOW_SECONDS, engines=engines), ""


def _with_counts(
    engines: tuple[EngineFigures, ...], answer: Callable[[], Sequence[Mapping[str, Any]]]
) -> tuple[EngineFigures, ...]:
    """The figures with the counts behind percentiles, or without: means are learned from all the same where a large fleet's
    counts are more than one answer may hold."""
    if not engines:
        return engines
    try:
        return with_counts(engines, answer())
    except (NoAnswer, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        log.info("no percentiles: %s", error)
        return engines
