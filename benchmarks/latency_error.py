"""Latency by formula against the simulated engine: mean, median, p95 and p99 under open-loop load, over a grid.

    python benchmarks/latency_error.py            # the grid of docs/latency.md, some minutes
    python benchmarks/latency_error.py --card l40s-8b

The engine (``simulate.engine``) takes the same step times and knows nothing of the formulas: arrivals are Poisson, lengths
are drawn, prompts are read in chunks, KV blocks are counted, and sequences are preempted where blocks are short.
"""

import argparse
import math
from dataclasses import dataclass
from typing import NamedTuple, override

import numpy as np

from servingplan.model.engine import EngineSettings
from servingplan.profiles import latency
from servingplan.profiles.latency import Spread
from servingplan.simulate.engine import Engine
from servingplan.simulate.pace import BLOCK_TOKENS, Pace
from servingplan.simulate.sequence import Sequence

LONGEST_TOKENS = 200_000
LOADS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
LENGTHS = (
    (500, 250, Spread(0.6, 0.8)),
    (2455, 18, Spread(0.6, 0.8)),
    (2455, 253, Spread(0.6, 0.8)),
    (200, 1000, Spread(0.6, 0.8)),
    (1000, 100, Spread(0.0, 0.0)),
)


@dataclass(frozen=True)
class Terms:
    """Step times with the terms that matter, in seconds: weights are read once for all tokens of an iteration."""

    weights: float
    per_token: float
    per_token_and_past: float
    per_kv_token: float
    fixed: float
    kv_room_tokens: float
    settings: EngineSettings
    stages: int = 1

    def mixed_seconds(self, prefill_tokens, prefill_past, batch, context_tokens):
        """See ``StepTimes``."""
        attention = self.per_token_and_past * prefill_tokens * (prefill_tokens / 2 + prefill_past)
        arithmetic = np.maximum(self.weights, self.per_token * (prefill_tokens + batch))
        return arithmetic + attention + self.per_kv_token * batch * context_tokens + self.fixed

    def beside(self, batch, context_tokens):
        """See ``StepTimes``."""
        return lambda tokens, past: self.mixed_seconds(tokens, past, batch, context_tokens)

    def held_tokens(self, tokens):
        """See ``StepTimes``: no window, no state."""
        return np.asarray(tokens, float)

    def prefill_seconds(self, tokens, past=0.0):
        """See ``StepTimes``."""
        return self.mixed_seconds(tokens, past, 0.0, 0.0)

    def decode_seconds(self, batch, context_tokens):
        """See ``StepTimes``."""
        return self.mixed_seconds(0.0, 0.0, batch, context_tokens)


def terms(
    *,
    parameters,
    bytes_per_weight,
    bandwidth,
    flops,
    layers,
    width,
    kv_bytes,
    kv_room,
    sequences=256,
    budget=8192,
    fixed=0.004,
):
    """Step times from a model and a card: bandwidth in bytes/s and FLOP/s as reached, KV bytes a token."""
    return Terms(
        weights=parameters * bytes_per_weight / bandwidth,
        per_token=2 * parameters / flops,
        per_token_and_past=4 * layers * width / flops,
        per_kv_token=kv_bytes / bandwidth,
        fixed=fixed,
        kv_room_tokens=kv_room,
        settings=EngineSettings(max_num_seqs=sequences, max_num_batched_tokens=budget, max_model_len=LONGEST_TOKENS),
    )


