"""P1's grid simulated: ours and what other rules rent, with equal dollars and equal stock, in the engines of `simulate`.

The tables of `tables` compare rates that the plans count on. Here each plan serves requests, so that the end of a batch, the
mix in each engine and its memory count too.

* **The batch** (eq. 1): all requests of a mix are there at the start, in a drawn order, and the throughput is their number over
  the time of the last answer. Their number is what ours is planned to serve in `BATCH_SECONDS`, the same for all fleets of a
  cell.
* **The stream** (figure 6): Poisson arrivals at `LOADS` of what the best homogeneous fleet is planned to serve, for
  `STREAM_SECONDS`; the paper does not print its arrivals.

Requests of a workload type are dealt over shapes by the plan's shares, which are the paper's x[c,w], and over the copies of a
shape in turn. So no fleet suffers from a drawn choice.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean

from papers.p1.instance import (
    LENGTHS,
    MIXES,
    PARTS,
    SETTINGS,
    Cell,
    grid,
    homogeneous_question,
    question_of,
    shape_named,
)
from papers.p1.printed import BASELINES, MEAN_GAIN
from papers.page import header, marks, measured, row, say
from servingplan.model.answer import Answer
from servingplan.model.question import Question
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.simulate.engine import Engine
from servingplan.simulate.pace import Pace
from servingplan.solve import solve

PAPER = "P1-simulated"
OURS, HOMOGENEOUS, UNLIMITED = "exact", "homogeneous", "homogeneous, unlimited stock"
COMPARATORS = (
    HOMOGENEOUS, "uniform-composition", "uniform-deployment", "round-robin", "melange", "agh", "greedy-cost", "dvr",
)  # fmt: skip
"""Rules that can be deployed, by the names of `servingplan solve`; each module of theirs says where the rule comes from."""
GAP = 1e-3
DEADLINE_SECONDS = 60.0
BATCH_SECONDS = 1200.0
STREAM_SECONDS = 900.0
LOADS = (0.8, 1.0)
"""Not printed. Ours is planned to serve at least as much as the homogeneous fleet."""
PERCENTILES = tuple(range(10, 101, 10))
"""The percentiles of figure 6's axis."""
NINE_TENTHS = PERCENTILES.index(90)
STEP = 500
"""Requests of a batch are a multiple of this, so that each type has a whole number."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one fleet made of one batch or stream."""

    planned: float
    """Requests/s of the whole mix that the plan counts on"""
    served: float
    """Requests/s: all of them over the time of the last answer"""
    busy: float
    """Share of the rented GPUs' time in which they worked"""
    dollars_per_hour: float
    preempted: float
    """Preemptions of a request, mean; each reads its tokens again"""
    ends: tuple[float, ...]
    """Seconds from arrival to answer at `PERCENTILES`"""


class Rented:
    """The idle engines of a plan, and whose turn it is."""

    def __init__(self, cell: Cell, answer: Answer) -> None:
        shapes = {name: shape_named(name) for name in answer.replicas}
        self.engines = {
            name: [_engine(*shapes[name]) for _ in range(count)] for name, count in answer.replicas.items() if count
        }
        self.gpus = {name: tp * pp for name, (_, _, tp, pp) in shapes.items()}
        self._shares = {
            name: {shape: rate / sum(rates.values()) for shape, rate in rates.items() if rate > 0}
            for name, rates in answer.rates.items()
        }
        self._dealt: dict[str, Counter[str]] = {name: Counter() for name in self._shares}
        self._first = {name: number for number, name in enumerate(_lengths(cell))}

    def next(self, name: str) -> Engine:
        """The engine for the next request of a type."""
        dealt, shares = self._dealt[name], self._shares[name]
        number = dealt.total() + 1
        shape = max(shares, key=lambda shape: (shares[shape] * number - dealt[shape], shape))
        copies = self.engines[shape]
        turn = dealt[shape] + self._first[name]
        dealt[shape] += 1
        return copies[turn % len(copies)]

    def run(self, arrivals: Iterator[tuple[float, str]], lengths: Mapping[str, tuple[int, int]]) -> list[float]:
        """Serve arrivals, (seconds, type), in order. Returns the seconds from arrival to answer of each."""
        served = []
        for at, name in arrivals:
            engine = self.next(name)
            engine.advance(at)
            served.append(engine.admit(*lengths[name], at))
        for engine in self._all:
            engine.advance(math.inf)
        self.last = max(item.finished or 0.0 for item in served)
        return [(item.finished or 0.0) - item.arrived for item in served]

    @property
    def busy(self) -> float:
        """Share of the GPUs' time, to the last answer, in which they worked."""
        worked = sum(
            self.gpus[name] * engine.tally.busy_seconds for name, copies in self.engines.items() for engine in copies
        )
        return worked / self.last / sum(self.gpus[name] * len(copies) for name, copies in self.engines.items())

    @property
    def preemptions(self) -> int:
        """Preemptions of all engines."""
        return sum(engine.tally.preemptions for engine in self._all)

    @property
    def _all(self) -> Iterator[Engine]:
        return (engine for copies in self.engines.values() for engine in copies)


