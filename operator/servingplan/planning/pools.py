"""Node pools as the plan may use them: what exists, what belongs to the plan, what it costs.

The *spend* of a pool that the plan sizes is price x max(size asked for, nodes that exist, booting and draining included), with
or without foreign pods. Fixed nodes are not rented for this plan: their spend is price x the nodes that hold its replicas. If
the size of a pool cannot be read and any of its nodes holds replicas of the plan, its spend is price x the nodes that exist.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.model.fleet import LearnedCap, PoolStock, StartTimes
from servingplan.model.hardware import GpuType
from servingplan.model.world import Node, Pod, PoolObject
from servingplan.planning.declared import selector_text

FOREVER = "9999-12-31T23:59:59Z"
"""The end of a cap that does not end."""
CENT = 1e-6
"""A difference of dollars per hour below this is none."""
LEFT = "~left"
"""The ending of the names of pools that the spec no longer has. No user's pool can have such a name."""
UNREAD = frozenset({"ReadForbidden", "ReadFailed"})
"""Reasons for which the object of a pool could not be read."""
LOST = frozenset({"KindNotAllowed", "PoolMissing", "NotResizable", "PathNotAllowed", "ReadForbidden", "ReadFailed"})
"""Reasons for which the size of a pool cannot be read. Its nodes may belong to the plan all the same."""


