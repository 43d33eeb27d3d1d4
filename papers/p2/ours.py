"""Our method on P2's model: AGH's plan, a Lagrangian bound, fixing by that bound, and a small exact solve of the rest.

The model is rewritten as facility location. A facility f is a model on a tier at a size (one w of P_DM); v[i,f] is the share of
type i that it serves, so x = sum over its sizes of v and McCormick's envelope becomes `v <= cap w`, which is exact at
binary w and far tighter between. The cap is the most that (5g), (5i) and (5j) alone let through:
cap[i,f] = min(1, eta T_conv P y / work, Delta_i / D, eps_i / e), and placement is held by `sum_g v / cap <= z`.

The means in (5i) and (5j) let a relaxation mix a little of a dear facility with much of a bad one. Cover rows forbid it: let
s = a e / eps + (1 - a) D / Delta for some a in [0, 1]. Any plan has sum_f s v <= 1, so if every open facility of type i has
s >= t > 1, then sum_f v <= 1 / t and u >= 1 - 1 / t. Hence `sum of w over s < t, plus u / (1 - 1 / t), >= 1` for every t > 1.

The Lagrangian relaxes everything that couples pairs: (5b), (5c), (5h), (5i), (5j), covers. What is left falls apart by
pair into a continuous knapsack per size, so a bound costs one pass over the arrays. Its value never exceeds the linear
relaxation of the facility form. A facility whose use would lift the bound above the cost of the plan in hand can be in
no better plan. The exact solve is first run on the few facilities of the least bound: a better plan fixes more of them.
"""

from dataclasses import dataclass

import numpy as np

from papers.p2.arrays import NONE, Arrays, Booleans, Floats, Indices, arrays_of
from papers.p2.heuristics import Search, State
from papers.p2.instance import Instance, Plan
from servingplan.solve.milp import Column, Limits, Program, Stopwatch, Term

ITERATIONS = (150, 250)
"""Subgradient steps without and with the cover rows."""
MEMORY = 0.5
"""How much of the last direction a step keeps (Camerini, Fratta and Maffioli 1975)."""
HALVE_AFTER = 12
"""Subgradient steps without a better bound before the step is halved."""
CORES, CORE_NODES = (14, 40), 200
"""The exact part first tries so many facilities, those of the least bound, for so many nodes: a good plan fixes more."""
LARGEST_REST = 8000
"""More routes than this are not handed to the exact part: building and one relaxation alone would pass a few seconds."""
NODES = 20_000
"""Work limit of the exact part, so that the answer does not depend on the machine unless the clock ends it first."""
ROUND_FROM = (0.5, 0.25, 0.1)
"""Facilities with at least this mean use in the relaxation are opened by the rounding."""
NEGLIGIBLE = 1e-7
"""A share below this, and a limit passed by less, is the solver's tolerance."""
MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The weights a of the cover rows"""
LEAST_UNSERVED = (0.01, 0.03, 0.1)
"""Cover rows are made for the least t with 1 - 1/t above each of these."""
SAFE = 1e-7
"""Relative margin that keeps rounding errors from fixing a facility that ties with the plan in hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A plan with its certificate."""

    plan: Plan
    cost: float
    bound: float
    """No plan of P_DM costs less."""
    proved: bool
    """The gap asked for was reached."""
    first_plan_seconds: float
    seconds: float

    @property
    def gap(self) -> float:
        """(cost - bound) / cost."""
        return max(0.0, (self.cost - self.bound) / self.cost)


@dataclass(frozen=True, slots=True, eq=False)
class Facilities:
    """The facilities that may be used, one row of numbers each, sorted by pair."""

    arrays: Arrays
    pair: Indices
    """[f]"""
    size: Indices
    """[f]"""
    rent: Floats
    """[f]: $ over the horizon"""
    delay: Floats
    """[i, f]: D in seconds"""
    error: Floats
    """[i, f]"""
    cap: Floats
    """[i, f]"""
    load: Floats
    """[i, f]: share of the facility's compute (5g) that all of type i takes"""
    cache: Floats
    """[i, f]: share of the memory that the weights leave (5f) that all of type i takes"""
    stored_gb: Floats
    """[i, f]: left side of (5h) for each unit of v, with z = v / cap"""

    def only(self, kept: Indices) -> "Facilities":
        """Those kept."""
        a = self
        return Facilities(
            a.arrays, a.pair[kept], a.size[kept], a.rent[kept], a.delay[:, kept], a.error[:, kept], a.cap[:, kept],
            a.load[:, kept], a.cache[:, kept], a.stored_gb[:, kept],
        )  # fmt: skip


