"""All layouts of one replica that are considered: inside a node, over nodes, over GPU types.

This is the only module that limits the layouts; ``shapes`` prunes them. A layout has one tensor-parallel size, because engines
use one for all stages, and a tensor-parallel group never leaves its node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from servingplan.planning.pools import Pool

STAGES_INSIDE_A_NODE = (1, 2, 4, 8)
"""The numbers of stages inside a node that are considered. Others lie between these and would add only near-equal shapes."""
NODES_OF_A_REPLICA = (2, 3, 4, 6, 8)
"""The numbers of whole nodes of one pool that a replica may take: every number up to four, for models that just miss a
size, and then coarser steps."""
MOST_STAGES = 16
"""The most stages of a replica over nodes. Each hand-over adds latency, and the replica is lost with any of its nodes."""
NODES_OF_A_LEG = (1, 2, 4)
MOST_MIXED_STAGES = 8
MIXED_TENSOR_PARALLEL = (1, 2, 4, 8, 16)
"""The limits of replicas over two pools, of which there are pairs: at most four whole nodes, or 1, 2 or 4 stages inside one
node, of each pool. Three types in one replica are not considered, because their number grows with the cube of the pools."""
ZONE_LABEL = "topology.kubernetes.io/zone"


@dataclass(frozen=True)
class Leg:
    """Consecutive stages of a replica on one pool."""

    pool: Pool
    stages: int


@dataclass(frozen=True)
class Layout:
    """The stages of one replica and the nodes that they take."""

    tensor_parallel: int
    legs: tuple[Leg, ...]

    @property
    def pipeline_parallel(self) -> int:
        """The number of stages over all legs."""
        return sum(leg.stages for leg in self.legs)

    @property
    def inside_a_node(self) -> bool:
        """Whether the whole replica is one pod on one node."""
        return len(self.legs) == 1 and self.gpus(self.legs[0]) <= self.legs[0].pool.gpus_per_node

    @property
    def name(self) -> str:
        """The name with pools and sizes, such as ``h100/tp4pp2`` or ``a100:2+l40s:1/tp8pp3``."""
        return layout_name([(leg.pool.name, leg.stages) for leg in self.legs], tensor_parallel=self.tensor_parallel)

    @property
    def nodes_of_a_replica(self) -> int:
        """The number of nodes of which one replica takes all or a part."""
        return sum(self.nodes(leg) for leg in self.legs)

    def gpus(self, leg: Leg) -> int:
        """The GPUs of one leg: a part of a node, or whole nodes."""
        return leg.stages * self.tensor_parallel

    def nodes(self, leg: Leg) -> int:
        """The number of nodes of which one leg takes all or a part."""
        return -(-self.gpus(leg) // leg.pool.gpus_per_node)

    def node_of_each_stage(self) -> list[tuple[Pool, int]]:
        """The pool and the number of the node of every stage, in order. Nodes are counted over the replica."""
        out: list[tuple[Pool, int]] = []
        before = 0
        for leg in self.legs:
            per_node = max(1, leg.pool.gpus_per_node // self.tensor_parallel)
            out += [(leg.pool, before + number // per_node) for number in range(leg.stages)]
            before += self.nodes(leg)
        return out


def layout_name(legs: Iterable[tuple[str, int]], *, tensor_parallel: int) -> str:
    """See ``Layout.name``; ``legs`` are names of pools and numbers of stages."""
    legs = list(legs)
    pools = "+".join(f"{pool}:{stages}" for pool, stages in legs) if len(legs) > 1 else legs[0][0]
    return f"{pools}/tp{tensor_parallel}pp{sum(stages for _, stages in legs)}"


def inside_a_node(pool: Pool) -> Iterator[Layout]:
    """The layouts with one pod on one node, from small to large."""
    most = min(1, pool.gpus_per_node) if pool.apart else pool.gpus_per_node
    for tensor_parallel in range(1, most + 1):
        for stages in STAGES_INSIDE_A_NODE:
            if tensor_parallel * stages <= most:
                yield Layout(tensor_parallel, (Leg(pool, stages),))


def over_nodes(pool: Pool) -> Iterator[Layout]:
    """The layouts on whole nodes of one pool, from few nodes to many."""
    for tensor_parallel, stages in _over_nodes(pool):
        yield Layout(tensor_parallel, (Leg(pool, stages),))


def over_types(first: Pool, second: Pool) -> Iterator[Layout]:
    """The layouts with stages on two pools. Only one order of the two is considered: the formulas differ only by the place
    of the embedding table."""
    for tensor_parallel, stages, others in _over_types(first, second):
        yield Layout(tensor_parallel, (Leg(first, stages), Leg(second, others)))


def count_over_nodes(pool: Pool) -> int:
    """The number of layouts that ``over_nodes`` gives."""
    return len(_over_nodes(pool))


def count_over_types(first: Pool, second: Pool) -> int:
    """The number of layouts that ``over_types`` gives."""
    return len(_over_types(first, second))


def pairs_of_types(pools: Iterable[Pool]) -> Iterator[tuple[Pool, Pool]]:
    """The pairs of pools with different GPU types, in order of name. Two pools of one type differ only in how they are
    rented."""
    for first, second in combinations(sorted(pools, key=lambda pool: pool.name), 2):
        if first.gpu is not None and second.gpu is not None and first.gpu != second.gpu:
            yield first, second


def zone_of(pool: Pool) -> str | None:
    """The zone of all nodes of a pool, present and future; None if it is not known.

    The spec states it. For fixed nodes it is also known if their labels agree. A pool that is sized and has no zone in the
    spec may get its next node anywhere.
    """
    if pool.spec.zone is not None or pool.spec.resize is not None:
        return pool.spec.zone
    zones = {node.node.labels.get(ZONE_LABEL) for node in pool.nodes}
    return zones.pop() if len(zones) == 1 else None


def connected(first: Pool, second: Pool) -> bool:
    """Whether one replica may span nodes of both pools: they must be known to be in one zone. For one pool given twice:
    whether a replica may span its nodes."""
    zone = zone_of(first)
    return zone is not None and zone == zone_of(second)


def _over_nodes(pool: Pool) -> tuple[tuple[int, int], ...]:
    return () if pool.apart else _sizes_over_nodes(pool.gpus_per_node)


def _over_types(first: Pool, second: Pool) -> tuple[tuple[int, int, int], ...]:
    return () if first.apart or second.apart else _sizes_over_types(first.gpus_per_node, second.gpus_per_node)


@lru_cache(maxsize=256)
def _sizes_over_nodes(gpus_per_node: int) -> tuple[tuple[int, int], ...]:
    return tuple(
        (tensor_parallel, nodes * gpus_per_node // tensor_parallel)
        for nodes in NODES_OF_A_REPLICA
        for tensor_parallel in range(1, gpus_per_node + 1)
        if gpus_per_node % tensor_parallel == 0 and nodes * gpus_per_node // tensor_parallel <= MOST_STAGES
    )


@lru_cache(maxsize=1024)
def _sizes_over_types(gpus_per_node: int, others_per_node: int) -> tuple[tuple[int, int, int], ...]:
    return tuple(
        (tensor_parallel, stages, others)
        for tensor_parallel in MIXED_TENSOR_PARALLEL
        for stages in _stages_of_a_leg(tensor_parallel, gpus_per_node)
        for others in _stages_of_a_leg(tensor_parallel, others_per_node)
        if stages + others <= MOST_MIXED_STAGES
    )


def _stages_of_a_leg(tensor_parallel: int, gpus_per_node: int) -> list[int]:
    inside = {stages for stages in STAGES_INSIDE_A_NODE if stages * tensor_parallel <= gpus_per_node}
    if gpus_per_node % tensor_parallel:
        return sorted(inside)
    return sorted(inside | {nodes * gpus_per_node // tensor_parallel for nodes in NODES_OF_A_LEG})
