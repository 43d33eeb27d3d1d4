"""Our method on P2's model: AGH's plan, a bound by facility, fixing by that bound, and a small exact solve of the rest.

The exact solve is of the facility form (`facilities`). It is first run on the few facilities of the least bound: a better plan
fixes more of the others.
"""

from dataclasses import dataclass

import numpy as np

from papers.p2.arrays import NONE, Floats, Indices, arrays_of
from papers.p2.bound import SAFE, relax
from papers.p2.facilities import Covers, Facilities, covers_of, facilities_of
from papers.p2.heuristics import Search, State
from papers.p2.instance import Instance, Plan
from servingplan.solve.solver.clock import Stopwatch
from servingplan.solve.solver.program import Column, Limits, Program, Term

CORES, CORE_NODES = (14, 40), 200
"""The exact part first tries so many facilities, those of the least bound, for so many nodes: a good plan fixes more."""
CORE_SHARE = 0.7
"""The part of the time that is left that one of these tries may take."""
LARGEST_REST = 8000
"""More routes than this are not handed to the exact part: building and one relaxation alone would pass a few seconds."""
FIRST_GAP = 0.02
"""The exact part goes for this gap first: a facility that lifts every plan to within the gap of the one in hand is left out."""
NODES = 20_000
"""Work limit of the exact part, so that the answer does not depend on the machine unless the clock ends it first."""
ROUND_FROM = (0.5, 0.25, 0.1)
"""Facilities with at least this mean use in the relaxation are opened by the rounding."""
NEGLIGIBLE = 1e-7
"""A share below this, and a limit passed by less, is the solver's tolerance."""


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
    core_gap = max(relative_gap, FIRST_GAP / 2)  # its own bound is of no use
    for few in CORES:
        if best.cost - bound <= relative_gap * best.cost or watch.expired():
            break
        if few > CORES[0] and len(facilities.pair) * len(arrays.stored_gb) <= LARGEST_REST:
            break  # all of them can be tried
        used = np.flatnonzero(relaxation.use > NEGLIGIBLE)
        core = np.union1d(used, np.argsort(relaxation.needed, kind="stable")[:few])
        mine = np.flatnonzero(best.size[facilities.pair] == facilities.size)
        part = Stopwatch((watch.remaining_seconds() or 0.0) * CORE_SHARE)
        best = _improved(best, facilities, covers, np.union1d(core, mine), (core_gap, CORE_NODES, part))[0]
        kept = np.flatnonzero(relaxation.needed <= best.cost * (1.0 + SAFE))
        facilities, covers, relaxation = facilities.only(kept), covers.only(kept), relaxation.only(kept)
    for gap in sorted({max(relative_gap, FIRST_GAP), relative_gap}, reverse=True):
        if best.cost - bound <= gap * best.cost or watch.expired():
            continue
        beyond = best.cost * (1.0 - gap)  # what a plan with a facility that is left out costs at least
        mine = best.size[facilities.pair] == facilities.size
        kept = np.flatnonzero((relaxation.needed <= beyond * (1.0 + SAFE)) | mine)
        if len(kept) * len(arrays.stored_gb) <= LARGEST_REST:
            best, rest_bound = _improved(best, facilities, covers, kept, (gap, nodes, watch))
            bound = max(bound, min(rest_bound, beyond))
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
