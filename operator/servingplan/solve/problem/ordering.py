"""Pools, classes and shapes in an order that renaming does not change.

The solver breaks ties by column order. If that order came from names, renaming a pool would change the plan.
`ordered_by_content` refines a colouring of pools, classes and shapes (Weisfeiler and Leman 1968): each item's colour is the
rank of its own numbers and of its neighbours' colours. Names order only the items that have the same colour.
"""

from collections.abc import Callable, Mapping

from servingplan.model.question import Pool, Question, RequestClass, Shape

REFINEMENTS = 3
"""Most rounds of refinement; after three, every item of a question has influenced every other of the same model."""


def ordered_by_content(question: Question) -> tuple[tuple[Pool, ...], tuple[RequestClass, ...], tuple[Shape, ...]]:
    """Pools, classes and shapes in an order that renaming does not change; see the module docstring."""
    running = question.running
    nodes = running.nodes if running else {}
    replicas = running.replicas if running else {}
    pools = _ranked({
        pool.name: (pool.dollars_per_node_hour, pool.gpus_per_node, pool.min_nodes, pool.max_nodes, pool.capacity_type,
                    nodes.get(pool.name, 0),
                    tuple(sorted(quota.max_gpus for quota in question.quotas if pool.name in quota.pools)))
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
            break  # this round split no colour, so no further round will
        pools, classes, shapes = found
    return (
        tuple(sorted(question.pools, key=lambda pool: (pools[pool.name], pool.name))),
        tuple(sorted(question.classes, key=lambda cls: (classes[cls.name], cls.name))),
        tuple(sorted(question.shapes, key=lambda shape: (shapes[shape.name], shape.name))),
    )


def _ranked(contents: Mapping[str, tuple[object, ...]]) -> dict[str, int]:
    """The rank of each item's content; items of equal content share a rank."""
    rank = {content: position for position, content in enumerate(sorted(set(contents.values())))}
    return {name: rank[content] for name, content in contents.items()}


def _refined(ranks: dict[str, int], neighbours: Callable[[], Mapping[str, tuple[object, ...]]]) -> dict[str, int]:
    """Ranks by the item's own rank first and its neighbours second; unchanged if all ranks differ already."""
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
