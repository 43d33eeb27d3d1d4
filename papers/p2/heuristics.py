"""P2's heuristics GH and AGH with mechanisms M1 to M3 (section 2.6 of our dossier), as printed.

What the paper leaves open, and how it is read here:

* M1 and M3 minimise nm and do not say which (n, m) among equals: the one with the least delay.
* Phase 1 runs "until spend >= 0.8 delta": a pair whose rent would pass 0.8 delta is not activated, or Phase 1 could leave
  nothing for storage, which (5c) charges to the same budget.
* A candidate that fails (5f)-(5h) or the budget with its full coverage is skipped, not cut to fit.
* Relocation moves the whole route to the cheapest feasible target (the paper: "accept if feasible and cheaper"), and a
  pair that serves nobody any more is switched off, or no relocation could save rent.

M1 and M3 demand the delay limit of every route, where (5i) bounds the mean over routes: the heuristics solve a stricter
problem than P_DM.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from papers.p2.arrays import NONE, Arrays, Booleans, Floats, Indices
from papers.p2.instance import Plan

PHASE_ONE_SHARE = 0.8  # "beta", [T]
RELOCATE_PASSES = 3  # L [T]
PATIENCE = 5  # non-improving orderings before AGH stops [T]
RANDOM_ORDERINGS = ((5000, 3), (2000, 5), (500, 10), (0, 20))  # R by IJK above each limit [T]
SLACK = 1e-9
"""Relative tolerance on limits; well inside the evaluator's."""


