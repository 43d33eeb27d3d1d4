"""From copies to nodes: what shares a node, how many nodes copies take."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from servingplan.model.answer import Placement
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.packing import (
    Content,
    all_contents,
    contents_count,
    fill,
    fill_patterns,
    group,
    is_chain,
)

MOST_SPREAD = 500
"""Most nodes of a pool, and copies on it, that are spread one by one."""
Contents = tuple[tuple[tuple[Content, int], ...], ...]
"""By pool: what nodes hold that copies share, as (shape, copies) pairs, and how many nodes hold just this."""
Patterns = Sequence[tuple[Content, int]]
"""What nodes have room for, by the size of pieces, and how many nodes have just this room."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Copies on the nodes of every pool."""

    instance: Instance
    copies: tuple[int, ...]
    """By shape."""
    contents: Contents

    @classmethod
    def tight(
        cls, instance: Instance, copies: Sequence[int], patterns: Mapping[int, Patterns] | None = None
    ) -> "Packing":
        """First fit decreasing or, on pools whose sizes are no chain, into the room of these patterns, if any."""
        found = []
        for p, pool in enumerate(instance.pools):
            sizes = {c: gpus for c, gpus in instance.sizes_on[p][0].items() if copies[c]}
            pieces = {c: copies[c] for c in sizes}
            if patterns and p in patterns and not is_chain(sizes.values()):
                nodes = fill_patterns(pieces, sizes, patterns[p])
            else:
                nodes = fill(pieces, sizes, pool.gpus_per_node)
            found.append(_counted((tuple(sorted(node.items())), count) for node, count in nodes))
        return cls(instance, tuple(copies), tuple(found))

    @classmethod
    def spread(cls, instance: Instance, copies: Sequence[int], nodes: Sequence[int]) -> "Packing | None":
        """On so many nodes of each pool, the copies of each shape spread over them as evenly as they fit; None where they do
        not fit that way, and where nodes or copies are too many to place one by one.

        Against the loss of a node this is the packing to try: it loses the least of each shape.
        """
        found = []
        for p, pool in enumerate(instance.pools):
            sizes, whole = instance.sizes_on[p]
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
        return cls(instance, tuple(copies), tuple(found))

    @classmethod
    def every_content(cls, instance: Instance) -> "Packing":
        """One node of every content that there could be, and one copy of each shape, of which some take whole nodes."""
        contents = []
        for p, pool in enumerate(instance.pools):
            sizes, _ = instance.sizes_on[p]
            ways = all_contents(sizes, pool.gpus_per_node, pool=pool.name) if sizes else []
            contents.append(tuple((content, 1) for content in ways))
        return cls(instance, tuple(int(limit > 0) for limit in instance.copies_limit), tuple(contents))

    @staticmethod
    def contents_count(instance: Instance) -> int:
        """Contents that a node could have, over all pools."""
        sized = [(instance.sizes_on[p][0].values(), pool) for p, pool in enumerate(instance.pools)]
        return sum(contents_count(sizes, pool.gpus_per_node) for sizes, pool in sized)

    def of(self, copies: Sequence[int]) -> "Packing":
        """So many copies instead, in the room of these where that is a better packing."""
        room: dict[int, Patterns] = {}
        for p, pool in enumerate(self.instance.pools):
            sizes = {c: shape.gpus.get(pool.name, 0) for c, shape in enumerate(self.instance.shapes)}
            room[p] = [
                (tuple(sorted(Counter(sizes[c] for c, each in content for _ in range(each)).items())), count)
                for content, count in self.contents[p]
            ]
        return Packing.tight(self.instance, copies, room)

    def nodes(self) -> tuple[int, ...]:
        """Nodes of each pool that they take, at least its floor."""
        taken = []
        for p, pool in enumerate(self.instance.pools):
            whole = sum(self.copies[c] * each for c, each in self.instance.sizes_on[p][1].items())
            taken.append(max(pool.min_nodes, whole + sum(count for _, count in self.contents[p])))
        return tuple(taken)

    def placements(self, nodes: Sequence[int]) -> tuple[Placement, ...]:
        """Node groups, by the name of the pool; of so many nodes of each pool those that hold nothing are idle."""
        names = [shape.name for shape in self.instance.shapes]
        groups = []
        for p, pool in enumerate(self.instance.pools):
            shared = [({names[c]: each for c, each in content}, count) for content, count in self.contents[p]]
            whole = {c: each for c, each in self.instance.sizes_on[p][1].items() if self.copies[c]}
            taken = {names[c]: (self.copies[c], self.copies[c] * each) for c, each in whole.items()}
            groups += group(pool, shared, taken, total_nodes=nodes[p])
        return tuple(sorted(groups, key=lambda placement: placement.pool))


def _counted(nodes: Iterable[tuple[Content, int]]) -> tuple[tuple[Content, int], ...]:
    counts = Counter[Content]()
    for content, count in nodes:
        counts[content] += count
    return tuple(sorted(counts.items()))
