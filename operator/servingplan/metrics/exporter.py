"""EFFECT. Keeps the last samples of every plan, counts turns, solves and writes, and serves both to Prometheus.

A scrape reads the results of past turns. It waits for no turn, and no turn waits for it. A plan's series end with the plan.
"""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Final, override

from prometheus_client import GC_COLLECTOR, CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.decide.turn import Search
from servingplan.errors import ApiError, InputError, Outdated
from servingplan.metrics import families
from servingplan.metrics.families import FAMILIES, PLAN_LABELS, Family
from servingplan.metrics.samples import Key, Samples, Trigger, solve_result
from servingplan.model.actions import AnyAction, ClaimPool, ResizePool
from servingplan.model.answer import Answer
from servingplan.model.outcome import Outcome
from servingplan.model.question import Question
from servingplan.simulate.tally import Histogram

SECONDS_BOUNDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class PlanMetrics:
    """The metrics of one plan while one ``Turns`` has it. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: Samples = {}
        self._counts: defaultdict[Key, float] = defaultdict(float)
        for result in ("done", "api_error", "error"):
            self._counts[families.TURNS, (result,)] = 0.0
        self._seconds = {family: Histogram(SECONDS_BOUNDS) for family in FAMILIES if family.kind == "histogram"}
        self._solved: list[str] = []
        self._turn_at = clock()
        self._inventory_at: float | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Count and time one turn, which is the body of the context."""
        started, result = self._clock(), "error"
        try:
            yield
            result = "done"
            self._turn_at = self._clock()
        except ApiError:
            result = "api_error"
            raise
        finally:
            with self._lock:
                self._counts[families.TURNS, (result,)] += 1
                self._seconds[families.TURN_SECONDS].observe(self._clock() - started)

    def tell(self, samples: Samples, *, inventory_was_read: bool) -> None:
        """Replace the samples by those of a turn."""
        self._samples = samples
        if inventory_was_read:
            self._inventory_at = self._clock()

    def timed(self, solve: Search) -> Search:
        """The same solver with its times and results counted, under the trigger that ``solved`` gives."""

        def answer(question: Question, spec: PlanSpec, at_most_seconds: float | None = None, **more: Any) -> Answer:
            started, result = self._clock(), "error"
            try:
                found = solve(question, spec, at_most_seconds, **more)
                result = solve_result(found)
                return found
            except Outdated:
                result = "outdated"
                raise
            finally:
                with self._lock:
                    self._solved.append(result)
                    self._seconds[families.SOLVE_SECONDS].observe(self._clock() - started)

        return answer

    def solved(self, trigger: Trigger) -> None:
        """Count the questions since the last call under this trigger."""
        with self._lock:
            for result in self._solved:
                self._counts[families.SOLVES, (result, trigger)] += 1
            self._solved.clear()

    def wrote(self, outcome: Outcome) -> None:
        """Count writes, done or refused."""
        with self._lock:
            for result, actions in (("done", outcome.done), ("refused", [item.action for item in outcome.refused])):
                self._count_writes(actions, result)

    def _count_writes(self, actions: Iterable[AnyAction], result: str) -> None:
        for action in actions:
            self._counts[families.WRITES, (type(action).__name__, result)] += 1
            if isinstance(action, ResizePool | ClaimPool):
                kind = "resize" if isinstance(action, ResizePool) else "claim"
                self._counts[families.POOL_ACTIONS, (action.pool, kind, result)] += 1

    def posted(self, kind: str, reason: str) -> None:
        """Count an Event of this type and reason."""
        with self._lock:
            self._counts[families.EVENTS, (kind, reason)] += 1

    def values(self) -> dict[Key, float]:
        """The present gauges and counters, with ages as of now."""
        now = self._clock()
        found: dict[Key, float] = {**self._samples, (families.TURN_AGE, ()): max(0.0, now - self._turn_at)}
        if self._inventory_at is not None:
            found[families.INVENTORY_AGE, ()] = max(0.0, now - self._inventory_at)
        with self._lock:
            found.update(self._counts)
        return found

    def buckets(self, family: Family) -> tuple[list[tuple[str, float]], float]:
        """The counts of a histogram up to each bound, and the sum."""
        with self._lock:
            histogram = self._seconds[family]
            below, found = 0.0, []
            for bound, count in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
                below += count
                found.append(("+Inf" if math.isinf(bound) else repr(bound), below))
            return found, histogram.total


class Exporter(Collector):
    """The metrics of all plans of an operator."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, str], PlanMetrics] = {}
        self._lock = threading.Lock()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        self.registry.register(GC_COLLECTOR)

    def plan(self, namespace: str, name: str) -> PlanMetrics:
        """New metrics of a plan that is taken up, which replace earlier ones of this name."""
        found = PlanMetrics()
        with self._lock:
            self._plans[namespace, name] = found
        return found

    def forget(self, namespace: str, name: str, metrics: PlanMetrics) -> None:
        """End the series of a plan that is gone, unless a plan of that name was taken up again."""
        with self._lock:
            if self._plans.get((namespace, name)) is metrics:
                del self._plans[namespace, name]

    @override
    def collect(self) -> Iterator[Metric]:
        """All families, in a fixed order."""
        build = GaugeMetricFamily("servingplan_build_info", "1 for the version that runs.", labels=("version",))
        build.add_metric((version("servingplan"),), 1)
        yield build
        with self._lock:
            plans = sorted(self._plans.items())
        values: defaultdict[Family, list[tuple[tuple[str, ...], float]]] = defaultdict(list)
        for plan, metrics in plans:
            for (family, own), value in metrics.values().items():
                values[family].append(((*plan, *own), value))
        for family in FAMILIES:
            labels = (*PLAN_LABELS, *family.labels)
            if family.kind == "histogram":
                histogram = HistogramMetricFamily(family.name, family.help, labels=labels)
                for plan, metrics in plans:
                    histogram.add_metric(plan, *metrics.buckets(family))
                yield histogram
                continue
            kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
            shown = kind(family.name, family.help, labels=labels)
            for own, value in sorted(values[family]):
                shown.add_metric(own, value)
            yield shown

    @contextmanager
    def serving(self, address: str) -> Iterator[None]:
        """Serve ``/metrics`` at HOST:PORT in threads of its own while the context is open. If the address is empty, do not.

        Raises ``InputError`` if the address is wrong or cannot be used.
        """
        if not address:
            yield
            return
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InputError("--metrics-address", address, "give HOST:PORT, such as 0.0.0.0:8081, or nothing")
        try:
            server, thread = start_http_server(int(port), host.strip("[]"), self.registry)
        except OSError as error:
            raise InputError(
                "--metrics-address", address, f"cannot be listened on ({error}); give another, or nothing"
            ) from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
