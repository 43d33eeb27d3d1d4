"""P2's ablation (Table 3 of v1): AGH with M1, M2 or M3 switched off.

The paper does not print what stands in for a mechanism that is off. Its infeasible plans can only come from a search that no
longer asks what the mechanism asked, while the printed steps check memory (5f), compute, storage and the budget of every
candidate, and its coverage (8) keeps the mean delay (5i). So M1 and M3 are each switched off in two readings [R]: with these
checks as printed, and with the checks of memory and delay gone too. The evaluator then says what the plan breaks.

* Without M1 an inactive pair starts at one GPU.
* Without M2 candidates come in the order of their indices, or in that of their marginal cost without the coverage.
* Without M3 an active pair keeps its size: too slow for a query type, it is no candidate of it (checked) or takes it all the
  same (unchecked).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import override

import numpy as np

from papers.p2.arrays import Arrays, Indices, arrays_of
from papers.p2.evaluate import VIOLATION_SHARE, evaluate
from papers.p2.heuristics import Ranking, Search, State, chosen_sizes
from papers.p2.instance import Instance
from papers.page import header, row, spread

UNLIMITED = 1e15
"""A limit that nothing reaches; unlike infinity it may be multiplied by 0."""


class ByIndex(Search):
    """Candidates in the order of their indices."""

    @override
    def rank(self, state: State, i: int) -> Ranking:
        """M2's candidates in another order."""
        ranking = super().rank(state, i)
        return replace(ranking, order=np.sort(ranking.order))


class ByCost(Search):
    """Candidates by marginal cost, whatever they cover."""

    @override
    def rank(self, state: State, i: int) -> Ranking:
        """M2's candidates in another order."""
        ranking = super().rank(state, i)
        order = np.sort(ranking.order)
        return replace(ranking, order=order[np.argsort(ranking.cost[order], kind="stable")])


def without_m1(arrays: Arrays) -> Search:
    """An inactive pair starts at one GPU, and what does not fit then is refused by the printed checks."""
    return Search(arrays, _sizes_without_m1(arrays))


def without_m1_unchecked(arrays: Arrays) -> Search:
    """An inactive pair starts at one GPU, and nobody asks for memory or delay."""
    return Search(_any_delay(_any_weights(arrays)), _sizes_without_m1(arrays))


def _sizes_without_m1(arrays: Arrays) -> Indices:
    """M3 asks for the delay alone."""
    sizes = chosen_sizes(_any_weights(arrays))
    sizes[:, :, 0] = 0
    return sizes


def without_m3(arrays: Arrays) -> Search:
    """An active pair that is too slow for a query type is no candidate of it."""
    sizes = chosen_sizes(arrays)
    keep = np.arange(len(arrays.shapes))
    sizes[:, :, 1:] = np.where(sizes[:, :, 1:] == keep, keep, len(keep))
    return Search(arrays, sizes)


def without_m3_unchecked(arrays: Arrays) -> Search:
    """An active pair takes query types that it is too slow for."""
    sizes = chosen_sizes(arrays)
    sizes[:, :, 1:] = np.arange(len(arrays.shapes))
    return Search(_any_delay(arrays), sizes)


def _any_weights(arrays: Arrays) -> Arrays:
    return replace(arrays, memory_gb=np.full_like(arrays.memory_gb, UNLIMITED))


def _any_delay(arrays: Arrays) -> Arrays:
    return replace(arrays, delay_slo=np.full_like(arrays.delay_slo, UNLIMITED))


VARIANTS: tuple[tuple[str, str, Callable[[Arrays], Search]], ...] = (  # name, Table 3 of v1 [T], how
    ("AGH", "89.88 $", Search),
    ("without M1, checks as printed", "infeasible (memory, delay)", without_m1),
    ("without M1, memory and delay not checked", "", without_m1_unchecked),
    ("without M2, candidates by index", "134.52 $ (x 1.50)", ByIndex),
    ("without M2, candidates by marginal cost", "", ByCost),
    ("without M3, checks as printed", "infeasible (delay)", without_m3),
    ("without M3, delay not checked", "", without_m3_unchecked),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one variant of AGH found on one instance."""

    cost: float
    """$, by the evaluator, whether feasible or not"""
    broken: frozenset[str]
    """Equations that the plan breaks, such as (5f)"""
    leaves_some: bool
    """More than 1 % of a query type goes unserved."""


def outcome(instance: Instance, seed: int, variant: Callable[[Arrays], Search]) -> Outcome:
    """Run one variant and have its plan evaluated."""
    plan = variant(arrays_of(instance)).adaptive(seed).plan()
    result = evaluate(instance, plan)
    broken = frozenset(line.split(" ", 1)[0] for line in result.violations)
    return Outcome(result.cost.total, broken, max(plan.unserved) > VIOLATION_SHARE)


def table(instances: list[Instance]) -> list[str]:
    """Table 3: theirs, and ours as multiples of AGH's cost on the same instance; the seed is the instance's place."""
    lines = header(
        ("variant", "paper", "cost / AGH's", "infeasible", "breaks", "leaves > 1 % of a type"),
    )
    whole: list[Outcome] = []
    for name, printed, variant in VARIANTS:
        found = [outcome(instance, seed, variant) for seed, instance in enumerate(instances)]
        whole = whole or found
        broken = [equation for each in found for equation in sorted(each.broken)]
        counts = ", ".join(f"{equation} in {broken.count(equation)}" for equation in sorted(set(broken)))
        cells = (
            name,
            printed,
            spread([each.cost / base.cost for each, base in zip(found, whole, strict=True)], "{:.2f}"),
            f"{sum(bool(each.broken) for each in found)} of {len(found)}",
            counts or "nothing",
            f"{sum(each.leaves_some for each in found)} of {len(found)}",
        )
        lines.append(row(cells))
    return lines
