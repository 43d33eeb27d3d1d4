"""Reads arrivals beside the turns: a slow Prometheus delays no turn, and a turn never sees half a reading.

A failed reading is retried with back-off. Everything kept here can be read again, except since when nothing could be read: a
restarted operator counts that time from its own start.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from servingplan.api.scalars import seconds_of
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.demand.adopt import declared_rates, most_believable
from servingplan.demand.change import latest_change
from servingplan.demand.counts import ALIVE_INTERVALS, believable, cleaned
from servingplan.demand.signals import Counted, Query, Signal, signals
from servingplan.model.readings import Arrivals, SeenDemand
from servingplan.model.times import text_of
from servingplan.observe.polling import Polling, Watched
from servingplan.observe.prometheus import Source, ask
from servingplan.observe.sources import NO_ANSWER, NotAsked, Plan, source_of
from servingplan.observe.urls import NoAnswer, UrlPolicy
from servingplan.settings import SharedPrometheus

log = logging.getLogger("servingplan.demand")

POLL_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 120.0
LEAST_STALE_SECONDS = 120.0
"""Samples older than this and than a few intervals are not fresh."""
MOST_SKEW_SECONDS = 30.0
"""How far the clock of Prometheus may be ahead; later samples are ignored."""
HISTORY_DAYS = 7
HISTORY_STEP_SECONDS = 3600
HISTORY_EVERY_SECONDS = 1800.0


class NoSamples(NoAnswer):
    """Prometheus answered, but has no samples of this plan. The text is for people."""


@dataclass
class _Watched(Watched):
    next_poll: float = math.inf
    """Infinite also before the first reading, which the turn that asks takes itself."""
    seen: SeenDemand | None = None
    told: tuple[object, ...] = ()
    """What was last written to the log."""
    signal: Signal | None = None
    """The signal that matched last."""
    pause: float = POLL_SECONDS
    failing_since: dict[str, str] = field(default_factory=dict)
    changes: dict[str, float] = field(default_factory=dict)
    """When the rate of a class last changed, in Unix seconds."""
    history: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    history_at: float = -1e18
    first: threading.Lock = field(default_factory=threading.Lock)


class Demand(Protocol):
    """A source of measured arrivals."""

    def seen(self, namespace: str, name: str, spec: PlanSpec | None) -> SeenDemand | None:
        """The last reading for a plan; None if its spec asks for none. Raises nothing."""
        ...


class DemandReader:
    """Polls Prometheus for the plans whose turns ask. Thread-safe. ``seen`` blocks only for a plan's first reading."""

    def __init__(
        self,
        *,
        urls: UrlPolicy,
        shared: SharedPrometheus = SharedPrometheus(),  # noqa: B008 (frozen)
        ring: Callable[[str, str], None] = lambda _namespace, _name: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``urls`` decides which URLs of plans may be asked. ``shared`` is the Prometheus of plans without a URL. ``ring``
        wakes a plan whose demand changed suddenly. ``clock`` returns Unix seconds."""
        self._urls = urls
        self._shared = shared
        self._ring = ring
        self._clock = clock
        self._plans = Polling[_Watched]("demand", self.poll)

    def start(self) -> None:
        """Start polling."""
        self._plans.start()

    def close(self) -> None:
        """Stop after the queries that are under way."""
        self._plans.close()

    def seen(self, namespace: str, name: str, spec: PlanSpec | None) -> SeenDemand | None:
        """The last reading for a plan; None if its spec asks for none. Raises nothing."""
        plan = (namespace, name)
        if spec is None or spec.demand is None:
            self._plans.forget(plan)
            return None

        def update(before: _Watched | None) -> _Watched:
            if before is not None and _asks(before.spec) == _asks(spec):
                return before
            # A failure from before an edit still counts after it, if its class is still there.
            failing = {} if before is None else before.failing_since.copy()
            classes = declared_rates(spec)
            return _Watched(
                spec, asked_at=0.0, failing_since={key: at for key, at in failing.items() if key in classes}
            )

        watched = self._plans.asked(plan, update)
        with watched.first:
            if watched.seen is None:
                self.poll(plan)
        return watched.seen

    def poll(self, plan: Plan) -> None:
        """Read once, and keep the result or the failure."""
        watched = self._plans.get(plan)
        if watched is None:
            return
        before = watched.seen
        counted: Counted = {}
        metrics: frozenset[str] = frozenset()
        problem, cause, refused, reason = None, "", None, ""
        try:
            source, restricted = self._source(watched.spec, plan)
            signal, counted, metrics = _read(watched, plan, source, self._clock(), restricted)
            watched.signal, watched.pause = signal, POLL_SECONDS
            self._read_history(watched, source, signal)
        except NotAsked as error:
            refused, reason = str(error), error.reason
        except NoAnswer as error:
            assert watched.spec.demand is not None
            told = str(error) if isinstance(error, NoSamples) else NO_ANSWER
            problem = f"{watched.spec.demand.prometheus.url or 'the Prometheus of the installation'} {told}"
            cause = str(error)
            watched.pause = min(2 * watched.pause, LONGEST_PAUSE_SECONDS)
        watched.next_poll = time.monotonic() + watched.pause
        seen = self._conclude(watched, counted, metrics, problem)
        watched.seen = seen.model_copy(update={"refused": refused, "refused_reason": reason})
        if (watched.seen.signal, watched.seen.metrics, refused, cause) != watched.told:
            watched.told = (watched.seen.signal, watched.seen.metrics, refused, cause)
            matched = ", ".join(watched.seen.metrics) or "no metric"
            trouble = f"; {problem}: {cause}" if problem else f"; {refused}" if refused else ""
            log.info("%s/%s: demand is counted by %s%s", *plan, matched, trouble)
        if self._changed(watched) and before is not None:
            self._ring(*plan)

    def _source(self, spec: PlanSpec, plan: Plan) -> tuple[Source, str | None]:
        """The Prometheus to ask, and its label for namespaces; None if that Prometheus is in the plan's own namespace.

        Raises ``NotAsked``, or ``NoAnswer`` if the URL has no address.
        """
        assert spec.demand is not None
        shared = self._shared
        source, own = source_of(spec, plan[0], self._urls, shared)
        if spec.demand.prometheus.query is not None and not own and not shared.plan_queries:
            raise NotAsked(
                "QueryNotAllowed",
                "spec.demand.prometheus.query is not sent: it could read what others measure; use a Prometheus whose "
                f"Service is in namespace {plan[0]}, remove the query, or ask for the chart's prometheus.planQueries to be set",
            )
        return source, None if own else shared.namespace_label

    def _conclude(
        self, watched: _Watched, counted: Counted, metrics: frozenset[str], problem: str | None
    ) -> SeenDemand:
        now = self._clock()
        classes = []
        for key, declared in declared_rates(watched.spec).items():
            assert watched.spec.demand is not None
            begin = now - seconds_of(watched.spec.demand.prometheus.window)
            intervals = tuple(
                item
                for item in believable(counted.get(key, ()), most_believable(declared))
                if begin - 1.0 <= item[0] - item[1] and item[0] <= now + MOST_SKEW_SECONDS
            )
            if _is_fresh(intervals, now):
                watched.failing_since.pop(key, None)
            else:
                intervals = ()
                watched.failing_since.setdefault(key, text_of(now))
            model, _, name = key.rpartition("/")
            history = tuple(item for item in watched.history.get(key, ()) if item[1] <= most_believable(declared))
            classes.append(
                Arrivals(
                    model=model,
                    name=name,
                    intervals=intervals,
                    history=history,
                    failing_since=watched.failing_since.get(key),
                )
            )
        if problem is None and watched.failing_since:
            problem = f"no fresh samples for {', '.join(sorted(watched.failing_since))}"
        return SeenDemand(
            signal=watched.signal.name if watched.signal else "",
            metrics=tuple(sorted(metrics)),
            problem=problem,
            classes=tuple(sorted(classes, key=lambda item: (item.model, item.name))),
        )

    def _changed(self, watched: _Watched) -> bool:
        """Whether the rate of some class changed since the last reading."""
        assert watched.seen is not None
        rang = False
        for item in watched.seen.classes:
            first = latest_change(item.intervals)
            if first:
                end, length, _ = item.intervals[first]
                rang = rang or end - watched.changes.get(item.key, -1e18) > 2 * length
                watched.changes[item.key] = end
        return rang

    def _read_history(self, watched: _Watched, source: Source, signal: Signal) -> None:
        """Read the last days by the hour. A failure is only logged, since the history is optional."""
        if time.monotonic() - watched.history_at < HISTORY_EVERY_SECONDS:
            return
        watched.history_at = time.monotonic()
        query = Query(signal.history(HISTORY_STEP_SECONDS), HISTORY_STEP_SECONDS)
        try:
            rows = ask(source, query, self._clock(), reach=HISTORY_DAYS * 86400)
            watched.history = {
                key: tuple(cleaned(row.get("values") or ())) for row in rows for key in signal.keys_of(row)
            }
        except (NoAnswer, TypeError) as error:
            log.info("no history of demand: %s", error)


def _read(
    watched: _Watched, plan: Plan, source: Source, now: float, namespace_label: str | None
) -> tuple[Signal, Counted, frozenset[str]]:
    """The first signal with samples, its counts and its metrics. The signal of the last reading is tried first."""
    known = signals(watched.spec, "/".join(plan), namespace_label)
    if watched.signal is not None:
        last = watched.signal.looks_for
        known = tuple(sorted(known, key=lambda item: item.looks_for != last))
    for signal in known:
        assert watched.spec.demand is not None
        window = seconds_of(watched.spec.demand.prometheus.window)
        try:
            answers = [ask(source, query, now, reach=window) for query in signal.queries]
            counted, metrics = signal.read(answers)
        except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
            raise NoAnswer("its answer is not what the API of Prometheus promises") from error
        if any(counted.values()):
            return signal, counted, metrics
    looked_for = ", ".join(name for signal in known for name in signal.looks_for)
    raise NoSamples(f"has no samples of any of {looked_for} for the classes of this plan")


def _asks(spec: PlanSpec) -> Any:
    """The parts of a spec that a reading depends on."""
    assert spec.demand is not None
    lengths = [
        (model.name, item.name, item.input_tokens, item.output_tokens, item.requests_per_second)
        for model in spec.models
        for item in model.effective_classes
    ]
    return spec.demand, lengths


def _is_fresh(intervals: Sequence[tuple[float, float, float]], now: float) -> bool:
    if not intervals:
        return False
    end, length, _ = intervals[-1]
    return now - end <= max(LEAST_STALE_SECONDS, ALIVE_INTERVALS * length)
