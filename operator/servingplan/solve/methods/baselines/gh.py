"""GH and AGH of Cheng and Nguyen (2026), section 4, adapted to our question.

Their pair (j, k) of a model and a GPU tier becomes a *pair* (model, pools); a configuration (n, m) of the pair becomes a
shape on these pools. These parts are adapted:

* M1, feasibility selection: the shape of a pair with the fewest GPUs that can serve the class. Memory and delay are in the
  question already, as a missing rate.
* M2, ranking by (tau, mu): tau = 1 if the candidate cannot cover all of the remaining rate, mu = marginal price / coverage.
  GPUs are priced as shares of a node, because theirs are rented one by one.
* M3, upgrade: if the active shape of a pair cannot serve the class, its copies are replaced by the smallest shape of the pair
  that serves the class and all that the active one serves.
* GH phase 1 (greedy cover up to 0.8 of the budget) activates one copy per pair, phase 2 routes in descending arrival rate.
* AGH: GH in eight fixed orders and in shuffled ones, then relocation and consolidation; the cheapest result is taken.

Their method minimises rental, storage, delay and unmet demand. Ours covers given rates at the least price, and `most_served`
finds the rates. Quality limits hold for each shape by itself, not in the mean.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial

from servingplan.solve.methods.baselines.covering import Covering
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.cover import Cover
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import EQUAL, is_left, reaches

PHASE_ONE_PART = 0.8
"""The part of the budget that phase 1 may spend."""
SHUFFLES = ((500, 20), (2_000, 10), (5_000, 5))
"""(largest size of the instance, number of shuffled orders); the size is classes x models x pools; larger ones get 3 orders."""
PATIENCE = 5
"""AGH stops after this number of orders in a row without a better result."""
RELOCATIONS = 3
"""The most passes of relocation."""
Pair = tuple[str, tuple[str, ...]]


def _one_pass(instance: Instance, effort: Effort) -> Cover:
    order = sorted(range(len(instance.classes)), key=lambda k: (-instance.classes[k].requests_per_second, k))
    return partial(_cheapest, _Pairs(instance), effort, [order], False)


def _many_orders(instance: Instance, effort: Effort) -> Cover:
    return partial(_cheapest, _Pairs(instance), effort, list(_orders(instance)), True)


gh = Covering(rule=_one_pass, steps=8)
"""The greedy heuristic: one pass in descending arrival rate."""
agh = Covering(rule=_many_orders, steps=8)
"""The adaptive greedy heuristic: several orders, each with relocation and consolidation."""


def _cheapest(
    pairs: "_Pairs", effort: Effort, orders: Sequence[Sequence[int]], polish: bool, rates: Sequence[float]
) -> Draft | None:
    best: Draft | None = None
    stop = effort.stop_after(PATIENCE)
    for order in orders:
        draft = _constructed(pairs, order, rates)
        if draft is not None and polish:
            for _ in range(RELOCATIONS):
                if not _relocate(pairs, draft):
                    break
            _consolidate(pairs, draft)
        if draft is not None and (best is None or not reaches(draft.dollars, best.dollars)):
            best, stop = draft, effort.stop_after(PATIENCE)
        if stop(math.inf):
            break
    return best


def _orders(instance: Instance) -> Iterator[list[int]]:
    """Eight fixed orders, then shuffles by a linear congruential generator, so that every run has the same orders."""
    classes = range(len(instance.classes))
    price = {k: min((_unit_price(instance, c, k) for c in instance.cheapest_first(k)), default=0.0) for k in classes}
    keys = (
        {k: instance.classes[k].requests_per_second for k in classes},
        {k: price[k] * instance.classes[k].requests_per_second for k in classes},
        {k: float(len(instance.serving[k])) for k in classes},
        {k: instance.classes[k].quality_loss_limit or 0.0 for k in classes},
    )
    for key in keys:
        for sign in (-1.0, 1.0):
            yield sorted(classes, key=lambda k: (sign * key[k], k))
    models = len({cls.model for cls in instance.classes})
    size = len(instance.classes) * models * len(instance.pools)
    count = next((shuffles for most, shuffles in SHUFFLES if size <= most), 3)
    state = 1
    for _ in range(count):
        order = list(classes)
        for last in range(len(order) - 1, 0, -1):
            state = (1_103_515_245 * state + 12_345) % 2**31
            other = state * (last + 1) // 2**31
            order[last], order[other] = order[other], order[last]
        yield order


def _unit_price(instance: Instance, c: int, k: int) -> float:
    return instance.share_price(c) / (instance.rate(c, k) * instance.capacity(c, 1))


class _Pairs:
    """The shapes of each pair of model and pools, fewest GPUs first."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.shapes: dict[Pair, list[int]] = {}
        for c, shape in enumerate(instance.shapes):
            self.shapes.setdefault((shape.model, tuple(shape.gpus)), []).append(c)
        for shapes in self.shapes.values():
            shapes.sort(key=lambda c: (sum(instance.shapes[c].gpus.values()), c))
        self._fit = [set(instance.cheapest_first(k)) for k in range(len(instance.classes))]

    def smallest(self, pair: Pair, k: int) -> int | None:
        """M1: the shape of the pair with the fewest GPUs that serves the class."""
        return next((c for c in self.shapes[pair] if c in self._fit[k]), None)

    def candidates(self, draft: Draft, k: int) -> Iterator[int]:
        """For each pair, its active shapes that serve the class, else its smallest shape that does."""
        for pair, shapes in self.shapes.items():
            if pair[0] == self.instance.classes[k].model:
                active = [c for c in shapes if draft.copies[c] and c in self._fit[k]]
                smallest = self.smallest(pair, k)
                yield from active or ([] if smallest is None else [smallest])

    def upgrades(self, draft: Draft, k: int) -> Iterator[tuple[int, int]]:
        """M3: each active shape that cannot serve the class, with the smallest shape of its pair that can replace it."""
        for pair, shapes in self.shapes.items():
            if pair[0] != self.instance.classes[k].model:
                continue
            for old in shapes:
                if draft.copies[old] and old not in self._fit[k]:
                    served = {j for c, j in draft.rates if c == old} | {k}
                    new = next((c for c in shapes if c != old and all(c in self._fit[j] for j in served)), None)
                    if new is not None:
                        yield old, new


