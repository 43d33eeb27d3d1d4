"""A lower bound on every plan of P2's model, and for each facility a bound on every plan that uses it.

The Lagrangian relaxes everything that couples pairs: (5b), (5c), (5h), (5i), (5j), covers. What is left falls apart by pair
into a continuous knapsack per size, so a bound costs one pass over the arrays. A few subgradient steps find the facilities that
matter; the duals of the linear relaxation over these are then prices for all of them (`master`), which lifts the bound to
that of the whole relaxation. A facility whose use would lift it above the cost of the plan in hand is in no better plan.
"""

from dataclasses import dataclass

import numpy as np

from papers.p2.arrays import Floats, Indices
from papers.p2.facilities import Covers, Facilities
from papers.p2.master import dual_prices
from servingplan.solve.solver.clock import Stopwatch

ITERATIONS = 80
"""Subgradient steps; the cover rows have no price in them."""
MEMORY = 0.5
"""How much of the last direction a step keeps (Camerini, Fratta and Maffioli 1975)."""
HALVE_AFTER = 12
"""Subgradient steps without a better bound before the step is halved."""
ROUNDS = 12
"""Most rounds of prices from the master."""
MASTER_FACILITIES = 60
"""Facilities of the first master; a round adds those that the Lagrangian opens."""
SAFE = 1e-7
"""Relative margin that keeps rounding errors from fixing a facility that ties with the plan in hand."""


@dataclass(slots=True, eq=False)
class Relaxation:
    """The best Lagrangian bound so far and what it says of each facility."""

    bound: float
    needed: Floats
    """[f]: the least bound of any plan that uses f"""
    use: Floats
    """[f]: w of the last master, or its mean over the steps before there is one; a primal guess"""
    price: Floats
    """The prices at which the bound was reached."""

    def only(self, kept: Indices) -> "Relaxation":
        """What is known of fewer facilities."""
        return Relaxation(self.bound, self.needed[kept], self.use[kept], self.price)


class Dual:
    """The Lagrangian of the facility form, for plans that cost less than `upper`.

    Prices in one vector: I for (5b), I for (5j), I for (5i), 1 for (5c), 1 for (5h), one per cover row. All rows are divided by
    their limit, so every price is in $. A plan cheaper than `upper` leaves less than upper / phi of a type unserved.
    """

    def __init__(self, facilities: Facilities, covers: Covers, upper: float) -> None:
        self._facilities, self._covers = facilities, covers
        self._holds = covers.holds.astype(float)
        pair = facilities.pair
        self._starts = np.flatnonzero(np.r_[True, pair[1:] != pair[:-1]])
        self._lap = np.repeat(np.arange(len(self._starts)), np.diff(np.r_[self._starts, len(pair)]))
        a = facilities.arrays
        self.unserved_cap = np.minimum(a.unserved_cap, upper / np.maximum(a.unmet_price, 1e-12))

    def at(self, price: Floats) -> tuple[float, Floats, Floats, Floats]:
        """Bound, its slope, `needed` and the facilities that the minimiser opens."""
        f, covers, a = self._facilities, self._covers, self._facilities.arrays
        types = len(f.cap)
        budget, storage = a.instance.budget, a.instance.storage_cap_gb
        served, wrong, late = price[:types], price[types : 2 * types], price[2 * types : 3 * types]
        spend, stored, cover = price[3 * types], price[3 * types + 1], price[3 * types + 2 :]
        reduced = (
            f.delay * (a.delay_price + late / a.delay_slo)[:, None]
            + f.error * (wrong / a.error_slo)[:, None]
            + f.stored_gb * (a.gb_price * (1.0 + spend / budget) + stored / storage)
            - served[:, None]
        )
        share = np.where(reduced < 0.0, f.cap, 0.0)
        rent = f.rent * (1.0 + spend / budget)
        if cover.any():
            rent -= cover @ self._holds
        value = rent + (reduced * share).sum(axis=0)
        crowded = np.flatnonzero((value < 0.0) & ((f.load * share).sum(axis=0) > 1.0))
        if len(crowded):
            share[:, crowded] = _knapsack(reduced[:, crowded], f.load[:, crowded], share[:, crowded])
            value[crowded] = rent[crowded] + (reduced[:, crowded] * share[:, crowded]).sum(axis=0)
        least = np.minimum(np.minimum.reduceat(value, self._starts), 0.0)[self._lap]
        unmet = a.unmet_price - served - np.bincount(covers.kind, cover / covers.least, minlength=types)
        unserved = np.where(unmet < 0.0, self.unserved_cap, 0.0)
        bound = float(
            2.0 * served.sum() - price.sum() + 2.0 * cover.sum() + least[self._starts].sum() + (unmet * unserved).sum()
        )  # prices of >= and == rows count for, those of <= rows against the bound
        open_ = np.flatnonzero((value < 0.0) & (value <= least))
        open_ = open_[np.unique(f.pair[open_], return_index=True)[1]]  # one size a pair, the first of equals
        part = share[:, open_]
        stored_gb = float((f.stored_gb[:, open_] * part).sum())
        slope = np.concatenate(
            (
                1.0 - unserved - part.sum(axis=1),
                (f.error[:, open_] * part).sum(axis=1) / a.error_slo - 1.0,
                (f.delay[:, open_] * part).sum(axis=1) / a.delay_slo - 1.0,
                [(float(f.rent[open_].sum()) + a.gb_price * stored_gb) / budget - 1.0, stored_gb / storage - 1.0],
                1.0 - self._holds[:, open_].sum(axis=1) - unserved[covers.kind] / covers.least,
            )
        )
        opened = np.zeros(len(f.pair))
        opened[open_] = 1.0
        return bound, slope, bound - least + value, opened


