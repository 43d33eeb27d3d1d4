"""A knapsack approximation. Jiang et al. (ICML 2025), appendix F, mention one without details; this design is ours.

It decides the feasibility question of the binary search (whether these rates can be served) by a greedy knapsack:

* An item is one copy of a shape. Its weight is its price, with GPUs priced as shares of a node.
* Its value is the work that it can take from the remaining rates. A request of class k is worth its price on the cheapest
  shape. A copy's busy time goes to the class with the most worth per second first (a fractional knapsack).
* Items are taken by value per dollar while stock and budget allow, until all rates are served.

The worth makes the classes comparable, as Dantzig's rule (1957) needs. Value per dollar is 1 if the copy is the cheapest shape
for all its work, and lower otherwise.
"""

from collections.abc import Sequence
from functools import partial

from servingplan.solve.methods.baselines.covering import Covering
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.cover import Cover
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import EQUAL, is_left


def _greedy(instance: Instance, effort: Effort) -> Cover:  # noqa: ARG001
    return partial(_fill, instance, [_worth(instance, k) for k in range(len(instance.classes))])


def _worth(instance: Instance, k: int) -> float:
    """Dollars/hour of one request/s of class k on its cheapest shape; a tiny amount if that shape is free."""
    for c in instance.cheapest_first(k):
        return max(instance.share_price(c), EQUAL) / instance.rate(c, k)
    return 0.0


def _fill(instance: Instance, worth: Sequence[float], rates: Sequence[float]) -> Draft | None:
    draft = Draft(instance)
    left = {k: rate for k, rate in enumerate(rates) if rate > 0}
    while left:
        best: tuple[float, int, dict[int, float]] | None = None
        for c in sorted({c for k in left for c in instance.cheapest_first(k)}):
            work = _work_of_a_copy(draft, c, worth, left)
            value = sum(worth[k] * rate for k, rate in work.items()) / max(instance.share_price(c), EQUAL)
            if work and (best is None or value > best[0]) and draft.most(c, 1):
                best = (value, c, work)
        if best is None:
            return None
        _, c, work = best
        alike = max(1, int(min(left[k] / rate for k, rate in work.items())))
        draft.add(c, draft.most(c, alike))
        for k in work:
            left[k] -= draft.serve(c, k, left[k])
        left = {k: rate for k, rate in left.items() if is_left(rate, rates[k])}
    return draft


def _work_of_a_copy(draft: Draft, c: int, worth: Sequence[float], left: dict[int, float]) -> dict[int, float]:
    """The requests/s by class that one more copy of c would take from the remaining rates."""
    instance = draft.instance
    busy = instance.capacity(c, draft.copies[c] + 1) - instance.capacity(c, draft.copies[c])
    work: dict[int, float] = {}
    classes = [k for k in instance.served_by[c] if k in left and c in instance.cheapest_first(k)]
    for k in sorted(classes, key=lambda k: (-worth[k] * instance.rate(c, k), k)):
        if busy > EQUAL:
            work[k] = min(left[k], busy * instance.rate(c, k))
            busy -= work[k] / instance.rate(c, k)
    return work


knapsack = Covering(rule=_greedy, steps=10, below_relaxation=True)
"""Finds the most service that the greedy knapsack covers."""
