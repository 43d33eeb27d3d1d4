"""A cluster in memory: nodes, node pools, Deployments, a scheduler, kubelets and a clock that tests move.

It knows nothing of how plans are made: the operator reads and writes it through its API server (``api``). Controllers act as
Kubernetes documents it, each in one place:

* ReplicaSets   kubernetes/kubernetes pkg/controller/controller_utils.go, ActivePodsWithRanks
* groups        kubernetes-sigs/lws pkg/controllers/pod_controller.go, with restart policy RecreateGroupOnPodRestart
* scheduling    gates, required node affinity on ``metadata.name``, node selectors, whole GPUs
* pod GC        pods of a node that is gone stay Ready in the API until the collector removes them
* claims        made from the template that a pod names, once that is there; allocated as the pod is bound; gone with it
* EndpointSlices list a Service's ready pods some time after these are ready
* gateway       takes each revision of the weights some time after it is written, and says which it has
* node pools    a size that is asked for; nodes boot after a while; a shrink takes empty nodes first
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from servingplan.api.crd import UNSEEN
from servingplan.kube import Api
from servingplan.model import names
from servingplan.model.readings import SeenDemand, SeenEngines
from servingplan.model.world import Observation
from servingplan.observe.cluster import Reader
from servingplan.observe.state import ClusterState
from servingplan.observe.urls import UrlPolicy
from servingplan.rehearse.api import SimulatedApi
from servingplan.rehearse.beside import Engines, Market, Outside, Prometheus
from servingplan.rehearse.objects import DEVICE_KINDS, NAMESPACE, PLAN, device_names, text
from servingplan.rehearse.parts import NodeChange, NodeEntry, SimulatedNode, SimulatedPod, SimulatedPool
from servingplan.render.leader_worker_set import template_in

TICK_SECONDS = 10
WORKLOADS = (names.DEPLOYMENT, names.LEADER_WORKER_SET)
QUEUE_GATE = "kueue.x-k8s.io/admission"
START = datetime(2026, 1, 1, tzinfo=UTC)

Json = dict[str, Any]


class SimulatedCluster:
    """See the module's docstring. Ticks are ``TICK_SECONDS`` long."""

    def __init__(
        self,
        spec: Json,
        *,
        namespace: str = NAMESPACE,
        plan: str = PLAN,
        boot_ticks: float = 2,
        start_ticks: float = 3,
        stop_ticks: float = 2,
        collect_ticks: int = 6,
        never_ready: Callable[[int], bool] = lambda serial: False,
        controllers_keep_up: bool = True,
        gateway_ticks: int | None = None,
        route_ticks: int = 0,
        slice_ticks: int = 0,
        leader_worker_sets: bool = False,
        devices: bool = False,
    ) -> None:
        """``leader_worker_sets``: their controller is installed. ``devices``: the nodes' GPUs are devices of a driver, in
        place of an extended resource. ``gateway_ticks``: how long the gateway takes to follow; None: it cannot be asked.
        ``route_ticks``: how long that of the HTTPRoutes takes. ``slice_ticks``: how long EndpointSlices
        take to follow pods."""
        self.namespace, self.plan = namespace, plan
        self.now = START
        self.demand: Callable[[datetime], SeenDemand | None] = lambda now: None
        self.engines: Callable[[datetime], SeenEngines] = lambda now: SeenEngines()
        self.boot_ticks, self.start_ticks = boot_ticks, start_ticks
        self.stop_ticks, self.collect_ticks = stop_ticks, collect_ticks
        self.never_ready = never_ready
        self.crashes: Callable[[SimulatedPod], str | None] = lambda pod: None
        """Why the engine of a pod ends as soon as it has begun; None: it does not."""
        self.controllers_keep_up = controllers_keep_up
        self.spec: Json = copy.deepcopy(spec)
        self.generation = 1
        self.approved: str | None = None
        self.queue: str | None = None
        self.deleting_since: str | None = None
        self.status: Json = dict(UNSEEN)
        self.nodes: dict[str, SimulatedNode] = {}
        self.allocatable: dict[str, str] = {}
        """What new nodes have beside GPUs; empty: they do not say."""
        self.pods: dict[str, SimulatedPod] = {}
        self.pools: dict[str, SimulatedPool] = {}
        self.objects: dict[tuple[str, str], Json] = {}
        self.foreign_objects: set[tuple[str, str]] = set()
        self.refuses: Callable[[Json], bool] = lambda manifest: False
        """Whether the API server does not take an object."""
        self.most_pods: int | None = None
        """A quota: no more of our pods are created."""
        self.scalers: dict[str, tuple[str, str]] = {}
        """Who else set the number of replicas of a Deployment, and when."""
        self.uids: dict[tuple[str, str], str] = {}
        self.other_plans: dict[str, Json] = {}
        """Specs of other plans of the namespace, by name."""
        self.absent_kinds: set[str] = set() if leader_worker_sets else {names.LEADER_WORKER_SET}
        """Kinds whose CRDs are not installed."""
        self.devices = devices
        self.absent_kinds |= set() if devices else {kind.kind for kind in DEVICE_KINDS}
        self.silent_drivers: set[str] = set()
        """Nodes whose driver publishes nothing."""
        self.gateway_ticks = gateway_ticks
        self.gateway_answers = True
        self.route_ticks = route_ticks
        self.slice_ticks = slice_ticks
        self.route_objection: tuple[str, str, str] | None = None
        """Condition, reason and message with which the HTTPRoutes' gateway refuses."""
        self.routes_written: dict[str, list[tuple[datetime, Json]]] = {}
        self.published: list[tuple[datetime, Json]] = []
        self.removed_early: list[str] = []
        self.vanished: dict[str, datetime] = {}
        self.ledger: list[NodeEntry] = []
        """What became of the nodes of pools, in order of time."""
        self._serial = 0
        self._made = 0
        self.api = SimulatedApi(self)

    # --- what people and the world outside do ---------------------------------------------------------------------

    def edit(self, spec: Json) -> None:
        """A person changes the plan's spec."""
        if spec != self.spec:
            self.spec = copy.deepcopy(spec)
            self.generation += 1

    def add_node(self, name: str, labels: dict[str, str], gpus: int, resource: str = names.GPU_RESOURCE) -> None:
        """A machine, perhaps one that was here before and comes back empty."""
        if self.vanished.pop(name, None) is not None:
            self.pods = {key: pod for key, pod in self.pods.items() if pod.node != name}
        self._make_node(name, labels, gpus, resource=resource)

    def _make_node(
        self,
        name: str,
        labels: Mapping[str, str],
        gpus: int,
        pool: str | None = None,
        *,
        resource: str = names.GPU_RESOURCE,
    ) -> None:
        self._made += 1
        self.nodes[name] = SimulatedNode(
            name, dict(labels), gpus, f"node-{self._made}", pool, allocatable=dict(self.allocatable), resource=resource
        )

    def add_pool(self, name: str, labels: dict[str, str], gpus: int, **more: Any) -> None:
        self.pools[name] = SimulatedPool(name, dict(labels), gpus, promised=dict(labels), **more)

    def admit(self, count: int) -> None:
        """The queue lets so many of its pods go, the oldest first."""
        held = sorted((pod for pod in self.pods.values() if pod.other_gates), key=lambda pod: pod.serial)
        for pod in held[:count]:
            pod.other_gates = ()

    def scale(self, name: str, replicas: int, manager: str) -> None:
        """Somebody else sets the number of replicas of a Deployment or LeaderWorkerSet."""
        kind = next(kind for kind in WORKLOADS if (kind, name) in self.objects)
        before = self.objects[kind, name]
        self.objects[kind, name] = {**before, "spec": {**before["spec"], "replicas": replicas}}
        self.scalers[name] = (manager, self.time)
        self.run_controllers()

    def add_foreign_pod(self, node: str, gpus: int) -> str:
        pod = self._new_pod(f"foreign-{self._serial}", gpus)
        if self.devices:
            pod.claims_from, pod.claimed = "foreign", True
        self._bind(pod, node)
        pod.reports_ready = True
        return pod.name

    def lose_node(self, name: str) -> None:
        """The node object is gone at once; its pods linger in the API."""
        pool = self.pools.get(self.nodes[name].pool or "")
        if pool is not None:
            self._note(pool, "lost", name)
        del self.nodes[name]
        self.vanished[name] = self.now
        self.run_controllers()

    # --- what the operator sees -----------------------------------------------------------------------------------

    @property
    def time(self) -> str:
        return text(self.now)

    def observe(self) -> Observation:
        """The world as an operator that starts at this moment reads it."""
        with self.api.one_moment():
            state = ClusterState(self.api, clock=self.seconds)
            state.load()
            world = self.reader(self.api, state).observe(self.namespace, self.plan)
        assert world is not None
        return world

    def reader(self, api: Api, state: ClusterState) -> Reader:
        """The operator's reader, which asks this cluster's gateway, engines, Prometheus and clock."""
        return Reader(
            api,
            state,
            pool_kinds=None,
            urls=UrlPolicy(api, allowed_hosts=frozenset()),
            demand=Prometheus(self),
            engines=Engines(self),
            offerings=Market(self),
            outside=Outside(self),
            clock=lambda: self.time,
        )

    def seconds(self) -> float:
        """The clock of what measures how long something lasts."""
        return (self.now - START).total_seconds()

    def ticks_since(self, moment: datetime | None) -> int:
        """Ticks that are over since a moment."""
        return 0 if moment is None else int((self.now - moment).total_seconds() // TICK_SECONDS)

    def lacks_pods(self, manifest: Json, name: str) -> bool:
        """Whether the quota keeps pods of a Deployment from being made."""
        active = [pod for pod in self.pods_of(name) if not pod.terminating]
        return self.most_pods is not None and len(active) < manifest["spec"]["replicas"]

    def taken_by_gateway(self) -> Json | None:
        """The routing document that requests really go by."""
        lag = self._ticks(self.gateway_ticks or 0)
        return next((document for at, document in reversed(self.published) if at + lag <= self.now), None)

    def routes_taken(self, name: str) -> int:
        """The generation of an HTTPRoute that its gateway goes by."""
        return sum(at + self._ticks(self.route_ticks) <= self.now for at, _ in self.routes_written[name])

    def uid_of(self, kind: str, name: str) -> str:
        """The uid of an object; one that was deleted and made anew has another."""
        if (kind, name) not in self.uids:
            self._made += 1
            self.uids[kind, name] = f"{kind}-{name}-{self._made}"
        return self.uids[kind, name]

    # --- what is written through the API ----------------------------------------------------------------------------

    def put(self, manifest: Json) -> None:
        """An object of ours, as it is from now on."""
        kind, name = key = (manifest["kind"], manifest["metadata"]["name"])
        before = self.objects.get(key)
        if before is not None and kind in WORKLOADS:
            assert template_in(before) == template_in(manifest), f"{name} would roll its pods over"
            if before["spec"]["replicas"] != manifest["spec"]["replicas"]:
                self.scalers.pop(name, None)
        if before is not None and kind == names.CLAIM_TEMPLATE:
            assert before["spec"] == manifest["spec"], f"the spec of {kind} {name} cannot change"
        self.objects[key] = manifest
        if kind == "HTTPRoute" and (before is None or before["spec"] != manifest["spec"]):
            self.routes_written.setdefault(name, []).append((self.now, manifest))
        if "routing.json" in manifest.get("data", {}):
            self.published.append((self.now, json.loads(manifest["data"]["routing.json"])))

    def take(self, kind: str, name: str, item: Json, patch: Json, manager: str) -> None:
        """An object as a patch of a manager leaves it."""
        match kind:
            case "Pod":
                self._take_pod(self.pods[name], item)
            case "LLMServingPlan":
                self.approved = item["metadata"]["annotations"].get(names.APPROVE_ANNOTATION)
            case "NodePool":
                self._take_pool(self.pools[name], item, patch, manager)
            case _:
                before = self.objects[kind, name]
                metadata = {key: item["metadata"][key] for key in before["metadata"] if key in item["metadata"]}
                kept = {key: item[key] for key in before if key in item}
                self.objects[kind, name] = {**kept, "metadata": metadata}
                if kind in WORKLOADS and "replicas" in patch.get("spec", {}) and manager == names.FIELD_MANAGER:
                    self.scalers.pop(name, None)

    def _take_pod(self, pod: SimulatedPod, item: Json) -> None:
        marks, labels = item["metadata"].get("annotations") or {}, item["metadata"]["labels"]
        gates = [gate["name"] for gate in item["spec"]["schedulingGates"]]
        affinity = item["spec"].get("affinity")
        assert pod.gated or affinity == pod.affinity, f"{pod.name}: affinity of a pod without a gate cannot change"
        pod.gated, pod.affinity = names.PLACEMENT_GATE in gates, affinity
        if affinity is not None:
            (term,) = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
            pod.must_be_on = term["matchFields"][-1]["values"][0]
        pod.placed_on = marks.get(names.PLACED_ON_ANNOTATION)
        since = marks.get(names.PLACED_SINCE_ANNOTATION)
        pod.placed_since = None if since is None else datetime.fromisoformat(since)
        pod.draining_since = marks.get(names.DRAINING_SINCE_ANNOTATION)
        pod.unrouted_since = marks.get(names.UNROUTED_SINCE_ANNOTATION)
        pod.deletion_cost = int(marks.get(names.DELETION_COST_ANNOTATION, 0))
        pod.serving = labels.get(names.SERVING_LABEL) == "true"

    def _take_pool(self, pool: SimulatedPool, item: Json, patch: Json, manager: str) -> None:
        marks = item["metadata"]["annotations"]
        asked = marks.get(names.SIZE_ANNOTATION)
        pool.claimed_by = marks.get(names.CLAIM_ANNOTATION)
        pool.asked = None if asked is None else int(asked)
        if "spec" in patch:
            pool.wanted = item["spec"]["replicas"]
            pool.manager = None if manager == names.POOL_MANAGER else manager
            pool.refusals += pool.wanted > pool.provider_has

    def delete(self, kind: str, name: str) -> None:
        """Delete a pod, which takes its time, or another object, whose pods go with it."""
        if kind == "Pod":
            self.delete_pod(self.pods[name])
            return
        if kind in WORKLOADS:
            for pod in [pod for pod in self.our_pods() if pod.deployment == name]:
                self.delete_pod(pod)
        del self.objects[kind, name]
        self.uids.pop((kind, name), None)

    # --- controllers ----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """A tick passes."""
        self.pass_until(self.now + timedelta(seconds=TICK_SECONDS))

    def next_due(self) -> datetime | None:
        """The next moment at which something ends by itself: a boot, a start, a stop, a pod of a lost node; None if none
        does."""
        found = [moment for pool in self.pools.values() for moment in pool.booting]
        for pod in self.pods.values():
            lost = self.vanished.get(pod.node or "")
            if lost is not None:
                found.append(lost + self._ticks(self.collect_ticks))
            elif pod.gone_at is not None:
                found.append(pod.gone_at)
            elif pod.bound_at is not None and not pod.reports_ready and self._alive(pod.node):
                found.append(pod.bound_at + self._ticks(self.start_ticks))
        return min((moment for moment in found if moment > self.now), default=None)

    def pass_until(self, moment: datetime) -> None:
        """Time passes: what was due happens at its end, then controllers react."""
        self.now = moment
        for pool in self.pools.values():
            pool.refusals += pool.wanted > pool.provider_has
            due = [moment for moment in pool.booting if moment <= self.now]
            pool.booting = [moment for moment in pool.booting if moment > self.now]
            for _ in due:
                pool.made += 1
                name = f"{pool.name}-{pool.made}"
                self._note(pool, "came", name)
                gpus = 0 if pool.blind else pool.gpus
                self._make_node(name, pool.labels, gpus, pool.name, resource=pool.resource)
        for pod in list(self.pods.values()):
            lost = self.vanished.get(pod.node or "")
            collected = lost is not None and lost + self._ticks(self.collect_ticks) <= self.now
            if collected or (pod.gone_at is not None and pod.gone_at <= self.now and lost is None):
                del self.pods[pod.name]
            elif pod.bound_at is not None and not pod.terminating and self._alive(pod.node):
                started = pod.bound_at + self._ticks(self.start_ticks) <= self.now
                pod.reports_ready = pod.reports_ready or (
                    started
                    and not self.never_ready(pod.serial)
                    and self.crashes(pod) is None
                    and self._workers_run(pod)
                )
                pod.started = pod.started or pod.reports_ready
                pod.ready_since = pod.ready_since or (self.now if pod.reports_ready else None)
        self.run_controllers()

    def run_controllers(self) -> None:
        """All that reacts at once: ReplicaSets, the scheduler, the providers of pools."""
        for kind, name in sorted(self.objects):
            if kind == names.DEPLOYMENT and (kind, name) not in self.foreign_objects:
                self._reconcile_replicas(name)
            if kind == names.LEADER_WORKER_SET and (kind, name) not in self.foreign_objects:
                self._reconcile_groups(name)
        self._schedule()
        for pool in self.pools.values():
            self._reconcile_pool(pool)
        self._reconcile_slices()

    def _reconcile_slices(self) -> None:
        for pod in self.our_pods():
            belongs = self._belongs_to_service(pod)
            if belongs != (bool(pod.listings) and pod.listings[-1][1]):
                pod.listings.append((self.now, belongs))

    def _belongs_to_service(self, pod: SimulatedPod) -> bool:
        there = ("Service", pod.deployment) in self.objects
        return there and pod.reports_ready and pod.serving and not pod.terminating

    def _reconcile_replicas(self, name: str) -> None:
        spec = self.objects["Deployment", name]["spec"]
        active = [pod for pod in self.pods_of(name) if not pod.terminating]
        for _ in range(spec["replicas"] - len(active)):
            if self.most_pods is not None and len(self.our_pods()) >= self.most_pods:
                break
            self._pod_from(spec["template"], f"{name}-{self._serial:04d}", name)
        on_node = {pod.node: sum(other.node == pod.node for other in active) for pod in active}
        active.sort(
            key=lambda pod: (
                pod.node is not None,
                pod.bound_at is not None,
                pod.reports_ready,
                pod.deletion_cost,
                -on_node[pod.node],
                -pod.created.timestamp(),
                -pod.serial,
            )
        )
        for pod in active[: max(0, len(active) - spec["replicas"])]:
            self.delete_pod(pod)

    def _pod_from(self, template: Json, name: str, workload: str) -> SimulatedPod:
        limits = template["spec"]["containers"][0]["resources"].get("limits", {})
        asked = json.loads(template["metadata"].get("annotations", {}).get(names.DEVICES_ANNOTATION, '{"count": 0}'))
        pod = self._new_pod(name, sum(map(int, limits.values())) + asked["count"])
        pod.resource = next(iter(limits), names.GPU_RESOURCE)
        for claim in template["spec"].get("resourceClaims", ()):
            pod.claims_from = claim["resourceClaimTemplateName"]
        pod.deployment, pod.selector = workload, template["spec"]["nodeSelector"]
        pod.gated = bool(template["spec"]["schedulingGates"])
        labels = template["metadata"]["labels"]
        pod.other_gates = (QUEUE_GATE,) if labels.get(names.QUEUE_LABEL) else ()
        pod.serving = labels.get(names.SERVING_LABEL) == "true"
        return pod

    def _reconcile_groups(self, name: str) -> None:
        """Leaders are pods of a StatefulSet, and the workers of each of another one, which goes with its leader."""
        spec = self.objects[names.LEADER_WORKER_SET, name]["spec"]
        template, size = spec["leaderWorkerTemplate"], spec["leaderWorkerTemplate"]["size"]
        for pod in [pod for pod in self.our_pods() if pod.deployment == name]:
            leader = self.pods.get(f"{name}-{pod.group}")
            if pod.rank and (leader is None or leader.uid != pod.leader):
                self.delete_pod(pod)
            elif leader is not None and ((pod.rank and pod.terminating) or self._restarted(pod)):
                for part in self._group_of(leader):
                    self.delete_pod(part)
            elif not pod.rank and (pod.group or 0) >= spec["replicas"]:
                self.delete_pod(pod)
        for group in range(spec["replicas"]):
            leader = self._member(name, group, 0, template["leaderTemplate"], size)
            for rank in range(1, size if leader is not None and not leader.terminating else 1):
                self._member(name, group, rank, template["workerTemplate"], size, leader)

    def _member(
        self, name: str, group: int, rank: int, template: Json, size: int, leader: SimulatedPod | None = None
    ) -> SimulatedPod | None:
        """A pod of a group, made where none of its name is there; None where a quota lets no more come."""
        pod_name = f"{name}-{group}-{rank}" if rank else f"{name}-{group}"
        if pod_name not in self.pods and (self.most_pods is None or len(self.our_pods()) < self.most_pods):
            pod = self._pod_from(template, pod_name, name)
            pod.group, pod.rank, pod.size = group, rank, size
            pod.leader = None if leader is None else leader.uid
        return self.pods.get(pod_name)

    def _group_of(self, leader: SimulatedPod) -> list[SimulatedPod]:
        """A leader and the workers that were made for it."""
        return [leader, *(pod for pod in self.pods.values() if pod.leader == leader.uid)]

    def _workers_run(self, pod: SimulatedPod) -> bool:
        """Whether a leader has all of its workers; true of any other pod."""
        workers = self._group_of(pod)[1:] if pod.size > 1 and not pod.rank else []
        whole = pod.size == 1 or pod.rank > 0 or len(workers) == pod.size - 1
        return whole and all(self.is_ready(worker) for worker in workers)

    def _restarted(self, pod: SimulatedPod) -> bool:
        """Whether a container of it has begun anew."""
        crashed = self.crashes(pod) is not None and pod.bound_at is not None and not pod.reports_ready
        return crashed and self.ticks_since(pod.bound_at) >= 2

    def _schedule(self) -> None:
        for pod in sorted(self.pods.values(), key=lambda pod: pod.serial):
            pod.claimed = pod.claimed or (names.CLAIM_TEMPLATE, pod.claims_from) in self.objects
            if pod.node is not None or pod.gated or pod.other_gates or pod.terminating:
                continue
            fitting = [
                node
                for node in self.nodes.values()
                if node.ready
                and node.schedulable
                and not node.disrupted
                and not node.closed
                and pod.must_be_on in (None, node.name)
                and pod.selector.items() <= node.labels.items()
                and self.free_gpus(node.name) >= pod.gpus
                and (pod.claims_from is None or (pod.claimed and node.name not in self.silent_drivers))
            ]
            pod.unschedulable = not fitting
            if fitting:
                self._bind(pod, max(fitting, key=lambda node: self.free_gpus(node.name)).name)

    def _bind(self, pod: SimulatedPod, node: str) -> None:
        if pod.claims_from is not None:
            held = {name for other in self.pods.values() if other.node == node for name in other.devices}
            free = [name for name in device_names(self.nodes[node]) if name not in held]
            pod.devices = tuple(free[: pod.gpus])
            assert len(pod.devices) == pod.gpus, f"{node} has no devices for {pod.name}"
        pod.node, pod.bound_at = node, self.now

    def _reconcile_pool(self, pool: SimulatedPool) -> None:
        nodes = self.nodes_of(pool.name)
        gives = len(nodes) + len(pool.booting) if pool.sold_out else pool.provider_has
        while len(nodes) + len(pool.booting) < min(pool.wanted, gives):
            pool.booting.append(self.now + self._ticks(self.boot_ticks))
            self._note(pool, "rented")
        if len(nodes) + len(pool.booting) < pool.wanted:
            pool.refused_at = self.now if pool.tells else None
        while len(nodes) + len(pool.booting) > pool.wanted and pool.booting:
            pool.booting.pop()
            self._note(pool, "cancelled")
        nodes.sort(key=lambda node: (sum(pod.node == node.name for pod in self.pods.values()) > 0, node.name))
        for node in nodes[: max(0, len(nodes) - pool.wanted)]:
            del self.nodes[node.name]
            self.vanished[node.name] = self.now
            self._note(pool, "given back", node.name)

    def _note(self, pool: SimulatedPool, what: NodeChange, node: str = "") -> None:
        self.ledger.append(NodeEntry(self.now, pool.name, what, node))

    def targets_of_gateway(self) -> set[str]:
        """Services that requests really go to."""
        models = (self.taken_by_gateway() or {"models": {}})["models"].values()
        entries = [entry for model in models for entry in model["classes"]]
        return {target["service"] for entry in entries for target in entry["targets"]} | self._targets_of_routes()

    def _targets_of_routes(self) -> set[str]:
        lag, found = self._ticks(self.route_ticks), set()
        for name, written in self.routes_written.items():
            taken = [manifest for at, manifest in written if at + lag <= self.now]
            if taken and ("HTTPRoute", name) in self.objects:
                found |= {ref["name"] for rule in taken[-1]["spec"]["rules"] for ref in rule["backendRefs"]}
        return found

    def _others_serve(self, pod: SimulatedPod) -> bool:
        others = [other for other in self.our_pods() if other.deployment == pod.deployment and not other.rank]
        return any(self.is_ready(other) and other.serving for other in others if other is not pod)

    # --- looking ---------------------------------------------------------------------------------------------------

    def nodes_of(self, pool: str) -> list[SimulatedNode]:
        return [node for node in self.nodes.values() if node.pool == pool]

    def pods_of(self, deployment: str) -> list[SimulatedPod]:
        """Its replicas, of groups the leaders."""
        return [pod for pod in self.pods.values() if pod.deployment == deployment and not pod.rank]

    def our_pods(self) -> list[SimulatedPod]:
        return [pod for pod in self.pods.values() if pod.deployment is not None]

    def is_ready(self, pod: SimulatedPod) -> bool:
        """Really: not only in the API."""
        return pod.reports_ready and not pod.terminating and self._alive(pod.node) and self._workers_run(pod)

    def is_listed(self, pod: SimulatedPod) -> bool:
        """Whether its Service's EndpointSlices have it as ready by now."""
        seen = self.now - self._ticks(self.slice_ticks)
        return next((belongs for at, belongs in reversed(pod.listings) if at <= seen), False)

    def free_gpus(self, node: str) -> int:
        return self.nodes[node].gpus - sum(pod.gpus for pod in self.pods.values() if pod.node == node)

    def is_foreign(self, node: SimulatedNode) -> bool:
        """Whether pods that are not ours hold all its GPUs."""
        foreign = [pod.gpus for pod in self.pods.values() if pod.node == node.name and pod.deployment is None]
        return node.ready and node.schedulable and sum(foreign) >= node.gpus

    @property
    def busy(self) -> bool:
        """Whether something is under way that ends by itself."""
        return any(pool.booting for pool in self.pools.values()) or any(
            pod.terminating
            or pod.node in self.vanished
            or self.is_listed(pod) != self._belongs_to_service(pod)
            or (
                pod.bound_at is not None
                and not pod.reports_ready
                and self._alive(pod.node)
                and not self.never_ready(pod.serial)
            )
            for pod in self.our_pods()
        )

    def _alive(self, node: str | None) -> bool:
        return node in self.nodes and self.nodes[node].ready

    def _ticks(self, count: float) -> timedelta:
        return timedelta(seconds=count * TICK_SECONDS)

    def _new_pod(self, name: str, gpus: int) -> SimulatedPod:
        self._serial += 1
        pod = SimulatedPod(name, f"uid-{self._serial}", gpus, self.now, self._serial)
        self.pods[name] = pod
        return pod

    def delete_pod(self, pod: SimulatedPod) -> None:
        """Ask for its end: at once where it never started, after its grace period otherwise."""
        if pod.terminating:
            return
        if (
            not pod.rank
            and self.is_ready(pod)
            and pod.deployment in self.targets_of_gateway()
            and not self._others_serve(pod)
        ):
            self.removed_early.append(pod.name)
        if pod.node is None:
            del self.pods[pod.name]
        else:
            pod.gone_at = self.now + self._ticks(self.stop_ticks)
