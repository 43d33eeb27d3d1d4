"""What one turn knows: an ``Observation`` is one frozen value that holds everything, its time (``now``) included.

``observe`` and ``servingplan world`` write it, and all pure code reads it. From its JSON the same decision is made again
offline. A source that could not be read is a fact of the observation (``failures``), not an exception.
"""

from __future__ import annotations

from typing import Any

from servingplan.model import names
from servingplan.model.fact import Fact
from servingplan.model.readings import (
    GatewayFacts,
    SeenCatalogue,
    SeenDemand,
    SeenEngines,
    SeenModelConfig,
    SeenProfiles,
)


class PlanObject(Fact):
    """The ``LLMServingPlan`` as it stands in the cluster."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: Any
    """The spec as it was written; it may be wrong in any way."""
    approved_hash: str | None = None
    """The value of the annotation ``servingplan.dev/approve``."""
    queue: str | None = None
    """The value of the label ``kueue.x-k8s.io/queue-name``."""
    deleting_since: str | None = None
    """When its deletion was requested, RFC 3339; None if it was not."""
    created: str = ""
    """When it was created, RFC 3339."""
    status: dict[str, Any] = {}
    """The status as it was last published."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


class Taint(Fact):
    """A taint of a node: it keeps pods off that do not tolerate it."""

    key: str
    value: str = ""
    effect: str
    """NoSchedule or NoExecute."""


class Devices(Fact):
    """Devices of a node that are alike, from its ResourceSlices."""

    driver: str
    attributes: dict[str, str] = {}
    """Texts by full name (DOMAIN/NAME), without those that distinguish single devices."""
    count: int
    """The number of devices that may be allocated."""
    held_by_others: int = 0
    """The number of these that are allocated to claims of others."""


class DeviceClass(Fact):
    """What a DeviceClass requires of a device."""

    name: str
    driver: str | None = None
    """The driver of the device; None: any driver."""
    attributes: dict[str, str] = {}
    """Texts that the device must have, by full name (DOMAIN/NAME)."""
    unread: str | None = None
    """The expression of a selector that requires something else; None if all were understood."""


class Node(Fact):
    """A node, with the facts that placing replicas needs."""

    name: str
    labels: dict[str, str]
    gpus: int
    """Allocatable GPUs, as ``nvidia.com/gpu``."""
    gpu_resources: dict[str, int] = {}
    """Allocatable GPUs by the name of their resource; empty if there is none but ``nvidia.com/gpu``."""
    devices: tuple[Devices, ...] = ()
    """Its devices of Dynamic Resource Allocation."""
    cpu_millicores: int | None = None
    """Allocatable CPU; None if the node does not say."""
    memory_bytes: int | None = None
    """Allocatable memory; None if the node does not say."""
    ready: bool
    schedulable: bool = True
    """Whether it is not cordoned."""
    created: str = ""
    """When it was created, RFC 3339; empty if that is not known."""
    taints: tuple[Taint, ...] = ()
    """The taints that may stay. Left out are those by which the cluster, its agents, autoscalers and clouds report a node's
    state."""
    disrupted: bool = False
    """Whether an autoscaler or the cloud is removing it."""
    machine: str = ""
    """The Machine of Cluster API behind it, as ``NAMESPACE/NAME``; empty if there is none."""
    state_taints: tuple[Taint, ...] = ()
    """Taints of its state that keep new pods off, as on a node which its autoscaler or its agents are still setting up."""

    @property
    def usable(self) -> bool:
        """Whether a replica may be placed here."""
        return self.ready and self.schedulable and not self.disrupted


