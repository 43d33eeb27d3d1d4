"""Computes the load of copies at which a percentile of requests keeps the limits.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. ``estimate`` gives the rate that a replica
sustains. Here its step times are scaled so that they give exactly that rate, and ``latency`` computes with them how many
requests keep the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from servingplan.profiles import latency
from servingplan.profiles.fit import Unfit
from servingplan.profiles.latency import Spread
from servingplan.profiles.learned import Learned, corrected, corrected_promise, eased, paced
from servingplan.profiles.steps import StepTimes

if TYPE_CHECKING:
    from servingplan.profiles.estimate import Estimate

COPIES = 4
"""The utilisation is given for 1 to 4 copies, and the last value holds for more. The slope of the table falls as
1/sqrt(copies), and each further row adds a binary per shape to the solver's program."""
HIGHEST_UTILIZATION = 0.95
"""The largest utilisation, also without limits, because a queue at full load grows without bound."""
AT_ONCE = 64
"""The number of pairs of a replica and a class that are computed together. It is large, because each operation on arrays has a
fixed cost, but the arrays must fit in a core's cache."""
LEAST_UTILIZATION = 1e-3
"""The utilisation of numbers of copies that keep the limits only if almost idle, while more copies keep them at some load."""


MOST_PACE = 3.0
"""The largest factor on step times to match a rate. A larger one means that times and rate do not belong together, as for
answers of one token, if the rate does not count batches of prompts."""


class Limits(NamedTuple):
    """The limits that a percentile of requests must keep, in seconds; None means no limit."""

    ttft_seconds: float | None
    tpot_seconds: float | None
    percentile: float = 95.0

    def __bool__(self) -> bool:
        return self.ttft_seconds is not None or self.tpot_seconds is not None


class Requests(NamedTuple):
    """The properties of a class on which a replica's rate depends."""

    name: str
    input_tokens: int
    output_tokens: int
    limits: Limits


class Asked(NamedTuple):
    """One class of requests, the rate of a replica for it, and its limits."""

    input_tokens: int
    output_tokens: int
    requests_per_second: float
    """The rate that the replica sustains without limits."""
    limits: Limits
    ttft_ratio: float = 0.0
    tpot_ratio: float = 0.0
    """The plan counts on times that are at least this many times as long as the step times say."""
    caution: float = 1.0
    """The part of these ratios that counts, 0 to 1: the rest of what the plan counts on is learned."""


class Promise(NamedTuple):
    """The load that copies may have, and the latencies at that load."""

    utilization: tuple[float, ...]
    """The part of the rate without limits, by number of copies 1, 2, ...; the last holds for more. It is 0 if the percentile
    does not keep the limits even on an almost idle copy."""
    batch: int
    """The mean number of running requests on one of many copies."""
    most_running: int
    """The number of running requests that is exceeded only a thousandth of the time."""
    ttft_seconds: float
    """The mean at the utilisation of one copy, or on an almost idle copy if that is 0."""
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
    """The promise for each class if one replica serves it alone.

    Args:
        steps: the times of the replica's iterations. Only their proportions count; they are scaled to the given rates.
        floor_seconds: the time to the first token outside all iterations.
        spread: the spread of the lengths within a class; the default is ``Spread()``.
        copies: the largest number of copies.

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
    """The promise for each pair of a replica and a class; ``asked`` has one entry per row of the table."""
    rates = np.array([it.requests_per_second for it in asked])
    if not (rates > 0).all():
        raise ValueError(f"requests_per_second {rates} must be above 0")
    pace = np.clip(table.top_rate / rates, 1 / MOST_PACE, MOST_PACE)
    caution = np.array([it.caution for it in asked])
    ratios = (np.array([getattr(it, name) for it in asked]) for name in ("ttft_ratio", "tpot_ratio"))
    table = latency.at_pace(table, pace)
    table = latency.cautious(table, *(ratio**caution * pace ** (1 - caution) for ratio in ratios))
    percentile = np.array([it.limits.percentile for it in asked])
    found = latency.capacity(
        table,
        ttft_seconds=np.array([np.inf if it.limits.ttft_seconds is None else it.limits.ttft_seconds for it in asked]),
        tpot_seconds=np.array([np.inf if it.limits.tpot_seconds is None else it.limits.tpot_seconds for it in asked]),
        percentile=percentile,
        max_copies=copies,
    )
    used = np.minimum(found.utilization, HIGHEST_UTILIZATION)
    # The load of a single copy, and that of one of many copies.
    loads = np.maximum(used[:, [0, -1]], LEAST_UTILIZATION)
    at = latency.open_loop(
        table,
        loads * table.top_rate[:, None],
        copies=np.array([[1.0, copies]]),
        percentile=percentile[:, None],
        end_to_end=False,
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
    """The estimates of one replica for classes of requests without their limits."""

    found: Mapping[str, Estimate | Unfit]
    """The estimates, by name of the class."""
    classes: Sequence[Requests]
    steps: Callable[[], StepTimes]
    """Returns the replica's step times; it is called if a class has limits."""
    floor_seconds: float
    """The time to the first token outside all iterations."""
    learned: Learned = Learned()
    """What was learned about this replica."""
    confidence: float = 0.5
    """The probability that learned latencies are not exceeded."""


