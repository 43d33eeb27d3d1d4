"""What one turn saw: an ``Observation`` is a frozen value, the whole of it, with ``now`` inside.

It is written by ``observe`` and by ``servingplan world``, and read by everything pure. The JSON of one replays offline
to the same decision. A source that failed is a fact of the observation (``failures``), not an exception half-way.
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
    """The annotation ``servingplan.dev/approve``."""
    queue: str | None = None
    """The label ``kueue.x-k8s.io/queue-name``."""
    deleting_since: str | None = None
    """RFC 3339; when its deletion was asked for."""
    created: str = ""
    """RFC 3339."""
    status: dict[str, Any] = {}
    """The status as it was last published."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


class Taint(Fact):
    """What keeps pods off a node that do not tolerate it."""

    key: str
    value: str = ""
    effect: str
    """NoSchedule or NoExecute."""


class Devices(Fact):
    """Devices of a node that are alike, as its ResourceSlices tell."""

    driver: str
    attributes: dict[str, str] = {}
    """Texts by whole name (DOMAIN/NAME), without those that tell single devices apart."""
    count: int
    """The number of devices that may be allocated."""
    held_by_others: int = 0
    """The number of these that are allocated to claims of others than this plan."""


class DeviceClass(Fact):
    """What a DeviceClass asks of a device."""

    name: str
    driver: str | None = None
    """The driver of the device; None: any driver."""
    attributes: dict[str, str] = {}
    """Texts that the device must have, by whole name (DOMAIN/NAME)."""
    unread: str | None = None
    """The expression of a selector that asks for something else; None: all of them were understood."""


class Node(Fact):
    """A node with what matters for placing replicas."""

    name: str
    labels: dict[str, str]
    gpus: int
    """Allocatable GPUs, as ``nvidia.com/gpu``."""
    gpu_resources: dict[str, int] = {}
    """Allocatable GPUs by the name of their resource; empty where there is no other than ``nvidia.com/gpu``."""
    devices: tuple[Devices, ...] = ()
    """Its devices of Dynamic Resource Allocation."""
    cpu_millicores: int | None = None
    """Allocatable CPU; None where the node does not say."""
    memory_bytes: int | None = None
    """Allocatable memory; None where the node does not say."""
    ready: bool
    schedulable: bool = True
    """Not cordoned."""
    created: str = ""
    """RFC 3339; empty where it is not known."""
    taints: tuple[Taint, ...] = ()
    """The taints that may stay, without those by which the cluster, its agents, autoscalers and clouds tell of a node's
    state."""
    disrupted: bool = False
    """An autoscaler or the cloud is taking it away."""
    closed: bool = False
    """A taint of its state keeps new pods off, such as that of a node which its autoscaler or its agents are still setting
    up."""

    @property
    def usable(self) -> bool:
        """Whether a replica may be placed here."""
        return self.ready and self.schedulable and not self.disrupted


class Pod(Fact):
    """A pod that holds or wants GPUs, or a replica of ours: one pod, or a group of pods over several nodes."""

    namespace: str
    name: str
    uid: str
    gpus: int
    created: str
    """RFC 3339."""
    node: str | None = None
    """Where it is bound, or where our placement tied it to."""
    bound: bool = False
    """The scheduler has put it there."""
    deployment: str | None = None
    """Our Deployment or LeaderWorkerSet that it belongs to; absent for foreign pods."""
    gated: bool = False
    """Waits for our placement."""
    other_gates: tuple[str, ...] = ()
    """Scheduling gates beside ours: whoever set them has not let the pod go yet."""
    ready: bool = False
    """Passes its readiness probe, and is not being deleted."""
    started: bool = False
    """All its containers have passed their startup probes since they last began."""
    unready_since: str | None = None
    """RFC 3339; since when it says itself that it is not ready, also where it never was."""
    ready_since: str | None = None
    """RFC 3339; since when it says itself that it is ready. None also where a container began again: that is no first start."""
    running_since: str | None = None
    """RFC 3339; since when all its containers have run; None as above."""
    listed: bool = False
    """Its Service's EndpointSlices have it as ready, which is how most gateways learn of it: a moment after ``ready``."""
    terminating: bool = False
    serving: bool = True
    """Belongs to its Service's endpoints; false while it drains."""
    draining_since: str | None = None
    """RFC 3339; when its traffic was taken away."""
    address: str | None = None
    """IP address, of pods that drain."""
    requests_inside: int | None = None
    """Requests that its engine has, running and waiting, as it last told; asked only of pods that drain. None where it does
    not tell."""
    unasked: bool = False
    """Its drain would be over, and there was no time yet to ask its engine."""
    unrouted_since: str | None = None
    """RFC 3339; when the gateways were seen to have taken weights without it."""
    placed_since: str | None = None
    """RFC 3339; when it was given a node."""
    node_affinity: dict[str, Any] | None = None
    """Required node affinity of a gated pod, to be narrowed."""
    trouble: str | None = None
    """Why a container waits (ImagePullBackOff, CrashLoopBackOff), or why the scheduler refuses the pod."""
    crashes: int = 0
    """How often a container of a pod that is not ready has ended with an error."""
    last_words: str | None = None
    """What the last of these ended with: the reason, the exit code, and the termination message."""

    workers: tuple[Pod, ...] = ()
    """The other pods of its group: of a replica over several nodes, this is the leader. What is said of it is then said of the
    whole group, but for its name, uid, node, GPUs and affinity."""
    workers_to_come: int = 0
    """Pods that its group still lacks."""

    @property
    def parts(self) -> tuple[Pod, ...]:
        """All pods of the replica, the leader first."""
        return (self, *self.workers)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Where its pods are bound, or were tied to."""
        return tuple(part.node for part in self.parts if part.node is not None)

    @property
    def placed(self) -> bool:
        """Whether each of its pods has a node."""
        return all(part.node is not None for part in self.parts)

    @property
    def kept_back(self) -> bool:
        """Whether it cannot be placed yet: somebody else's gate holds a pod of it, or a pod of its group is not there."""
        return bool(self.other_gates or self.workers_to_come)

    @property
    def reachable(self) -> bool:
        """Whether gateways can send it requests now: it is ready, and they can know so."""
        return self.ready and self.listed


