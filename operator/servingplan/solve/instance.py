"""The question as the solver sees it: numbered, ordered by content, without shapes that cannot matter.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. First step of `solve`.

Order by content. The solver breaks ties by column order, so the order must not come from names either, or renaming a pool
would change the plan. `ordered_by_content` refines a colouring of pools, classes and shapes (Weisfeiler and Leman 1968):
each item's colour is the rank of its own numbers and of its neighbours' colours. Names settle what remains, which is the
order among items that differ in name only.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from servingplan.model.question import Pool, Question, RequestClass, Shape
from servingplan.solve.prune import without_dominated

if TYPE_CHECKING:
    from servingplan.solve.route import Routing

REFINEMENTS = 3
"""Most rounds of refinement; three reach every item of a question from every other of the same model and back."""


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

    def pool_index(self) -> dict[str, int]:
        """Position by pool name."""
        return self._pool_index

    @cached_property
    def _pool_index(self) -> dict[str, int]:
        return {pool.name: p for p, pool in enumerate(self.pools)}

    def serving(self, k: int) -> list[int]:
        """Shapes that can serve class k and of which at least one copy fits."""
        return self._serving[k]

    def on_pool(self, p: int) -> list[int]:
        """Shapes that use pool p."""
        return self._users[p]

    @cached_property
    def _users(self) -> list[list[int]]:
        index = self.pool_index()
        users: list[list[int]] = [[] for _ in self.pools]
        for c, shape in enumerate(self.shapes):
            for name in shape.gpus:
                users[index[name]].append(c)
        return users

    def served_by(self, c: int) -> list[int]:
        """Classes that shape c can serve; none where no copy fits."""
        return self._served_by[c]

    @cached_property
    def routings(self) -> "dict[tuple[tuple[tuple[int, int], ...], tuple[float, ...]], Routing]":
        """What `route` has found so far, by copies of the shapes used and by targets."""
        return {}

    @cached_property
    def pairs_count(self) -> int:
        """Pairs of shape and class: the size of the question."""
        return sum(map(len, self._serving))

    @cached_property
    def _rates(self) -> list[dict[int, float]]:
        """h[c,k] by shape and class; found once, since questions may have 10^5 shapes. The same holds for what follows."""
        index = {cls.name: k for k, cls in enumerate(self.classes)}
        return [
            {index[name]: rate for name, rate in shape.requests_per_second.items() if name in index}
            for shape in self.shapes
        ]

    @cached_property
    def _served_by(self) -> list[list[int]]:
        return [sorted(rates) if limit else [] for rates, limit in zip(self._rates, self.copies_limit, strict=True)]

    @cached_property
    def _serving(self) -> list[list[int]]:
        serving: list[list[int]] = [[] for _ in self.classes]
        for c, classes in enumerate(self._served_by):
            for k in classes:
                serving[k].append(c)
        return serving

    @cached_property
    def reachable_targets(self) -> tuple[float, ...]:
        """Requests/s of each class that its shapes could serve if each stood alone, at most what is asked.

        Under MaximizeService one multiple of the whole mix; 0 when some class cannot be served at all.
        """
        asked = [cls.requests_per_second for cls in self.classes]
        most = [most_capacity(shape, limit) for shape, limit in zip(self.shapes, self.copies_limit, strict=True)]
        alone = [sum(most[c] * self.rate(c, k) for c in self.serving(k)) for k in range(len(asked))]
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

    def nodes_per_copy(self, c: int, p: int) -> float:
        """Nodes of pool p that one copy of shape c takes: a share, or whole nodes."""
        return self.shapes[c].gpus.get(self.pools[p].name, 0) / self.pools[p].gpus_per_node

    def share_price(self, c: int) -> float:
        """Price of one copy as if nodes were sold by the GPU: GPUs / GPUs per node x node price, over its pools."""
        return self._share_prices[c]

    def cheapest_first(self, k: int) -> list[int]:
        """Shapes that serve class k, each within its quality limit, by price per request, then GPUs per request."""
        if k not in self._cheapest:
            limit = self.classes[k].quality_loss_limit
            fit = [c for c in self.serving(k) if limit is None or self.loss(c, k) <= limit]
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
    affordable = math.floor(spare_dollars / pool.dollars_per_node_hour * (1 + 1e-9) + 1e-9)
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
        return math.fsum(extra) <= spare_dollars * (1 + 1e-9) + 1e-9

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


def ordered_by_content(question: Question) -> tuple[tuple[Pool, ...], tuple[RequestClass, ...], tuple[Shape, ...]]:
    """Pools, classes and shapes in an order that renaming does not change; see the module docstring."""
    running = question.running
    nodes = running.nodes if running else {}
    replicas = running.replicas if running else {}
    pools = _ranked({
        pool.name: (pool.dollars_per_node_hour, pool.gpus_per_node, pool.min_nodes, pool.max_nodes, pool.capacity_type,
                    nodes.get(pool.name, 0))
        for pool in question.pools
    })  # fmt: skip
    classes = _ranked({
        cls.name: (-cls.priority, cls.requests_per_second, _or_below(cls.quality_loss_limit)) for cls in question.classes
    })  # fmt: skip
    shapes = _ranked({
        shape.name: (sum(shape.gpus.values()), shape.startup_seconds, _or_below(shape.max_copies),
                     shape.max_utilization if isinstance(shape.max_utilization, tuple) else (shape.max_utilization,),
                     replicas.get(shape.name, 0))
        for shape in question.shapes
    })  # fmt: skip
    for _ in range(REFINEMENTS):
        found = (
            _refined(pools, lambda: _seen_by_pools(question, shapes)),  # noqa: B023 (called at once)
            _refined(classes, lambda: _seen_by_classes(question, shapes)),  # noqa: B023
            _refined(shapes, lambda: _seen_by_shapes(question, pools, classes)),  # noqa: B023
        )
        if found == (pools, classes, shapes):
            break  # nothing was told apart, so no further round will
        pools, classes, shapes = found
    return (
        tuple(sorted(question.pools, key=lambda pool: (pools[pool.name], pool.name))),
        tuple(sorted(question.classes, key=lambda cls: (classes[cls.name], cls.name))),
        tuple(sorted(question.shapes, key=lambda shape: (shapes[shape.name], shape.name))),
    )


def _ranked(contents: Mapping[str, tuple[object, ...]]) -> dict[str, int]:
    """Rank of each item's content; items of equal content share a rank."""
    rank = {content: position for position, content in enumerate(sorted(set(contents.values())))}
    return {name: rank[content] for name, content in contents.items()}


