"""P2's tight budgets (Table 2 of v1): the stress protocol where the budget is cut and unserved media queries cost more."""

from dataclasses import dataclass, replace

from papers.p2.arrays import arrays_of
from papers.p2.evaluate import evaluate
from papers.p2.heuristics import Search
from papers.p2.instance import BUDGET, Instance, Plan
from papers.p2.ours import solve
from papers.p2.stress import Stress, scenarios, stress
from papers.page import header, row, say, spread

MEDIA = ("Image", "Video")
"""The query types whose phi is scaled [T]"""
OURS_GAP = 0.02
"""Ours stops at this gap here, or after 2 s."""
METHODS = ("GH", "AGH", "ours")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One block of Table 2; what is printed of GH and AGH: Pay. $, C^a $, violated %."""

    name: str
    budget: float
    """delta, $ a day"""
    penalty_factor: float
    """What phi of MEDIA is multiplied by."""
    printed: tuple[tuple[str, str, str], tuple[str, str, str]]


SCENARIOS = (  # [T]
    Scenario("S1", 100.0, 1.0, (("", "145.8", ""), ("", "145.8", ""))),
    Scenario("S2", 75.0, 1.0, (("63.1", "314.4", "1.5"), ("53.8", "136.6", "0.6"))),
    Scenario("S3", 72.0, 1.0, (("63.1", "1162.0", "14.2"), ("35.5", "343.0", "3.7"))),
    Scenario("S4", 75.0, 5.0, (("63.1", "964.0", "1.5"), ("53.8", "140.0", "0.6"))),
    Scenario("S5", 72.0, 5.0, (("63.1", "1811.0", "14.2"), ("35.5", "344.0", "3.7"))),
)


def tightened(instance: Instance, scenario: Scenario) -> Instance:
    """The instance under a scenario; the budget is scaled, as `generate` scales it with the number of query types."""
    kinds = tuple(
        replace(kind, unmet_penalty=kind.unmet_penalty * scenario.penalty_factor)
        if kind.name.startswith(MEDIA)
        else kind
        for kind in instance.query_types
    )
    return replace(instance, query_types=kinds, budget=instance.budget * scenario.budget / BUDGET)


def table(instances: list[Instance], count: int) -> list[str]:
    """Table 2: theirs, and ours over all instances; the seed is the instance's place."""
    lines = header(
        (
            "scenario",
            "method",
            "Pay. $: paper",
            "rent and storage $: here",
            "C^a $: paper",
            "here",
            "violated: paper",
            "here",
        ),
    )
    for scenario in SCENARIOS:
        found: list[list[tuple[float, Stress]]] = [[] for _ in METHODS]
        for seed, original in enumerate(instances):
            instance = tightened(original, scenario)
            cases = scenarios(instance, count, seed)
            for results, plan in zip(found, _plans(instance, seed), strict=True):
                results.append((evaluate(instance, plan).cost.provisioning, stress(plan, cases)))
        say(f"tight budgets, {scenario.name}")
        for method, results, printed in zip(METHODS, found, (*scenario.printed, ("not printed",) * 3), strict=True):
            cells = (
                f"{scenario.name}: delta {scenario.budget:g}, phi x {scenario.penalty_factor:g}",
                method,
                printed[0],
                spread([paid for paid, _ in results], "{:.1f}"),
                printed[1],
                spread([after.mean_cost for _, after in results], "{:.0f}"),
                f"{printed[2]} %" if printed[2][:1].isdigit() else printed[2],
                spread([100 * after.violated for _, after in results], "{:.1f} %"),
            )
            lines.append(row(cells))
    return lines


def _plans(instance: Instance, seed: int) -> tuple[Plan, Plan, Plan]:
    search = Search(arrays_of(instance))
    return search.greedy().plan(), search.adaptive(seed).plan(), solve(instance, seed=seed, relative_gap=OURS_GAP).plan
