"""Drops shapes that no optimal plan needs. This is exact, also for node packing and for survival of losses.

`instance` calls it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise

from servingplan.model.question import Question, Shape


def count_dominated(question: Question) -> int:
    """The number of shapes of a question that the solver drops because another one dominates them."""
    running = question.running.replicas if question.running else {}
    left = without_dominated(
        question.shapes,
        gpus_per_node={pool.name: pool.gpus_per_node for pool in question.pools},
        kept=frozenset(name for name, count in running.items() if count),
        moves_count=question.running is not None,
    )
    return len(question.shapes) - len(left)


def without_dominated(
    shapes: Iterable[Shape], *, gpus_per_node: Mapping[str, int], kept: frozenset[str], moves_count: bool
) -> tuple[Shape, ...]:
    """The shapes in their order without the dominated ones; shapes named in `kept` (running ones) stay.

    Shape b dominates a if n copies of b fit wherever one copy of a fits and serve at least as much:

    * same model, and on every pool that b uses n pieces of b fit into the space of one piece of a: part of a node, or
      whole nodes (of which each holds only floor(gpus_per_node / gpus[b]) pieces);
    * n * h[b,k] >= h[a,k] and loss[b,k] <= loss[a,k] on every class k that a serves;
    * rho[b] is nowhere below rho[a] and never falls with more copies, and b has no `max_copies`.

    Proof of exactness. Take a plan with copies of a and replace each one by n copies of b. Pieces of b lie inside the space of
    a piece of a, so every node still fits, no pool needs more nodes, and the loss of a node or a pool takes at most what
    replaced the lost copies of a. Busy copies: y[a] rho[a](y[a]) h[a,k] <= n y[a] rho[b](n y[a] + y[b]) h[b,k], hence the
    traffic of a can be moved to b within its limit, class by class, at no more loss. Dollars do not change.

    Only n = 1 keeps the number of moves from a running fleet, so n > 1 is used only if moves do not count (`moves_count`).
    Moves count for every running fleet, also for an empty one. Of two equal shapes the first stays.
    """
    candidates = list(shapes)
    neighbours: defaultdict[tuple[str, str], list[Shape]] = defaultdict(list)
    for shape in candidates:
        for pool in shape.gpus:
            neighbours[shape.model, pool].append(shape)
    dropped: set[str] = set()
    for shape in reversed(candidates):
        if shape.name in kept:
            continue
        others = (
            other
            for pool in shape.gpus
            for other in neighbours[shape.model, pool]
            if other is not shape and other.name not in dropped
        )
        if any(_dominates(other, shape, gpus_per_node, one_for_one=moves_count) for other in others):
            dropped.add(shape.name)
    return tuple(shape for shape in candidates if shape.name not in dropped)


def _dominates(better: Shape, worse: Shape, gpus_per_node: Mapping[str, int], *, one_for_one: bool) -> bool:
    if better.model != worse.model or better.max_copies is not None:
        return False
    if any(pool not in worse.gpus for pool in better.gpus):
        return False
    copies = min(_pieces(worse.gpus[pool], gpus, gpus_per_node[pool]) for pool, gpus in better.gpus.items())
    if copies < 1:
        return False
    if one_for_one:
        copies = 1
    for name, rate in worse.requests_per_second.items():
        if copies * better.requests_per_second.get(name, 0.0) < rate:
            return False
        if better.quality_loss.get(name, 0.0) > worse.quality_loss.get(name, 0.0):
            return False
    ours, theirs = _table(better), _table(worse)
    length = max(len(ours), len(theirs))
    ours += ours[-1:] * (length - len(ours))
    theirs += theirs[-1:] * (length - len(theirs))
    rises = all(left <= right for left, right in pairwise(ours))
    return rises and all(our >= their for our, their in zip(ours, theirs, strict=True))


def _pieces(space: int, size: int, gpus_per_node: int) -> int:
    """Pieces of `size` GPUs that fit into the space of one piece of `space` GPUs."""
    if space <= gpus_per_node or size > gpus_per_node:
        return space // size
    return space // gpus_per_node * (gpus_per_node // size)


def _table(shape: Shape) -> tuple[float, ...]:
    return (shape.max_utilization,) if isinstance(shape.max_utilization, float) else shape.max_utilization
