"""The counters of an engine since its start. Times are in seconds of its own clock."""

from __future__ import annotations

from bisect import bisect_left


class Histogram:
    """Counts by upper bound; the last count has no bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count ``value`` ``count`` times; a value equal to a bound is counted under that bound."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """The mean of the observations; 0 if there are none."""
        return self.total / self.count if self.count else 0.0


# These are vLLM's bounds (vllm/v1/metrics/loggers.py, 2026), so that queries for vLLM's metrics work here.
FIRST_TOKEN_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
REQUEST_BOUNDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


def length_bounds(longest: int) -> tuple[float, ...]:
    """The bounds of histograms of token counts: 1, 2, 5, 10, ... up to ``longest``."""
    bounds = [float(digit * 10**power) for power in range(len(str(longest))) for digit in (1, 2, 5)]
    return tuple(bound for bound in bounds if bound <= longest)


class Tally:
    """Counters and histograms of one engine."""

    def __init__(self, max_model_len: int) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.prefix_queries = 0
        """Tokens that were looked up in the prefix cache."""
        self.prefix_hits = 0
        """Tokens that were found there."""
        self.preemptions = 0
        self.iterations = 0
        self.busy_seconds = 0.0
        self.finished = {"stop": 0, "length": 0, "abort": 0}
        self.first_token = Histogram(FIRST_TOKEN_BOUNDS)
        self.inter_token = Histogram(TOKEN_BOUNDS)
        self.per_output_token = Histogram(TOKEN_BOUNDS)
        """The mean time per token after the first; one value per request."""
        self.end_to_end = Histogram(REQUEST_BOUNDS)
        self.queue = Histogram(REQUEST_BOUNDS)
        self.inference = Histogram(REQUEST_BOUNDS)
        self.prefill = Histogram(REQUEST_BOUNDS)
        self.decode = Histogram(REQUEST_BOUNDS)
        self.request_prompt = Histogram(length_bounds(max_model_len))
        self.request_generation = Histogram(length_bounds(max_model_len))
