"""Plans by covering: a rule that finds copies for given rates, asked for as much service as it manages.

Most heuristics of the papers answer "serve exactly this"; `most_served` turns such a rule into a plan for both objectives,
and `by_class` is the rule that needs no solver.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby, product

from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.solver.tolerance import is_left, reaches

Cover = Callable[[Sequence[float]], Draft | None]
"""Copies that serve these rates (requests/s by class) within stock and budget; None where the rule finds none."""
CANDIDATES = 8
"""Cheapest shapes per class that `by_class` weighs."""


def most_served(
    instance: Instance, cover: Cover, *, steps: int, targets: Sequence[float] | None = None
) -> Draft | None:
    """As much service as the rule manages, by bisection in so many steps; None where it manages none.

    MaximizeService: the largest multiple of the mix, sought below `targets`, by default what each class could reach alone.
    MinimizeCost: priorities from the top, each in full or else the largest common fraction of its classes.
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
    """The draft nearest to `high` on the line from `low` that the rule finds, and its rates."""

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
    """Serve class after class: first with copies that are there, then with the shape that scores best.

    The score is (tau, mu) of Cheng and Nguyen (2026), M2: tau = 0 where the candidate covers all that is left, mu = price
    of the copies added / requests per second covered. `whole_price` prices the nodes that are really added, otherwise
    GPUs are priced as shares of a node.
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


def covers_with_spare(instance: Instance, spare: Sequence[float], guarded: Collection[int]) -> Iterator[Draft]:
    """Covers that carry so many times more of these classes than is asked, against losses."""
    order = dearest_first(instance)
    for part, whole_price in product(spare, (False, True)):
        rates = [cls.requests_per_second * (part if k in guarded else 1.0) for k, cls in enumerate(instance.classes)]
        draft = by_class(instance, rates, order=order, whole_price=whole_price)
        if draft is not None:
            yield draft


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
    """Classes by priority from the top, then by what their whole rate costs at the cheapest shape, dearest first."""

    def key(k: int) -> tuple[int, float, int]:
        ranked = instance.cheapest_first(k)
        cost = instance.share_price(ranked[0]) / instance.rate(ranked[0], k) if ranked else 0.0
        return -instance.classes[k].priority, -cost * instance.classes[k].requests_per_second, k

    return sorted(range(len(instance.classes)), key=key)
