"""Node pools as the plan may use them: what is there, what is ours, what it costs.

*Spend* of a pool that we size is price x max(size asked for, nodes that exist, booting and draining included), foreign
pods or not. Of fixed nodes, which nobody rents for this plan, it is price x the nodes that hold our replicas. Of a pool whose
size is not seen, it is price x the nodes that are, where any of them holds our replicas.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from servingplan.api.v1alpha1 import NodePool
from servingplan.model.fleet import LearnedCap, PoolStock, StartTimes
from servingplan.model.hardware import GpuType
from servingplan.model.world import Node, Pod, PoolObject
from servingplan.planning.declared import selector_text

CENT = 1e-6
"""Dollars per hour below which two amounts are the same."""
LEFT = "~left"
"""Ends the name of a pool that the spec no longer has; no user's pool can be named so."""
UNREAD = frozenset({"ReadForbidden", "ReadFailed"})
"""Reasons for which the object of a pool could not be read."""
LOST = frozenset({"KindNotAllowed", "PoolMissing", "NotResizable", "PathNotAllowed", "ReadForbidden", "ReadFailed"})
"""Reasons for which the size of a pool is not seen: what stands there may be ours all the same."""


@dataclass(frozen=True)
class PoolNode:
    """A node of a pool, with the pods that hold its GPUs."""

    node: Node
    foreign_gpus: int
    """Held by pods that are not this plan's."""
    our_pods: tuple[Pod, ...]
    """Pods of this plan that run here or are tied here, those being deleted included."""
    contradicts: bool = False
    """It is not what the plan says, or takes none of our pods, and holds none: nothing is placed on it."""

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.node.name

    @property
    def boots(self) -> bool:
        """Whether it is on its way: it holds nobody, and is not Ready or shows no GPUs yet."""
        node = self.node
        return not self.our_pods and not node.disrupted and node.schedulable and (not node.ready or node.gpus == 0)

    @property
    def free_gpus(self) -> int:
        """GPUs that are ours to use, used by us or not."""
        return max(0, self.node.gpus - self.foreign_gpus)

    @property
    def unused_gpus(self) -> int:
        """GPUs that nobody holds now."""
        return max(0, self.free_gpus - sum(pod.gpus for pod in self.our_pods))


@dataclass(frozen=True)
class Problem:
    """Why something cannot be done, for a condition."""

    reason: str
    message: str


@dataclass(frozen=True)
class SharedQuota:
    """What the plan's queue lets it hold in several pools together, since they draw on the same quota."""

    pools: tuple[str, ...]
    gpus: int


