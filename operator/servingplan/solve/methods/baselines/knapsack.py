"""The knapsack approximation that Jiang et al. (ICML 2025), appendix F, mention without any detail: a design of ours.

The feasibility question of the binary search ("can these rates be served?") as a greedy knapsack:

* an item is one copy of a shape; its weight is its price, GPUs priced as shares of a node;
* its value is the work that it takes off what is left, a request of class k being worth what it costs at the shape that
  serves it cheapest; a copy's busy time goes to the class with the most worth per second first (a fractional knapsack);
* items are taken by value per dollar while stock and budget allow, until nothing is left.

The worth makes the classes comparable, as Dantzig's rule (1957) needs: value per dollar is at most 1, and below 1 by as much
as a copy is worse than the best shape for the work at hand.
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
    """Dollars per hour of one request/s of class k at the shape that serves it cheapest; a little where that is free."""
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
    """Requests/s by class that one more copy of c would take off what is left."""
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
"""The largest service that the greedy knapsack covers."""