@dataclass(frozen=True)
class PoolNode:
    """A node of a pool, with the pods that hold its GPUs."""

    node: Node
    foreign_gpus: int
    """GPUs that are held by pods of others."""
    our_pods: tuple[Pod, ...]
    """Pods of this plan that run here or are tied to this node, including those that are being deleted."""
    contradicts: bool = False
    """Whether the node differs from what the plan says, or takes none of its pods, and holds none. Nothing is placed on
    such a node."""

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.node.name

    kept_off: bool = False
    """Whether no replica of the plan tolerates the taints of the node's state."""

    @property
    def closed(self) -> bool:
        """Whether it takes no pods yet: a taint of its state keeps them off, and none of ours runs here.

        A node that was set up loses the taint; one that its autoscaler does not know (never registered) keeps it. Under
        replicas that run it is a matter of a moment, such as a full disk, and changes nothing.
        """
        return self.kept_off and not any(pod.bound for pod in self.our_pods)

    @property
    def boots(self) -> bool:
        """Whether it is still booting: it holds no pod of ours, and it is not Ready, shows no GPUs, or takes no pods yet and
        holds none of others."""
        node = self.node
        if self.our_pods or node.disrupted or not node.schedulable:
            return False
        return not node.ready or node.gpus == 0 or (self.closed and not self.foreign_gpus)

    @property
    def held_by_others(self) -> bool:
        """Whether pods of others keep the plan off it: they hold all of its GPUs, or some while it takes nobody more."""
        return self.node.usable and self.foreign_gpus > 0 and (self.free_gpus == 0 or self.closed)

    @property
    def free_gpus(self) -> int:
        """GPUs that are not held by others, whether the plan uses them or not."""
        return max(0, self.node.gpus - self.foreign_gpus)

    @property
    def unused_gpus(self) -> int:
        """GPUs that no pod holds now."""
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
    """One pool of the spec, with everything that was observed of it."""

    spec: NodePool
    gpu: GpuType | None
    gpus_per_node: int
    """The GPUs of one node; 0 if unknown."""
    dollars_per_node_hour: float | None
    nodes: tuple[PoolNode, ...]
    object: PoolObject | None
    problem: Problem | None = None
    """Why the plan does without this pool."""
    conflict: Problem | None = None
    """Why the pool's size is not changed."""
    ceiling: Problem | None = None
    """Why its owner's ceiling cannot be read. The pool does not grow meanwhile."""
    withdrawn: Problem | None = None
    """Why the plan must give the pool back: its owner no longer allows the plan to size it. It is emptied first."""
    behind: bool = False
    """Whether only the plan in force has it: a plan without it waits for its approval. New plans do without it."""
    contradiction: Problem | None = None
    """How the nodes contradict the plan. The pool does not grow, and it shrinks only to keep the budget."""
    apart: bool = False
    """Whether its GPUs are MIG slices. A process sees only one of them, and they cannot reach each other (NVIDIA, MIG User
    Guide, Application Considerations), so each slice is a replica by itself."""
    stock: PoolStock | None = None
    """What was learned about the nodes that the pool gives; only for pools that the plan sizes."""
    reserved: LearnedCap | None = None
    """What the pool's reservation gives now; None if it has none."""
    start_times: Mapping[str, StartTimes] = field(default_factory=dict)
    """What was learned of the starts of replicas on it (``cold_starts.start_key``)."""
    quota_gpus: int | None = None
    """The GPUs that the plan's queue may hold here; None if nothing bounds them."""
    shared_quotas: tuple[SharedQuota, ...] = ()
    """The limits of this pool together with others."""

    @property
    def name(self) -> str:
        """Name in the spec."""
        return self.spec.name

    @property
    def left(self) -> bool:
        """Whether the pool is to be given back, because the spec no longer has it or its owner wants it. It shrinks to its
        floor first."""
        return self.name.endswith(LEFT) or self.withdrawn is not None

    @property
    def rented(self) -> bool:
        """Whether its nodes are rented for this plan, so that all of them count as spend."""
        return self.spec.resize is not None and self.problem is None

    @property
    def sized_by_us(self) -> bool:
        """Whether the plan may ask for another size."""
        return self.rented and self.conflict is None

    @property
    def usable_nodes(self) -> tuple[PoolNode, ...]:
        """The nodes that may take a replica now."""
        return tuple(
            item
            for item in self.nodes
            if item.node.usable and not item.closed and item.free_gpus > 0 and not item.contradicts
        )

    @property
    def spent_nodes(self) -> tuple[PoolNode, ...]:
        """The nodes that count in the pool's size and take no more replicas: they are cordoned, or they hold replicas and are
        no longer Ready.

        A disrupted node is not among them, because whoever takes it away also replaces it. An empty node that is not Ready may
        be booting.
        """
        return tuple(
            item
            for item in self.nodes
            if not item.node.disrupted and (not item.node.schedulable or (not item.node.ready and item.our_pods))
        )

    @property
    def about_to_go(self) -> frozenset[str]:
        """The nodes that the provider may be taking back now: the empty ones, while there are more than were asked for."""
        there = [node for node in self.nodes if not node.node.disrupted]
        surplus = self.sized_by_us and len(there) > self.wanted
        return frozenset(node.name for node in there if surplus and not node.our_pods)

    @property
    def boots(self) -> bool:
        """Whether a node of the pool is booting."""
        return any(node.boots for node in self.nodes)

    @property
    def blind_nodes(self) -> tuple[PoolNode, ...]:
        """The nodes that are Ready and show no GPUs: they are still booting, or something is wrong with them."""
        return tuple(item for item in self.nodes if item.node.usable and item.node.gpus == 0)

    @property
    def boot_seconds(self) -> tuple[float, ...]:
        """How long its last nodes took to come, in seconds; empty if that was not seen."""
        return () if self.stock is None else self.stock.boot_seconds

    @property
    def node_cpu_millicores(self) -> int | None:
        """Allocatable CPU of its smallest node, in millicores, or of the smallest that was last seen; None if unknown."""
        known = [item.node.cpu_millicores for item in self._telling]
        return min(filter(None, known), default=None if self.stock is None else self.stock.node_cpu_millicores)

    @property
    def node_memory_bytes(self) -> int | None:
        """Allocatable memory of that node, in bytes; None if unknown."""
        known = [item.node.memory_bytes for item in self._telling]
        return min(filter(None, known), default=None if self.stock is None else self.stock.node_memory_bytes)

    @property
    def _telling(self) -> tuple[PoolNode, ...]:
        """The nodes that say what they have: those that show GPUs."""
        return tuple(item for item in self.nodes if item.node.gpus > 0)

    @property
    def cap(self) -> LearnedCap | None:
        """The most nodes that the pool is known to give now; None if nothing is known. The smallest number of all sources
        counts; of equal ones, what was seen comes before what was reserved."""
        cap = self.stock.cap if self.stock is not None else None
        known = [item for item in (cap, self.reserved) if item is not None and not item.probing]
        return min(known, key=lambda item: item.nodes, default=None)

    @property
    def most_nodes(self) -> int:
        """The nodes that a plan may count on: the spec's ``maxNodes``, and no more than the pool is known to give."""
        cap = self.cap
        known = math.inf if cap is None else max(0, cap.nodes - len(self.spent_nodes))
        return self._whole_steps(min(self.spec.cap, known))

    @property
    def least_nodes(self) -> int:
        """The spec's ``minNodes``, if the pool gives that many."""
        return self.spec.min_nodes if self.cap is None else min(self.spec.min_nodes, self.most_nodes)

    @property
    def most_to_ask_for(self) -> int:
        """The nodes that may be asked for now. After a cap is over, this is one more than it, or one more in each zone."""
        cap = self.stock.cap if self.stock is not None else None
        known = math.inf if cap is None else cap.nodes + self.step if cap.probing else cap.nodes
        reserved = math.inf if self.reserved is None else self.reserved.nodes
        return self._whole_steps(min(max(self.spec.cap, self.spec.min_nodes), known, reserved))

    @property
    def step(self) -> int:
        """The sizes of its object are multiples of this."""
        return 1 if self.object is None else self.object.step

    def holding(self, nodes: int) -> int:
        """The least size of its object that holds this many nodes."""
        size = nodes if self.object is None else max(nodes, self.object.min_nodes)
        return size + -size % self.step

    def _whole_steps(self, nodes: float) -> int:
        """The largest size of its object that is not above this."""
        return int(nodes) - int(nodes) % self.step

    @property
    def foreign_nodes(self) -> int:
        """The nodes off which pods of others keep the plan. In a rented pool they are paid for and of no use."""
        return sum(node.held_by_others for node in self.nodes)

    @property
    def existing(self) -> int:
        """The nodes that exist, booting and draining included."""
        reported = self.object.actual if self.object is not None else None
        return max(len(self.nodes), reported or 0)

    @property
    def wanted(self) -> int:
        """The nodes that are asked for; of fixed nodes all that exist."""
        if self.object is None or self.object.wanted is None:
            return len(self.nodes)
        return self.object.wanted

    @property
    def occupied(self) -> int:
        """The nodes that hold pods of this plan."""
        return sum(1 for node in self.nodes if node.our_pods)

    @property
    def idle_gpus(self) -> int:
        """The GPUs of nodes that are paid for, booting ones included, that are held neither by a ready replica nor by pods
        of others. Fixed nodes count as paid while they hold pods of this plan."""
        if self.spec.resize is not None and self.problem is not None:
            return 0
        paid = self.nodes if self.rented else tuple(node for node in self.nodes if node.our_pods)
        coming = max(0, max(self.wanted, self.existing) - len(self.nodes)) if self.rented else 0
        serving = sum(pod.gpus for node in paid for pod in node.our_pods if pod.reachable)
        return max(0, sum(node.free_gpus for node in paid) - serving) + coming * self.gpus_per_node

    def spend_at(self, nodes: int) -> float:
        """$/h if ``nodes`` are asked for (rented pools) or hold pods of this plan (fixed nodes). ``nan`` without a price."""
        price = math.nan if self.dollars_per_node_hour is None else self.dollars_per_node_hour
        return price * (max(nodes, self.existing) if self.rented else nodes)

    @property
    def spend(self) -> float:
        """$/h now. ``nan`` if nodes exist or are asked for and the price is unknown."""
        if self.spec.resize is not None and self.problem is not None:
            if self.problem.reason in LOST and self.occupied:
                return self.spend_at(len(self.nodes))  # all that is known of it
            return 0.0  # another plan, or nobody, pays for it
        return self.spend_at(self.wanted if self.rented else self.occupied)


def total_spend(pools: Iterable[Pool]) -> float:
    """$/h of all pools now. ``nan`` if it cannot be computed."""
    return math.fsum(pool.spend for pool in pools)


def more_nodes(pools: tuple[Pool, ...]) -> str:
    """What to do if nodes are missing. The cause may be a selector that no node matches."""
    missed = [no_node(pool) for pool in pools if pool.spec.resize is None and not pool.nodes]
    unmatched = f"{'; '.join(missed)}: correct it; or " if missed else ""
    return f"{unmatched}raise maxNodes, add nodes or another pool"


def no_node(pool: Pool) -> str:
    """What people are told about fixed nodes that are missing."""
    return f"0 nodes match spec.nodePools[{pool.name}].nodeSelector {selector_text(pool.spec)}"
