"""From copies to nodes: what shares a node, how many nodes copies take.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from servingplan.model.answer import Placement
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.packing import Content, fill, fill_patterns, group, is_chain


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
