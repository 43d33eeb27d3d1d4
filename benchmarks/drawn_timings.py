"""Whether plans keep their SLOs where engines are as fast as the profile's bands say they may be.

    python -m benchmarks.drawn_timings [SECONDS]

Plans for the largest multiple of the mixes of Jiang et al. at their prices and stock. Every replica set gets a true speed: the
quantile of its band of rates (`profiles/bands`) at a probability that is drawn evenly inside the band, from 0.1 to 0.9. All its
iterations take as much longer or shorter. The plan's traffic, Poisson at the planned rates, runs through the simulated fleet. A
plan is kept if every class has its promised share of admitted requests within both limits, but for what chance alone would
explain: a share is broken if so few in time are less likely than 1 % where the promise is just kept (normal approximation).
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from statistics import NormalDist
from typing import NamedTuple

from benchmarks.fleet import plan_of
from papers.p1.instance import PARTS
from servingplan.answering import solve_with
from servingplan.cli.imagine import imagined_world
from servingplan.decide.decide import decide
from servingplan.model.fleet import Fleet
from servingplan.planning.question import pose
from servingplan.planning.situation import Situation
from servingplan.profiles.bands import band
from servingplan.replay.fleet import Shapes
from servingplan.replay.generate import Stream, generated
from servingplan.replay.mixes import MIXES
from servingplan.replay.run import ClassFigures, Replay

BUDGETS_DOLLARS_PER_HOUR = (30.0, 60.0)
CONFIDENCES = ("0.5", "0.75", "0.9")
DRAWS = 4
INSIDE = (0.1, 0.9)
"""The probabilities between which a band lies."""
ONE_PERCENT = NormalDist().inv_cdf(0.99)


class Kept(NamedTuple):
    """What one plan kept with one draw of speeds."""

    plan: bool
    classes: int
    """The classes that kept their promise."""
    of: int


class Drawn:
    """A plan, its fleet, and the quantiles of its replicas' speed."""

    def __init__(self, models: str, mix: str, budget: float, confidence: str) -> None:
        manifest = plan_of(models, mix, budget, gpus_per_node=4)
        manifest["spec"]["planning"] = {"confidence": confidence}
        self.situation = Situation(imagined_world(manifest))
        fleet = decide(self.situation, solve_with(20)).fleet
        assert fleet is not None
        self.fleet: Fleet = fleet
        self.posed, _ = pose(spec=self.situation.spec, pools=self.situation.pools, incumbent=fleet)
        self.shapes = Shapes(self.situation.spec, self.situation.known.catalogue)

    def slowdowns(self, chance: random.Random) -> Iterator[float]:
        """How many times slower than predicted the engines of each replica set are."""
        for item in self.fleet.replica_sets:
            facts = self.posed.facts_of(item)
            assert facts is not None
            basis = next(found.basis for found in facts.estimates.values() if found is not None)
            yield 1 / band("rate", basis).ratio(chance.uniform(*INSIDE))

    def run(self, slowdowns: list[float], seconds: float, seed: int) -> list[ClassFigures]:
        """The results of the plan's own traffic with engines of these speeds."""
        replay = Replay(self.fleet, self.situation, self.shapes, seed=seed)
        for replica in replay.replicas:
            replica.engine.slowdown = slowdowns[replica.place]
        asked = {(item.model, item.name): item.requests_per_second for item in self.fleet.classes}
        planned = {(item.model, item.name): item.planned_requests_per_second for item in self.fleet.classes}
        faster = max(planned[key] / asked[key] for key in planned if asked[key] > 0)
        return replay.run(generated(self.situation.spec, Stream(seconds, faster=faster, seed=seed))).classes


def least_in_time(share: float, requests: int) -> float:
    """The fewest requests in time that do not show that fewer than this share are."""
    return share * requests - ONE_PERCENT * math.sqrt(share * (1 - share) * requests)


def kept(figures: list[ClassFigures]) -> Kept:
    """Which promises were kept, of the classes that had requests."""
    served = [item for item in figures if item.arrived > item.turned_away]
    good = [item.in_time >= least_in_time(item.percentile / 100, item.arrived - item.turned_away) for item in served]
    return Kept(all(good), sum(good), len(good))


def measure(seconds: float) -> Mapping[str, list[Kept]]:
    """The promises kept, by the confidence of the plans; under `as predicted` those of 0.75 without a draw."""
    found: dict[str, list[Kept]] = {"as predicted": []}
    for confidence, models, mix, budget in product(CONFIDENCES, PARTS, MIXES, BUDGETS_DOLLARS_PER_HOUR):
        drawn = Drawn(models, mix, budget, confidence)
        for draw in range(DRAWS):
            slowdowns = list(drawn.slowdowns(random.Random(f"{models}/{mix}/{budget}/{draw}")))
            found.setdefault(confidence, []).append(kept(drawn.run(slowdowns, seconds, draw + 1)))
        if confidence == "0.75":
            found["as predicted"].append(kept(drawn.run([1.0] * len(slowdowns), seconds, 1)))
        print(f"{confidence} {models} {mix} {budget:g} $/h: {found[confidence][-DRAWS:]}", file=sys.stderr, flush=True)
    return found


def main(seconds: float) -> None:
    """Print a row for each confidence."""
    print("| confidence | plans drawn | plans kept | classes kept |\n|---|---|---|---|")
    for confidence, items in measure(seconds).items():
        plans = sum(item.plan for item in items) / len(items)
        classes = sum(item.classes for item in items) / sum(item.of for item in items)
        print(f"| {confidence} | {len(items)} | {plans:.0%} | {classes:.1%} |")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 300.0)
