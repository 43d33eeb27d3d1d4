"""A plan under construction: its nodes and dollars are updated with every copy that is added or removed.

The constructive methods build on it; no linear program is solved here. Shapes and classes are indices of an `Instance`.
"""

from collections.abc import Sequence

from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.packing import fewest_nodes
from servingplan.solve.solver.tolerance import DUST, is_within


class Draft:
    """Copies within stock and budget, and the rates that were assigned to them so far."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.copies = [0] * len(instance.shapes)
        self.rates: dict[tuple[int, int], float] = {}
        """Requests/s of class k assigned to shape c, by (c, k)."""
        self._busy = [0.0] * len(instance.shapes)
        self._pieces: list[dict[int, int]] = [{} for _ in instance.pools]
        self._whole = [0] * len(instance.pools)
        self._nodes = [pool.min_nodes for pool in instance.pools]
        self._dollars = instance.floor_dollars()

    @classmethod
    def of(cls, instance: Instance, copies: Sequence[int]) -> "Draft":
        """A draft with as many of these copies as fit, in the order of the shapes."""
        draft = cls(instance)
        for c, count in enumerate(copies):
            fitting = draft.most(c, count) if count else 0
            if fitting:
                draft.add(c, fitting)
        return draft

    @property
    def dollars(self) -> float:
        """The price of all nodes so far, in dollars/hour."""
        return self._dollars

    def duplicate(self) -> "Draft":
        """A copy that can be changed without changing this one."""
        other = Draft.__new__(Draft)
        other.instance = self.instance
        other.copies, other._busy = list(self.copies), list(self._busy)
        other.rates = dict(self.rates)
        other._pieces, other._whole = [dict(pieces) for pieces in self._pieces], list(self._whole)
        other._nodes, other._dollars = list(self._nodes), self._dollars
        return other

    def become(self, other: "Draft") -> None:
        """Take over the state of another draft of the same instance."""
        for name, value in vars(other).items():
            setattr(self, name, value)

    def room(self, c: int, *, extra: int = 0) -> float:
        """The load, in busy copies, that shape c could still take with `extra` more copies."""
        return self.instance.capacity(c, self.copies[c] + extra) - self._busy[c]

    def most(self, c: int, wanted: int) -> int:
        """The most further copies of c, up to `wanted`, that stock and budget allow; found by bisection if not all fit."""
        low, high = 0, min(wanted, self.instance.copies_limit[c] - self.copies[c])
        if high > 0 and self._after(c, high) is not None:
            return high
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._after(c, middle) is not None else (low, middle - 1)
        return low

    def extra_dollars(self, c: int, count: int) -> float | None:
        """The dollars/hour that `count` more copies of c add to the price of all nodes; None if they do not fit."""
        after = self._after(c, count)
        return None if after is None else self._price(after)

    def add(self, c: int, count: int = 1) -> None:
        """Place `count` more copies, which must fit; a negative count removes copies."""
        after = self._after(c, count)
        assert after is not None, "callers ask `most` first"
        self._dollars += self._price(after)
        for p, nodes in after.items():
            self._nodes[p] = nodes
            size, whole = self._footprint(c, p)
            if whole:
                self._whole[p] += whole * count
            else:
                self._pieces[p][size] = self._pieces[p].get(size, 0) + count
        self.copies[c] += count

    def serve(self, c: int, k: int, wanted: float) -> float:
        """Assign to shape c as much of `wanted` requests/s of class k as its copies can take. Returns the assigned rate."""
        taken = min(wanted, self.room(c) * self.instance.rate(c, k))
        if taken <= DUST * max(wanted, 1e-300):
            return 0.0
        self.rates[c, k] = self.rates.get((c, k), 0.0) + taken
        self._busy[c] += taken / self.instance.rate(c, k)
        return taken

    def release(self, c: int, k: int) -> float:
        """Remove class k from shape c. Returns the requests/s that were removed."""
        rate = self.rates.pop((c, k), 0.0)
        self._busy[c] = max(0.0, self._busy[c] - rate / self.instance.rate(c, k)) if rate else self._busy[c]
        return rate

    def copies_needed(self, c: int, k: int, wanted: float) -> int:
        """The fewest further copies of c with which it takes all of `wanted` requests/s of class k, at most its limit."""
        need = wanted / self.instance.rate(c, k) * (1 - DUST)
        limit = self.instance.copies_limit[c] - self.copies[c]
        high = 1
        while high < limit and self.room(c, extra=high) < need:
            high *= 2
        low, high = 0, min(high, limit)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.room(c, extra=middle) >= need else (middle + 1, high)
        return low

    def without_idle(self) -> "Draft":
        """This draft, changed: the copies that its own routing does not need are removed, dearest first."""
        for c in sorted(range(len(self.copies)), key=lambda c: (-self.instance.share_price(c), c)):
            count, busy = self.copies[c], self._busy[c]
            idle = count - self.instance.fewest_copies(c, busy, count)
            if idle:
                self.add(c, -idle)
        return self

    def _after(self, c: int, count: int) -> dict[int, int] | None:
        """The nodes of the pools that shape c uses, by pool, with `count` more copies; None if stock or budget forbid them."""
        if self.copies[c] + count > self.instance.copies_limit[c]:
            return None
        index = self.instance.pool_index
        after = {}
        for name in self.instance.shapes[c].gpus:
            p = index[name]
            pool = self.instance.pools[p]
            size, whole = self._footprint(c, p)
            pieces = self._pieces[p]
            if not whole:
                pieces = {**pieces, size: pieces.get(size, 0) + count}
            nodes = fewest_nodes(pieces, pool.gpus_per_node) + self._whole[p] + whole * count
            after[p] = max(pool.min_nodes, nodes)
            if after[p] > pool.max_nodes:
                return None
        if count > 0 and not self._within_quotas(c, count):
            return None
        budget = self.instance.question.budget_dollars_per_hour
        return after if count < 0 or is_within(self._dollars + self._price(after), budget) else None

    def _within_quotas(self, c: int, count: int) -> bool:
        """Whether `count` more copies of c keep to every quota that they draw on."""
        return all(
            sum(held * self.copies[d] for d, held in gpus.items()) + gpus[c] * count <= quota.max_gpus
            for quota, gpus in self.instance.quota_gpus
            if c in gpus
        )

    def _price(self, after: dict[int, int]) -> float:
        pools = self.instance.pools
        return sum((nodes - self._nodes[p]) * pools[p].dollars_per_node_hour for p, nodes in after.items())

    def _footprint(self, c: int, p: int) -> tuple[int, int]:
        """What one copy of c takes on pool p: (GPUs inside a node, 0) or (0, whole nodes)."""
        pool = self.instance.pools[p]
        gpus = self.instance.shapes[c].gpus[pool.name]
        return (gpus, 0) if gpus <= pool.gpus_per_node else (0, gpus // pool.gpus_per_node)