_8B = {"parameters": 8e9, "layers": 32, "width": 4096, "kv_bytes": 131072, "bytes_per_weight": 2}
_70B = {"parameters": 70e9, "layers": 80, "width": 8192, "kv_bytes": 327680}
_H100 = {"bandwidth": 2.7e12, "flops": 594e12}
CARDS = {
    "h100-8b": terms(**_8B, **_H100, kv_room=4e5),
    "h100-8b-budget-2048": terms(**_8B, **_H100, kv_room=4e5, budget=2048),
    "h100-8b-16-slots": terms(**_8B, **_H100, kv_room=4e5, sequences=16),
    "4xh100-70b": terms(**_70B, bytes_per_weight=2, bandwidth=10.7e12, flops=1980e12, kv_room=4.5e5, fixed=0.008),
    "2xa100-70b-int8": terms(**_70B, bytes_per_weight=1, bandwidth=3.2e12, flops=374e12, kv_room=2e5, fixed=0.006),
    "l40s-8b-budget-2048": terms(**_8B, bandwidth=0.69e12, flops=181e12, kv_room=2e5, budget=2048),
}


class _Room(Pace):
    """The KV room of a replica that is known by its step times alone; ``StepEngine`` uses nothing else of a pace."""

    def __init__(self, steps: Terms) -> None:
        self.stages = steps.stages
        self.kv_blocks = int(steps.kv_room_tokens) // BLOCK_TOKENS
        self.max_model_len = LONGEST_TOKENS
        self.tokens_per_step = steps.settings.tokens_per_step
        self.positions_per_step = steps.settings.positions_per_step

    @override
    def blocks(self, tokens: int) -> int:
        return math.ceil(tokens / BLOCK_TOKENS)


class StepEngine(Engine):
    """The engine, with iterations that last as the step times say."""

    def __init__(self, steps: Terms) -> None:
        settings = steps.settings
        super().__init__(
            _Room(steps), max_num_seqs=settings.max_num_seqs, max_num_batched_tokens=settings.max_num_batched_tokens
        )
        self._steps = steps

    @override
    def _end_of_iteration(self, now: float) -> float | None:
        if not self._decoders and not self._chunks:
            return None
        steps = self._steps
        read = sum(chunk.stop - chunk.sequence.read_tokens for chunk in self._chunks)
        seconds = max(steps.weights, steps.per_token * (read + self._decoders)) + steps.fixed
        seconds += steps.per_kv_token * self._context_tokens
        for chunk in self._chunks:
            tokens, past = chunk.stop - chunk.sequence.read_tokens, chunk.sequence.read_tokens
            seconds += steps.per_token_and_past * tokens * (tokens / 2 + past)
        return now + seconds


class Served(NamedTuple):
    """Times of every request after the first fifth, in seconds."""

    ttft: np.ndarray
    tpot: np.ndarray
    e2e: np.ndarray
    running: float


def _moment(seconds: float | None) -> float:
    """A time of a request that has its last token, so that all of its times are known."""
    assert seconds is not None
    return seconds


def _served(counted: list[Sequence], running: float) -> Served:
    """The times of requests that have their last token."""
    return Served(
        ttft=np.array([_moment(it.first_token) - it.arrived for it in counted]),
        tpot=np.array([it.time_per_output_token for it in counted if it.output_tokens > 1]),
        e2e=np.array([_moment(it.finished) - it.arrived for it in counted]),
        running=running,
    )


def _lengths(source, mean, spread, count):
    if spread == 0:
        return np.full(count, max(1, round(mean)))
    width = math.sqrt(math.log1p(spread**2))
    drawn = source.lognormal(math.log(mean) - width**2 / 2, width, count)
    return np.clip(np.rint(drawn), 1, 20 * mean).astype(int)


