"""P1's grid simulated (`simulated`): its part of the page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from papers.p1.instance import Cell, grid, shape_named
from papers.p1.printed import MEAN_GAIN
from papers.p1.simulated import (
    DEADLINE_SECONDS,
    HOMOGENEOUS,
    OURS,
    PERCENTILES,
    STREAM_SECONDS,
    UNLIMITED,
    Kept,
    Run,
    Simulated,
)
from papers.page import header, marks, measured, row, say

PAPER = "P1-simulated"
COMPARATORS = (
    HOMOGENEOUS, "uniform-composition", "uniform-deployment", "round-robin", "melange", "agh", "greedy-cost", "dvr",
)  # fmt: skip
"""Rules that can be deployed, by the names of `servingplan solve`; each module of theirs says where the rule comes from."""
LOADS = (0.8, 1.0)
"""The loads of the stream, as parts of what the best homogeneous fleet is planned to serve. The paper prints none. Ours is
planned to serve at least as much as that fleet."""
NINE_TENTHS = PERCENTILES.index(90)


@dataclass(frozen=True, slots=True)
class Scope:
    """What is run."""

    cells: tuple[Cell, ...]
    """Cells of the batch"""
    streamed: tuple[Cell, ...]
    """Cells of the stream"""
    swept: tuple[Cell, ...]
    """Cells of the sweep of budgets (figure 16)"""
    seeds: int


_AVAIL_4 = tuple(cell for cell in grid("70B") if cell.stock == 4)
_ENDS = tuple(cell for cell in _AVAIL_4 if cell.budget_dollars_per_hour in (15.0, 60.0))
_SWEPT = tuple(Cell("70B", "T1", float(budget), 4) for budget in range(5, 61, 5))
QUICK = Scope(_AVAIL_4, _ENDS, _SWEPT[::2], seeds=2)
FULL = Scope(tuple(grid()), _AVAIL_4, _SWEPT, seeds=3)


def part(scope: Scope, keep: Path | None = None) -> str:
    """Run it; its part of the page."""
    kept = Kept(keep)

    def simulated(cell: Cell) -> Simulated:
        say(f"simulated: {cell.name}")
        return Simulated(cell, kept.runs, kept.keep)

    begin, end = marks(PAPER)
    lines = [
        begin,
        _INTRODUCTION,
        f"{measured()}. {scope.seeds} seeds a cell, each another order of the requests; lengths are the paper's means.",
        "",
        *_batches([_Case(simulated(cell), scope.seeds) for cell in scope.cells], scope.seeds),
        "",
        *_streams([simulated(cell) for cell in scope.streamed], scope.seeds),
        "",
        *_sweep([simulated(cell) for cell in scope.swept]),
        end,
    ]
    return "\n".join(lines) + "\n"


class _Case:
    """One cell's batches by all methods."""

    def __init__(self, cell: Simulated, seeds: int) -> None:
        self.cell = cell.cell
        self.budget = cell.cell.budget_dollars_per_hour
        runs = {
            method: [run for seed in range(seeds) if (run := cell.batch(method, seed))]
            for method in (OURS, *COMPARATORS, UNLIMITED)
        }
        self.runs = {method: found for method, found in runs.items() if found}
        self.best = max((m for m in COMPARATORS if m in self.runs), key=lambda m: (self._mean(m), m))

    def _mean(self, method: str) -> float:
        return fmean(run.served for run in self.runs[method])

    def gains(self, method: str) -> list[float]:
        """Ours over a method's throughput, less 1, by seed."""
        return [a.served / b.served - 1 for a, b in zip(self.runs[OURS], self.runs[method], strict=True)]

    @property
    def gain(self) -> float:
        """Over the best comparator, mean of the seeds."""
        return fmean(self.gains(self.best))

    @property
    def noise(self) -> float:
        """Distance of the greatest from the least gain of the seeds."""
        found = self.gains(self.best)
        return max(found) - min(found)

    @property
    def over_budget(self) -> list[str]:
        """Methods that pay more than the budget."""
        return [
            m for m, found in self.runs.items() if any(run.dollars_per_hour > self.budget * (1 + 1e-9) for run in found)
        ]

    @property
    def reason(self) -> str:
        """Why ours is behind: where the planned lead went."""
        ours, other = self.runs[OURS][0], self.runs[self.best][0]
        planned = ours.planned / other.planned - 1
        early = other.ends[NINE_TENTHS] / ours.ends[NINE_TENTHS] - 1
        told = (
            f"planned {planned:+.1%}; engines reach {ours.served / ours.planned:.1%} of their planned rate,"
            f" those of {self.best} {other.served / other.planned:.1%}, with {ours.preempted:.3f} and {other.preempted:.3f}"
            f" preemptions a request; engines work {_worked(ours)} of the planned time in ours and {_worked(other)} in"
            f" {self.best}"
        )
        if early > 0:
            return f"{told}; the end of the batch: when nine tenths have their answer, ours is {early:.1%} faster"
        return f"{told}; when nine tenths have their answer, it is {early:+.1%}, and the rest is the end of the batch"