@dataclass(frozen=True)
class Pool:
    """One pool of the spec, with all that was observed of it."""

    spec: NodePool
    gpu: GpuType | None
    gpus_per_node: int
    """0 where it is unknown."""
    dollars_per_node_hour: float | None
    nodes: tuple[PoolNode, ...]
    object: PoolObject | None
    problem: Problem | None = None
    """Why the plan does without this pool."""
    conflict: Problem | None = None
    """Why its size is left as it is."""
    ceiling: Problem | None = None
    """Its owner's ceiling cannot be read: it does not grow."""
    withdrawn: Problem | None = None
    """The owner no longer lets this plan size it, while the plan still has it: it is emptied and given back."""
    contradiction: Problem | None = None
    """Nodes say otherwise than the plan: it is neither grown nor, but for the budget, made smaller."""
    apart: bool = False
    """Its GPUs are MIG slices: a process sees only one of them, and none reaches another (NVIDIA, MIG User Guide, Application
    Considerations). So each is a replica by itself."""
    stock: PoolStock | None = None
    """What was learned of the nodes that it gives; only of pools that the plan sizes."""
    start_times: Mapping[str, StartTimes] = field(default_factory=dict)
    """What was learned of the starts of replicas on it (``cold_starts.start_key``)."""
    quota_gpus: int | None = None
    """GPUs that the plan's queue lets it hold here; None: nothing bounds them."""
    shared_quotas: tuple[SharedQuota, ...] = ()
    """The limits of this pool together with others."""

    @property
    def name(self) -> str:
        """Name in the spec."""
        return self.spec.name

    @property
    def left(self) -> bool:
        """The spec no longer has it, or its owner wants it back: it goes to its floor and is given back."""
        return self.name.endswith(LEFT) or self.withdrawn is not None

    @property
    def rented(self) -> bool:
        """Its nodes are rented for this plan, so all of them count as spend."""
        return self.spec.resize is not None and self.problem is None

    @property
    def sized_by_us(self) -> bool:
        """Whether the plan may ask for another size."""
        return self.rented and self.conflict is None

    @property
    def usable_nodes(self) -> tuple[PoolNode, ...]:
        """Nodes that may take a replica now."""
        return tuple(node for node in self.nodes if node.node.usable and node.free_gpus > 0 and not node.contradicts)

    @property
    def spent_nodes(self) -> tuple[PoolNode, ...]:
        """Nodes that count in the pool's size and take no replica any more: cordoned, or fallen silent under replicas.

        One that is disrupted is not among them, since whoever takes it away also replaces it. One that is silent and empty
        may be booting.
        """
        return tuple(
            item
            for item in self.nodes
            if not item.node.disrupted and (not item.node.schedulable or (not item.node.ready and item.our_pods))
        )

    @property
    def about_to_go(self) -> frozenset[str]:
        """Nodes that the provider may be taking back now: the empty ones, while there are more than are asked for."""
        there = [node for node in self.nodes if not node.node.disrupted]
        surplus = self.sized_by_us and len(there) > self.wanted
        return frozenset(node.name for node in there if surplus and not node.our_pods)

    @property
    def boots(self) -> bool:
        """Whether a node of it is on its way."""
        return any(node.boots for node in self.nodes)

    @property
    def blind_nodes(self) -> tuple[PoolNode, ...]:
        """Nodes that are Ready and show no GPUs: they boot, or something is wrong with them."""
        return tuple(item for item in self.nodes if item.node.usable and item.node.gpus == 0)

    @property
    def boot_seconds(self) -> tuple[float, ...]:
        """How long its last nodes took to come; empty where that was not seen."""
        return () if self.stock is None else self.stock.boot_seconds

    @property
    def node_cpu_millicores(self) -> int | None:
        """Allocatable CPU of its smallest node, or of the smallest that was last there; None where it is not known."""
        known = [item.node.cpu_millicores for item in self._telling]
        return min(filter(None, known), default=None if self.stock is None else self.stock.node_cpu_millicores)

    @property
    def node_memory_bytes(self) -> int | None:
        """Allocatable memory, bytes, as above."""
        known = [item.node.memory_bytes for item in self._telling]
        return min(filter(None, known), default=None if self.stock is None else self.stock.node_memory_bytes)

    @property
    def _telling(self) -> tuple[PoolNode, ...]:
        """Nodes that tell what they have: those that show GPUs."""
        return tuple(item for item in self.nodes if item.node.gpus > 0)

    @property
    def cap(self) -> LearnedCap | None:
        """The most nodes that the pool is known to give at this moment; None: nothing is known."""
        cap = self.stock.cap if self.stock is not None else None
        return None if cap is None or cap.probing else cap

    @property
    def most_nodes(self) -> int:
        """Nodes that a plan may count on: the spec's ``maxNodes``, and no more than the pool is known to give."""
        cap = self.cap
        known = math.inf if cap is None else max(0, cap.nodes - len(self.spent_nodes))
        return self._whole_steps(min(self.spec.cap, known))

    @property
    def least_nodes(self) -> int:
        """The spec's ``minNodes``, where the pool gives so many."""
        return self.spec.min_nodes if self.cap is None else min(self.spec.min_nodes, self.most_nodes)

    @property
    def most_to_ask_for(self) -> int:
        """Nodes that may be asked for now; one more than a cap that is over, or one in each zone."""
        cap = self.stock.cap if self.stock is not None else None
        known = math.inf if cap is None else cap.nodes + self.step if cap.probing else cap.nodes
        return self._whole_steps(min(max(self.spec.cap, self.spec.min_nodes), known))

    @property
    def step(self) -> int:
        """Sizes of its object are multiples of this."""
        return 1 if self.object is None else self.object.step

    def holding(self, nodes: int) -> int:
        """The least size of its object that holds so many nodes."""
        size = nodes if self.object is None else max(nodes, self.object.min_nodes)
        return size + -size % self.step

    def _whole_steps(self, nodes: float) -> int:
        """The largest size of its object that is no more than this."""
        return int(nodes) - int(nodes) % self.step

    @property
    def foreign_nodes(self) -> int:
        """Nodes that foreign pods hold altogether: of a rented pool they are paid, and of no use."""
        return sum(1 for node in self.nodes if node.node.usable and node.free_gpus == 0 and node.foreign_gpus > 0)

    @property
    def existing(self) -> int:
        """Nodes that exist, booting and draining included."""
        reported = self.object.actual if self.object is not None else None
        return max(len(self.nodes), reported or 0)

    @property
    def wanted(self) -> int:
        """Nodes that are asked for; of fixed nodes all that exist."""
        if self.object is None or self.object.wanted is None:
            return len(self.nodes)
        return self.object.wanted

    @property
    def occupied(self) -> int:
        """Nodes that hold our pods."""
        return sum(1 for node in self.nodes if node.our_pods)

    @property
    def idle_gpus(self) -> int:
        """GPUs of nodes that are paid for, booting ones included, that neither a ready replica nor a foreign pod holds.
        Fixed nodes count as paid while they hold our pods."""
        if self.spec.resize is not None and self.problem is not None:
            return 0
        paid = self.nodes if self.rented else tuple(node for node in self.nodes if node.our_pods)
        coming = max(0, max(self.wanted, self.existing) - len(self.nodes)) if self.rented else 0
        serving = sum(pod.gpus for node in paid for pod in node.our_pods if pod.reachable)
        return max(0, sum(node.free_gpus for node in paid) - serving) + coming * self.gpus_per_node

    def spend_at(self, nodes: int) -> float:
        """$/h when ``nodes`` are asked for (rented pools) or hold our pods (fixed nodes). ``nan`` without a price."""
        price = math.nan if self.dollars_per_node_hour is None else self.dollars_per_node_hour
        return price * (max(nodes, self.existing) if self.rented else nodes)

    @property
    def spend(self) -> float:
        """$/h now; ``nan`` where nodes are there or asked for and the price is unknown."""
        if self.spec.resize is not None and self.problem is not None:
            if self.problem.reason in LOST and self.occupied:
                return self.spend_at(len(self.nodes))  # all that is known of it
            return 0.0  # another plan, or nobody, pays for it
        return self.spend_at(self.wanted if self.rented else self.occupied)


def total_spend(pools: Iterable[Pool]) -> float:
    """$/h of all pools now; ``nan`` where it cannot be computed."""
    return math.fsum(pool.spend for pool in pools)


def more_nodes(pools: tuple[Pool, ...]) -> str:
    """What to do where nodes are short; a selector that no node matches may be why."""
    missed = [no_node(pool) for pool in pools if pool.spec.resize is None and not pool.nodes]
    unmatched = f"{'; '.join(missed)}: correct it; or " if missed else ""
    return f"{unmatched}raise maxNodes, add nodes or another pool"


def no_node(pool: Pool) -> str:
    """What people are told of fixed nodes that are not there."""
    return f"0 nodes match spec.nodePools[{pool.name}].nodeSelector {selector_text(pool.spec)}"
