"""The question as the solver sees it: numbered, ordered by content, without dominated shapes.

This is the first step of `solve`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from servingplan.model.question import MOST_COUNTED, Pool, Question, Quota, RequestClass, Shape
from servingplan.solve.problem.dominance import without_dominated
from servingplan.solve.problem.ordering import ordered_by_content
from servingplan.solve.solver.tolerance import DUST, EQUAL, is_within


@dataclass(frozen=True)
class Instance:
    """A question in solver order. Indices: `p` pools, `k` classes with a positive rate, `c` shapes."""

    question: Question
    pools: tuple[Pool, ...]
    classes: tuple[RequestClass, ...]
    shapes: tuple[Shape, ...]
    nodes_limit: tuple[int, ...]
    """The most nodes of each pool that its cap and the budget, less the minimum nodes of all pools, allow."""
    copies_limit: tuple[int, ...]
    """The most copies of each shape that stock, budget and `max_copies` allow if nothing else is placed, and that an answer may
    have."""

    @cached_property
    def pool_index(self) -> dict[str, int]:
        """The position of each pool, by its name."""
        return {pool.name: p for p, pool in enumerate(self.pools)}

    @cached_property
    def on_pool(self) -> list[list[int]]:
        """The shapes that use each pool, by pool."""
        users: list[list[int]] = [[] for _ in self.pools]
        for c, shape in enumerate(self.shapes):
            for name in shape.gpus:
                users[self.pool_index[name]].append(c)
        return users

    @cached_property
    def quota_gpus(self) -> list[tuple[Quota, dict[int, int]]]:
        """Each quota with the GPUs that one copy of a shape holds of it, by shape; shapes that hold none are left out."""
        found = []
        for quota in self.question.quotas:
            gpus = {c: gpus_within(quota, shape) for c, shape in enumerate(self.shapes)}
            found.append((quota, {c: count for c, count in gpus.items() if count}))
        return found

    @cached_property
    def sizes_on(self) -> list[tuple[dict[int, int], dict[int, int]]]:
        """Per pool, for shapes of which a copy fits: the GPUs of a copy inside one node, and the nodes of a larger copy."""
        found = []
        for pool, users in zip(self.pools, self.on_pool, strict=True):
            gpus = {c: self.shapes[c].gpus[pool.name] for c in users if self.copies_limit[c]}
            sizes = {c: count for c, count in gpus.items() if count <= pool.gpus_per_node}
            found.append((sizes, {c: count // pool.gpus_per_node for c, count in gpus.items() if c not in sizes}))
        return found

    @cached_property
    def served_by(self) -> list[list[int]]:
        """The classes that each shape can serve, by shape; none if no copy fits."""
        return [sorted(rates) if limit else [] for rates, limit in zip(self._rates, self.copies_limit, strict=True)]

    @cached_property
    def serving(self) -> list[list[int]]:
        """The shapes that can serve each class and of which a copy fits, by class."""
        serving: list[list[int]] = [[] for _ in self.classes]
        for c, classes in enumerate(self.served_by):
            for k in classes:
                serving[k].append(c)
        return serving

    def only(self, shapes: Sequence[int], classes: Sequence[int] | None = None) -> "Instance":
        """The instance with only these shapes and classes (by default all classes), and with the pools that the shapes use or
        that have minimum nodes."""
        names = {name for c in shapes for name in self.shapes[c].gpus}
        pools = [p for p, pool in enumerate(self.pools) if pool.name in names or pool.min_nodes]
        return replace(
            self,
            pools=tuple(self.pools[p] for p in pools),
            nodes_limit=tuple(self.nodes_limit[p] for p in pools),
            classes=self.classes if classes is None else tuple(self.classes[k] for k in classes),
            shapes=tuple(self.shapes[c] for c in shapes),
            copies_limit=tuple(self.copies_limit[c] for c in shapes),
        )

    def utilization(self, c: int, copies: int) -> float:
        """rho[c], the largest busy fraction of each of `copies` copies of shape c."""
        return utilization(self.shapes[c], copies)

    def capacity(self, c: int, copies: int) -> float:
        """y * rho(y), the busy copies that `copies` copies of shape c may sustain."""
        return capacity(self.shapes[c], copies)

    def fewest_copies(self, c: int, busy: float, most: int) -> int:
        """The fewest copies of shape c that may sustain `busy` busy copies; `most` if no smaller number may.

        Beyond a list of rho its last number holds, so the numbers between are passed over, which may be a million.
        """
        rho = self.shapes[c].max_utilization
        table = (rho,) if isinstance(rho, float) else rho
        counts = (*range(min(len(table), most)), *range(max(len(table), int(busy / table[-1])), most)[:3])
        return next((y for y in counts if self.capacity(c, y) >= busy), most)

    @property
    def all_reachable(self) -> bool:
        """Whether each class could be served in full if it were alone."""
        asked = zip(self.reachable_targets, self.classes, strict=True)
        return all(target >= cls.requests_per_second * (1 - DUST) for target, cls in asked)

    @cached_property
    def notes(self) -> dict[Any, Any]:
        """A cache: routings by copies and targets, and the rows that the judge reads."""
        return {}

    @cached_property
    def pairs_count(self) -> int:
        """Pairs of a shape and a class that it serves: the size of the question."""
        return sum(map(len, self.serving))

    @cached_property
    def _rates(self) -> list[dict[int, float]]:
        """h[c,k] in requests/s by shape and class. It is cached, as below, since questions may have 10^5 shapes."""
        index = {cls.name: k for k, cls in enumerate(self.classes)}
        return [
            {index[name]: rate for name, rate in shape.requests_per_second.items() if name in index}
            for shape in self.shapes
        ]

    @cached_property
    def reachable_targets(self) -> tuple[float, ...]:
        """Requests/s of each class that its shapes could serve if each shape and class were alone, at most the asked rate.

        Under MaximizeService one multiple of the whole mix, without that limit; 0 if some class cannot be served at all.
        """
        asked = [cls.requests_per_second for cls in self.classes]
        most = [most_capacity(shape, limit) for shape, limit in zip(self.shapes, self.copies_limit, strict=True)]
        alone = [sum(most[c] * self.rate(c, k) for c in self.serving[k]) for k in range(len(asked))]
        if self.question.objective == "MaximizeService":
            scale = min(reached / rate for reached, rate in zip(alone, asked, strict=True))
            return tuple(scale * rate for rate in asked)
        return tuple(min(reached, rate) for reached, rate in zip(alone, asked, strict=True))

    def rate(self, c: int, k: int) -> float:
        """h[c,k]: requests/s of one copy of shape c that serves only class k; 0 if it cannot serve it."""
        return self._rates[c].get(k, 0.0)

    def most_rate(self, c: int, k: int) -> float:
        """Requests/s of class k that as many copies of shape c as fit could serve."""
        return most_capacity(self.shapes[c], self.copies_limit[c]) * self.rate(c, k)

    def loss(self, c: int, k: int) -> float:
        """Quality loss of shape c on class k, as a fraction."""
        return self.shapes[c].quality_loss.get(self.classes[k].name, 0.0)

    def floor_dollars(self) -> float:
        """Dollars/hour of the minimum nodes of all pools."""
        return floor_dollars(self.question)

    def share_price(self, c: int) -> float:
        """Dollars/hour of one copy if nodes were sold by the GPU: GPUs / GPUs per node x node price, summed over its pools."""
        return self._share_prices[c]

    def cheapest_first(self, k: int) -> list[int]:
        """Shapes that serve class k within its quality limit, ordered by price per request, then by GPUs per request."""
        if k not in self._cheapest:
            limit = self.classes[k].quality_loss_limit
            fit = [c for c in self.serving[k] if limit is None or self.loss(c, k) <= limit]
            rates = {c: self.rate(c, k) * utilization(self.shapes[c], 1) for c in fit}
            gpus = {c: sum(self.shapes[c].gpus.values()) for c in fit}
            self._cheapest[k] = sorted(fit, key=lambda c: (self.share_price(c) / rates[c], gpus[c] / rates[c], c))
        return self._cheapest[k]

    @cached_property
    def _cheapest(self) -> dict[int, list[int]]:
        return {}

    @cached_property
    def _share_prices(self) -> list[float]:
        per_gpu = {pool.name: pool.dollars_per_node_hour / pool.gpus_per_node for pool in self.pools}
        return [sum(gpus * per_gpu[name] for name, gpus in shape.gpus.items()) for shape in self.shapes]

    def running_copies(self) -> tuple[int, ...]:
        """Copies that run now, by shape."""
        running = self.question.running
        return tuple(running.replicas.get(shape.name, 0) if running else 0 for shape in self.shapes)


def utilization(shape: Shape, copies: int) -> float:
    """The largest busy fraction of each of `copies` copies. Beyond the end of a list its last number holds."""
    if isinstance(shape.max_utilization, float):
        return shape.max_utilization
    table = shape.max_utilization
    return table[min(max(copies, 1), len(table)) - 1]


def most_utilization(shape: Shape) -> float:
    """The largest busy fraction over all numbers of copies."""
    return shape.max_utilization if isinstance(shape.max_utilization, float) else max(shape.max_utilization)


def capacity(shape: Shape, copies: int) -> float:
    """y * rho(y), the busy copies that `copies` copies may sustain."""
    return copies * utilization(shape, copies)


def most_capacity(shape: Shape, limit: int) -> float:
    """The most busy copies that up to `limit` copies may sustain; fewer copies may sustain more if a list of rho falls."""
    if isinstance(shape.max_utilization, float):
        return capacity(shape, limit)
    counts = {*range(1, min(limit, len(shape.max_utilization)) + 1), limit}
    return max(capacity(shape, count) for count in counts)


def instance_of(question: Question, *, prune: bool = True) -> Instance:
    """The instance of a question whose minimum nodes fit its budget. Without `prune` dominated shapes stay, for methods that
    need certain shapes."""
    pools, classes, shapes = ordered_by_content(question)
    classes = tuple(cls for cls in classes if cls.requests_per_second > 0)
    running = question.running.replicas if question.running else {}
    if prune:
        shapes = without_dominated(
            shapes,
            gpus_per_node={pool.name: pool.gpus_per_node for pool in pools},
            kept=frozenset(name for name, count in running.items() if count),
            moves_count=question.running is not None,
        )
    spare = question.budget_dollars_per_hour - floor_dollars(question)
    nodes_limit = tuple(_affordable_nodes(pool, spare) for pool in pools)
    by_name = {pool.name: (pool, limit) for pool, limit in zip(pools, nodes_limit, strict=True)}
    copies_limit = tuple(_most_copies(shape, by_name, spare, question.quotas) for shape in shapes)
    return Instance(question, pools, classes, shapes, nodes_limit, copies_limit)


def _affordable_nodes(pool: Pool, spare_dollars: float) -> int:
    if pool.dollars_per_node_hour <= 0:
        return pool.max_nodes
    affordable = math.floor(spare_dollars / pool.dollars_per_node_hour * (1 + EQUAL) + EQUAL)
    return min(pool.max_nodes, pool.min_nodes + max(0, affordable))


def gpus_within(quota: Quota, shape: Shape) -> int:
    """The GPUs that one copy of a shape holds of a quota."""
    return sum(gpus for pool, gpus in shape.gpus.items() if pool in quota.pools)


def _most_copies(
    shape: Shape, pools: Mapping[str, tuple[Pool, int]], spare_dollars: float, quotas: Sequence[Quota]
) -> int:
    """The most copies whose nodes exist, can be paid beside all minimum nodes, and keep to every quota, by bisection, as cost
    grows with copies."""

    def fits(copies: int) -> bool:
        extra = []
        for name, gpus in shape.gpus.items():
            pool, limit = pools[name]
            per_node = pool.gpus_per_node // gpus
            nodes = -(-copies // per_node) if per_node else copies * (gpus // pool.gpus_per_node)
            if nodes > limit:
                return False
            extra.append(max(0, nodes - pool.min_nodes) * pool.dollars_per_node_hour)
        return is_within(math.fsum(extra), spare_dollars)

    low, high = 0, min(_most_pieces(*pools[name], gpus) for name, gpus in shape.gpus.items())
    high = min(high, MOST_COUNTED if shape.max_copies is None else shape.max_copies)
    for quota in quotas:
        if held := gpus_within(quota, shape):
            high = min(high, quota.max_gpus // held)
    if fits(high):
        return high
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _most_pieces(pool: Pool, nodes: int, gpus: int) -> int:
    """The number of pieces of `gpus` GPUs that fit on `nodes` nodes."""
    per_node = pool.gpus_per_node // gpus
    return nodes * per_node if per_node else nodes // (gpus // pool.gpus_per_node)


def floor_dollars(question: Question) -> float:
    """Dollars/hour of the minimum nodes of all pools."""
    return math.fsum(pool.min_nodes * pool.dollars_per_node_hour for pool in question.pools)


def floors_fit(question: Question) -> bool:
    """Whether the budget pays for the minimum nodes of all pools."""
    return is_within(floor_dollars(question), question.budget_dollars_per_hour)
