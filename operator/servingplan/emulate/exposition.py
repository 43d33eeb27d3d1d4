"""``/metrics`` under vLLM's names, with its labels and bounds; see vllm/docs/design/metrics.md and v1/metrics/loggers.py.

Times are engine seconds. What an engine does without (a prefix cache) stands at zero, so that queries find the series.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, override

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from servingplan.simulate.engine import Engine
from servingplan.simulate.pace import BLOCK_TOKENS
from servingplan.simulate.tally import Histogram

_LABELS: Final = ("model_name", "engine")


class EngineCollector(Collector):
    """Reads one engine when it is scraped; nothing is kept twice."""

    def __init__(self, engine: Engine, model_name: str) -> None:
        self._engine = engine
        self._values = (model_name, "0")

    @override
    def collect(self) -> Iterator[Metric]:
        """All families, in a fixed order."""
        engine, tally = self._engine, self._engine.tally
        yield self._gauge("num_requests_running", "Requests in the running batch.", engine.running)
        yield self._gauge("num_requests_waiting", "Requests in the queue.", engine.waiting)
        yield self._gauge("kv_cache_usage_perc", "Share of the KV blocks in use; 1 is all.", engine.kv_usage)
        yield self._counter("num_preemptions", "Requests that gave up their KV blocks.", tally.preemptions)
        yield self._counter("prompt_tokens", "Prompt tokens read.", tally.prompt_tokens)
        yield self._counter("generation_tokens", "Tokens generated.", tally.generation_tokens)
        yield self._counter("prefix_cache_queries", "Tokens looked up in the prefix cache.", tally.prefix_queries)
        yield self._counter("prefix_cache_hits", "Tokens found in the prefix cache.", tally.prefix_hits)
        success = CounterMetricFamily(
            "vllm:request_success", "Requests that ended, by reason.", labels=(*_LABELS, "finished_reason")
        )
        for reason, count in tally.finished.items():
            success.add_metric((*self._values, reason), count)
        yield success
        yield self._histogram("time_to_first_token_seconds", "Arrival to first token.", tally.first_token)
        yield self._histogram("inter_token_latency_seconds", "Between two tokens.", tally.inter_token)
        yield self._histogram(
            "request_time_per_output_token_seconds", "Mean time per further token.", tally.per_output_token
        )
        yield self._histogram("e2e_request_latency_seconds", "Arrival to last token.", tally.end_to_end)
        yield self._histogram("request_queue_time_seconds", "In the queue.", tally.queue)
        yield self._histogram("request_inference_time_seconds", "In the batch.", tally.inference)
        yield self._histogram("request_prefill_time_seconds", "In the batch until the first token.", tally.prefill)
        yield self._histogram("request_decode_time_seconds", "First to last token.", tally.decode)
        yield self._histogram("request_prompt_tokens", "Prompt tokens of a request.", tally.request_prompt)
        yield self._histogram("request_generation_tokens", "Tokens of an answer.", tally.request_generation)
        info = GaugeMetricFamily(
            "vllm:cache_config_info",
            "The KV cache.",
            labels=("block_size", "num_gpu_blocks", "enable_prefix_caching", "engine"),
        )
        info.add_metric((str(BLOCK_TOKENS), str(engine.pace.kv_blocks), str(engine.prefix_cache_hit_share > 0), "0"), 1)
        yield info

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=_LABELS)
        family.add_metric(self._values, value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", text, labels=_LABELS)
        family.add_metric(self._values, value)
        return family

    def _histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        family = HistogramMetricFamily(f"vllm:{name}", text, labels=_LABELS)
        buckets, below = [], 0
        for bound, count in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
            below += count
            buckets.append(("+Inf" if math.isinf(bound) else str(bound), below))
        family.add_metric(self._values, buckets, histogram.total)
        return family


def registry(engine: Engine, model_name: str) -> CollectorRegistry:
    """A registry with this engine alone."""
    found = CollectorRegistry(auto_describe=False)
    found.register(EngineCollector(engine, model_name))
    return found