def limited(
    found: Mapping[str, Estimate | Unfit],
    classes: Sequence[Requests],
    steps: Callable[[], StepTimes],
    *,
    floor_seconds: float,
) -> dict[str, Estimate | Unfit]:
    """The estimates by name of the class: with limits at the load that keeps them, or ``Unfit`` if none does; else unchanged.

    The arguments are the fields of ``Unlimited``.
    """
    return all_limited([Unlimited(found, classes, steps, floor_seconds)])[0]


def all_limited(replicas: Sequence[Unlimited]) -> list[dict[str, Estimate | Unfit]]:
    """The same for each of several replicas. All their classes are computed together, which is much faster."""
    kept = [dict(replica.found) for replica in replicas]
    pairs: list[tuple[dict[str, Estimate | Unfit], Requests, Estimate, Unlimited]] = []
    asked: list[Asked] = []
    tables: list[latency.Table] = []
    for replica, answers in zip(replicas, kept, strict=True):
        mine = [
            (answers, item, found, replica)
            for item in replica.classes
            if item.limits and not isinstance(found := replica.found[item.name], Unfit)
        ]
        if mine:
            pairs += mine
            asked += [
                Asked(
                    item.input_tokens,
                    item.output_tokens,
                    paced(found, replica.learned),
                    eased(item.limits, replica.learned, replica.confidence),
                    found.planned_ttft_ratio,
                    found.planned_tpot_ratio,
                    replica.learned.caution_left,
                )
                for _, item, found, _ in mine
            ]
            tables.append(_tabulated(replica.steps(), asked[-len(mine) :], replica.floor_seconds))
    if not pairs:
        return [_corrected(answers, replica) for answers, replica in zip(kept, replicas, strict=True)]
    together = latency.stack(tables)
    for first in range(0, len(pairs), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        told = _promises(latency.part_of(together, part), asked[part], COPIES)
        for (answers, item, found, replica), promise in zip(pairs[part], told, strict=True):
            promised = corrected_promise(promise, replica.learned, replica.confidence) if replica.learned else promise
            answers[item.name] = _at_the_load(found, promised, item)
    return [_corrected(answers, replica) for answers, replica in zip(kept, replicas, strict=True)]


def _corrected(answers: dict[str, Estimate | Unfit], replica: Unlimited) -> dict[str, Estimate | Unfit]:
    """The estimates, corrected by what was learned."""
    return {
        name: found if isinstance(found, Unfit) else corrected(found, replica.learned, replica.confidence)
        for name, found in answers.items()
    }


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
    """The refusal of limits that even an almost idle replica cannot keep, with the smallest sufficient change of one of
    them."""
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