class Simulated:
    """One cell: its plans, and what became of them."""

    def __init__(self, cell: Cell, found: dict[str, Run], kept: Callable[[str, Run], None]) -> None:
        self.cell = cell
        self._found, self._kept = found, kept
        self._plans: dict[str, Answer] = {}

    def batch(self, method: str, seed: int) -> Run | None:
        """The batch by a method's plan; None where it has none."""

        def arrivals() -> Iterator[tuple[float, str]]:
            requests = STEP * max(1, round(self._planned(OURS) * BATCH_SECONDS / STEP))
            names = [name for name, share in self._mix.items() for _ in range(round(share * requests))]
            random.Random(seed).shuffle(names)
            return iter([(0.0, name) for name in names])

        return self._run(f"batch {method} {seed}", method, arrivals)

    def stream(self, method: str, load: float, seed: int) -> Run | None:
        """The stream by a method's plan."""

        def arrivals() -> Iterator[tuple[float, str]]:
            chance, now = random.Random(seed), 0.0
            names, shares = list(self._mix), list(self._mix.values())
            while (now := now + chance.expovariate(load * self._planned(HOMOGENEOUS))) < STREAM_SECONDS:
                yield now, chance.choices(names, shares)[0]

        return self._run(f"stream {load:g} {method} {seed}", method, arrivals)

    def _run(self, key: str, method: str, arrivals: Callable[[], Iterator[tuple[float, str]]]) -> Run | None:
        key = f"{self.cell.name}: {key}"
        if key not in self._found and self._planned(method):
            answer = self._plan(method)
            rented = Rented(self.cell, answer)
            ends = sorted(rented.run(arrivals(), _lengths(self.cell)))
            self._found[key] = Run(
                planned=self._planned(method),
                served=len(ends) / rented.last,
                busy=rented.busy,
                dollars_per_hour=answer.dollars_per_hour or 0.0,
                preempted=rented.preemptions / len(ends),
                ends=tuple(ends[math.ceil(part / 100 * len(ends)) - 1] for part in PERCENTILES),
            )
            self._kept(key, self._found[key])
        return self._found.get(key)

    def _plan(self, method: str) -> Answer:
        if method not in self._plans:
            if method == UNLIMITED:
                fleets = [_solved(homogeneous_question(self.cell, gpu), OURS) for gpu in BASELINES]
                self._plans[method] = max(fleets, key=lambda answer: answer.scale or 0.0)
            else:
                self._plans[method] = _solved(question_of(self.cell), method)
        return self._plans[method]

    def _planned(self, method: str) -> float:
        """Requests/s of the mix; its rates add up to one, so that the scale is one."""
        return self._plan(method).scale or 0.0

    @cached_property
    def _mix(self) -> dict[str, float]:
        return {
            f"{model}/{k}": part * percent / 100
            for model, part in PARTS[self.cell.models].items()
            for k, percent in enumerate(MIXES[self.cell.mix])
        }


def _solved(question: Question, method: str) -> Answer:
    return solve(question, method=method, relative_gap=GAP, deadline_seconds=DEADLINE_SECONDS)


def _lengths(cell: Cell) -> dict[str, tuple[int, int]]:
    return {f"{model}/{k}": lengths for model in PARTS[cell.models] for k, lengths in enumerate(LENGTHS)}


def _engine(model: str, gpu: str, tensor_parallel: int, pipeline_parallel: int) -> Engine:
    pace = _pace(model, gpu, tensor_parallel, pipeline_parallel)
    batched = SETTINGS.max_num_batched_tokens
    return Engine(pace, max_num_seqs=SETTINGS.max_num_seqs, max_num_batched_tokens=batched)


@cache
def _pace(model: str, gpu: str, tensor_parallel: int, pipeline_parallel: int) -> Pace:
    return Pace(
        model=find_model(model),
        precision="bf16",
        gpu=find_gpu(gpu),
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        settings=SETTINGS,
    )


# --- runs that are kept


class Kept:
    """Runs by their names; those of a file are not repeated, and new ones are added to it at once."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.runs: dict[str, Run] = {}
        for line in file.read_text().splitlines() if file and file.exists() else ():
            told = json.loads(line)
            if "run" not in told:
                continue  # of another table
            name, ends = told.pop("run"), tuple(told.pop("ends"))
            self.runs[name] = Run(**told, ends=ends)

    def keep(self, name: str, run: Run) -> None:
        """Add a run."""
        if self._file:
            with self._file.open("a") as lines:
                lines.write(json.dumps({"run": name, **asdict(run)}) + "\n")


# --- the tables


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
            " preemptions a request"
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

"Of planned" is below 100 % for two reasons. The batch ends with the slowest engine, and engines preempt: they admit prompts as
long as there is memory for them, and read those again that must give way to growing answers. The rates of a plan count on full
memory, but on no preemption. So the plan that promises most is not always the one that serves most, which is why ours can be
behind. A search ends after {DEADLINE_SECONDS:.0f} s; on a busy machine this changes Melange's plans at 60 $/h.
"""