class LiveObject(Fact):
    """A Deployment, LeaderWorkerSet, Service, ConfigMap or HTTPRoute that is ours or bears a name that we use."""

    kind: str
    name: str
    uid: str
    ours: bool
    """Carries our label and has this plan as its controller."""
    owner: str
    """The name of its owner, for messages."""
    manifest: dict[str, Any]
    """Labels, annotations, and spec or data; of an HTTPRoute also its generation and status; of a Deployment whose pods the
    API server refuses ``status.replicaFailure``."""
    rewritten: tuple[str, str] | None = None
    """What admission made of our last write of it, where that is something else (``manifests.rewriting``)."""
    rewritten_fields: tuple[str, ...] = ()
    """The fields that it changed."""
    replicas_owner: tuple[str, str] | None = None
    """The field manager that set ``spec.replicas`` of a Deployment or LeaderWorkerSet, where that is not ours, and when it did
    (RFC 3339)."""


class Refusal(Fact):
    """Whoever sells the nodes of a pool said that one cannot be had."""

    at: str
    """RFC 3339; when it was said last."""
    message: str


class NodeTemplate(Fact):
    """What a pool's object says of all nodes that it makes, whether or not any is there."""

    labels: dict[str, str] = {}
    """Labels of every node."""
    taints: tuple[Taint, ...] = ()
    """Taints that stay and keep pods off."""
    startup_taints: tuple[Taint, ...] = ()
    """Taints that nodes bear until somebody has made them ready for pods."""
    instance_types: tuple[str, ...] = ()
    """Types of instances that a node may come as; empty: the object does not say."""
    zones: tuple[str, ...] = ()
    """Zones that a node may be in; empty: the object does not say."""
    gpus_per_node: int | None = None
    """GPUs of one node, where the object says so."""
    capacity_type: str | None = None
    """OnDemand, Spot or Reserved, where the object says so."""


class Offered(Fact):
    """What whoever makes the nodes of a pool says that its cloud sells now."""

    available: bool
    """Whether one can be had, in any zone of the pool."""
    dollars_per_node_hour: float | None = None
    """Its estimate of the price; the dearest where zones or types differ."""


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
    """Size asked for."""
    actual: int | None = None
    """Size that the object reports."""
    claimed_by: str | None = None
    """``namespace/name`` of the plan that sizes it."""
    orphan_of: str | None = None
    """``namespace/name`` of a plan that is not there any more and whose claim still stands: it may be taken over."""
    path: tuple[str, ...] = ("spec", "replicas")
    """Keys that lead to the size."""
    path_problem: str | None = None
    """What is wrong with the path that the plan gives, for people."""
    step: int = 1
    """Sizes are multiples of this: a size that counts nodes of each zone changes by one node in each."""
    min_nodes: int = 0
    """Least size that the object's own bounds allow."""
    max_nodes: int | None = None
    """Ceiling that the pool's owner, or a bound of the object, sets for every plan; None: none."""
    max_nodes_problem: str | None = None
    """Why the ceiling cannot be read, for people; ``max_nodes`` is the size of the moment then."""
    dollars_per_node_hour: str | None = None
    """Price that the owner wrote on it, which counts for every plan; None: none."""
    allowed_namespaces: tuple[str, ...] = ()
    """Namespaces whose plans may size it; ``*`` means all."""
    resource_version: str = ""
    """Writes of the size are refused by the API server when the object changed since."""
    asked: int | None = None
    """Size that this operator asked for last, as it noted on the object."""
    size_manager: str | None = None
    """Another field manager that owns the size, where one does."""
    sized_by: str | None = None
    """Another autoscaler that the object says sizes it, for people."""
    node_label: tuple[str, str] | None = None
    """Label by which every node of the pool names it; None: the kind has none."""
    template: NodeTemplate = NodeTemplate()
    """What the object says of its nodes."""
    refusal: Refusal | None = None
    """The last one, for as long as the cluster tells of it."""
    offered: Offered | None = None
    """None: nobody says."""


