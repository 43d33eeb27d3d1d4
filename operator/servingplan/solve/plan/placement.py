"""From copies to nodes: what shares a node, how many nodes copies take.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from servingplan.model.answer import Placement
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.packing import Content, fill, fill_patterns, group, is_chain

MOST_SPREAD = 500
"""Most nodes of a pool, and copies on it, that are spread one by one."""


def place(
    instance: Instance,
    p: int,
    copies: Sequence[int],
    nodes: int,
    patterns: Sequence[tuple[Content, int]] | None = None,
    contents: Sequence[tuple[Content, int]] | None = None,
) -> list[Placement]:
    """Node groups of pool p for these copies on `nodes` nodes; from the solver's patterns or contents where it has them."""
    shared, whole = _packed(instance, p, copies, patterns, contents)
    return group(instance.pools[p], shared, whole, total_nodes=nodes)


def _packed(
    instance: Instance,
    p: int,
    copies: Sequence[int],
    patterns: Sequence[tuple[Content, int]] | None = None,
    contents: Sequence[tuple[Content, int]] | None = None,
) -> tuple[Sequence[tuple[Mapping[str, int], int]], dict[str, tuple[int, int]]]:
    """Contents of the shared nodes of pool p with their counts, and (copies, nodes) of shapes that take whole nodes."""
    pool = instance.pools[p]
    placed = [(instance.shapes[c], copies[c]) for c in instance.on_pool(p) if copies[c]]
    on_pool = {shape.name: (shape.gpus[pool.name], y) for shape, y in placed}
    sizes = {name: gpus for name, (gpus, y) in on_pool.items() if y and gpus <= pool.gpus_per_node}
    pieces = {name: on_pool[name][1] for name in sizes}
    whole = {
        name: (y, y * (gpus // pool.gpus_per_node)) for name, (gpus, y) in on_pool.items() if gpus > pool.gpus_per_node
    }
    shared: Sequence[tuple[Mapping[str, int], int]]
    if contents is not None:
        names = [shape.name for shape in instance.shapes]
        shared = [({names[c]: each for c, each in content}, count) for content, count in contents if count]
    elif patterns is not None and not is_chain(sizes.values()):
        shared = fill_patterns(pieces, sizes, patterns)
    else:
        shared = fill(pieces, sizes, pool.gpus_per_node)
    return shared, whole


def needed_nodes(
    instance: Instance, copies: Sequence[int], patterns: Mapping[int, Sequence[tuple[Content, int]]] | None = None
) -> tuple[int, ...]:
    """Nodes of each pool that these copies take when packed, at least its floor."""
    counts = []
    for p, pool in enumerate(instance.pools):
        shared, whole = _packed(instance, p, copies, (patterns or {}).get(p))
        counts.append(max(pool.min_nodes, sum(nodes for _, nodes in (*shared, *whole.values()))))
    return tuple(counts)


def node_contents(instance: Instance, copies: Sequence[int]) -> dict[int, list[tuple[Content, int]]]:
    """Contents of the nodes that these copies share when packed first fit decreasing, by pool, with node counts."""
    index = {shape.name: c for c, shape in enumerate(instance.shapes)}
    found: dict[int, list[tuple[Content, int]]] = {}
    for p in range(len(instance.pools)):
        shared, _ = _packed(instance, p, copies)
        counts: Counter[Content] = Counter()
        for node, count in shared:
            counts[tuple(sorted((index[name], each) for name, each in node.items()))] += count
        found[p] = sorted(counts.items())
    return found


def spread_contents(
    instance: Instance, copies: Sequence[int], nodes: Sequence[int]
) -> dict[int, list[tuple[Content, int]]] | None:
    """Contents of so many nodes of each pool with the copies of each shape spread over them as evenly as they fit, by pool
    with node counts; None where they do not fit that way, and where nodes or copies are too many to place one by one.

    Against the loss of a node this is the packing to try: it loses the least of each shape.
    """
    found: dict[int, list[tuple[Content, int]]] = {}
    for p, pool in enumerate(instance.pools):
        placed = [(c, instance.shapes[c].gpus[pool.name], copies[c]) for c in instance.on_pool(p) if copies[c]]
        whole = sum(y * (gpus // pool.gpus_per_node) for _, gpus, y in placed if gpus > pool.gpus_per_node)
        pieces = sorted((-gpus, c, y) for c, gpus, y in placed if gpus <= pool.gpus_per_node)
        count = nodes[p] - whole
        if count < 0 or max(count, sum(y for _, _, y in pieces)) > MOST_SPREAD:
            return None
        room, held = [pool.gpus_per_node] * count, [Counter[int]() for _ in range(count)]
        for size, c, y in pieces:
            for _ in range(y):
                fitting = [n for n in range(count) if room[n] >= -size]
                if not fitting:
                    return None
                n = min(fitting, key=lambda n: (held[n][c], -room[n], n))
                held[n][c] += 1
                room[n] += size
        kinds = Counter(tuple(sorted(node.items())) for node in held if node)
        found[p] = sorted(kinds.items())
    return found