def _refined(ranks: dict[str, int], neighbours: Callable[[], Mapping[str, tuple[object, ...]]]) -> dict[str, int]:
    """Ranks by own rank first and neighbours second; as they are where all differ already."""
    if not ranks or max(ranks.values()) == len(ranks) - 1:
        return ranks
    return _ranked({name: (ranks[name], seen) for name, seen in neighbours().items()})


def _seen_by_pools(question: Question, shapes: Mapping[str, int]) -> dict[str, tuple[object, ...]]:
    seen: dict[str, list[tuple[int, int]]] = {pool.name: [] for pool in question.pools}
    for shape in question.shapes:
        for name, gpus in shape.gpus.items():
            seen[name].append((shapes[shape.name], gpus))
    return {name: tuple(sorted(found)) for name, found in seen.items()}


def _seen_by_classes(question: Question, shapes: Mapping[str, int]) -> dict[str, tuple[object, ...]]:
    seen: dict[str, list[tuple[int, float, float]]] = {cls.name: [] for cls in question.classes}
    for shape in question.shapes:
        for name, rate in shape.requests_per_second.items():
            seen[name].append((shapes[shape.name], rate, shape.quality_loss.get(name, 0.0)))
    return {name: tuple(sorted(found)) for name, found in seen.items()}


def _seen_by_shapes(
    question: Question, pools: Mapping[str, int], classes: Mapping[str, int]
) -> dict[str, tuple[object, ...]]:
    return {
        shape.name: (
            tuple(sorted((pools[name], gpus) for name, gpus in shape.gpus.items())),
            tuple(
                sorted(
                    (classes[name], rate, shape.quality_loss.get(name, 0.0))
                    for name, rate in shape.requests_per_second.items()
                )
            ),
        )
        for shape in question.shapes
    }


def _or_below(value: float | None) -> float:
    return -1.0 if value is None else float(value)