class Pod(Fact):
    """A pod that holds or wants GPUs. A replica of this plan is one such pod, or a group of pods over several nodes."""

    namespace: str
    name: str
    uid: str
    gpus: int
    created: str
    """When it was created, RFC 3339."""
    node: str | None = None
    """The node to which it is bound, or to which the plan tied it."""
    bound: bool = False
    """Whether the scheduler has bound it."""
    deployment: str | None = None
    """The plan's Deployment or LeaderWorkerSet that it belongs to; None for pods of others."""
    gated: bool = False
    """Whether it waits for the plan to place it."""
    other_gates: tuple[str, ...] = ()
    """Scheduling gates that others have set and not removed yet."""
    ready: bool = False
    """Whether it passes its readiness probe and is not being deleted."""
    started: bool = False
    """Whether all its containers have passed their startup probes since they last began."""
    unready_since: str | None = None
    """Since when it reports that it is not ready, also if it never was; RFC 3339."""
    ready_since: str | None = None
    """Since when it reports that it is ready, RFC 3339. None also if a container was restarted, because that is no first
    start."""
    running_since: str | None = None
    """Since when all its containers have run, RFC 3339. None also if a container was restarted."""
    listed: bool = False
    """Whether its Service's EndpointSlices list it as ready. Most gateways learn it from there, a moment after ``ready``."""
    terminating: bool = False
    serving: bool = True
    """Whether it belongs to its Service's endpoints; False while it drains."""
    draining_since: str | None = None
    """When its traffic was taken away, RFC 3339."""
    address: str | None = None
    """Its IP address, if it drains."""
    requests_inside: int | None = None
    """The running and waiting requests of its engine by its last answer. Only draining pods are asked. None if it did not
    answer."""
    unasked: bool = False
    """Whether its drain would be over, and there was no time yet to ask its engine."""
    unrouted_since: str | None = None
    """When the gateways were first seen with weights without it, RFC 3339."""
    placed_since: str | None = None
    """When it was given a node, RFC 3339."""
    node_affinity: dict[str, Any] | None = None
    """The required node affinity of a gated pod, which placing it narrows."""
    trouble: str | None = None
    """Why a container waits (ImagePullBackOff, CrashLoopBackOff), or why the scheduler refuses the pod."""
    crashes: int = 0
    """How often a container of a pod that is not ready has ended with an error."""
    last_words: str | None = None
    """How the last of these ended: the reason, the exit code, and the termination message."""

    workers: tuple[Pod, ...] = ()
    """The other pods of its group, if the replica spans nodes; this pod is then the leader. The facts of the leader hold
    for the whole group, except for name, uid, node, GPUs and affinity."""
    workers_to_come: int = 0
    """The number of pods that its group still lacks."""

    @property
    def parts(self) -> tuple[Pod, ...]:
        """All pods of the replica, the leader first."""
        return (self, *self.workers)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes to which its pods are bound, or were tied."""
        return tuple(part.node for part in self.parts if part.node is not None)

    @property
    def placed(self) -> bool:
        """Whether each of its pods has a node."""
        return all(part.node is not None for part in self.parts)

    @property
    def kept_back(self) -> bool:
        """Whether it cannot be placed yet, because a gate of others holds one of its pods, or a pod of its group is
        missing."""
        return bool(self.other_gates or self.workers_to_come)

    @property
    def reachable(self) -> bool:
        """Whether gateways can send it requests now: it is ready, and its Service lists it."""
        return self.ready and self.listed


class LiveObject(Fact):
    """A Deployment, LeaderWorkerSet, Service, ConfigMap or HTTPRoute that belongs to the plan or has a name that the plan
    uses."""

    kind: str
    name: str
    uid: str
    ours: bool
    """Whether it has the plan's label and the plan as its controller."""
    owner: str
    """The name of its owner, for messages."""
    manifest: dict[str, Any]
    """Labels, annotations, and spec or data; of an HTTPRoute also its generation and status; of a Deployment also
    ``status.replicaFailure``, if the API server refuses its pods."""
    rewritten: tuple[str, str] | None = None
    """What admission made of the plan's last write of it, if that differs from what was written (``manifests.rewriting``)."""
    rewritten_fields: tuple[str, ...] = ()
    """The fields that it changed."""
    replicas_owner: tuple[str, str] | None = None
    """The field manager that set ``spec.replicas`` of a Deployment or LeaderWorkerSet, and when (RFC 3339); None if it was
    this operator."""