class Failure(Fact):
    """A source that could not be read."""

    source: str
    """Such as nodes or pods."""
    reason: str
    """ReadForbidden or ReadFailed."""
    message: str
    since: str | None = None
    """RFC 3339; when it was last heard of, where it ever was."""


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
    """What Kueue lets the plan's queue hold of one resource on nodes of one flavor."""

    flavor: str
    node_labels: dict[str, str] = {}
    """The labels of its nodes."""
    resource: str
    """``nvidia.com/gpu`` for example."""
    most: int | None
    """The most that the queue may hold; None: nothing bounds it."""
    reserved: int
    """What is held now, by the plan and by others."""


class Observation(Fact):
    """Everything that one turn may know."""

    version: int = 1
    now: str
    """RFC 3339, UTC, whole seconds."""
    plan: PlanObject
    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    objects: tuple[LiveObject, ...] = ()
    pools: tuple[PoolObject, ...] = ()
    other_plans: tuple[OtherPlan, ...] = ()
    namespace_budget: NamespaceBudget | None = None
    """Absent where the installation sets none for the namespace."""
    http_routes_unread: str | None = None
    """Why HTTPRoutes are not among the objects, for people: the API server knows none, or they may not be read."""
    gateway: GatewayFacts | None = None
    """Absent where the plan names none that could be asked."""
    failures: tuple[Failure, ...] = ()
    ages: dict[str, float] = {}
    """Seconds since the API server last told of each source; a quiet one is heard of once a minute."""
    leader_worker_sets: bool = False
    """LeaderWorkerSets (``leaderworkerset.x-k8s.io/v1``) are served and may be read, without which a replica is one pod."""
    device_classes: tuple[DeviceClass, ...] = ()
    """The DeviceClasses, ordered by name; empty where the API server does not serve Dynamic Resource Allocation."""
    quota: tuple[FlavorQuota, ...] | None = None
    """The quota of the Kueue queue that the plan names; absent where it names none, or nothing can be read of it."""
    demand: SeenDemand | None = None
    """Absent where the spec asks for none."""
    engines: SeenEngines | None = None
    """Absent where the spec does not ask to learn from them."""
    profiles: tuple[SeenProfiles, ...] = ()
    """The measured rates that the plan names, in the order of the spec."""
    pod_access: tuple[str, ...] | None = None
    """What the installation lets podTemplates ask for (``render.pod_access``); None: everything, where none was asked."""
    catalogues: tuple[SeenCatalogue, ...] = ()
    """The additions to the catalogue, ordered by name and key. Offline, the shipped prices are among them; in a
    cluster only what the installation states."""
    model_configs: tuple[SeenModelConfig, ...] = ()
    """The configurations, ordered by name."""

    def pool(self, name: str) -> PoolObject | None:
        """The object of a pool, where the spec names one."""
        return next((pool for pool in self.pools if pool.pool == name), None)

    def live(self, kind: str, name: str) -> LiveObject | None:
        """An object by kind and name."""
        return next((item for item in self.objects if item.kind == kind and item.name == name), None)

    def deployments(self) -> tuple[LiveObject, ...]:
        """Our Deployments and LeaderWorkerSets."""
        kinds = (names.DEPLOYMENT, names.LEADER_WORKER_SET)
        return tuple(item for item in self.objects if item.kind in kinds and item.ours)

    def pods_of(self, deployment: str) -> tuple[Pod, ...]:
        """Replicas of one of our Deployments or LeaderWorkerSets that are not being deleted."""
        return tuple(pod for pod in self.pods if pod.deployment == deployment and not pod.terminating)