def _batches(cases: Sequence[_Case], seeds: int) -> Iterator[str]:
    names = [
        "cell", "ours, requests/s", "of planned", "best comparator", "its requests/s", "gain", "noise",
        "gain over homogeneous: equal stock", "unlimited", "$ of the budget: ours", "comparator",
        "GPUs busy: ours", "comparator", "preemptions a request: ours", "comparator",
    ]  # fmt: skip
    yield "### The batch: throughput with equal dollars and equal stock"
    yield ""
    yield from header(names)
    for case in cases:
        ours, other = case.runs[OURS][0], case.runs[case.best][0]
        yield row(
            [
                case.cell.name,
                f"{ours.served:.2f}",
                f"{ours.served / ours.planned:.0%}",
                case.best,
                f"{other.served:.2f}",
                _signed(case.gain),
                f"{case.noise:.2%}",
                *(_signed(fmean(case.gains(m))) if m in case.runs else "none" for m in (HOMOGENEOUS, UNLIMITED)),
                *(f"{run.dollars_per_hour / case.budget:.0%}" for run in (ours, other)),
                *(f"{run.busy:.1%}" for run in (ours, other)),
                *(f"{run.preempted:.3f}" for run in (ours, other)),
            ]
        )
    behind = [case for case in cases if case.gain < -case.noise]
    ahead = [case for case in cases if case.gain > case.noise]
    equal = [fmean(case.gains(HOMOGENEOUS)) for case in cases if HOMOGENEOUS in case.runs]
    free = [fmean(case.gains(UNLIMITED)) for case in cases if UNLIMITED in case.runs]
    paying = [f"{case.cell.name}: {', '.join(case.over_budget)}" for case in cases if case.over_budget]
    yield ""
    yield (
        f"* Against the best comparator of each cell: ahead in {len(ahead)} of {len(cases)}, behind by more than the noise in"
        f" {len(behind)}; mean gain {_signed(fmean(case.gain for case in cases))}."
    )
    yield (
        f"* Over the best homogeneous fleet of equal stock: mean {_signed(fmean(equal))}, least {_signed(min(equal))}; the"
        f" paper's, with unlimited stock, {MEAN_GAIN:.1%}. Over the best of its three with unlimited stock here: mean"
        f" {_signed(fmean(free))}, least {_signed(min(free))}."
    )
    yield f"* Over the budget: {'; '.join(paying) or 'none'}. Noise is the greatest less the least gain of {seeds} seeds."
    for case in behind:
        yield f"* {case.cell.name}, behind {case.best} by {-case.gain:.2%}: {case.reason}."
    yield ""
    yield "Mean gain of ours over each comparator:"
    yield ""
    yield from header(["comparator", "mean", "least", "cells in which it has a plan"])
    for method in COMPARATORS:
        found = [fmean(case.gains(method)) for case in cases if method in case.runs]
        if found:
            yield row([method, _signed(fmean(found)), _signed(min(found)), f"{len(found)} of {len(cases)}"])


