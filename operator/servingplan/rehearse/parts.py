"""What the simulated cluster is made of: nodes, pods and node pools, and what became of the nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from servingplan.model import names
from servingplan.model.world import Offered

Json = dict[str, Any]


@dataclass
class SimulatedNode:
    """A node; ``pool`` names the pool object that made it, if one did."""

    name: str
    labels: dict[str, str]
    gpus: int
    uid: str
    pool: str | None = None
    ready: bool = True
    schedulable: bool = True
    disrupted: bool = False
    resource: str = names.GPU_RESOURCE
    """The name by which its GPUs are requested."""
    closed: bool = False
    """Its autoscaler has not taken it in yet, and may never do so."""
    allocatable: dict[str, str] = field(default_factory=dict)
    """What it has beside GPUs."""


@dataclass
class SimulatedPod:
    """A pod, ours (``deployment``) or foreign."""

    name: str
    uid: str
    gpus: int
    created: datetime
    serial: int
    resource: str = names.GPU_RESOURCE
    deployment: str | None = None
    selector: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    other_gates: tuple[str, ...] = ()
    placed_on: str | None = None
    placed_since: datetime | None = None
    affinity: Json | None = None
    must_be_on: str | None = None
    node: str | None = None
    bound_at: datetime | None = None
    reports_ready: bool = False
    ready_since: datetime | None = None
    started: bool = False
    """Its engine has passed the startup probe."""
    serving: bool = True
    deletion_cost: int = 0
    draining_since: str | None = None
    unrouted_since: str | None = None
    requests_inside: int | None = None
    """What its engine tells when it is asked."""
    listings: list[tuple[datetime, bool]] = field(default_factory=list)
    """Since when it has belonged into its Service's EndpointSlices, or not."""
    gone_at: datetime | None = None
    unschedulable: bool = False
    group: int | None = None
    """Index of its group, of a pod of a LeaderWorkerSet."""
    rank: int = 0
    """Its place in the group; 0 leads it."""
    size: int = 1
    """Pods of the whole group."""
    leader: str | None = None
    """Uid of the leader that a worker was made for."""
    claims_from: str | None = None
    """The ResourceClaimTemplate of its claim, of a pod whose GPUs are devices."""
    claimed: bool = False
    """Its claim is made."""
    devices: tuple[str, ...] = ()
    """The devices of its node that are allocated to its claim."""

    @property
    def terminating(self) -> bool:
        return self.gone_at is not None


@dataclass
class SimulatedPool:
    """The object that sizes a pool, and what its provider is busy with."""

    name: str
    labels: dict[str, str]
    """The labels of its nodes."""
    gpus: int
    resource: str = names.GPU_RESOURCE
    """The name by which its nodes' GPUs are requested."""
    promised: dict[str, str] = field(default_factory=dict)
    """Labels that the object says its nodes have."""
    wanted: int = 0
    claimed_by: str | None = None
    asked: int | None = None
    manager: str | None = None
    allowed: tuple[str, ...] = ("*",)
    max_nodes: int | None = None
    """Its owner's ceiling."""
    booting: list[datetime] = field(default_factory=list)
    made: int = 0
    provider_has: int = 1000
    """Nodes that it gives at most; asked for more, it refuses."""
    sold_out: bool = False
    """It makes no nodes for now, whatever ``provider_has`` says."""
    tells: bool = True
    """Refusals are told; else the nodes just do not come."""
    refused_at: datetime | None = None
    refusals: int = 0
    """Times that more nodes were asked for than it gives, and ticks for which that went on."""
    offered: Offered | None = None
    """What whoever makes its nodes says of the market."""
    blind: bool = False
    """Its next nodes come up without visible GPUs."""


NodeChange = Literal["rented", "came", "cancelled", "given back", "lost"]
"""What becomes of a node: it is paid from ``rented`` on until it is cancelled while it boots, given back or lost."""


class NodeEntry(NamedTuple):
    """One change of one node of a pool."""

    at: datetime
    pool: str
    """The name of the pool object."""
    what: NodeChange
    node: str
    """Its name; empty before it came."""
