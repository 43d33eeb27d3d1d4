"""The question as the solver sees it: numbered, ordered by content, without shapes that cannot matter.

First step of `solve`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from servingplan.model.question import Pool, Question, RequestClass, Shape
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
    """Most nodes of each pool: its cap, and what the budget leaves once all floors are paid."""
    copies_limit: tuple[int, ...]
    """Most copies of each shape that stock, budget and `max_copies` allow when nothing else is placed."""

    @cached_property
    def pool_index(self) -> dict[str, int]:
        """Position by pool name."""
        return {pool.name: p for p, pool in enumerate(self.pools)}

    @cached_property
    def on_pool(self) -> list[list[int]]:
        """By pool: shapes that use it."""
        users: list[list[int]] = [[] for _ in self.pools]
        for c, shape in enumerate(self.shapes):
            for name in shape.gpus:
                users[self.pool_index[name]].append(c)
        return users

    @cached_property
    def sizes_on(self) -> list[tuple[dict[int, int], dict[int, int]]]:
        """By pool, of shapes of which a copy fits: GPUs of those inside a node, nodes of those that take whole nodes."""
        found = []
        for pool, users in zip(self.pools, self.on_pool, strict=True):
            gpus = {c: self.shapes[c].gpus[pool.name] for c in users if self.copies_limit[c]}
            sizes = {c: count for c, count in gpus.items() if count <= pool.gpus_per_node}
            found.append((sizes, {c: count // pool.gpus_per_node for c, count in gpus.items() if c not in sizes}))
        return found

    @cached_property
    def served_by(self) -> list[list[int]]:
        """By shape: classes that it can serve; none where no copy fits."""
        return [sorted(rates) if limit else [] for rates, limit in zip(self._rates, self.copies_limit, strict=True)]

    @cached_property
    def serving(self) -> list[list[int]]:
        """By class: shapes that can serve it and of which at least one copy fits."""
        serving: list[list[int]] = [[] for _ in self.classes]
        for c, classes in enumerate(self.served_by):
            for k in classes:
                serving[k].append(c)
        return serving

    def utilization(self, c: int, copies: int) -> float:
        """rho[c] of so many copies: the largest busy fraction."""
        return utilization(self.shapes[c], copies)

    def capacity(self, c: int, copies: int) -> float:
        """y * rho(y): busy copies that `copies` copies of shape c may sustain."""
        return capacity(self.shapes[c], copies)

    @property
    def all_reachable(self) -> bool:
        """Whether each class by itself could be served in full."""
        asked = zip(self.reachable_targets, self.classes, strict=True)
        return all(target >= cls.requests_per_second * (1 - DUST) for target, cls in asked)

    @cached_property
    def notes(self) -> dict[Any, Any]:
        """What is found once for an instance: routings by copies and targets, the rows that the judge reads."""
        return {}

    @cached_property
    def pairs_count(self) -> int:
        """Pairs of shape and class: the size of the question."""
        return sum(map(len, self.serving))

    @cached_property
    def _rates(self) -> list[dict[int, float]]:
        """h[c,k] by shape and class; found once, since questions may have 10^5 shapes. The same holds for what follows."""
        index = {cls.name: k for k, cls in enumerate(self.classes)}
        return [
            {index[name]: rate for name, rate in shape.requests_per_second.items() if name in index}
            for shape in self.shapes
        ]

    @cached_property
    def reachable_targets(self) -> tuple[float, ...]:
        """Requests/s of each class that its shapes could serve if each stood alone, at most what is asked.

        Under MaximizeService one multiple of the whole mix; 0 when some class cannot be served at all.
        """
        asked = [cls.requests_per_second for cls in self.classes]
        most = [most_capacity(shape, limit) for shape, limit in zip(self.shapes, self.copies_limit, strict=True)]
        alone = [sum(most[c] * self.rate(c, k) for c in self.serving[k]) for k in range(len(asked))]
        if self.question.objective == "MaximizeService":
            scale = min(reached / rate for reached, rate in zip(alone, asked, strict=True))
            return tuple(scale * rate for rate in asked)
        return tuple(min(reached, rate) for reached, rate in zip(alone, asked, strict=True))

    def rate(self, c: int, k: int) -> float:
        """h[c,k]: requests/s of one copy of shape c that serves only class k; 0 where it cannot."""
        return self._rates[c].get(k, 0.0)

    def most_rate(self, c: int, k: int) -> float:
        """Requests/s of class k that all copies of shape c that fit could serve."""
        return most_capacity(self.shapes[c], self.copies_limit[c]) * self.rate(c, k)

    def loss(self, c: int, k: int) -> float:
        """Quality loss of shape c on class k."""
        return self.shapes[c].quality_loss.get(self.classes[k].name, 0.0)

    def floor_dollars(self) -> float:
        """Dollars per hour of the nodes that floors force."""
        return math.fsum(pool.min_nodes * pool.dollars_per_node_hour for pool in self.pools)

    def share_price(self, c: int) -> float:
        """Price of one copy as if nodes were sold by the GPU: GPUs / GPUs per node x node price, over its pools."""
        return self._share_prices[c]

    def cheapest_first(self, k: int) -> list[int]:
        """Shapes that serve class k, each within its quality limit, by price per request, then GPUs per request."""
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
    """Largest busy fraction when `copies` copies share the traffic; lists hold their last number for more copies."""
    if isinstance(shape.max_utilization, float):
        return shape.max_utilization
    table = shape.max_utilization
    return table[min(max(copies, 1), len(table)) - 1]


def most_utilization(shape: Shape) -> float:
    """Largest busy fraction over all numbers of copies."""
    return shape.max_utilization if isinstance(shape.max_utilization, float) else max(shape.max_utilization)


def capacity(shape: Shape, copies: int) -> float:
    """y * rho(y): busy copies that `copies` copies may sustain."""
    return copies * utilization(shape, copies)


def most_capacity(shape: Shape, limit: int) -> float:
    """Most busy copies that up to `limit` copies may sustain: fewer may sustain more where a list of rho falls."""
    if isinstance(shape.max_utilization, float):
        return capacity(shape, limit)
    counts = {*range(1, min(limit, len(shape.max_utilization)) + 1), limit}
    return max(capacity(shape, count) for count in counts)


def instance_of(question: Question, *, prune: bool = True) -> Instance:
    """Number, order and prune a question whose floors fit its budget; unpruned for methods that want certain shapes."""
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
    spare = question.budget_dollars_per_hour - math.fsum(pool.min_nodes * pool.dollars_per_node_hour for pool in pools)
    nodes_limit = tuple(_affordable_nodes(pool, spare) for pool in pools)
    by_name = {pool.name: (pool, limit) for pool, limit in zip(pools, nodes_limit, strict=True)}
    copies_limit = tuple(_most_copies(shape, by_name, spare) for shape in shapes)
    return Instance(question, pools, classes, shapes, nodes_limit, copies_limit)


def _affordable_nodes(pool: Pool, spare_dollars: float) -> int:
    if pool.dollars_per_node_hour <= 0:
        return pool.max_nodes
    affordable = math.floor(spare_dollars / pool.dollars_per_node_hour * (1 + EQUAL) + EQUAL)
    return min(pool.max_nodes, pool.min_nodes + max(0, affordable))


def _most_copies(shape: Shape, pools: Mapping[str, tuple[Pool, int]], spare_dollars: float) -> int:
    """Largest y whose nodes exist and, above the floors, can be paid; found by bisection because cost grows with y."""

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
    if shape.max_copies is not None:
        high = min(high, shape.max_copies)
    if fits(high):
        return high
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _most_pieces(pool: Pool, nodes: int, gpus: int) -> int:
    """Pieces of `gpus` GPUs that fit on so many nodes."""
    per_node = pool.gpus_per_node // gpus
    return nodes * per_node if per_node else nodes // (gpus // pool.gpus_per_node)


def floor_dollars(question: Question) -> float:
    """$/h of the nodes that floors force."""
    return math.fsum(pool.min_nodes * pool.dollars_per_node_hour for pool in question.pools)


def floors_fit(question: Question) -> bool:
    """Whether the budget pays for the floors."""
    return is_within(floor_dollars(question), question.budget_dollars_per_hour)
