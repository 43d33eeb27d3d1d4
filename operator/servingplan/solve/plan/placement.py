"""From copies to nodes: what shares a node, how many nodes copies take.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from servingplan.model.answer import Placement
from servingplan.solve.plan.plan import Contents, Plan
from servingplan.solve.problem.constraints import sizes_on
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.packing import Content, fill, fill_patterns, group, is_chain

MOST_SPREAD = 500
"""Most nodes of a pool, and copies on it, that are spread one by one."""
Patterns = Sequence[tuple[Content, int]]
"""What nodes have room for, by the size of pieces, and how many nodes have just this room."""


def packed(instance: Instance, copies: Sequence[int], patterns: Mapping[int, Patterns] | None = None) -> Contents:
    """Copies packed first fit decreasing or, on pools whose sizes are no chain, into the room of these patterns, if any."""
    found = []
    for p, pool in enumerate(instance.pools):
        sizes = {c: gpus for c, gpus in sizes_on(instance, p)[0].items() if copies[c]}
        pieces = {c: copies[c] for c in sizes}
        if patterns and p in patterns and not is_chain(sizes.values()):
            nodes = fill_patterns(pieces, sizes, patterns[p])
        else:
            nodes = fill(pieces, sizes, pool.gpus_per_node)
        found.append(_counted((tuple(sorted(node.items())), count) for node, count in nodes))
    return tuple(found)


def room_of(instance: Instance, contents: Contents) -> dict[int, Patterns]:
    """The patterns of nodes with these contents, by pool."""
    room: dict[int, Patterns] = {}
    for p, pool in enumerate(instance.pools):
        room[p] = []
        for content, count in contents[p]:
            sizes = Counter[int]()
            for c, each in content:
                sizes[instance.shapes[c].gpus[pool.name]] += each
            room[p] = [*room[p], (tuple(sorted(sizes.items())), count)]
    return room


def nodes_taken(instance: Instance, copies: Sequence[int], contents: Contents) -> tuple[int, ...]:
    """Nodes of each pool that so many copies with these contents take, at least its floor."""
    taken = []
    for p, pool in enumerate(instance.pools):
        whole = sum(copies[c] * each for c, each in sizes_on(instance, p)[1].items())
        taken.append(max(pool.min_nodes, whole + sum(count for _, count in contents[p])))
    return tuple(taken)


def spread(instance: Instance, copies: Sequence[int], nodes: Sequence[int]) -> Contents | None:
    """Contents of so many nodes of each pool with the copies of each shape spread over them as evenly as they fit; None where
    they do not fit that way, and where nodes or copies are too many to place one by one.

    Against the loss of a node this is the packing to try: it loses the least of each shape.
    """
    found = []
    for p, pool in enumerate(instance.pools):
        sizes, whole = sizes_on(instance, p)
        count = nodes[p] - sum(copies[c] * each for c, each in whole.items())
        if count < 0 or max(count, sum(copies[c] for c in sizes)) > MOST_SPREAD:
            return None
        room, held = [pool.gpus_per_node] * count, [Counter[int]() for _ in range(count)]
        for size, c in sorted((-gpus, c) for c, gpus in sizes.items()):
            for _ in range(copies[c]):
                fitting = [n for n in range(count) if room[n] >= -size]
                if not fitting:
                    return None
                n = min(fitting, key=lambda n: (held[n][c], -room[n], n))
                held[n][c] += 1
                room[n] += size
        found.append(_counted((tuple(sorted(node.items())), 1) for node in held if node))
    return tuple(found)


def placements(instance: Instance, plan: Plan) -> tuple[Placement, ...]:
    """The plan's node groups, by the name of the pool."""
    names = [shape.name for shape in instance.shapes]
    groups = []
    for p, pool in enumerate(instance.pools):
        shared = [({names[c]: each for c, each in content}, count) for content, count in plan.contents[p]]
        whole = {names[c]: (plan.copies[c], plan.copies[c] * each) for c, each in sizes_on(instance, p)[1].items()}
        groups += group(pool, shared, whole, total_nodes=plan.nodes[p])
    return tuple(sorted(groups, key=lambda placement: placement.pool))


def _counted(nodes: Iterable[tuple[Content, int]]) -> tuple[tuple[Content, int], ...]:
    counts = Counter[Content]()
    for content, count in nodes:
        counts[content] += count
    return tuple(sorted(counts.items()))
