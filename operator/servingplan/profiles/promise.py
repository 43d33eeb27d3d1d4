"""What may be promised of a replica: how far copies may be loaded so that a percentile of requests keeps the limits.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. ``estimate`` says how many requests a replica
sustains; here its step times, slowed or hastened to that very rate, say how many of them keep the limits (``latency``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from servingplan.profiles import latency
from servingplan.profiles.fit import Unfit
from servingplan.profiles.latency import Spread
from servingplan.profiles.steps import StepTimes

if TYPE_CHECKING:
    from servingplan.profiles.estimate import Estimate

COPIES = 4
"""Utilisation is told for 1 to 4 copies and held from there: the table's slope falls as 1/sqrt(copies), and each further row
costs the solver a binary per shape."""
HIGHEST_UTILIZATION = 0.95
"""Also without limits: a queue at full load grows without bound."""
AT_ONCE = 64
"""Pairs of replica and class that are looked at together: enough to hide what each operation on arrays costs by itself, few
enough that the arrays stay in a core's cache."""
LEAST_UTILIZATION = 1e-3
"""What stands for a number of copies that keep the limits only when almost idle, where more copies keep them at some load."""


MOST_PACE = 3.0
"""Step times are never slowed or hastened by more than this to meet a rate: beyond, the two are not of one replica, as where
answers have one token and a rate counts no batches of prompts."""


class Limits(NamedTuple):
    """What a percentile of requests must keep, in seconds; None: no limit."""

    ttft_seconds: float | None
    tpot_seconds: float | None
    percentile: float = 95.0

    def __bool__(self) -> bool:
        return self.ttft_seconds is not None or self.tpot_seconds is not None


class Requests(NamedTuple):
    """One class, as far as a replica's speed for it is concerned."""

    name: str
    input_tokens: int
    output_tokens: int
    limits: Limits


class Asked(NamedTuple):
    """One class of requests, the rate that a replica has for it, and its limits."""

    input_tokens: int
    output_tokens: int
    requests_per_second: float
    """The rate that the replica sustains without limits."""
    limits: Limits


class Promise(NamedTuple):
    """What one copy, and several, may be loaded with."""

    utilization: tuple[float, ...]
    """Of the rate without limits, by number of copies 1, 2, ..., the last holding for more; 0 where the percentile does not
    keep the limits even on a copy that is almost idle."""
    batch: int
    """Mean requests that run together on one of many copies."""
    most_running: int
    """Requests that do so all but a thousandth of the time."""
    ttft_seconds: float
    """Mean at the utilisation of one copy, or of an idle one where that is 0."""
    tpot_seconds: float
    ttft_percentile_seconds: float
    tpot_percentile_seconds: float


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
    return _promises(_tabulated(steps, asked, floor_seconds, spread), asked, copies)


def _tabulated(
    steps: StepTimes, asked: Sequence[Asked], floor_seconds: float, spread: Spread | None = None
) -> latency.Table:
    prompts, answers = (np.array(it, dtype=float) for it in zip(*(item[:2] for item in asked), strict=True))
    return latency.tabulate(steps, prompts, answers, spread, floor_seconds=floor_seconds)


def _promises(table: latency.Table, asked: Sequence[Asked], copies: int) -> tuple[Promise, ...]:
    """What may be promised to each pair of replica and class; ``asked`` by row of the table."""
    rates = np.array([it.requests_per_second for it in asked])
    if not (rates > 0).all():
        raise ValueError(f"requests_per_second {rates} must be above 0")
    table = latency.at_pace(table, np.clip(table.top_rate / rates, 1 / MOST_PACE, MOST_PACE))
    percentile = np.array([it.limits.percentile for it in asked])
    found = latency.capacity(
        table,
        ttft_seconds=np.array([np.inf if it.limits.ttft_seconds is None else it.limits.ttft_seconds for it in asked]),
        tpot_seconds=np.array([np.inf if it.limits.tpot_seconds is None else it.limits.tpot_seconds for it in asked]),
        percentile=percentile,
        max_copies=copies,
    )
    used = np.minimum(found.utilization, HIGHEST_UTILIZATION)
    # One copy as full as may be, and one of many copies.
    loads = np.maximum(used[:, [0, -1]], LEAST_UTILIZATION)
    at = latency.open_loop(
        table,
        loads * table.top_rate[:, None],
        copies=np.array([[1.0, copies]]),
        percentile=percentile[:, None],
    )
    return tuple(
        Promise(
            utilization=tuple(round(float(it), 6) for it in used[row]),
            batch=int(np.ceil(at.running[row, 1])),
            most_running=int(np.ceil(at.running_most[row].max())),
            ttft_seconds=float(at.ttft_seconds[row, 0]),
            tpot_seconds=float(at.tpot_seconds[row, 0]),
            ttft_percentile_seconds=float(at.ttft_percentile_seconds[row, 0]),
            tpot_percentile_seconds=float(at.tpot_percentile_seconds[row, 0]),
        )
        for row in range(len(asked))
    )