class Refusal(Fact):
    """The last report that a node of a pool cannot be had, by the autoscaler or the cloud."""

    at: str
    """When it was last reported, RFC 3339."""
    message: str


class NodeTemplate(Fact):
    """What a pool's object says of all nodes that it makes, whether or not there are any."""

    labels: dict[str, str] = {}
    """Labels of every node."""
    taints: tuple[Taint, ...] = ()
    """Taints that stay and keep pods off."""
    startup_taints: tuple[Taint, ...] = ()
    """Taints of new nodes, which are removed once the node is prepared for pods."""
    instance_types: tuple[str, ...] = ()
    """The instance types that a node may have; empty if the object does not say."""
    zones: tuple[str, ...] = ()
    """The zones in which a node may be; empty if the object does not say."""
    gpus_per_node: int | None = None
    """GPUs of one node; None if the object does not say."""
    capacity_type: str | None = None
    """OnDemand, Spot or Reserved; None if the object does not say."""


class Offered(Fact):
    """What the autoscaler that makes the nodes of a pool says that its cloud sells now."""

    available: bool
    """Whether a node can be had in any zone of the pool."""
    dollars_per_node_hour: float | None = None
    """The estimated price; the highest if zones or types differ."""


class PoolObject(Fact):
    """The object that sizes a node pool."""

    pool: str
    """Name of the pool in the spec."""
    reference: str
    """``kind/namespace/name`` of the object."""
    problem_reason: str | None = None
    """PoolMissing, ReadForbidden, ReadFailed: why the rest is unknown."""
    problem: str | None = None
    """The same for people."""
    wanted: int | None = None
    """The size that is asked for."""
    actual: int | None = None
    """The size that the object reports."""
    claimed_by: str | None = None
    """``namespace/name`` of the plan that sizes it."""
    orphan_of: str | None = None
    """``namespace/name`` of a plan that no longer exists but whose claim is still there. It may be taken over."""
    path: tuple[str, ...] = ("spec", "replicas")
    """The keys that lead to the size."""
    path_problem: str | None = None
    """What is wrong with the path that the plan gives, for people."""
    step: int = 1
    """Sizes are multiples of this. A size that counts nodes of each zone changes by one node in each."""
    min_nodes: int = 0
    """The least size that the object's own bounds allow."""
    max_nodes: int | None = None
    """The ceiling for every plan, set by the pool's owner or by a bound of the object; None if there is none."""
    max_nodes_problem: str | None = None
    """Why the ceiling cannot be read, for people. ``max_nodes`` is then the present size."""
    dollars_per_node_hour: str | None = None
    """The price that the owner wrote on the object, which counts for every plan; None if there is none."""
    allowed_namespaces: tuple[str, ...] = ()
    """The namespaces whose plans may size it; ``*`` means all."""
    resource_version: str = ""
    """The API server refuses a write of the size if the object has changed since this version."""
    asked: int | None = None
    """The size that this operator last asked for, as noted on the object."""
    size_manager: str | None = None
    """The field manager that owns the size, if it is not this operator."""
    sized_by: str | None = None
    """Another autoscaler that sizes the pool according to the object, for people."""
    node_label: tuple[str, str] | None = None
    """The label by which every node of the pool names it; None if the kind has none."""
    template: NodeTemplate = NodeTemplate()
    """What the object says of its nodes."""
    refusal: Refusal | None = None
    """The last refusal, as long as the cluster reports it."""
    offered: Offered | None = None
    """What the cloud sells; None if nothing says."""

    @property
    def spoken(self) -> str:
        """The object's name for people: its kind, its namespace if it has one, and its name."""
        kind, namespace, name = self.reference.split("/", 2)
        return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"


class Failure(Fact):
    """A source that could not be read."""

    source: str
    """The name of the source, such as nodes or pods."""
    reason: str
    """ReadForbidden or ReadFailed."""
    message: str
    since: str | None = None
    """When it was last heard of, RFC 3339; None if never."""


class OtherPlan(Fact):
    """What another plan of the cluster says about pool objects."""

    key: str
    """``namespace/name``."""
    prices: dict[str, str] = {}
    """Price per node and hour, by pool object."""