def open_loop(steps, rate, input_tokens, output_tokens, spread, *, requests, seed=0, copies=1):
    """Serve Poisson arrivals of ``rate`` a second and copy, each on the copy with the fewest requests."""
    source = np.random.default_rng(seed)
    count = requests * copies
    arrivals = np.cumsum(source.exponential(1 / (rate * copies), count))
    prompts = _lengths(source, input_tokens, spread.prompt, count)
    answers = _lengths(source, output_tokens, spread.answer, count)
    engines = [StepEngine(steps) for _ in range(copies)]
    served = []
    for arrival, prompt, answer in zip(arrivals.tolist(), prompts.tolist(), answers.tolist(), strict=True):
        for engine in engines:
            engine.advance(arrival)
        least = min(engines, key=lambda engine: engine.running + engine.waiting)
        served.append(least.admit(prompt, answer, arrival))
    for engine in engines:
        engine.advance(math.inf)
    counted = served[count // 5 :]
    stays = [_moment(it.finished) - _moment(it.started) for it in counted]
    return _served(counted, running=rate * float(np.mean(stays)))


def closed_loop(steps, clients, input_tokens, output_tokens, spread, *, requests, seed=0):
    """Serve a fixed number of clients that start within one mean answer; rate, then as ``open_loop``."""
    source = np.random.default_rng(seed)
    engine = StepEngine(steps)
    prompts = iter(_lengths(source, input_tokens, spread.prompt, requests).tolist())
    answers = iter(_lengths(source, output_tokens, spread.answer, requests).tolist())
    settle = output_tokens * float(steps.decode_seconds(clients, input_tokens + output_tokens / 2))
    served, finished = [], []
    for start in np.sort(source.uniform(0.0, settle, clients)).tolist():
        for _ in range(len(engine.advance(start))):
            served.append(engine.admit(next(prompts), next(answers), start))
        served.append(engine.admit(next(prompts), next(answers), start))
    while len(served) < requests and engine.next_time is not None:
        now = engine.next_time
        finished += (done := engine.advance(now))
        for _ in done[: requests - len(served)]:
            served.append(engine.admit(next(prompts), next(answers), now))
    counted = finished[len(finished) // 5 :]
    rate = (len(counted) - 1) / (_moment(counted[-1].finished) - _moment(counted[0].finished))
    return rate, _served(counted, running=float(clients))


class Errors(NamedTuple):
    """Predicted over simulated, less 1: mean, median, p95 and p99 of each time."""

    load: float
    ttft: np.ndarray
    tpot: np.ndarray
    e2e: np.ndarray


def errors_at(steps, load, input_tokens, output_tokens, spread, *, requests, seed=0):
    """The formulas against one simulated run at a part of the highest rate."""
    table = latency.tabulate(steps, input_tokens, output_tokens, spread)
    rate = load * float(latency.highest_rate(table)[0])
    run = open_loop(steps, rate, input_tokens, output_tokens, spread, requests=requests, seed=seed)
    told = [latency.open_loop(table, rate, percentile=percentile) for percentile in (50, 95, 99)]
    found = []
    for name in ("ttft", "tpot", "e2e"):
        measured = getattr(run, name)
        want = np.array([measured.mean(), *np.quantile(measured, (0.5, 0.95, 0.99))])
        mean = getattr(told[0], f"{name}_seconds")[0]
        got = np.array([mean, *(float(getattr(it, f"{name}_percentile_seconds")[0]) for it in told)])
        found.append(got / want - 1)
    return Errors(load, *found)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--card", choices=CARDS)
    parser.add_argument("--requests", type=int, default=6000)
    asked = parser.parse_args()
    rows = []
    print("| replica | lengths | load | TTFT mean, p50, p95, p99 | TPOT | end to end |")
    print("|---|---|---|---|---|---|")
    for name in [asked.card] if asked.card else CARDS:
        for input_tokens, output_tokens, spread in LENGTHS:
            for load in LOADS:
                row = errors_at(CARDS[name], load, input_tokens, output_tokens, spread, requests=asked.requests)
                rows.append(row)
                cells = (" ".join(f"{100 * it:+.0f}" for it in part) for part in row[1:])
                print(f"| {name} | {input_tokens}/{output_tokens} | {load:g} | {' | '.join(cells)} |", flush=True)
    print("\n| load | points | TTFT mean, p50, p95, p99: mean error % | TPOT | end to end |")
    print("|---|---|---|---|---|")
    for load in LOADS:
        chosen = [row for row in rows if row.load == load]
        cells = (
            ", ".join(f"{100 * it:.0f}" for it in np.mean(np.abs([row[part] for row in chosen]), axis=0))
            for part in (1, 2, 3)
        )
        print(f"| {load:g} | {len(chosen)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
