"""Places copies on nodes: which copies share a node, and how many nodes they need."""

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
"""The most nodes of a pool, and copies on it, for which copies are spread one by one."""
Contents = tuple[tuple[tuple[Content, int], ...], ...]
"""The contents by pool: those of nodes that copies may share, as (shape, copies) pairs, and the number of nodes with
each content."""
Patterns = Sequence[tuple[Content, int]]
"""Patterns of pieces by size, and the number of nodes with each pattern."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Copies on the nodes of every pool."""

    instance: Instance
    copies: tuple[int, ...]
    """Copies by shape."""
    contents: Contents

    @classmethod
    def tight(
        cls, instance: Instance, copies: Sequence[int], patterns: Mapping[int, Patterns] | None = None
    ) -> "Packing":
        """The packing by first fit decreasing; on pools whose sizes are no chain, into nodes of `patterns` if given."""
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
        """The packing on `nodes` of each pool with the copies of each shape spread as evenly as they fit.

        None if they do not fit this way, or if there are too many nodes or copies to place one by one. With this packing, the
        loss of a node takes the fewest copies of each shape.
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
        """One node of every possible content, and one copy of each shape of which a copy fits; for lists of losses only."""
        contents = []
        for p, pool in enumerate(instance.pools):
            sizes, _ = instance.sizes_on[p]
            ways = all_contents(sizes, pool.gpus_per_node, pool=pool.name) if sizes else []
            contents.append(tuple((content, 1) for content in ways))
        return cls(instance, tuple(int(limit > 0) for limit in instance.copies_limit), tuple(contents))

    @staticmethod
    def contents_count(instance: Instance) -> int:
        """The number of contents that a node could have, over all pools."""
        sized = [(instance.sizes_on[p][0].values(), pool) for p, pool in enumerate(instance.pools)]
        return sum(contents_count(sizes, pool.gpus_per_node) for sizes, pool in sized)

    def of(self, copies: Sequence[int]) -> "Packing":
        """The packing of other copies; on pools whose sizes are no chain they take the places of the present pieces."""
        room: dict[int, Patterns] = {}
        for p in range(len(self.instance.pools)):
            sizes = self.instance.sizes_on[p][0]
            room[p] = [
                (tuple(sorted(Counter(sizes[c] for c, each in content for _ in range(each)).items())), count)
                for content, count in self.contents[p]
            ]
        return Packing.tight(self.instance, copies, room)

    def nodes(self) -> tuple[int, ...]:
        """The nodes of each pool that the copies take, at least the pool's minimum."""
        taken = []
        for p, pool in enumerate(self.instance.pools):
            whole = sum(self.copies[c] * each for c, each in self.instance.sizes_on[p][1].items())
            taken.append(max(pool.min_nodes, whole + sum(count for _, count in self.contents[p])))
        return tuple(taken)

    def placements(self, nodes: Sequence[int]) -> tuple[Placement, ...]:
        """Node groups, ordered by the name of the pool. The remaining ones of `nodes` (by pool) are idle."""
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
