"""P1's grid simulated: ours and what other rules rent, with equal dollars and equal stock, in the engines of `simulate`.

The tables of `tables` compare rates that the plans count on. Here each plan serves requests, so that the end of a batch, the
mix in each engine and its memory count too.

* **The batch** (eq. 1): all requests of a mix are there at the start, in a drawn order, and the throughput is their number over
  the time of the last answer. Their number is what ours is planned to serve in `BATCH_SECONDS`, the same for all fleets of a
  cell.
* **The stream** (figure 6): Poisson arrivals at a part of what the best homogeneous fleet is planned to serve, for
  `STREAM_SECONDS`; the paper does not print its arrivals.

Requests of a workload type are dealt over shapes by the plan's shares, which are the paper's x[c,w], and over the copies of a
shape in turn. So no fleet suffers from a drawn choice.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path

from papers.p1.instance import PARTS, SETTINGS, Cell, homogeneous_question, question_of, shape_named
from papers.p1.printed import BASELINES
from servingplan.model.answer import Answer
from servingplan.model.question import Question
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.replay.mixes import LENGTHS, MIXES
from servingplan.simulate.engine import Engine
from servingplan.simulate.pace import Pace
from servingplan.solve import solve

OURS, HOMOGENEOUS, UNLIMITED = "exact", "homogeneous", "homogeneous, unlimited stock"
GAP = 1e-3
DEADLINE_SECONDS = 60.0
BATCH_SECONDS = 1200.0
STREAM_SECONDS = 900.0
PERCENTILES = tuple(range(10, 101, 10))
"""The percentiles of figure 6's axis."""
STEP = 500
"""Requests of a batch are a multiple of this, so that each type has a whole number."""


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
    worked: Mapping[str, float] = field(default_factory=dict)
    """The time in which the busiest engine of each shape worked, over the time that the plan counts on for all requests."""


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
        self.last_seconds = 0.0
        """The time of the last answer."""

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
        self.last_seconds = max(item.finished or 0.0 for item in served)
        return [(item.finished or 0.0) - item.arrived for item in served]

    @property
    def busy(self) -> float:
        """Share of the GPUs' time, to the last answer, in which they worked."""
        worked = sum(
            self.gpus[name] * engine.tally.busy_seconds for name, copies in self.engines.items() for engine in copies
        )
        return worked / self.last_seconds / sum(self.gpus[name] * len(copies) for name, copies in self.engines.items())

    @property
    def busiest_seconds(self) -> dict[str, float]:
        """By shape: the time in which its busiest engine worked."""
        return {name: max(engine.tally.busy_seconds for engine in copies) for name, copies in self.engines.items()}

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
            counted_on = len(ends) / self._planned(method)
            self._found[key] = Run(
                planned=self._planned(method),
                served=len(ends) / rented.last_seconds,
                busy=rented.busy,
                dollars_per_hour=answer.dollars_per_hour or 0.0,
                preempted=rented.preemptions / len(ends),
                ends=tuple(ends[math.ceil(part / 100 * len(ends)) - 1] for part in PERCENTILES),
                worked={shape: seconds / counted_on for shape, seconds in rented.busiest_seconds.items()},
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