class State:
    """A plan under construction: a size per pair, a share per query type and pair, and the totals of the limits."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        types, pairs = arrays.error.shape
        self.size: Indices = np.full(pairs, -1)
        self.share: Floats = np.zeros((types, pairs))
        self.refresh()

    def copy(self) -> "State":
        """An independent copy."""
        other = object.__new__(State)
        other.__dict__.update(self.__dict__)
        other.size, other.share = self.size.copy(), self.share.copy()
        return other

    def refresh(self) -> None:
        """Recompute the totals from sizes and shares."""
        a, share = self.arrays, self.share
        active = np.flatnonzero(self.size >= 0)
        at, its_size = share[:, active], self.size[active]
        self.gpus = np.zeros(len(self.size), dtype=np.int64)
        self.gpus[active] = a.gpus[its_size]
        self.delay = (at * a.delay_seconds[:, active, its_size]).sum(axis=1)
        self.error = (at * a.error[:, active]).sum(axis=1)
        self.work = np.zeros(len(self.size))
        self.cache = np.zeros(len(self.size))
        self.work[active] = (at * a.work_tflop[:, active]).sum(axis=0)
        self.cache[active] = (at * a.cache_gb[:, active]).sum(axis=0)
        self.unserved = np.maximum(0.0, 1.0 - at.sum(axis=1))
        self.storage_gb = float(a.weights_gb[active] @ (at > NONE).sum(axis=0) + a.stored_gb @ at.sum(axis=1))
        self.spend = float(a.rent @ self.gpus) + a.gb_price * self.storage_gb
        self.cost = self.spend + float(a.delay_price @ self.delay + a.unmet_price @ self.unserved)

    def route(self, i: int, p: int, size: int, share: float) -> None:
        """Serve `share` more of type i on pair p at this size."""
        self.size[p] = size
        self.share[i, p] += share
        self.refresh()

    def feasible(self, slack: float = SLACK) -> bool:
        """Whether (5c) and (5f) to (5j) hold; the rest holds by construction."""
        a, wide = self.arrays, 1.0 + slack
        active = self.gpus > 0
        return bool(
            self.spend <= a.instance.budget * wide
            and self.storage_gb <= a.instance.storage_cap_gb * wide
            and (self.delay <= a.delay_slo * wide).all()
            and (self.error <= a.error_slo * wide).all()
            and (self.work <= a.gpu_tflop * self.gpus * wide)[active].all()
            and ((a.weights_gb + self.cache) <= a.memory_gb * self.gpus * wide)[active].all()
        )

    def plan(self) -> Plan:
        """The plan as it stands."""
        return self.arrays.plan(self.size, self.share)


class Search:
    """GH and AGH on one instance; the table of the sizes that M1 and M3 choose is shared by all their runs."""

    def __init__(self, arrays: Arrays, sizes: Indices | None = None) -> None:
        """`sizes` stands in for the table of M1 and M3 (`chosen_sizes`)."""
        self.arrays = arrays
        self._chosen = chosen_sizes(arrays) if sizes is None else sizes
        self._coverage = self._phase_one_coverage()

    def select(self, i: int, p: int, size: int = -1) -> int | None:
        """M1 for an inactive pair (size -1), M3 for an active one: the least size from `size` up that fits and is in time."""
        found = int(self._chosen[i, p, size + 1])
        return found if found < len(self.arrays.shapes) else None

    def greedy(self, order: Sequence[int] | None = None) -> State:
        """GH; query types in descending arrival rate unless another order is given."""
        state = State(self.arrays)
        self._cover(state)
        return self.serve_all(state, order)

    def serve_all(self, state: State, order: Sequence[int] | None = None) -> State:
        """Phase 2 from the pairs that are active already; changes the state."""
        kinds = self.arrays.instance.query_types
        for i in order if order is not None else _descending([kind.arrivals_per_hour for kind in kinds]):
            self._serve(state, i)
        return state

    def adaptive(self, seed: int) -> State:
        """AGH: GH from many orderings, each improved by relocation and consolidation; the cheapest of all."""
        best: State | None = None
        idle = 0
        for order in self._orderings(seed):
            state = self.improve(self.greedy(order))
            if best is None or state.cost < best.cost - SLACK * best.cost:
                best, idle = state, 0
            else:
                idle += 1
                if idle >= PATIENCE:
                    break
        assert best is not None
        return best

    def improve(self, state: State) -> State:
        """Up to L relocation passes, then consolidation."""
        for _ in range(RELOCATE_PASSES):
            state, moved = self._relocate_all(state)
            if not moved:
                break
        return self._consolidate(state)

    def rank(self, state: State, i: int) -> "Ranking":
        """M2: marginal cost and effective coverage of every pair for type i, best first."""
        a = self.arrays
        size = self._chosen[i, np.arange(len(state.size)), state.size + 1]
        exists = size < len(a.shapes)
        size = np.minimum(size, len(a.shapes) - 1)
        delay = a.delay_seconds[i, np.arange(len(size)), size]
        cost = (
            a.rent * np.maximum(a.gpus[size] - state.gpus, 0)
            + a.gb_price * (a.weights_gb + a.stored_gb[i])
            + a.delay_price[i] * delay
        )
        coverage = self._coverage_of(state, i, delay)
        partial = coverage < state.unserved[i]
        with np.errstate(divide="ignore"):
            order = np.lexsort((np.where(coverage > NONE, cost / coverage, np.inf), partial))
        return Ranking(order[(exists & (coverage > NONE))[order]], size, delay, cost)

    def _coverage_of(self, state: State, i: int, delay: Floats) -> Floats:
        """xbar of (8): what the type's remaining error and delay allowances let through, at most what is unserved."""
        a = self.arrays
        error_left = max(0.0, a.error_slo[i] - state.error[i])
        delay_left = max(0.0, a.delay_slo[i] - state.delay[i])
        by_error = np.divide(error_left, a.error[i], out=np.full(len(delay), np.inf), where=a.error[i] > 0)
        by_delay = np.divide(delay_left, delay, out=np.full(len(delay), np.inf), where=delay > 0)
        coverage: Floats = np.minimum(np.minimum(by_error, by_delay), state.unserved[i])
        return coverage

    def _admissible(self, state: State, i: int, share: Floats | float, size: Indices, delay: Floats) -> Booleans:
        """Pairs that pass (5c), (5f)-(5j) when they take this share of type i at this size."""
        a, wide = self.arrays, 1.0 + SLACK
        gpus = a.gpus[size]
        stored = a.weights_gb * (state.share[i] <= NONE) + a.stored_gb[i] * share
        spend = a.rent * (gpus - state.gpus) + a.gb_price * stored
        good: Booleans = (
            (state.work + a.work_tflop[i] * share <= a.gpu_tflop * gpus * wide)
            & (a.weights_gb + state.cache + a.cache_gb[i] * share <= a.memory_gb * gpus * wide)
            & (state.storage_gb + stored <= a.instance.storage_cap_gb * wide)
            & (state.spend + spend <= a.instance.budget * wide)
            & (state.delay[i] + delay * share <= a.delay_slo[i] * wide)
            & (state.error[i] + a.error[i] * share <= a.error_slo[i] * wide)
        )
        return good

    def _phase_one_coverage(self) -> tuple[Booleans, Indices]:
        """[i, p]: whether M1 finds a size and e <= eps; and that size."""
        size = self._chosen[:, :, 0]
        a = self.arrays
        return (size < len(a.shapes)) & (a.error <= a.error_slo[:, None]), size

    def _cover(self, state: State) -> None:
        """Phase 1: greedy set cover, most newly covered types per dollar first."""
        a = self.arrays
        covers, size = self._coverage
        uncovered = np.ones(len(covers), dtype=bool)
        while uncovered.any() and state.spend < PHASE_ONE_SHARE * a.instance.budget:
            now = covers & uncovered[:, None]
            count = now.sum(axis=0)
            largest = np.where(now, size, 0).max(axis=0)
            rent = a.rent * a.gpus[largest]
            affordable = state.spend + rent <= PHASE_ONE_SHARE * a.instance.budget
            value = np.where((count > 0) & (state.size < 0) & affordable, count / rent, 0.0)
            p = int(value.argmax())
            if value[p] <= 0.0:
                return
            state.size[p] = largest[p]
            state.refresh()
            uncovered &= ~now[:, p]

    def _serve(self, state: State, i: int) -> None:
        """Phase 2 for one query type: candidates in M2's order until all of it is served."""
        ranking = self.rank(state, i)
        place = 0
        while state.unserved[i] > NONE and place < len(ranking.order):
            share = self._coverage_of(state, i, ranking.delay)
            good = self._admissible(state, i, share, ranking.size, ranking.delay) & (share > NONE)
            left = np.flatnonzero(good[ranking.order[place:]])
            if not len(left):
                return
            place += int(left[0])
            p = int(ranking.order[place])
            place += 1
            before = state.size[p]
            state.route(i, p, int(ranking.size[p]), float(share[p]))
            if (
                before not in (-1, state.size[p]) and not state.feasible()
            ):  # an upgrade must not delay those on the pair
                state.size[p] = before
                state.share[i, p] -= share[p]
                state.refresh()

    def _relocate_all(self, state: State) -> tuple[State, bool]:
        """One pass over the active routes."""
        moved = False
        for i, p in np.argwhere(state.share > NONE).tolist():
            if state.share[i, p] > NONE:
                better = self._relocate(state, i, p)
                state, moved = (better, True) if better is not None else (state, moved)
        return state, moved

    def _relocate(self, state: State, i: int, source: int) -> State | None:
        """The state with the route (i, source) moved where it is cheapest, or None if nowhere is cheaper."""
        without = state.copy()
        share = float(without.share[i, source])
        without.share[i, source] = 0.0
        if without.share[:, source].max() <= NONE:
            without.size[source] = -1
        without.refresh()
        return self._place(without, i, share, state.cost * (1.0 - SLACK), barred=source)

    def _place(
        self, state: State, i: int, share: float, ceiling: float, *, barred: int, active_only: bool = False
    ) -> State | None:
        """The state with `share` of type i on the cheapest feasible pair, if that costs less than `ceiling`."""
        a = self.arrays
        ranking = self.rank(state, i)
        size, delay = ranking.size, ranking.delay
        good = self._admissible(state, i, share, size, delay)
        good &= self._chosen[i, np.arange(len(size)), state.size + 1] < len(a.shapes)
        good[barred] = False
        if active_only:
            good &= state.size >= 0
        extra = (
            a.rent * (a.gpus[size] - state.gpus)
            + a.gb_price * a.weights_gb * (state.share[i] <= NONE)
            + (a.delay_price[i] * delay + a.gb_price * a.stored_gb[i] - a.unmet_price[i]) * share
        )
        targets = np.flatnonzero(good & (state.cost + extra < ceiling))
        for p in targets[np.argsort(extra[targets], kind="stable")].tolist():
            placed = state.copy()
            placed.route(i, p, int(size[p]), share)
            if placed.feasible() and placed.cost < ceiling:
                return placed
        return None

    def _consolidate(self, state: State) -> State:
        """Empty active pairs in ascending load, where their queries fit on the others and that is cheaper."""
        active = np.flatnonzero(state.size >= 0)
        load = state.work[active] / (self.arrays.gpu_tflop * np.maximum(state.gpus, 1))[active]
        for p in active[np.argsort(load, kind="stable")].tolist():
            emptied = state.copy()
            emptied.size[p] = -1
            emptied.share[:, p] = 0.0
            emptied.refresh()
            fits: State | None = emptied
            for i in np.flatnonzero(state.share[:, p] > NONE).tolist():
                if fits is not None:
                    fits = self._place(fits, i, float(state.share[i, p]), np.inf, barred=p, active_only=True)
            if fits is not None and fits.cost < state.cost - SLACK * state.cost:
                state = fits
        return state

    def _orderings(self, seed: int) -> Iterator[Sequence[int]]:
        """Eight deterministic orderings, then R random ones."""
        a, kinds = self.arrays, self.arrays.instance.query_types
        keys = (
            [kind.arrivals_per_hour for kind in kinds],
            [kind.unmet_penalty for kind in kinds],
            [kind.stored_gb for kind in kinds],
            [kind.error_slo for kind in kinds],
        )
        for key in keys:
            yield _descending(key)
            yield _descending([-value for value in key])
        size = a.error.size
        dice = random.Random(seed)
        for _ in range(next(count for limit, count in RANDOM_ORDERINGS if size > limit)):
            yield dice.sample(range(len(kinds)), len(kinds))


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """M2's answer for one query type."""

    order: Indices
    """Pairs with a positive coverage, best first"""
    size: Indices
    """[p]: size index by M1 or M3"""
    delay: Floats
    """[p]: D at that size"""
    cost: Floats
    """[p]: marginal cost of the whole type"""


def chosen_sizes(arrays: Arrays) -> Indices:
    """[i, p, 1 + g]: the size index that an active pair of size g takes by M3, the least from g up whose weights fit and whose
    delay is within the limit; [i, p, 0]: that of an inactive pair by M1. len(shapes) if there is none.
    """
    good = arrays.fits[None] & (arrays.delay_seconds <= arrays.delay_slo[:, None, None])
    sizes = len(arrays.shapes)
    found = np.where(good, np.arange(sizes), sizes)
    upgrades = np.minimum.accumulate(found[:, :, ::-1], axis=2)[:, :, ::-1]
    return np.concatenate((upgrades[:, :, :1], upgrades), axis=2)


def _descending(key: Sequence[float]) -> list[int]:
    return sorted(range(len(key)), key=lambda i: (-key[i], i))