class Unlimited(NamedTuple):
    """What one replica does for classes of requests without their limits."""

    found: Mapping[str, Estimate | Unfit]
    """By name of the class."""
    classes: Sequence[Requests]
    steps: Callable[[], StepTimes]
    """The replica's; called where a class has limits."""
    floor_seconds: float
    """What a first token takes beside all iterations."""


def limited(
    found: Mapping[str, Estimate | Unfit],
    classes: Sequence[Requests],
    steps: Callable[[], StepTimes],
    *,
    floor_seconds: float,
) -> dict[str, Estimate | Unfit]:
    """Estimates without limits, and where a class has limits, at the load that keeps them; ``Unfit`` where none does.

    The arguments are the fields of ``Unlimited``.
    """
    return all_limited([Unlimited(found, classes, steps, floor_seconds)])[0]


def all_limited(replicas: Sequence[Unlimited]) -> list[dict[str, Estimate | Unfit]]:
    """The same for each of several replicas, whose classes are looked at together, which is much faster than one by one."""
    kept = [dict(replica.found) for replica in replicas]
    pairs: list[tuple[dict[str, Estimate | Unfit], Requests, Estimate]] = []
    asked: list[Asked] = []
    tables: list[latency.Table] = []
    for replica, answers in zip(replicas, kept, strict=True):
        mine = [
            (answers, item, found)
            for item in replica.classes
            if item.limits and not isinstance(found := replica.found[item.name], Unfit)
        ]
        if mine:
            pairs += mine
            asked += [
                Asked(item.input_tokens, item.output_tokens, found.planned_requests_per_second, item.limits)
                for _, item, found in mine
            ]
            tables.append(_tabulated(replica.steps(), asked[-len(mine) :], replica.floor_seconds))
    if not pairs:
        return kept
    together = latency.stack(tables)
    for first in range(0, len(pairs), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        told = _promises(latency.part_of(together, part), asked[part], COPIES)
        for (answers, item, found), promise in zip(pairs[part], told, strict=True):
            answers[item.name] = _at_the_load(found, promise, item)
    return kept


def _at_the_load(found: Estimate, promise: Promise, item: Requests) -> Estimate | Unfit:
    most = promise.utilization[-1]
    if most == 0:
        return limits_refusal(promise, item.limits)
    return found.model_copy(
        update={
            "requests_per_second": found.requests_per_second * most,
            "low": found.low * most,
            "high": found.high * most,
            "planned_requests_per_second": found.planned_requests_per_second * most,
            "batch": promise.batch,
            "most_running": promise.most_running,
            "ttft_seconds": promise.ttft_seconds,
            "tpot_seconds": promise.tpot_seconds,
            "slot_seconds": promise.ttft_seconds + (item.output_tokens - 1) * promise.tpot_seconds,
            "ttft_percentile_seconds": promise.ttft_percentile_seconds,
            "tpot_percentile_seconds": promise.tpot_percentile_seconds,
            "utilization": tuple(max(LEAST_UTILIZATION, round(part / most, 6)) for part in promise.utilization),
        }
    )


def limits_refusal(promise: Promise, limits: Limits) -> Unfit:
    """Why limits cannot be kept even when almost idle, and the smallest change of one of them that would do."""
    share = f"{limits.percentile:g} % of requests"
    early = limits.ttft_seconds is None or promise.ttft_percentile_seconds <= limits.ttft_seconds
    steady = limits.tpot_seconds is None or promise.tpot_percentile_seconds <= limits.tpot_seconds
    parts = []
    if not early:
        parts.append(f"time to first token {promise.ttft_percentile_seconds:.4g} s, asked {limits.ttft_seconds:.4g} s")
    if not steady:
        parts.append(
            f"time per output token {promise.tpot_percentile_seconds:.4g} s, asked {limits.tpot_seconds:.4g} s"
        )
    return Unfit(
        reason="SloUnreachable",
        message=f"even an almost idle replica takes longer than the SLO allows to {share} ({'; '.join(parts)}); "
        "relax the SLO, or take faster GPUs, more of them or a smaller precision",
        least_ttft_seconds=promise.ttft_percentile_seconds if steady else None,
        least_tpot_seconds=promise.tpot_percentile_seconds if early else None,
    )
