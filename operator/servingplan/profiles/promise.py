"""What may be promised of a replica: how far copies may be loaded so that a percentile of requests keeps the limits.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. ``estimate`` says how many requests a replica
sustains; here its step times, slowed or hastened to that very rate, say how many of them keep the limits (``latency``).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from servingplan.profiles import latency
from servingplan.profiles.latency import Spread
from servingplan.profiles.steps import StepTimes

COPIES = 4
"""Utilisation is told for 1 to 4 copies and held from there: the table's slope falls as 1/sqrt(copies), and each further row
costs the solver a binary per shape."""
HIGHEST_UTILIZATION = 0.95
"""Also without limits: a queue at full load grows without bound."""
_LEAST_LOAD = 1e-3


class Asked(NamedTuple):
    """One class of requests and its limits."""

    input_tokens: int
    output_tokens: int
    requests_per_second: float
    """The rate that the replica sustains without limits."""
    ttft_seconds: float | None
    tpot_seconds: float | None
    percentile: float


class Promise(NamedTuple):
    """What one copy, and several, may be loaded with."""

    utilization: tuple[float, ...]
    """Of the rate without limits, by number of copies 1, 2, ..., the last holding for more; 0 where the percentile does not
    keep the limits even on a copy that is almost idle."""
    batch: int
    """Requests that run at the same time on one of many copies, all but a thousandth of the time."""
    ttft_seconds: float
    """Mean at the utilisation of one copy, or of an idle one where that is 0."""
    tpot_seconds: float
    ttft_percentile_seconds: float
    tpot_percentile_seconds: float
    least_ttft_seconds: float
    """The percentile on an almost idle copy: no smaller limit can be kept."""
    least_tpot_seconds: float


def promises(
    steps: StepTimes,
    asked: Sequence[Asked],
    *,
    floor_seconds: float = 0.0,
    spread: Spread | None = None,
    copies: int = COPIES,
) -> tuple[Promise, ...]:
    """What may be promised to each class that one replica serves alone.

    Args:
        steps: times of the replica's iterations; only their proportions count, the pace is set by the rates asked with.
        floor_seconds: what a first token takes beside all iterations.
        spread: of the lengths within a class, default ``Spread()``.
        copies: numbers of copies to tell, from 1.

    Raises:
        ValueError: a length is below 1, a rate not above 0, or a percentile outside (0, 100).
    """
    if not asked:
        return ()
    table = latency.tabulate(
        steps,
        [it.input_tokens for it in asked],
        [it.output_tokens for it in asked],
        spread,
        floor_seconds=floor_seconds,
    )
    rates = np.array([it.requests_per_second for it in asked])
    if not (rates > 0).all():
        raise ValueError(f"requests_per_second {rates} must be above 0")
    table = latency.at_pace(table, table.top_rate / rates)
    percentile = np.array([it.percentile for it in asked])
    found = latency.capacity(
        table,
        ttft_seconds=np.array([np.inf if it.ttft_seconds is None else it.ttft_seconds for it in asked]),
        tpot_seconds=np.array([np.inf if it.tpot_seconds is None else it.tpot_seconds for it in asked]),
        percentile=percentile,
        max_copies=copies,
    )
    used = np.minimum(found.utilization, HIGHEST_UTILIZATION)
    # Three points: almost idle, one copy as full as may be, one of many copies.
    loads = np.maximum(np.stack([np.zeros(len(asked)), used[:, 0], used[:, -1]], axis=1), _LEAST_LOAD)
    at = latency.open_loop(
        table,
        loads * table.top_rate[:, None],
        copies=np.array([[1.0, 1.0, copies]]),
        percentile=percentile[:, None],
    )
    return tuple(
        Promise(
            utilization=tuple(round(float(it), 6) for it in used[row]),
            batch=int(np.ceil(at.running_most[row, 1:].max())),
            ttft_seconds=float(at.ttft_seconds[row, 1]),
            tpot_seconds=float(at.tpot_seconds[row, 1]),
            ttft_percentile_seconds=float(at.ttft_percentile_seconds[row, 1]),
            tpot_percentile_seconds=float(at.tpot_percentile_seconds[row, 1]),
            least_ttft_seconds=float(at.ttft_percentile_seconds[row, 0]),
            least_tpot_seconds=float(at.tpot_percentile_seconds[row, 0]),
        )
        for row in range(len(asked))
    )