def _streams(cells: Sequence[Simulated], seeds: int) -> Iterator[str]:
    yield "### The stream: seconds to the answer (figure 6)"
    yield ""
    yield (
        f"Poisson arrivals for {STREAM_SECONDS:.0f} s, the same for both fleets, at a part of what the best homogeneous fleet"
        " of equal stock is planned to serve. A change of -20 % is a fifth less time than in the homogeneous fleet. The"
        " paper: up to 54 %, on average 20 % less over P10 to P100, at arrivals that it does not print."
    )
    yield ""
    shown = (50, 90, 100)
    names = [f"P{p}: {who}" for p in shown for who in ("ours", "homogeneous")]
    yield from header(["load", "cell", *names, "change over P10 to P100: mean", "best", "worst"])
    ends: list[str] = []
    for load in LOADS:
        means = []
        for cell in cells:
            pairs = [
                (ours, other)
                for seed in range(seeds)
                if (ours := cell.stream(OURS, load, seed)) and (other := cell.stream(HOMOGENEOUS, load, seed))
            ]
            if not pairs:
                continue
            both = [[fmean(pair[who].ends[k] for pair in pairs) for k in range(len(PERCENTILES))] for who in (0, 1)]
            changes = [a / b - 1 for a, b in zip(*both, strict=True)]
            means.append(fmean(changes))
            places = [PERCENTILES.index(p) for p in shown]
            yield row(
                [
                    f"{load:.0%}",
                    cell.cell.name,
                    *(f"{both[who][k]:.1f}" for k in places for who in (0, 1)),
                    *map(_signed, (fmean(changes), min(changes), max(changes))),
                ]
            )
        if means:
            ends.append(f"{_signed(fmean(means))} at {load:.0%}")
    yield ""
    yield f"Mean change over the cells: {', '.join(ends)}. {_WHY_LONGER}"


def _sweep(cells: Sequence[Simulated]) -> Iterator[str]:
    yield "### Budgets (figure 16): gain of ours in the batch, one seed"
    yield ""
    yield (
        "By the paper the gain over homogeneous fleets of unlimited stock shrinks from about 30 % to about 15 % between 5 and"
        " 60 $/h, as the stock is finite and the baselines' is not."
    )
    yield ""
    yield from header(["cell", "ours, requests/s", "over equal stock", "over unlimited stock"])
    for cell in cells:
        ours = cell.batch(OURS, 0)
        others = [cell.batch(method, 0) for method in (HOMOGENEOUS, UNLIMITED)]
        gains = ["none" if not (ours and run) else _signed(ours.served / run.served - 1) for run in others]
        yield row([cell.cell.name, f"{ours.served:.2f}" if ours else "no plan", *gains])


def _worked(run: Run) -> str:
    """How long the engines of each shape work, the longest first."""
    longest = sorted(run.worked.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(
        f"{part:.0%} ({gpu} tp{tp} pp{pp})" for shape, part in longest for _, gpu, tp, pp in [shape_named(shape)]
    )


def _signed(value: float) -> str:
    return f"{round(value, 6) + 0.0:+.1%}"


_WHY_LONGER = (
    "P1's plans have no limit on latency: their shares fill every GPU at full load and stay as they are at part of it, so that"
    " short requests may go to slow GPUs that one type of fast ones would spare them."
)

_INTRODUCTION = f"""\
## P1, simulated

Plans by the rules of `servingplan solve --method` for P1's cells, served by simulated engines (`papers/p1/simulated.py`).
HexGen and Helix are not here. Their replicas spread the layers of a model over GPUs of several types and several nodes, and the
simulation has only replicas of one type.

"Of planned" is below 100 % for three reasons. The batch ends with the slowest engine. Engines preempt: they admit prompts as
long as there is memory for them, and read those again that must give way to growing answers, while the rates of a plan count
on full memory and on no preemption. And where weights leave little memory, the rates of short answers are too high, most in
several stages. So the plan that promises most is not always the one that serves most, which is why ours can be behind: it buys
cheap GPUs whose engines then work longer than planned. A longer batch does not change this. A search ends after
{DEADLINE_SECONDS:.0f} s; on a busy machine this changes Melange's plans at 60 $/h.
"""