class NamespaceBudget(Fact):
    """What all plans of the plan's namespace may spend together."""

    dollars_per_hour: float
    taken: dict[str, float] = {}
    """$/h by name of the other plans that take some of it."""

    @property
    def left(self) -> float:
        """$/h that are left for this plan."""
        return max(0.0, self.dollars_per_hour - sum(self.taken.values()))


class FlavorQuota(Fact):
    """What Kueue allows the plan's queue to hold of one resource on nodes of one flavor."""

    flavor: str
    node_labels: dict[str, str] = {}
    """The labels of its nodes."""
    resource: str
    """``nvidia.com/gpu`` for example."""
    most: int | None
    """The most that the queue may hold; None if nothing bounds it."""
    reserved: int
    """What the plan and others hold now."""


class Observation(Fact):
    """Everything that one turn knows."""

    version: int = 1
    now: str
    """The time of the turn, RFC 3339, UTC, whole seconds."""
    plan: PlanObject
    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    objects: tuple[LiveObject, ...] = ()
    pools: tuple[PoolObject, ...] = ()
    other_plans: tuple[OtherPlan, ...] = ()
    namespace_budget: NamespaceBudget | None = None
    """The namespace's budget; None if the installation sets none."""
    http_routes_unread: str | None = None
    """Why HTTPRoutes are not among the objects, for people: the API server does not serve them, or they may not be read."""
    gateway: GatewayFacts | None = None
    """The answers of the gateway; None if the plan names none that could be asked."""
    failures: tuple[Failure, ...] = ()
    ages: dict[str, float] = {}
    """Seconds since the API server was last heard of, by source. A source without changes is heard of once a minute."""
    leader_worker_sets: bool = False
    """Whether LeaderWorkerSets (``leaderworkerset.x-k8s.io/v1``) are served and may be read. Without them a replica is one
    pod."""
    device_classes: tuple[DeviceClass, ...] = ()
    """The DeviceClasses, ordered by name; empty if the API server does not serve Dynamic Resource Allocation."""
    quota: tuple[FlavorQuota, ...] | None = None
    """The quota of the Kueue queue that the plan names; None if it names none, or if it cannot be read."""
    demand: SeenDemand | None = None
    """The last reading of demand; None if the spec does not ask for it."""
    engines: SeenEngines | None = None
    """The last reading of engines; None if the spec does not ask to learn from them."""
    profiles: tuple[SeenProfiles, ...] = ()
    """The measured rates that the plan names, in the order of the spec."""
    pod_access: tuple[str, ...] | None = None
    """What the installation allows podTemplates to ask for (``render.pod_access``); None allows everything."""
    marks_machines: bool = False
    """Whether the installation lets the operator mark the Machines whose nodes a pool is to give back."""
    catalogues: tuple[SeenCatalogue, ...] = ()
    """The additions to the catalogue, ordered by name and key. Offline, the shipped prices are among them; in a
    cluster only what the installation states."""
    model_configs: tuple[SeenModelConfig, ...] = ()
    """The configurations, ordered by name."""

    def pool(self, name: str) -> PoolObject | None:
        """The object of a pool; None if the spec names none."""
        return next((pool for pool in self.pools if pool.pool == name), None)

    def live(self, kind: str, name: str) -> LiveObject | None:
        """The object of this kind and name; None if there is none."""
        return next((item for item in self.objects if item.kind == kind and item.name == name), None)

    def deployments(self) -> tuple[LiveObject, ...]:
        """The plan's Deployments and LeaderWorkerSets."""
        kinds = (names.DEPLOYMENT, names.LEADER_WORKER_SET)
        return tuple(item for item in self.objects if item.kind in kinds and item.ours)

    def pods_of(self, deployment: str) -> tuple[Pod, ...]:
        """The replicas of one of the plan's Deployments or LeaderWorkerSets, without those that are being deleted."""
        return tuple(pod for pod in self.pods if pod.deployment == deployment and not pod.terminating)
