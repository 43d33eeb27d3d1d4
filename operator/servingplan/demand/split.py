"""Requests of a model shared out to its classes by their lengths, where only vLLM's histograms tell of lengths.

vLLM counts prompt lengths and answer lengths apart (``request_prompt_tokens``, ``request_generation_tokens``), not
together. They are taken to be independent: a request falls into each pair of buckets with the product of their shares,
and belongs to the class whose typical lengths are nearest to the middles of both, on a logarithmic scale. Where long
prompts bring short answers, as in retrieval, this puts too many requests into the classes between; a gateway that counts
by class is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from servingplan.api.v1alpha1 import RequestClass


def shares(
    classes: Sequence[RequestClass], prompts: Mapping[float, float], answers: Mapping[float, float]
) -> dict[str, float] | None:
    """Part of the requests that each class gets; by upper bounds of the buckets, how many requests were at most that
    long (cumulative, as Prometheus has it). None where a histogram is empty."""
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
    """Middle (geometric) and share of every bucket that holds something; the last one is taken at its lower bound."""
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
