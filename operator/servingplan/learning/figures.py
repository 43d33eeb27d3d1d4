"""The figures that engines publish: the queries for them, and the meaning of their answers.

One query asks for means and loads over the last window, by pod, and one for the counts behind percentiles.

vLLM names the time per token of a request ``vllm:request_time_per_output_token_seconds``. Engines from before that metric have
only the time between two tokens (``vllm:inter_token_latency_seconds``, before 0.11 ``vllm:time_per_output_token_seconds``). Its
mean is over tokens instead of requests, which differs little while lengths and times are not related; with speculation it is
the time between two outputs of several tokens, so it is not used then. Percentiles of tokens are not those of requests.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from servingplan.demand.signals import any_of
from servingplan.model.readings import EngineFigures, Histogram

WINDOW_SECONDS = 300
"""What one look covers. Looks do not overlap."""
_SUMS = {
    "ttft": ("time_to_first_token_seconds",),
    "tpot": ("request_time_per_output_token_seconds",),
    "gap": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
    "input": ("request_prompt_tokens",),
    "output": ("request_generation_tokens",),
}
"""The histograms by figure, whose sum and count give a mean."""
_COUNTS = {
    "ttft": "time_to_first_token_seconds",
    "tpot": "request_time_per_output_token_seconds",
    "prompts": "request_prompt_tokens",
}
"""The histograms by figure, whose counts by bound give percentiles."""
_BOUND = "le"
_POD = "pod"
_MOST = 1e15
"""A figure beyond this measures nothing, and sums with it could overflow."""


def query(models: Iterable[str], *, namespace: str, namespace_label: str | None) -> str:
    """PromQL with one row for each pod and figure.

    ``models`` are the names that engines serve. ``namespace_label`` is set for a Prometheus that other namespaces share: its
    label with the namespace of the scraped pod, and only ``namespace`` is looked at.
    """
    series = _series(models, namespace=namespace, namespace_label=namespace_label)
    window = f"[{WINDOW_SECONDS}s]"
    running, waiting = series("num_requests_running"), series("num_requests_waiting")
    told = {
        f"{figure}_{part}": f"sum by ({_POD}) (increase({series(*(f'{name}_{part}' for name in names))}{window}))"
        for figure, names in _SUMS.items()
        for part in ("sum", "count")
    }
    told["running"] = f"sum by ({_POD}) (avg_over_time({running}{window}))"
    told["waiting"] = f"min by ({_POD}) (min_over_time({waiting}{window}))"
    told["now"] = f"sum by ({_POD}) ({running})"
    told["before"] = f"sum by ({_POD}) ({running} offset {WINDOW_SECONDS}s)"
    return " or ".join(
        f'label_replace({text}, "figure", "{figure}", "{_POD}", ".*")' for figure, text in sorted(told.items())
    )


def query_counts(models: Iterable[str], *, namespace: str, namespace_label: str | None) -> str:
    """PromQL with one row for each pod, figure and bound: the number of values of at most the bound. The arguments are those
    of ``query``."""
    series = _series(models, namespace=namespace, namespace_label=namespace_label)
    return " or ".join(
        f"label_replace(sum by ({_POD}, {_BOUND}) (increase({series(f'{name}_bucket')}[{WINDOW_SECONDS}s])), "
        f'"figure", "{figure}", "{_POD}", ".*")'
        for figure, name in sorted(_COUNTS.items())
    )


def _series(models: Iterable[str], *, namespace: str, namespace_label: str | None) -> Callable[..., str]:
    """What selects series of these engines, by the names of their metrics without prefix."""
    of_models = f"model_name=~{any_of(models)}"
    if namespace_label is not None:
        of_models += f",{namespace_label}={json.dumps(namespace)}"

    def series(*names: str) -> str:
        spelled = [f"vllm{mark}{name}" for name in names for mark in (":", "_")]
        return f"{{__name__=~{any_of(spelled)},{of_models}}}"

    return series


def with_counts(engines: Sequence[EngineFigures], rows: Sequence[Mapping[str, Any]]) -> tuple[EngineFigures, ...]:
    """The figures with the counts behind percentiles. A histogram with a count that is no count is left out.

    Raises ``TypeError``, ``KeyError`` or ``ValueError`` if the rows are not what Prometheus answers.
    """
    found: dict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    for row in rows:
        labels = row["metric"]
        found[str(labels.get(_POD, "")), str(labels["figure"])][float(labels[_BOUND])] = float(row["value"][1])
    return tuple(
        engine.model_copy(update={figure: _histogram(found.get((engine.pod, figure), {})) for figure in _COUNTS})
        for engine in engines
    )


def _histogram(counts: Mapping[float, float]) -> Histogram | None:
    bounds = sorted(counts)
    values = [counts[bound] for bound in bounds]
    if len(bounds) < 2 or bounds[0] <= 0 or bounds[-1] != math.inf or not all(0 <= value <= _MOST for value in values):
        return None
    # The increase of each bound is extrapolated by itself, so that a count may lie a little below the one before it.
    rising = tuple(accumulate(values, max))
    return Histogram(bounds=tuple(bounds[:-1]), counts=rising[:-1], total=rising[-1])


def read(rows: Sequence[Mapping[str, Any]]) -> tuple[EngineFigures, ...]:
    """The figures of every pod that was there for the whole window, by name.

    Values that are not finite, negative or larger than anything that is measured are no figures. Raises ``TypeError``,
    ``KeyError`` or ``ValueError`` if the rows are not what Prometheus answers.
    """
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        labels, value = row["metric"], float(row["value"][1])
        if 0 <= value <= _MOST:
            found[str(labels.get(_POD, ""))][str(labels["figure"])] = value
    return tuple(
        EngineFigures(
            pod=pod,
            requests=told["output_count"],
            input_tokens=_mean(told, "input"),
            output_tokens=_mean(told, "output"),
            ttft_seconds=_mean(told, "ttft"),
            tpot_seconds=_mean(told, "tpot"),
            gap_seconds=_mean(told, "gap"),
            running=told["running"],
            least_waiting=told["waiting"],
        )
        for pod, told in sorted(found.items())
        if pod and told.keys() >= {"output_count", "running", "waiting", "now", "before"}
    )


def _mean(told: Mapping[str, float], figure: str) -> float | None:
    count = told.get(f"{figure}_count", 0.0)
    mean = told.get(f"{figure}_sum", math.inf) / count if count > 0 else math.inf
    return mean if mean <= _MOST else None
