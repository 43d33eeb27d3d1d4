"""The signals that count arrivals: their queries, and the meaning of the answers. The first matching signal is used.

1. The plan's own query, if it has one; then no other signal.
2. Envoy's counters by class. The local rate limit of every route counts each request under ``arrivals_prefix`` before it
   decides, so refused requests count too. Without this counter, the requests that the routes passed on.
3. vLLM: finished requests, plus the growth of the running and waiting ones, assigned to classes by length (``split``).
   Requests that the gateway refused are missing here.

Metrics of exporters change their names: each signal lists the new name first.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servingplan.api.models_v1alpha1 import Model
from servingplan.api.scalars import seconds_of
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.demand.counts import Interval, Step, cleaned, counter_steps, gauge_steps, merged
from servingplan.demand.split import shares
from servingplan.model.names import arrivals_prefix

QUERY_INTERVAL_SECONDS = 30
"""The time between samples of a plan's own query; it must contain at least two scrapes."""
ENVOY = (
    ("envoy_http_local_rate_limit_enabled", "envoy_local_http_ratelimit_prefix"),
    ("envoy_vhost_route_upstream_rq_completed", "envoy_route"),
)
"""The counters, each with the label that names plan, model and class."""
OWN_QUERY = "spec.demand.prometheus.query"
COUNTS_REFUSED = frozenset({ENVOY[0][0], OWN_QUERY})
"""The signals that also count refused requests; a plan's own query is assumed to."""
VLLM_FINISHED = ("vllm:request_success_total", "vllm_request_success_total")
VLLM_INSIDE = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm_num_requests_running",
    "vllm_num_requests_waiting",
)
VLLM_PROMPTS = ("vllm:request_prompt_tokens_bucket", "vllm_request_prompt_tokens_bucket")
VLLM_ANSWERS = ("vllm:request_generation_tokens_bucket", "vllm_request_generation_tokens_bucket")

Row = Mapping[str, Any]
"""One time series of an answer, with ``metric`` (labels) and ``values`` or ``value``."""
Counted = dict[str, tuple[Interval, ...]]
"""The counted intervals by ``model/class``."""


@dataclass(frozen=True)
class Query:
    """A query to Prometheus."""

    text: str
    step_seconds: int | None = None
    """The step of a range query over the window; None: a query at one moment."""


@dataclass(frozen=True)
class Signal:
    """A way of counting."""

    name: str
    looks_for: tuple[str, ...]
    """The names of its metrics, for people."""
    queries: tuple[Query, ...]
    read: Callable[[Sequence[Sequence[Row]]], tuple[Counted, frozenset[str]]]
    """Returns the counts and the metrics that counted them, from one answer per query."""
    history: Callable[[int], str]
    """Returns PromQL of requests/s by class or model, as the mean over this many seconds."""
    keys_of: Callable[[Row], tuple[str, ...]]
    """Returns the classes of a row of the history; none for a row that names only a model."""


def signals(spec: PlanSpec, plan: str, namespace_label: str | None = None) -> tuple[Signal, ...]:
    """The ways of counting that may match, best first; ``plan`` is ``namespace/name``.

    ``namespace_label`` is set for a shared Prometheus: its label with the namespace of the scraped pod. Then engines count
    only in the plan's namespace. Envoy's counters name the plan, so the gateway may be anywhere.
    """
    assert spec.demand is not None
    source = spec.demand.prometheus
    window = seconds_of(source.window)
    if source.query is not None:
        return (_own(spec, source.query),)
    return (
        *(_envoy(spec, plan, metric, label, window) for metric, label in ENVOY),
        _vllm(spec, window, plan, namespace_label),
    )


def _keys(spec: PlanSpec) -> dict[str, tuple[Model, str]]:
    return {
        f"{model.name}/{item.name}": (model, item.name) for model in spec.models for item in model.effective_classes
    }


def _own(spec: PlanSpec, query: str) -> Signal:
    known = _keys(spec)

    def keys_of(row: Row) -> tuple[str, ...]:
        labels = _labels(row)
        key = f"{labels.get('model', '')}/{labels.get('class', '')}"
        return (key,) if key in known else ()

    def text(seconds: int) -> str:
        return query.replace("$interval", f"{seconds}s")

    def read(answers: Sequence[Sequence[Row]]) -> tuple[Counted, frozenset[str]]:
        found: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
        for row in answers[0]:
            for key in keys_of(row):
                for moment, rate in cleaned(row.get("values") or ()):
                    found[key][moment] += rate
        step = float(QUERY_INTERVAL_SECONDS)
        counted = {
            key: tuple((moment, step, rate * step) for moment, rate in sorted(rates.items()))
            for key, rates in sorted(found.items())
        }
        return counted, frozenset({OWN_QUERY} if counted else ())

    asked = Query(text(QUERY_INTERVAL_SECONDS), QUERY_INTERVAL_SECONDS)
    return Signal("query", (OWN_QUERY,), (asked,), read, text, keys_of)


