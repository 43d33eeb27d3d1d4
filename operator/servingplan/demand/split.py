"""Assigns the requests of a model to its classes by length, if only vLLM's histograms tell the lengths.

vLLM counts prompt lengths and answer lengths separately (``request_prompt_tokens``, ``request_generation_tokens``). They are
taken as independent: a request falls into each pair of buckets with the product of their shares. It belongs to the class
whose typical lengths are nearest to the middles of both, on a logarithmic scale. If long prompts bring short answers, as in
retrieval, this assigns too many requests to the classes between. A gateway that counts by class is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from servingplan.api.models_v1alpha1 import RequestClass


def shares(
    classes: Sequence[RequestClass], prompts: Mapping[float, float], answers: Mapping[float, float]
) -> dict[str, float] | None:
    """The share of the requests that each class gets; None if a histogram is empty. The arguments map the upper bound of a
    bucket to the number of requests that were at most that long (cumulative, as in Prometheus)."""
    if len(classes) == 1:
        return {classes[0].name: 1.0}
    by_prompt, by_answer = _masses(prompts), _masses(answers)
    if not by_prompt or not by_answer:
        return None
    found = dict.fromkeys((item.name for item in classes), 0.0)
    for prompt, prompt_share in by_prompt:
        for answer, answer_share in by_answer:
            nearest = min(
                classes,
                key=lambda item: (
                    abs(math.log(item.input_tokens / prompt)) + abs(math.log(item.output_tokens / answer)),
                    item.name,
                ),
            )
            found[nearest.name] += prompt_share * answer_share
    return found


def _masses(cumulative: Mapping[float, float]) -> list[tuple[float, float]]:
    """The geometric middle and the share of every bucket with requests; the last bucket is taken at its lower bound."""
    masses, below, low = [], 0.0, 0.5
    for bound in sorted(cumulative):
        count = max(0.0, cumulative[bound] - below)
        middle = low if math.isinf(bound) else math.sqrt(low * max(bound, 0.5))
        if count > 0:
            masses.append((max(middle, 0.5), count))
        below = max(below, cumulative[bound])
        low = max(low, bound) if math.isfinite(bound) else low
    total = sum(count for _, count in masses)
    return [(middle, count / total) for middle, count in masses] if total > 0 else []