def _constructed(pairs: _Pairs, order: Sequence[int], rates: Sequence[float]) -> Draft | None:
    draft = Draft(pairs.instance)
    _activate(pairs, draft, rates)
    for k in order:
        left = rates[k]
        while is_left(left, rates[k]):
            taken = _extend(pairs, draft, k, left)
            if not taken:
                return None
            left -= taken
    return draft.without_idle()


def _activate(pairs: _Pairs, draft: Draft, rates: Sequence[float]) -> None:
    """Phase 1: add one copy of the pair that covers the most classes per dollar, until all classes are covered."""
    instance = pairs.instance
    uncovered = {k for k, rate in enumerate(rates) if rate > 0}
    while uncovered and draft.dollars < PHASE_ONE_PART * instance.question.budget_dollars_per_hour:
        best: tuple[float, int, set[int]] | None = None
        for pair in pairs.shapes:
            chosen = {c for k in uncovered if (c := pairs.smallest(pair, k)) is not None}
            if not chosen:
                continue
            c = max(chosen, key=lambda c: (sum(instance.shapes[c].gpus.values()), c))
            covered = {k for k in uncovered if c in instance.cheapest_first(k)}
            score = len(covered) / (instance.share_price(c) + EQUAL)
            if covered and draft.most(c, 1) and (best is None or score > best[0]):
                best = (score, c, covered)
        if best is None:
            return
        draft.add(best[1])
        uncovered -= best[2]


def _extend(pairs: _Pairs, draft: Draft, k: int, left: float, *, barred: int | None = None) -> float:
    """Phase 2, one step: assign as much as possible to the candidate with the least (tau, mu). Returns the assigned rate."""
    instance = pairs.instance
    best: tuple[tuple[bool, float, int], int] | None = None
    for c in pairs.candidates(draft, k):
        if c == barred:
            continue
        count = draft.most(c, draft.copies_needed(c, k, left))
        covered = min(left, draft.room(c, extra=count) * instance.rate(c, k))
        if is_left(covered, left):
            score = (not reaches(covered, left), count * instance.share_price(c) / covered, c)
            best = min(best, (score, count)) if best else (score, count)
    if best is not None:
        (_, _, c), count = best
        if count:
            draft.add(c, count)
        return draft.serve(c, k, left)
    return _upgrade(pairs, draft, k, left)


def _upgrade(pairs: _Pairs, draft: Draft, k: int, left: float) -> float:
    """M3, for a class that no candidate can take: replace a shape. Returns the assigned rate in requests/s."""
    for old, new in pairs.upgrades(draft, k):
        trial = draft.duplicate()
        moved = {j: trial.release(old, j) for c, j in list(trial.rates) if c == old}
        trial.add(old, -trial.copies[old])
        served = True
        for j, rate in moved.items():
            count = trial.most(new, trial.copies_needed(new, j, rate))
            if count:
                trial.add(new, count)
            served = served and reaches(trial.serve(new, j, rate), rate)
        count = trial.most(new, trial.copies_needed(new, k, left)) if served else 0
        if count:
            trial.add(new, count)
        taken = trial.serve(new, k, left) if served else 0.0
        if taken:
            draft.become(trial)
            return taken
    return 0.0


def _relocate(pairs: _Pairs, draft: Draft) -> bool:
    """One pass over active (shape, class) pairs that moves their traffic elsewhere if that is cheaper. Returns whether any
    moved."""
    improved = False
    for c, k in sorted(draft.rates):
        if (c, k) in draft.rates:
            improved |= _moved_away(pairs, draft, c, [k])
    return improved


def _consolidate(pairs: _Pairs, draft: Draft) -> None:
    """Move all traffic away from active shapes, in ascending load, if that is cheaper."""
    loads = {c: sum(draft.rates.get((c, k), 0.0) for k in range(len(pairs.instance.classes))) for c, _ in draft.rates}
    for c in sorted(loads, key=lambda c: (loads[c], c)):
        _moved_away(pairs, draft, c, [k for d, k in sorted(draft.rates) if d == c])


def _moved_away(pairs: _Pairs, draft: Draft, c: int, classes: Sequence[int]) -> bool:
    trial = draft.duplicate()
    released = {k: trial.release(c, k) for k in classes}
    trial.without_idle()
    for k, left in released.items():
        while is_left(left, released[k]):
            taken = _extend(pairs, trial, k, left, barred=c)
            if not taken:
                return False
            left -= taken
    if reaches(trial.dollars, draft.dollars):
        return False
    draft.become(trial)
    return True