def _envoy(spec: PlanSpec, plan: str, metric: str, label: str, window: int) -> Signal:
    key_by_prefix = {arrivals_prefix(plan, model.name, name): key for key, (model, name) in _keys(spec).items()}
    selector = f"{metric}{{{label}=~{any_of(key_by_prefix)}}}"

    def keys_of(row: Row) -> tuple[str, ...]:
        key = key_by_prefix.get(_labels(row).get(label, ""))
        return () if key is None else (key,)

    def read(answers: Sequence[Sequence[Row]]) -> tuple[Counted, frozenset[str]]:
        steps: dict[str, list[list[Step]]] = defaultdict(list)
        for row in answers[0]:
            for key in keys_of(row):
                steps[key].append(counter_steps(cleaned(row.get("values") or ())))
        return {key: merged(series) for key, series in sorted(steps.items())}, frozenset({metric} if steps else ())

    def history(seconds: int) -> str:
        return f"sum by ({label}) (rate({selector}[{seconds}s]))"

    return Signal("envoy", (metric,), (Query(f"{selector}[{_reach(window)}s]"),), read, history, keys_of)


def _vllm(spec: PlanSpec, window: int, plan: str, namespace_label: str | None) -> Signal:
    models = {model.name: model for model in spec.models}
    of_models = f"model_name=~{any_of(models)}"
    if namespace_label is not None:
        of_models += f",{namespace_label}={json.dumps(plan.partition('/')[0])}"

    def buckets(names: Iterable[str]) -> Query:
        return Query(f"sum by (model_name, le) (increase({{__name__=~{any_of(names)},{of_models}}}[{window}s]))")

    def read(answers: Sequence[Sequence[Row]]) -> tuple[Counted, frozenset[str]]:
        steps: dict[str, list[list[Step]]] = defaultdict(list)
        matched = set()
        for row in answers[0]:
            labels = _labels(row)
            model, metric = labels.get("model_name", ""), labels.get("__name__", "")
            if model not in models:
                continue
            matched.add(metric)
            points = cleaned(row.get("values") or ())
            steps[model].append(counter_steps(points) if metric in VLLM_FINISHED else gauge_steps(points))
        if not matched & set(VLLM_FINISHED):
            return {}, frozenset()
        counted: Counted = {}
        for name, served in models.items():
            parts = shares(served.effective_classes, _histogram(answers[1], name), _histogram(answers[2], name))
            intervals = merged(steps[name])
            for item, part in (parts or {}).items() if intervals else ():
                counted[f"{name}/{item}"] = tuple((end, length, part * count) for end, length, count in intervals)
        return counted, frozenset(matched)

    queries = (
        Query(f"{{__name__=~{any_of((*VLLM_FINISHED, *VLLM_INSIDE))},{of_models}}}[{_reach(window)}s]"),
        buckets(VLLM_PROMPTS),
        buckets(VLLM_ANSWERS),
    )

    def history(seconds: int) -> str:
        return f"sum by (model_name) (rate({{__name__=~{any_of(VLLM_FINISHED)},{of_models}}}[{seconds}s]))"

    def keys_of(row: Row) -> tuple[str, ...]:
        """The class of a row if its model has only one class, whose finished requests then show the daily pattern."""
        model = models.get(_labels(row).get("model_name", ""))
        alone = model is not None and len(model.effective_classes) == 1
        return (f"{model.name}/{model.effective_classes[0].name}",) if model is not None and alone else ()

    return Signal("vllm", (*VLLM_FINISHED, *VLLM_INSIDE), queries, read, history, keys_of)


def _reach(window: int) -> int:
    """A time slightly above the window, since the first interval in it begins before it."""
    return window + 60


def _labels(row: Row) -> Mapping[str, str]:
    labels = row.get("metric")
    return labels if isinstance(labels, dict) else {}


def _histogram(rows: Sequence[Row], model: str) -> dict[float, float]:
    found: dict[float, float] = {}
    for row in rows:
        labels = _labels(row)
        points = cleaned([row.get("value") or ()])
        bound = _number(labels.get("le", ""))
        if labels.get("model_name") == model and points and bound is not None:
            found[bound] = points[0][1]
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if value != value else value


def any_of(texts: Iterable[str]) -> str:
    """A PromQL string with a regular expression that matches only these texts."""
    return json.dumps("|".join(sorted(re.escape(text) for text in texts)), ensure_ascii=False)
