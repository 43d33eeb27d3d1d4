"""How many nodes replicas need, and how they are packed on them.

`constraints` makes rows from this, `placement` makes node groups.

Sizes. The *size* of a shape on a pool is its number of GPUs there if one node has as many; a larger shape takes whole nodes.

Chains. If every size divides the next larger one, counts Y[d] of pieces of size d fit on n nodes of G GPUs together with
W whole nodes if and only if, for each size d,

    sum over sizes e >= d of e Y[e]  <=  d floor(G/d) (n - W)        and        W <= n.

Proof. Necessary: pieces of sizes e >= d are multiples of d, so a node holds at most d floor(G/d) of them. Sufficient: place
the sizes from large to small, each piece on any node with room (first fit decreasing). When a piece of size d finds no
room, every node holds a multiple of d, hence exactly d floor(G/d), which contradicts the inequality. So no pattern and
no binary is needed: one row per size, whatever G is.

Arcs. Otherwise (for example sizes 2 and 3) these rows are not sufficient. A filled node is a path from GPU 0 to GPU G. An arc
from i to i + d is a piece of size d on GPUs i to i + d - 1; sizes descend along the path; an arc of size 0 from i to G leaves
the rest idle. An integer for each arc counts the nodes that have it (arc flow, Valerio de Carvalho 1999); there are at most G
arcs per size. One integer for each way to fill a node (Gilmore and Gomory 1961) gives the same relaxation, but sizes 1 to 12 on
64 GPUs have millions of ways.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from servingplan.model.answer import Placement
from servingplan.model.question import Pool, QuestionError

MOST_CONTENTS = 3000
"""The most exact node contents of one pool that are enumerated for `survive`."""
Content = tuple[tuple[int, int], ...]
"""What one node holds: (item, count) pairs, items ascending, counts positive. An item is a shape or a size."""


def is_chain(sizes: Iterable[int]) -> bool:
    """Whether every size divides the next larger one."""
    ordered = sorted(set(sizes))
    return all(large % small == 0 for small, large in pairwise(ordered))


Arc = tuple[int, int]
"""(first GPU, size of the piece); size 0 means that the rest of the node is idle."""


def contents_count(sizes: Iterable[int], gpus_per_node: int) -> int:
    """The number of multisets of items with these sizes that fit a node, with the empty one."""
    ways = [1] + [0] * gpus_per_node
    for size in sizes:
        for gpus in range(size, gpus_per_node + 1):
            ways[gpus] += ways[gpus - size]
    return sum(ways)


def arcs_of(sizes: Iterable[int], gpus_per_node: int) -> list[Arc]:
    """The arcs of all nodes filled with pieces of these sizes, sizes descending along each path."""
    reached, arcs = {0}, []
    for size in sorted(set(sizes), reverse=True):
        for first in range(gpus_per_node - size + 1):  # ascending, so that a size may follow itself
            if first in reached:
                arcs.append((first, size))
                reached.add(first + size)
    return arcs + [(first, 0) for first in sorted(reached) if first < gpus_per_node]


def patterns_of(flow: Mapping[Arc, int], gpus_per_node: int) -> list[tuple[Content, int]]:
    """The filled nodes of an integer flow over arcs: contents by size, and the number of nodes with each."""
    left = {arc: count for arc, count in flow.items() if count}
    found: Counter[Content] = Counter()
    while any(first == 0 for first, _ in left):
        path: list[Arc] = []
        at = 0
        while at < gpus_per_node:
            size = max(size for first, size in left if first == at)
            path.append((at, size))
            at = at + size if size else gpus_per_node
        count = min(left[arc] for arc in path)
        for arc in path:
            left[arc] -= count
        left = {arc: rest for arc, rest in left.items() if rest}
        found[tuple(sorted(Counter(size for _, size in path if size).items()))] += count
    return sorted(found.items())


def all_contents(sizes: Mapping[int, int], gpus_per_node: int, *, pool: str) -> list[Content]:
    """Every non-empty multiset of items (shapes, by index) that fits a node; `sizes` gives each item's GPUs.

    Raises `QuestionError` if there are more than `MOST_CONTENTS`.
    """
    items = sorted(sizes)
    found: list[Content] = []

    def extend(position: int, room: int, chosen: Content) -> None:
        if len(found) > MOST_CONTENTS:
            raise QuestionError(
                f"survive: pool {pool!r} has more than {MOST_CONTENTS} ways to fill a node of {gpus_per_node} GPUs with "
                f"{len(items)} shapes, too many to guard each against its loss; offer fewer shapes on this pool"
            )
        if position == len(items):
            if chosen:
                found.append(chosen)
            return
        size = sizes[items[position]]
        for count in range(room // size + 1):
            extend(position + 1, room - count * size, (*chosen, (items[position], count)) if count else chosen)

    extend(0, gpus_per_node, ())
    return found


def fewest_nodes(pieces: Mapping[int, int], gpus_per_node: int) -> int:
    """The number of nodes that these pieces (counts by size) need: the least for chains, else by first fit decreasing."""
    counts = {size: count for size, count in pieces.items() if count}
    if is_chain(counts):
        needed, room = 0, 0
        for size in sorted(counts, reverse=True):
            room += size * counts[size]
            needed = max(needed, -(-room // (size * (gpus_per_node // size))))
        return needed
    return sum(nodes for _, nodes in fill(counts, {size: size for size in counts}, gpus_per_node))


def fill[Item: (int, str)](
    copies: Mapping[Item, int], sizes: Mapping[Item, int], gpus_per_node: int
) -> list[tuple[Counter[Item], int]]:
    """Nodes packed by first fit decreasing, which is optimal for chains: contents and the number of nodes with each, in the
    order of the packing. Equal nodes are handled together, so the work does not grow with the number of pieces."""
    packed: list[tuple[dict[Item, int], int, int]] = []  # content, nodes with it, GPUs left on each
    for name in sorted(copies, key=lambda name: (-sizes[name], name)):
        size, left = sizes[name], copies[name]
        after: list[tuple[dict[Item, int], int, int]] = []
        packed.append(({}, left, gpus_per_node))
        for content, nodes, room in packed:
            each = room // size
            full, rest = divmod(left, each) if each else (0, 0)
            if full >= nodes:
                full, rest = nodes, 0
            for changed, more in ((full, each), (int(rest > 0), rest)):
                if changed and more:
                    after.append(({**content, name: more}, changed, room - more * size))
                    left -= changed * more
            unchanged = nodes - (full if each else 0) - int(rest > 0)
            if unchanged and content:
                after.append((content, unchanged, room))
        packed = after
    return [(Counter(content), nodes) for content, nodes, _ in packed]


def fill_patterns[Item: (int, str)](
    copies: Mapping[Item, int], sizes: Mapping[Item, int], patterns: Sequence[tuple[Content, int]]
) -> list[tuple[Counter[Item], int]]:
    """Contents and the number of nodes with each, packed into nodes of the given patterns (by size, with node counts), which
    must have room for all pieces."""
    left: dict[int, Counter[Item]] = defaultdict(Counter)
    for name, count in copies.items():
        left[sizes[name]][name] = count
    packed: list[tuple[Counter[Item], int]] = []
    for pattern, nodes in patterns:
        while nodes:
            content: Counter[Item] = Counter()
            for size, slots in reversed(pattern):
                for name in sorted(left[size]):
                    content[name] = min(slots, left[size][name])
                    slots -= content[name]
            content = +content
            if not content:
                break
            alike = min(nodes, *(left[sizes[name]][name] // each for name, each in content.items()))
            for name, each in content.items():
                left[sizes[name]][name] -= alike * each
            packed.append((content, alike))
            nodes -= alike
    return packed


def group(
    pool: Pool,
    nodes: Sequence[tuple[Mapping[str, int], int]],
    whole: Mapping[str, tuple[int, int]],
    *,
    total_nodes: int,
) -> list[Placement]:
    """Node groups of one pool.

    `nodes` are contents of shared nodes, each with the number of nodes that hold it. `whole` gives, for shapes that take whole
    nodes, the copies and the nodes of all of them. Nodes beyond these, up to `total_nodes`, are idle.
    """
    alike: Counter[tuple[tuple[str, int], ...]] = Counter()
    for content, count in nodes:
        alike[tuple(sorted(content.items()))] += count
    groups = [
        Placement(pool=pool.name, nodes=count, replicas={name: each * count for name, each in content})
        for content, count in alike.items()
    ]
    groups += [Placement(pool=pool.name, nodes=n, replicas={name: c}) for name, (c, n) in whole.items() if c]
    idle = total_nodes - sum(placement.nodes for placement in groups)
    if idle > 0:
        groups.append(Placement(pool=pool.name, nodes=idle))
    return sorted(groups, key=lambda placement: (-sum(placement.replicas.values()), tuple(placement.replicas.items())))
