"""Limits on latency that plans break: what was planned to keep a limit, and what was measured at that load.

    python -m benchmarks.limits [--confidence 0.75]

Three tables, each for limits on TTFT and on TPOT, apart for the groups that were there to fit and for those that judge.

1. Closed loops. Of the measured numbers of clients, the most at which the predicted mean keeps the limit with the asked
   confidence, in the same closed loop. Broken is a limit that the measured mean at that number exceeds by more than a tenth.
   Prediction and measurement are of one kind here.
2. Rates of plans. The rate at which copies keep the limit for 95 % of arrivals that come one by one, and the mean that was
   measured at that rate. Most of these measurements are of closed loops, whose clients start together and so wait longer. The
   column ``as predicted`` shows what follows from this alone: the measured times are replaced by those that are predicted for
   the closed loop. The column ``start taken off`` divides the measured times by the predicted effect of the start.
3. The same for the few measurements with open arrivals.

Two states of knowledge: other lengths of the group are known (``measured``), or nothing of the group.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple

from servingplan.profiles.bands import planned_latency_ratio
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.check import NOTHING, group_of, predict
from servingplan.profiles.estimate import Estimate, estimate
from servingplan.profiles.measured import SHIPPED, MeasuredRow, MeasuredRows
from servingplan.profiles.split import part_of

Quantity = Literal["ttft", "tpot"]

LIMITS: dict[Quantity, tuple[float, ...]] = {"ttft": (0.2, 0.5, 1.0), "tpot": (0.02, 0.05, 0.1)}
"""Seconds."""
KNOWLEDGE = ("measured", "nothing")
PARTS = ("fit", "judge")
LEAST_POINTS = 4
"""Shorter curves are left out."""
_TOO_LATE = 1.1
"""A limit is broken if what was measured is more than this many times as long."""


class Verdicts(NamedTuple):
    """What became of the curves of one part."""

    planned: int
    broken: int
    refused: int
    """Curves that keep the limit at their smallest batch, but are refused."""
    as_predicted: int = 0
    """Curves that would break the limit if all closed loops were as predicted."""
    start_taken_off: int = 0
    """Curves that break the limit without the predicted effect of the common start."""


class Curve(NamedTuple):
    """The measurements of one replica at one pair of lengths, by rising number of running requests."""

    rows: tuple[MeasuredRow, ...]

    @property
    def part(self) -> str:
        """The part of its group."""
        gpu, model, precision, size = group_of(self.rows[0])
        return part_of(gpu=gpu, model=model, precision=precision, tensor_parallel=size)

    @property
    def starts_together(self) -> bool:
        """Whether it is of closed loops whose clients start together."""
        return math.isfinite(self.rows[0].requests_per_client)


def curves(settings_of: Callable[[MeasuredRow], object]) -> tuple[Curve, ...]:
    """The curves of at least ``LEAST_POINTS`` measurements; ``settings_of`` tells which rows of a group belong together."""
    found: dict[object, list[MeasuredRow]] = defaultdict(list)
    for row in SHIPPED.rows:
        if row.concurrency is not None and row.ttft_seconds is not None:
            found[group_of(row), settings_of(row), row.input_tokens, row.output_tokens].append(row)
    return tuple(
        Curve(tuple(sorted(rows, key=_running)))
        for _, rows in sorted(found.items(), key=lambda item: repr(item[0]))
        if len(rows) >= LEAST_POINTS
    )


def _running(row: MeasuredRow) -> float:
    """Running requests at a point of a curve, which has no others than those that say how many."""
    assert row.concurrency is not None
    return row.concurrency


@cache
def known(curve: Curve, knowledge: str) -> MeasuredRows | None:
    """The measurements that are known; None where the group has no other lengths."""
    if knowledge == "nothing":
        return NOTHING
    group, lengths = group_of(curve.rows[0]), _lengths(curve.rows[0])
    left = [row for row in SHIPPED.rows if group_of(row) == group and _lengths(row) != lengths]
    return MeasuredRows(lambda: left) if left else None


def _lengths(row: MeasuredRow) -> tuple[int, int]:
    return row.input_tokens, row.output_tokens


@cache
def predicted(row: MeasuredRow, rows: MeasuredRows) -> Estimate | None:
    """The prediction of one point with its own load."""
    return predict(row, model=find_model(row.model), gpu=find_gpu(row.gpu), rows=rows)


def seconds(of: MeasuredRow | Estimate, quantity: Quantity) -> float:
    """The mean TTFT or TPOT."""
    found = of.ttft_seconds if quantity == "ttft" else of.tpot_seconds
    assert found is not None  # the rows of curves have both
    return found


def closed_loops(quantity: Quantity, limit: float, knowledge: str, confidence: float, part: str) -> Verdicts:
    """Table 1: numbers of clients that were planned to keep a limit."""
    planned = broken = refused = 0
    for curve in curves(lambda row: (row.settings, row.requests_per_client)):
        rows = known(curve, knowledge)
        if curve.part != part or not curve.starts_together or rows is None:
            continue
        most = None
        for row in curve.rows:
            found = predicted(row, rows)
            if found is None:
                break
            if seconds(found, quantity) * planned_latency_ratio(quantity, found.basis, confidence) > limit:
                break
            most = row
        if most is not None:
            planned += 1
            broken += seconds(most, quantity) > _TOO_LATE * limit
        else:
            refused += seconds(curve.rows[0], quantity) <= limit
    return Verdicts(planned, broken, refused)


def rates_of_plans(
    quantity: Quantity, limit: float, knowledge: str, confidence: float, part: str, *, together: bool
) -> Verdicts:
    """Tables 2 and 3: rates that were planned to keep a limit for 95 % of open arrivals."""
    planned = broken = refused = as_predicted = start_taken_off = 0
    for curve in curves(lambda row: row.settings.engine):
        rows = known(curve, knowledge)
        if curve.part != part or curve.starts_together != together or rows is None:
            continue
        found = estimated_within(curve.rows[0], quantity, limit, confidence, rows)
        measured = [(row.requests_per_second, seconds(row, quantity)) for row in curve.rows]
        if not isinstance(found, Estimate):
            refused += measured[0][1] <= limit
            continue
        rate = found.planned_requests_per_second
        after = _at(measured, rate)
        loops, steady = (_predicted_curve(curve, quantity, rows, together=each) for each in (True, False))
        planned += 1
        broken += after > _TOO_LATE * limit
        if loops and steady:
            expected, without = _at(loops, rate), _at(steady, rate)
            as_predicted += expected > _TOO_LATE * limit
            start_taken_off += after * without / expected > _TOO_LATE * limit
    return Verdicts(planned, broken, refused, as_predicted, start_taken_off)


def estimated_within(first: MeasuredRow, quantity: Quantity, limit: float, confidence: float, rows: MeasuredRows):
    """The estimate within the limit for the replica and the lengths of a row."""
    lengths = _lengths(first)
    settings = first.settings.model_copy(update={"max_model_len": max(8192, sum(lengths)), "max_num_seqs": 1024})
    return estimate(
        model=find_model(first.model),
        precision=first.precision,
        gpu=find_gpu(first.gpu),
        tensor_parallel=first.tensor_parallel,
        pipeline_parallel=1,
        settings=settings,
        input_tokens=lengths[0],
        output_tokens=lengths[1],
        ttft_seconds=limit if quantity == "ttft" else None,
        tpot_seconds=limit if quantity == "tpot" else None,
        confidence=confidence,
        rows=rows,
    )


@cache
def _predicted_curve(
    curve: Curve, quantity: Quantity, rows: MeasuredRows, *, together: bool
) -> list[tuple[float, float]]:
    """A curve as it is predicted, with or without a common start: rate and mean time; empty if the replica does not fit."""
    asked = curve.rows if together else [row._replace(requests_per_client=math.inf) for row in curve.rows]
    found = [predicted(row, rows) for row in asked]
    return [(it.requests_per_second, seconds(it, quantity)) for it in found if it is not None]


def _at(points: list[tuple[float, float]], rate: float) -> float:
    """The time at a rate: linear between the batches that reach it and do not, held below the smallest batch; that of the
    largest where no batch reaches it."""
    if rate <= points[0][0]:
        return points[0][1]
    for (less, low), (more, high) in pairwise(points):
        if less < rate <= more:
            return low + (high - low) * (rate - less) / (more - less)
    return points[-1][1]


def lines(confidence: float) -> Iterator[str]:
    """The tables in Markdown."""
    head = "limit, s | known | fit: planned | broken |"
    for quantity in LIMITS:
        name = quantity.upper()
        yield f"| {name}, clients of closed loops | {head} refused | judge: planned | broken | refused |"
        yield "|---|---|---|---|---|---|---|---|---|"
        for limit, knowledge in _pairs(quantity):
            found = [closed_loops(quantity, limit, knowledge, confidence, part) for part in PARTS]
            cells = (f"{it.planned} | {_share(it.broken, it.planned)} | {it.refused}" for it in found)
            yield f"| mean at {confidence:g} | {limit:g} | {knowledge} | {' | '.join(cells)} |"
        yield ""
    for together, load in ((True, "closed loops that start together"), (False, "open arrivals")):
        for quantity in LIMITS:
            name = quantity.upper()
            more = " as predicted | start taken off |" if together else ""
            yield f"| {name}, {load} | {head}{more} refused | judge: planned | broken |{more} refused |"
            yield f"|---|---|---|---|---|---|---|---|---|{'---|---|---|---|' if together else ''}"
            for limit, knowledge in _pairs(quantity):
                found = [
                    rates_of_plans(quantity, limit, knowledge, confidence, part, together=together) for part in PARTS
                ]
                cells = (
                    f"{it.planned} | {_share(it.broken, it.planned)}"
                    + (f" | {it.as_predicted} | {it.start_taken_off}" if together else "")
                    + f" | {it.refused}"
                    for it in found
                )
                yield f"| rate at {confidence:g} | {limit:g} | {knowledge} | {' | '.join(cells)} |"
            yield ""


def _pairs(quantity: Quantity) -> Iterable[tuple[float, str]]:
    return ((limit, knowledge) for limit in LIMITS[quantity] for knowledge in KNOWLEDGE)


def _share(broken: int, of: int) -> str:
    return f"{broken} ({broken / of:.0%})" if of else f"{broken}"


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__.splitlines()[0])
    parser.add_argument("--confidence", type=float, default=0.75)
    for line in lines(parser.parse_args().confidence):
        print(line)


if __name__ == "__main__":
    main()
