"""Local search on copies: take one or two away, fill what is free by its worth, keep what is better.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. A step of `anytime` between rounding and the
kernel search. The worth of a copy is the dual value of its load row in the routing program, so relocation, swap and
consolidation are one move: remove, then let the duals say what to put in the place.
"""

from collections.abc import Iterator
from itertools import combinations_with_replacement

from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.search.quick_routing import QuickRouting
from servingplan.solve.solver.effort import Effort

TRIALS = 60
"""Work limit: removals that are tried."""
FULL = 1e-9
"""Service within this of full is full."""
Score = tuple[float, float]
"""Service, then dollars with their sign turned."""


def improved(instance: Instance, effort: Effort, draft: Draft) -> Draft:
    """The draft after local search; at least as good as it was."""
    return _Search(instance, effort).run(draft)


class _Search:
    def __init__(self, instance: Instance, effort: Effort) -> None:
        self._instance = instance
        self._effort = effort
        self._service = instance.question.objective == "MaximizeService"
        self._routing = QuickRouting(instance, instance.reachable_targets)
        self._most = float("inf") if self._service else float(len(instance.classes))

    def run(self, draft: Draft) -> Draft:
        best = draft.duplicate()
        score = self._fill(best, first=0)
        trials, found = 0, True
        while found:
            found = False
            for removal in self._removals(best):
                for first in range(2):
                    if trials >= TRIALS or self._effort.stopwatch.expired():
                        return best
                    trials += 1
                    trial = best.duplicate()
                    for c in removal:
                        trial.add(c, -1)
                    reached = self._fill(trial, first=first)
                    if self._better(reached, score):
                        best, score, found = trial, reached, True
                        break
                if found:
                    break
        return best

    def _removals(self, draft: Draft) -> Iterator[tuple[int, ...]]:
        """Single copies, then pairs, the least worth for their price first."""
        _, worth = self._routing.served(draft.copies)
        used = [c for c, count in enumerate(draft.copies) if count]
        price = {c: max(self._instance.share_price(c), 1e-9) for c in used}
        used.sort(key=lambda c: (worth.get(c, 0.0) / price[c], c))
        yield from ((c,) for c in used)
        yield from (
            pair for pair in combinations_with_replacement(used, 2) if pair[0] != pair[1] or draft.copies[pair[0]] > 1
        )

    def _fill(self, draft: Draft, *, first: int) -> Score:
        """Add the copy of most worth, by price, that fits until none helps; `first`: begin with another than the best."""
        served, worth = self._routing.served(draft.copies)
        while served < self._most * (1 - FULL) and not self._effort.stopwatch.expired():
            price = {c: max(self._instance.share_price(c), 1e-9) for c in worth}
            ranked = sorted((c for c in worth if worth[c] > 1e-12), key=lambda c: (-worth[c] / price[c], c))
            fitting = [c for c in ranked if draft.most(c, 1)][: first + 1]
            if not fitting:
                break
            draft.add(fitting[-1])
            first = 0
            served, worth = self._routing.served(draft.copies)
        return min(served, self._most), -draft.dollars

    def _better(self, left: Score, right: Score) -> bool:
        if abs(left[0] - right[0]) > 1e-7 * max(abs(left[0]), abs(right[0])):
            return left[0] > right[0]
        return left[1] > right[1] + 1e-9 * abs(right[1])