def relax(facilities: Facilities, covers: Covers, upper: float, watch: Stopwatch) -> Relaxation:
    """Subgradient ascent by Polyak's step towards `upper`, then prices from the master."""
    types, count = facilities.cap.shape
    price = np.concatenate((np.full(types, upper / types), np.zeros(2 * types + 2 + len(covers.kind))))
    known = Relaxation(0.0, np.zeros(count), np.zeros(count), price)
    dual = Dual(facilities, covers, upper)
    _ascend(dual, known, len(price) - len(covers.kind), ITERATIONS, upper, watch)
    few = np.argsort(known.needed, kind="stable")[:MASTER_FACILITIES]
    for _ in range(ROUNDS):
        found = None if watch.expired() else dual_prices(facilities, covers, dual.unserved_cap, few, watch)
        if found is None:
            break
        price, used = found
        known.use = np.zeros(len(facilities.pair))
        known.use[few] = used
        bound, _, needed, opened = dual.at(price)
        middle = (price + known.price) / 2.0
        halfway, _, also_needed, _ = dual.at(middle)
        known.needed = np.maximum(known.needed, np.maximum(needed, also_needed))
        for reached, point in ((bound, price), (halfway, middle)):
            if reached > known.bound:
                known.bound, known.price = reached, point
        missing = np.setdiff1d(np.flatnonzero(opened), few)
        if not len(missing):
            break
        few = np.union1d(few, missing)
    known.bound = min(known.bound, upper)
    return known


def _ascend(dual: Dual, best: Relaxation, free: int, steps: int, upper: float, watch: Stopwatch) -> None:
    """Move the first `free` prices from the best point known; what every point proves is kept in `best`."""
    price = peak = best.price
    pace, idle, top = 1.0, 0, -np.inf
    direction = np.zeros(len(price))
    for _ in range(steps):
        if watch.expired():
            break
        bound, slope, needed, opened = dual.at(price)
        best.needed = np.maximum(best.needed, needed)  # each point proves its own
        best.use = 0.95 * best.use + 0.05 * opened
        if bound > top:
            top, peak, idle = bound, price, 0
        else:
            idle += 1
            if idle >= HALVE_AFTER:
                pace, idle, price = pace / 2.0, 0, peak
                direction[:] = 0.0
                continue
        gap = upper - bound
        if gap <= SAFE * upper or pace < 1e-3:
            break
        direction[:free] = slope[:free] + MEMORY * direction[:free]
        price = np.maximum(0.0, price + pace * gap / max(float(direction @ direction), 1e-12) * direction)
    best.bound, best.price = max(best.bound, top), peak


def _knapsack(reduced: Floats, load: Floats, cap: Floats) -> Floats:
    """Per column: the shares within `cap` of least reduced cost whose load is at most 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.where(cap > 0.0, reduced / load, 0.0)
    order = np.argsort(density, axis=0, kind="stable")
    taken = np.take_along_axis(cap * load, order, axis=0)
    before = np.cumsum(taken, axis=0) - taken
    part = np.clip(np.divide(1.0 - before, taken, out=np.zeros_like(taken), where=taken > 0.0), 0.0, 1.0)
    part = np.where(taken > 0.0, part, 1.0)
    sorted_share = np.take_along_axis(cap, order, axis=0) * part
    share = np.empty_like(cap)
    np.put_along_axis(share, order, sorted_share, axis=0)
    return share
