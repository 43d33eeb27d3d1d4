"""An engine that is simulated for hours, seen through five-minute windows as Prometheus shows a real one."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate

from servingplan.learning.figures import WINDOW_SECONDS
from servingplan.learning.learn import Observed
from servingplan.learning.tails import percentile_of, usual_ratio
from servingplan.model.engine import EngineSettings
from servingplan.model.readings import Histogram
from servingplan.profiles import catalogue
from servingplan.profiles.estimate import Made
from servingplan.profiles.expected import Expected, Part, expected, mix_of
from servingplan.profiles.measured import SHIPPED
from servingplan.simulate.engine import Engine
from servingplan.simulate.pace import Pace
from servingplan.simulate.tally import Histogram as Tallied

START = datetime(2026, 1, 1, tzinfo=UTC)
SCRAPE_SECONDS = 15.0
CARD, GPU = catalogue.find_model("llama-3.1-8b"), catalogue.find_gpu("L40S")
SETTINGS = EngineSettings(max_model_len=8192)
MADE = Made(CARD, "bf16", GPU, 1, 1, SETTINGS)
INPUT, OUTPUT = 496, 253
MIX = mix_of([Part(1.0, INPUT, OUTPUT)])


def at(seconds: float) -> str:
    """The time after so many seconds."""
    return (START + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def expecting(observed: Observed) -> Callable[[], Expected | None]:
    """What the profile expects of an observation."""
    return lambda: expected(
        MADE,
        input_tokens=observed.input_tokens,
        output_tokens=observed.output_tokens,
        spread=MIX.spread,
        copies=observed.replicas,
        rows=SHIPPED,
    )


def highest_rate() -> float:
    """Requests/s of one replica by the profile."""
    return expecting(OBSERVED)().highest_requests_per_second


OBSERVED = Observed(
    at=at(WINDOW_SECONDS),
    window_seconds=WINDOW_SECONDS,
    replicas=1,
    requests=600.0,
    requests_per_second=2.0,
    input_tokens=float(INPUT),
    output_tokens=float(OUTPUT),
    ttft_seconds=0.1,
    tpot_seconds=0.02,
    least_waiting=0.0,
    in_time=True,
    planned_input_tokens=float(INPUT),
    planned_output_tokens=float(OUTPUT),
    planned_prompt_ratio=usual_ratio(0.6, 95.0),
)


def simulated(*, slowdown: float, requests_per_second: float, windows: int, seed: int = 1) -> Iterator[Observed]:
    """What an engine that is slower than its profile by a factor shows under Poisson arrivals, one window after the other."""
    chance = random.Random(seed)
    pace = Pace(model=CARD, precision="bf16", gpu=GPU, settings=SETTINGS)
    engine = Engine(pace, max_num_seqs=256, max_num_batched_tokens=8192)
    engine.slowdown = slowdown
    arrival, scrape = 0.0, 0.0
    before = _totals(engine)
    counted = _counts(engine)
    for window in range(1, windows + 1):
        end, waiting = window * WINDOW_SECONDS, []
        while min(arrival, scrape) < end:
            if scrape <= arrival:
                engine.advance(scrape)
                waiting.append(engine.waiting)
                scrape += SCRAPE_SECONDS
            else:
                engine.advance(arrival)
                engine.admit(_length(chance, INPUT, 0.6), _length(chance, OUTPUT, 0.8), arrival)
                arrival += chance.expovariate(requests_per_second)
        engine.advance(end)
        after = _totals(engine)
        (ended, prompts, answers, first, firsts, times, timed) = (b - a for a, b in zip(before, after, strict=True))
        before = after
        earlier, counted = counted, _counts(engine)
        told = {name: percentile_of(_between(earlier[name], counted[name]), 95.0) for name in counted}
        yield replace(
            OBSERVED,
            at=at(end),
            requests=ended,
            requests_per_second=ended / WINDOW_SECONDS,
            input_tokens=prompts / ended,
            output_tokens=answers / ended,
            ttft_seconds=first / firsts,
            tpot_seconds=times / timed,
            least_waiting=min(waiting),
            ttft_percentile_seconds=told["ttft"],
            tpot_percentile_seconds=told["tpot"],
            prompt_ratio=told["prompts"] and told["prompts"] * ended / prompts,
        )


def counts_of(histogram: Tallied) -> Histogram:
    """The counts of an engine as Prometheus shows them."""
    *below, total = accumulate(map(float, histogram.counts))
    return Histogram(bounds=histogram.bounds, counts=tuple(below), total=total)


def _counts(engine: Engine) -> dict[str, Histogram]:
    tally = engine.tally
    found = {"ttft": tally.first_token, "tpot": tally.per_output_token, "prompts": tally.request_prompt}
    return {name: counts_of(histogram) for name, histogram in found.items()}


def _between(before: Histogram, after: Histogram) -> Histogram:
    counts = tuple(late - early for early, late in zip(before.counts, after.counts, strict=True))
    return Histogram(bounds=after.bounds, counts=counts, total=after.total - before.total)


def _totals(engine: Engine) -> tuple[float, ...]:
    tally = engine.tally
    return (
        tally.request_generation.count,
        tally.request_prompt.total,
        tally.request_generation.total,
        tally.first_token.total,
        tally.first_token.count,
        tally.per_output_token.total,
        tally.per_output_token.count,
    )


def _length(chance: random.Random, mean: float, spread: float) -> int:
    sigma = math.sqrt(math.log1p(spread**2))
    return max(1, min(4000, round(chance.lognormvariate(math.log(mean) - sigma**2 / 2, sigma))))
