"""Change detection on simulated Poisson arrivals: the tables of ``docs/demand.md``.

python -m benchmarks.demand            prints them; takes some minutes
python -m benchmarks.demand --quick    a tenth of the runs
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from servingplan.demand.change import latest_change
from servingplan.demand.counts import Interval
from servingplan.demand.estimate import estimate

DAY = 86_400
BEFORE_SECONDS = 3_600
POLL_SECONDS = 10.0
RATES = (1, 10, 100)
SCRAPES = (5, 15, 30)
WINDOWS = (300, 3600)


def poisson(chance: random.Random, mean: float) -> int:
    """A Poisson number: exponential gaps while the mean is small, else by halves (a binomial of a gamma; Ahrens and
    Dieter 1974)."""
    count = 0
    while mean > 20:
        half = int(mean * 7 / 8)
        gamma = chance.gammavariate(half, 1.0)
        if gamma > mean:
            return count + sum(chance.random() < mean / gamma for _ in range(half - 1))
        count, mean = count + half, mean - gamma
    total = chance.expovariate()
    while total < mean:
        count, total = count + 1, total + chance.expovariate()
    return count


def arrivals(
    chance: random.Random, rate: Callable[[float], float], scrape: float, phase: float, until: float
) -> list[Interval]:
    """Counts by interval; within one the rate is taken at 20 moments."""
    found, begin = [], phase
    while begin + scrape <= until:
        mean = sum(rate(begin + (part + 0.5) * scrape / 20) for part in range(20)) / 20 * scrape
        begin += scrape
        found.append((begin, float(scrape), float(poisson(chance, mean))))
    return found


def step(rate: float, factor: float, scrape: float, window: float, after: float, runs: int) -> list[float]:
    """Relative errors of the estimate at the last poll before ``after`` seconds from a step; random phases."""
    errors = []
    for run in range(runs):
        chance = random.Random(f"{rate} {factor} {scrape} {window} {run}")
        now = BEFORE_SECONDS + after - chance.random() * POLL_SECONDS
        begin = BEFORE_SECONDS - window
        stream = arrivals(
            chance,
            lambda moment: rate * (factor if moment >= BEFORE_SECONDS else 1.0),
            scrape,
            begin + chance.random() * scrape,
            now,
        )
        found = estimate([item for item in stream if item[0] > now - window], quantile=0.9, horizon_seconds=300)
        assert found is not None
        errors.append(abs(found.requests_per_second / (rate * factor) - 1))
    return sorted(errors)


def alarms(rate: float, scrape: int, window: int) -> tuple[int, int]:
    """Alarms within a day of a steady rate, and looks."""
    chance = random.Random(f"{rate} {scrape} {window}")
    stream = arrivals(chance, lambda _: rate, scrape, 0.0, DAY)
    length = window // scrape
    looks = range(length, len(stream) + 1)
    return sum(latest_change(stream[end - length : end]) > 0 for end in looks), len(looks)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demand", description="Change detection, simulated.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    runs = 20 if parser.parse_args().quick else 200
    cases = [(rate, scrape, window) for rate in RATES for scrape in SCRAPES for window in WINDOWS]
    with ProcessPoolExecutor(max_workers=2) as workers:
        print(
            "| requests/s | scrape, s | window, s | x3, 60 s: 95 % below, worst, within 15 % | x3, 90 s | x1/3, 90 s |"
        )
        print("|---|---|---|---|---|---|")
        waiting = [
            [
                workers.submit(step, *case[:1], factor, *case[1:], after, runs)
                for factor, after in ((3, 60), (3, 90), (1 / 3, 90))
            ]
            for case in cases
        ]
        for case, row in zip(cases, waiting, strict=True):
            print(f"| {' | '.join(map(str, case))} | {' | '.join(_cell(item.result()) for item in row)} |", flush=True)
        print("\n| requests/s | scrape, s | window, s | alarms in 24 h | looks |\n|---|---|---|---|---|")
        days = [(case, workers.submit(alarms, *case)) for case in cases]
        for case, day in days:
            print(f"| {' | '.join(map(str, case))} | {' | '.join(map(str, day.result()))} |", flush=True)


def _cell(errors: list[float]) -> str:
    within = sum(error <= 0.15 for error in errors) / len(errors)
    return f"{errors[int(0.95 * len(errors))]:.1%}, {errors[-1]:.1%}, {within:.1%}"


if __name__ == "__main__":
    main()