def facilities_of(arrays: Arrays, *, per_route: bool = False) -> Facilities:
    """Every facility whose weights fit and whose rent alone is within the budget.

    `per_route` also demands M1's delay limit of every route, which P_DM does not: the problem that GH and AGH solve.
    """
    gpus = arrays.gpus
    pair, size = np.nonzero(arrays.fits & (arrays.rent[:, None] * gpus <= arrays.instance.budget))
    delay = arrays.delay_seconds[:, pair, size]
    error = arrays.error[:, pair]
    load = arrays.work_tflop[:, pair] / (arrays.gpu_tflop[pair] * gpus[size])
    room = arrays.memory_gb[pair] * gpus[size] - arrays.weights_gb[pair]
    with np.errstate(divide="ignore", invalid="ignore"):
        cache = np.where(arrays.cache_gb[:, pair] > 0, arrays.cache_gb[:, pair] / room, 0.0)
        limits = (1 / load, 1 / cache, arrays.delay_slo[:, None] / delay, arrays.error_slo[:, None] / error)
        cap = np.minimum.reduce([np.ones_like(load), *(np.where(np.isnan(limit), 1.0, limit) for limit in limits)])
        stored = arrays.stored_gb[:, None] + arrays.weights_gb[pair] / cap
    if per_route:
        cap = np.where(delay <= arrays.delay_slo[:, None], cap, 0.0)
    cache = np.where(np.isfinite(cache), cache, 0.0)  # no room at all: cap is 0 and v with it
    return Facilities(
        arrays,
        pair,
        size,
        arrays.rent[pair] * gpus[size],
        delay,
        error,
        cap,
        load,
        cache,
        np.where(cap > 0, stored, 0.0),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Covers:
    """Rows `sum_f holds[c, f] w_f + u_i / least[c] >= 1`, with i = kind[c]."""

    kind: Indices
    least: Floats
    holds: Booleans

    def only(self, kept: Indices) -> "Covers":
        """The same rows over fewer facilities; still valid, since the others are closed."""
        return Covers(self.kind, self.least, self.holds[:, kept])


def covers_of(facilities: Facilities) -> Covers:
    """The cover rows of every query type."""
    f, a = facilities, facilities.arrays
    rows: dict[tuple[int, bytes], tuple[float, Booleans]] = {}
    for i in range(len(f.cap)):
        for mix in MIXES:
            score = mix * f.error[i] / a.error_slo[i] + (1.0 - mix) * f.delay[i] / a.delay_slo[i]
            for unserved in LEAST_UNSERVED:
                beyond = score[score > (1.0 + 1e-6) / (1.0 - unserved)]
                if len(beyond):
                    threshold = float(beyond.min())
                    holds = score < threshold
                    key = (i, holds.tobytes())
                    least = 1.0 - 1.0 / threshold
                    if key not in rows or least > rows[key][0]:
                        rows[key] = (least, holds)
    kind = np.array([i for i, _ in rows], dtype=np.int64)
    bounds = np.array([least for least, _ in rows.values()])
    held = np.array([holds for _, holds in rows.values()], dtype=bool).reshape(len(rows), len(f.pair))
    return Covers(kind, bounds, held)


@dataclass(slots=True, eq=False)
class Relaxation:
    """The best Lagrangian bound so far and what it says of each facility."""

    bound: float
    needed: Floats
    """[f]: the least bound of any plan that uses f"""
    use: Floats
    """[f]: mean w over the later steps, a primal guess"""
    price: Floats
    """Where the bound was reached"""

    def only(self, kept: Indices) -> "Relaxation":
        """What is known of fewer facilities."""
        return Relaxation(self.bound, self.needed[kept], self.use[kept], self.price)


class _Dual:
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
        self._unserved_cap = np.minimum(a.unserved_cap, upper / np.maximum(a.unmet_price, 1e-12))

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
        rent = f.rent * (1.0 + spend / budget) - cover @ self._holds
        value = rent + (reduced * share).sum(axis=0)
        crowded = np.flatnonzero((value < 0.0) & ((f.load * share).sum(axis=0) > 1.0))
        if len(crowded):
            share[:, crowded] = _knapsack(reduced[:, crowded], f.load[:, crowded], share[:, crowded])
            value[crowded] = rent[crowded] + (reduced[:, crowded] * share[:, crowded]).sum(axis=0)
        least = np.minimum(np.minimum.reduceat(value, self._starts), 0.0)[self._lap]
        unmet = a.unmet_price - served - np.bincount(covers.kind, cover / covers.least, minlength=types)
        unserved = np.where(unmet < 0.0, self._unserved_cap, 0.0)
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


def relax(
    facilities: Facilities, covers: Covers, upper: float, watch: Stopwatch, known: Relaxation | None = None
) -> Relaxation:
    """Subgradient ascent by Polyak's step towards `upper`: without the cover rows, then with; or on from what is known."""
    types, count = facilities.cap.shape
    rows = len(covers.kind)
    if known is None:
        price = np.concatenate((np.full(types, upper / types), np.zeros(2 * types + 2 + rows)))
        known = Relaxation(0.0, np.zeros(count), np.zeros(count), price)
        phases = ((rows, ITERATIONS[0]), (0, ITERATIONS[1]))
    else:
        phases = ((0, ITERATIONS[1]), (0, ITERATIONS[1]))
    for frozen, steps in phases:
        kept = np.flatnonzero(known.needed <= upper * (1.0 + SAFE))
        if not len(kept):
            break
        dual = _Dual(facilities.only(kept), covers.only(kept), upper)
        _ascend(dual, known, len(known.price) - frozen, steps, upper, kept, watch)
    known.bound = min(known.bound, upper)
    return known


def _ascend(
    dual: _Dual, best: Relaxation, free: int, steps: int, upper: float, kept: Indices, watch: Stopwatch
) -> None:
    """Move the first `free` prices from the best point known; what every point proves is kept in `best`."""
    price = peak = best.price
    pace, idle, top = 1.0, 0, -np.inf
    direction = np.zeros(len(price))
    for _ in range(steps):
        if watch.expired():
            break
        bound, slope, needed, opened = dual.at(price)
        best.needed[kept] = np.maximum(best.needed[kept], needed)  # each point proves its own
        best.use[kept] = 0.95 * best.use[kept] + 0.05 * opened
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


def solve(
    instance: Instance,
    *,
    seed: int = 0,
    deadline_seconds: float = 2.0,
    relative_gap: float = 1e-3,
    nodes: int = NODES,
    per_route: bool = False,
) -> Answer:
    """A plan never dearer than AGH's, improved and certified until the gap, the work limit or the deadline is reached.

    With `per_route` both plan and bound are of the stricter problem that AGH solves (see `facilities_of`).
    """
    watch = Stopwatch(deadline_seconds)
    arrays = arrays_of(instance)
    search = Search(arrays)
    best = search.greedy()
    first_plan_seconds = watch.elapsed_seconds()
    best = _cheaper(best, search.adaptive(seed))
    facilities = facilities_of(arrays, per_route=per_route)
    covers = covers_of(facilities)
    relaxation = relax(facilities, covers, best.cost, watch)
    for threshold in ROUND_FROM:
        best = _cheaper(best, _rounded(search, facilities, relaxation.use, threshold))
    bound = relaxation.bound
    for few in CORES:
        if best.cost - bound <= relative_gap * best.cost or watch.expired():
            break
        if few > CORES[0] and len(facilities.pair) * len(arrays.stored_gb) <= LARGEST_REST:
            break  # all of them can be tried
        core = np.argsort(relaxation.needed, kind="stable")[:few]
        mine = np.flatnonzero(best.size[facilities.pair] == facilities.size)
        half = Stopwatch((watch.remaining_seconds() or 0.0) / 2)
        best = _improved(best, facilities, covers, np.union1d(core, mine), (relative_gap, CORE_NODES, half))[0]
        kept = np.flatnonzero(relaxation.needed <= best.cost * (1.0 + SAFE))
        facilities, covers = facilities.only(kept), covers.only(kept)
        relaxation = relax(facilities, covers, best.cost, watch, relaxation.only(kept))
        bound = max(bound, relaxation.bound)
    if best.cost - bound > relative_gap * best.cost and not watch.expired():
        kept = np.flatnonzero(relaxation.needed <= best.cost * (1.0 + SAFE))
        if len(kept) * len(arrays.stored_gb) <= LARGEST_REST:
            best, rest_bound = _improved(best, facilities, covers, kept, (relative_gap, nodes, watch))
            bound = max(bound, rest_bound)  # plans left out cost at least what was in hand
    plan, cost = best.plan(), best.cost
    return Answer(
        plan=plan,
        cost=cost,
        bound=min(bound, cost),
        proved=(cost - bound) / cost <= relative_gap,
        first_plan_seconds=first_plan_seconds,
        seconds=watch.elapsed_seconds(),
    )


def _cheaper(one: State, other: State) -> State:
    return other if other.cost < one.cost else one


def _improved(
    best: State, facilities: Facilities, covers: Covers, kept: Indices, limits: tuple[float, int, Stopwatch]
) -> tuple[State, float]:
    """The better of the plan in hand and the exact answer over some facilities, and the bound of the latter."""
    if not len(kept):
        return best, np.inf
    found, bound = _Rest(facilities.only(kept), covers.only(kept), best).optimise(*limits)
    return (best if found is None else _cheaper(best, found)), bound


def _rounded(search: Search, facilities: Facilities, use: Floats, threshold: float) -> State:
    """Open what the relaxation uses, then serve and improve as AGH does."""
    state = State(search.arrays)
    for f in np.argsort(-use, kind="stable").tolist():
        pair, rent = int(facilities.pair[f]), float(facilities.rent[f])
        if use[f] < threshold:
            break
        if state.size[pair] < 0 and state.spend + rent <= facilities.arrays.instance.budget:
            state.size[pair] = facilities.size[f]
            state.refresh()
    return search.improve(search.serve_all(state))


class _Rest:
    """The facility form over the facilities that fixing left, as a program for the solver's adapter."""

    def __init__(self, facilities: Facilities, covers: Covers, start: State) -> None:
        f, a = facilities, facilities.arrays
        self._facilities, self._covers = f, covers
        self._program = Program("P2_facilities")
        add = self._program.add_column
        types, count = f.cap.shape
        self._w = [add(f"w_{g}", upper=1.0, integer=True) for g in range(count)]
        self._routes = [(i, g) for i in range(types) for g in range(count) if f.cap[i, g] > NONE]
        self._v = {(i, g): add(f"v_{i}_{g}", upper=float(f.cap[i, g])) for i, g in self._routes}
        self._z: dict[tuple[int, int], Column] = {}
        for i, g in self._routes:
            key = (i, int(f.pair[g]))
            if key not in self._z:
                self._z[key] = add(f"z_{key[0]}_{key[1]}", upper=1.0, integer=True)
        cap = np.minimum(a.unserved_cap, start.cost / np.maximum(a.unmet_price, 1e-12))  # in any plan no dearer
        self._u = [add(f"u_{i}", upper=float(cap[i])) for i in range(types)]
        self._add_rows()
        self._program.start_from(self._point(start))

    def optimise(self, relative_gap: float, nodes: int, watch: Stopwatch) -> tuple[State | None, float]:
        """Plan and bound of the rest."""
        f, a = self._facilities, self._facilities.arrays
        objective = [
            *self._provisioning(),
            *((column, float(a.delay_price[i] * f.delay[i, g])) for (i, g), column in self._v.items()),
            *((column, float(a.unmet_price[i])) for i, column in enumerate(self._u)),
        ]
        limits = Limits(relative_gap=relative_gap, nodes=nodes, seconds=watch.remaining_seconds())
        outcome = self._program.optimise(objective, "min", limits)
        if outcome.infeasible:
            return None, np.inf
        bound = outcome.bound if outcome.bound is not None else 0.0
        if not outcome.values:
            return None, bound
        share = np.zeros((len(self._u), len(a.rent)))
        size = np.full(len(a.rent), -1)
        for g, column in enumerate(self._w):
            if outcome.values[column] > 0.5:
                size[f.pair[g]] = f.size[g]
        for (i, g), column in self._v.items():
            if outcome.values[column] > NEGLIGIBLE and size[f.pair[g]] == f.size[g]:
                share[i, f.pair[g]] = outcome.values[column]
        state = State(a)
        state.size, state.share = size, share
        state.refresh()
        return (state if state.feasible(NEGLIGIBLE) else None), bound

    def _point(self, state: State) -> tuple[float, ...]:
        """A plan in hand as one value per column."""
        f = self._facilities
        chosen = [state.size[f.pair[g]] == f.size[g] for g in range(len(self._w))]
        value = [1.0 if here else 0.0 for here in chosen]
        value += [float(state.share[i, f.pair[g]]) if chosen[g] else 0.0 for i, g in self._routes]
        value += [1.0 if state.share[i, p] > NONE else 0.0 for i, p in self._z]
        value += [float(left) for left in state.unserved]
        return tuple(value)

    def _provisioning(self) -> list[Term]:
        """Left side of (5c): terms (i) to (iii) of (5a)."""
        price = self._facilities.arrays.gb_price
        rent = [(column, float(dollars)) for column, dollars in zip(self._w, self._facilities.rent, strict=True)]
        return [*rent, *((column, price * gb) for column, gb in self._stored_gb())]

    def _stored_gb(self) -> list[Term]:
        """Left side of (5h)."""
        a = self._facilities.arrays
        weights = [(column, float(a.weights_gb[p])) for (_, p), column in self._z.items()]
        return [*weights, *((column, float(a.stored_gb[i])) for (i, _), column in self._v.items())]

    def _add_rows(self) -> None:
        f, a, row = self._facilities, self._facilities.arrays, self._program.add_row
        types, count = f.cap.shape
        of_type: list[list[tuple[int, Column]]] = [[] for _ in range(types)]
        of_facility: list[list[tuple[int, Column]]] = [[] for _ in range(count)]
        placement: dict[tuple[int, int], list[Term]] = {key: [(z, -1.0)] for key, z in self._z.items()}
        for (i, g), column in self._v.items():
            of_type[i].append((g, column))
            of_facility[g].append((i, column))
            placement[i, int(f.pair[g])].append((column, float(1.0 / f.cap[i, g])))
            row(f"open_{i}_{g}", [(column, float(1.0 / f.cap[i, g])), (self._w[g], -1.0)], "<=", 0.0)
        for (i, p), terms in placement.items():
            row(f"placed_{i}_{p}", terms, "<=", 0.0)
        for i, routes in enumerate(of_type):
            row(f"5b_{i}", [(self._u[i], 1.0), *((column, 1.0) for _, column in routes)], "==", 1.0)
            row(f"5i_{i}", [(column, float(f.delay[i, g] / a.delay_slo[i])) for g, column in routes], "<=", 1.0)
            row(f"5j_{i}", [(column, float(f.error[i, g] / a.error_slo[i])) for g, column in routes], "<=", 1.0)
        for g, routes in enumerate(of_facility):
            row(f"5g_{g}", [*((v, float(f.load[i, g])) for i, v in routes), (self._w[g], -1.0)], "<=", 0.0)
            if f.cache[:, g].sum() > 1.0:  # otherwise (5f) cannot bind
                row(f"5f_{g}", [*((v, float(f.cache[i, g])) for i, v in routes), (self._w[g], -1.0)], "<=", 0.0)
        for c, (i, least) in enumerate(zip(self._covers.kind.tolist(), self._covers.least.tolist(), strict=True)):
            held = np.flatnonzero(self._covers.holds[c]).tolist()
            row(f"cover_{c}", [(self._u[i], 1.0 / least), *((self._w[g], 1.0) for g in held)], ">=", 1.0)
        for p in dict.fromkeys(f.pair.tolist()):
            row(f"5d_{p}", [(self._w[g], 1.0) for g in np.flatnonzero(f.pair == p).tolist()], "<=", 1.0)
        budget, storage = a.instance.budget, a.instance.storage_cap_gb
        row("5c", [(column, value / budget) for column, value in self._provisioning()], "<=", 1.0)
        row("5h", [(column, value / storage) for column, value in self._stored_gb()], "<=", 1.0)
