"""Covers: a heuristic that finds copies for given rates is asked for as much service as it can give.

Most heuristics of the papers find copies that serve exactly the given rates. `most_served` makes a plan from such a heuristic
for both objectives, and `by_class` is a heuristic that needs no solver.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby, product

from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.solver.tolerance import is_left, reaches

Cover = Callable[[Sequence[float]], Draft | None]
"""Copies that serve these rates (requests/s by class) within stock and budget; None if the heuristic finds none."""
CANDIDATES = 8
"""The number of cheapest shapes per class that `by_class` compares."""


def most_served(
    instance: Instance, cover: Cover, *, steps: int, targets: Sequence[float] | None = None
) -> Draft | None:
    """The draft with the most service that `cover` gives, found by bisection in `steps` steps; None if it gives none.

    MaximizeService: the largest multiple of the mix up to `targets`, by default the rates that each class could reach alone.
    MinimizeCost: priorities from the top, each in full or else by the largest common fraction of its classes.
    """
    rates = [0.0] * len(instance.classes)
    if instance.question.objective == "MaximizeService":
        return _largest_part(cover, rates, targets or instance.reachable_targets, steps=steps)[0]
    best: Draft | None = cover(rates)
    order = sorted(range(len(rates)), key=lambda k: (-instance.classes[k].priority, k))
    for _, members in groupby(order, key=lambda k: instance.classes[k].priority):
        wanted = list(rates)
        for k in members:
            wanted[k] = instance.classes[k].requests_per_second
        draft, rates = _largest_part(cover, rates, wanted, steps=steps)
        best = draft or best
    return best


def _largest_part(
    cover: Cover, low: Sequence[float], high: Sequence[float], *, steps: int
) -> tuple[Draft | None, list[float]]:
    """The draft that `cover` finds nearest to `high` on the line from `low`, and its rates."""

    def at(part: float) -> list[float]:
        return [a + part * (b - a) for a, b in zip(low, high, strict=True)]

    best = cover(high)
    if best is not None:
        return best, list(high)
    reached, missed = 0.0, 1.0
    for _ in range(steps):
        middle = (reached + missed) / 2 if reached else missed / 4
        draft = cover(at(middle))
        best, reached, missed = (best, reached, middle) if draft is None else (draft, middle, missed)
    return best, at(reached)


def by_class(
    instance: Instance, rates: Sequence[float], *, order: Sequence[int], whole_price: bool, draft: Draft | None = None
) -> Draft | None:
    """The draft that serves class after class, first with its copies, then with added copies of the shape with the best score.

    None if some class cannot be served. The score is (tau, mu) of Cheng and Nguyen (2026), M2: tau = 0 if the candidate covers
    all of the remaining rate, mu = price of the added copies / requests per second covered. With `whole_price` the price is
    that of the added nodes; otherwise GPUs are priced as shares of a node.
    """
    draft = draft or Draft(instance)
    for k in order:
        left = rates[k]
        ranked = instance.cheapest_first(k) if left > 0 else ()
        for c in ranked:
            if left > 0 and draft.copies[c]:
                left -= draft.serve(c, k, left)
        while is_left(left, rates[k]):
            found = _best_addition(draft, k, left, ranked, whole_price=whole_price)
            if found is None:
                return None
            c, count = found
            draft.add(c, count)
            taken = draft.serve(c, k, left)
            if not taken:
                return None
            left -= taken
    return draft


def covers_with_spare(
    instance: Instance, spare: Sequence[float], guarded: Collection[int], stop: Callable[[], bool]
) -> Iterator[Draft]:
    """Covers that carry a multiple, each of `spare`, of the asked rates of the `guarded` classes, as a reserve for losses. None
    is begun after `stop`, but the first one always is."""
    order = dearest_first(instance)
    for part, whole_price in product(spare, (False, True)):
        rates = [cls.requests_per_second * (part if k in guarded else 1.0) for k, cls in enumerate(instance.classes)]
        draft = by_class(instance, rates, order=order, whole_price=whole_price)
        if draft is not None:
            yield draft
        if stop():
            return


def _best_addition(
    draft: Draft, k: int, left: float, ranked: Sequence[int], *, whole_price: bool
) -> tuple[int, int] | None:
    instance = draft.instance
    best: tuple[tuple[bool, float, float], int, int] | None = None
    tried = 0
    for c in ranked:
        count = draft.most(c, draft.copies_needed(c, k, left))
        covered = min(left, draft.room(c, extra=count) * instance.rate(c, k))
        if not count or covered <= 0:
            continue
        added = draft.extra_dollars(c, count) if whole_price else count * instance.share_price(c)
        gpus = count * sum(instance.shapes[c].gpus.values())
        score = (not reaches(covered, left), (added or 0.0) / covered, gpus / covered)
        if best is None or score < best[0]:
            best = (score, c, count)
        tried += 1
        if tried == CANDIDATES:
            break
    return None if best is None else best[1:]


def dearest_first(instance: Instance) -> list[int]:
    """Classes by priority from the top, then by the cost of their whole rate on the cheapest shape, dearest first."""

    def key(k: int) -> tuple[int, float, int]:
        ranked = instance.cheapest_first(k)
        cost = instance.share_price(ranked[0]) / instance.rate(ranked[0], k) if ranked else 0.0
        return -instance.classes[k].priority, -cost * instance.classes[k].requests_per_second, k

    return sorted(range(len(instance.classes)), key=key)
