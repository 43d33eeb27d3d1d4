"""A cluster in memory: nodes, node pools, Deployments, a scheduler, kubelets and a clock that tests move.

It knows nothing of how plans are made: it takes the operator's writes as an API server would and shows what an
observation would. Controllers act as Kubernetes documents it, each in one place:

* ReplicaSets   kubernetes/kubernetes pkg/controller/controller_utils.go, ActivePodsWithRanks
* scheduling    gates, required node affinity on ``metadata.name``, node selectors, whole GPUs
* pod GC        pods of a node that is gone stay Ready in the API until the collector removes them
* EndpointSlices list a Service's ready pods some time after these are ready
* gateway       takes each revision of the weights some time after it is written, and says which it has
* node pools    a size that is asked for; nodes boot after a while; a shrink takes empty nodes first
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model import names
from servingplan.model.actions import (
    AnyAction,
    ApplyObject,
    ClaimPool,
    DeleteObject,
    DeletePod,
    DrainPod,
    NoteUnrouted,
    PlacePod,
    ResizePool,
    RestorePod,
    ScaleDeployment,
)
from servingplan.model.world import (
    GatewayFacts,
    LiveObject,
    Node,
    Observation,
    OtherPlan,
    PlanObject,
    Pod,
    PoolObject,
    Refusal,
    SeenDemand,
)

NAMESPACE = "llm"
PLAN = "chat"
TICK_SECONDS = 10
QUEUE_GATE = "kueue.x-k8s.io/admission"
START = datetime(2026, 1, 1, tzinfo=UTC)

Json = dict[str, Any]


@dataclass
class SimulatedNode:
    """A node; ``pool`` names the pool object that made it, if one did."""

    name: str
    labels: dict[str, str]
    gpus: int
    pool: str | None = None
    ready: bool = True
    schedulable: bool = True
    disrupted: bool = False


@dataclass
class SimulatedPod:
    """A pod, ours (``deployment``) or foreign."""

    name: str
    uid: str
    gpus: int
    created: datetime
    serial: int
    deployment: str | None = None
    selector: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    other_gates: tuple[str, ...] = ()
    placed_on: str | None = None
    placed_since: datetime | None = None
    must_be_on: str | None = None
    node: str | None = None
    bound_at: datetime | None = None
    reports_ready: bool = False
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

    @property
    def terminating(self) -> bool:
        return self.gone_at is not None


@dataclass
class SimulatedPool:
    """The object that sizes a pool, and what its provider is busy with."""

    name: str
    labels: dict[str, str]
    gpus: int
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
    tells: bool = True
    """Refusals are told; else the nodes just do not come."""
    refused_at: datetime | None = None
    refusals: int = 0
    """Times that more nodes were asked for than it gives, and ticks for which that went on."""
    blind: bool = False
    """Its next nodes come up without visible GPUs."""


class SimulatedCluster:
    """See the module's docstring. Ticks are ``TICK_SECONDS`` long."""

    def __init__(
        self,
        spec: Json,
        *,
        boot_ticks: int = 2,
        start_ticks: int = 3,
        stop_ticks: int = 2,
        collect_ticks: int = 6,
        never_ready: Callable[[int], bool] = lambda serial: False,
        controllers_keep_up: bool = True,
        gateway_ticks: int | None = None,
        route_ticks: int = 0,
        slice_ticks: int = 0,
    ) -> None:
        """``gateway_ticks``: how long the gateway takes to follow; None: it cannot be asked. ``route_ticks``: how long that of
        the HTTPRoutes takes. ``slice_ticks``: how long EndpointSlices take to follow pods."""
        self.now = START
        self.demand: Callable[[datetime], SeenDemand | None] = lambda now: None
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
        self.status: Json = {}
        self.nodes: dict[str, SimulatedNode] = {}
        self.pods: dict[str, SimulatedPod] = {}
        self.pools: dict[str, SimulatedPool] = {}
        self.objects: dict[tuple[str, str], Json] = {}
        self.foreign_objects: set[tuple[str, str]] = set()
        self.refuses: Callable[[Json], bool] = lambda manifest: False
        """Whether the API server does not take an object."""
        self.most_pods: int | None = None
        """A quota: no more of our pods are created."""
        self.scalers: dict[str, tuple[str, str]] = {}
        """By Deployment, who else set its number of replicas, and when."""
        self.other_plans: tuple[OtherPlan, ...] = ()
        self.gateway_ticks = gateway_ticks
        self.gateway_answers = True
        self.route_ticks = route_ticks
        self.slice_ticks = slice_ticks
        self.route_objection: tuple[str, str, str] | None = None
        """Condition, reason and message with which the HTTPRoutes' gateway refuses."""
        self.routes_written: dict[str, list[tuple[datetime, Json]]] = {}
        self.routes_unread: str | None = None
        self.published: list[tuple[datetime, Json]] = []
        self.removed_early: list[str] = []
        self.vanished: dict[str, datetime] = {}
        self._serial = 0

    # --- what people and the world outside do ---------------------------------------------------------------------

    def edit(self, spec: Json) -> None:
        """A person changes the plan's spec."""
        if spec != self.spec:
            self.spec = copy.deepcopy(spec)
            self.generation += 1

    def add_node(self, name: str, labels: dict[str, str], gpus: int) -> None:
        """A machine, perhaps one that was here before and comes back empty."""
        if self.vanished.pop(name, None) is not None:
            self.pods = {key: pod for key, pod in self.pods.items() if pod.node != name}
        self.nodes[name] = SimulatedNode(name, dict(labels), gpus)

    def add_pool(self, name: str, labels: dict[str, str], gpus: int, **more: Any) -> None:
        self.pools[name] = SimulatedPool(name, dict(labels), gpus, **more)

    def admit(self, count: int) -> None:
        """The queue lets so many of its pods go, the oldest first."""
        held = sorted((pod for pod in self.pods.values() if pod.other_gates), key=lambda pod: pod.serial)
        for pod in held[:count]:
            pod.other_gates = ()

    def scale(self, name: str, replicas: int, manager: str) -> None:
        """Somebody else sets the number of replicas of a Deployment."""
        self._scale(name, replicas)
        self.scalers[name] = (manager, self.time)
        self.run_controllers()

    def add_foreign_pod(self, node: str, gpus: int) -> str:
        pod = self._new_pod(f"foreign-{self._serial}", gpus)
        pod.node, pod.bound_at, pod.reports_ready = node, self.now, True
        return pod.name

    def lose_node(self, name: str) -> None:
        """The node object is gone at once; its pods linger in the API."""
        del self.nodes[name]
        self.vanished[name] = self.now
        self.run_controllers()

    # --- what the operator sees -----------------------------------------------------------------------------------

    @property
    def time(self) -> str:
        return _text(self.now)

    def observe(self) -> Observation:
        """The world as one turn of the operator reads it."""
        return Observation(
            now=self.time,
            plan=PlanObject(
                namespace=NAMESPACE,
                name=PLAN,
                uid="plan-uid",
                generation=self.generation,
                spec=self.spec,
                approved_hash=self.approved,
                queue=self.queue,
                deleting_since=self.deleting_since,
                status=self.status,
            ),
            nodes=tuple(
                Node(
                    name=node.name,
                    labels=node.labels,
                    gpus=node.gpus,
                    ready=node.ready,
                    schedulable=node.schedulable,
                    disrupted=node.disrupted,
                )
                for _, node in sorted(self.nodes.items())
            ),
            pods=tuple(self._seen(pod) for _, pod in sorted(self.pods.items())),
            objects=tuple(
                LiveObject(
                    kind=kind,
                    name=name,
                    uid=f"{kind}-{name}",
                    ours=(kind, name) not in self.foreign_objects,
                    owner="somebody" if (kind, name) in self.foreign_objects else f"LLMServingPlan {PLAN}",
                    manifest={key: value for key, value in self._as_read(manifest).items() if key != "kind"},
                    replicas_owner=self.scalers.get(name) if kind == "Deployment" else None,
                )
                for (kind, name), manifest in sorted(self.objects.items())
            ),
            http_routes_unread=self.routes_unread,
            pools=tuple(self._pool_seen(item) for item in self._pools_to_read() if "resize" in item),
            other_plans=self.other_plans,
            demand=self.demand(self.now),
            gateway=self._gateway_seen(),
        )

    def _gateway_seen(self) -> GatewayFacts | None:
        if self.gateway_ticks is None:
            return None
        taken = self.taken_by_gateway()
        return GatewayFacts(revisions=(taken["revision"] if taken and self.gateway_answers else None,))

    def _as_read(self, manifest: Json) -> Json:
        """An HTTPRoute with its generation and what its gateway says of the one that it has."""
        if manifest["kind"] == "Deployment" and self._lacks_pods(manifest):
            return {**manifest, "status": {"replicaFailure": "FailedCreate: exceeded quota"}}
        if manifest["kind"] != "HTTPRoute":
            return manifest
        name, written = manifest["metadata"]["name"], self.routes_written[manifest["metadata"]["name"]]
        taken = sum(at + self._ticks(self.route_ticks) <= self.now for at, _ in written)
        conditions = [
            {"type": kind, "status": "True", "observedGeneration": taken} for kind in ("Accepted", "ResolvedRefs")
        ]
        for condition in conditions:
            if self.route_objection and condition["type"] == self.route_objection[0]:
                condition.update(status="False", reason=self.route_objection[1], message=self.route_objection[2])
        parents = [{"parentRef": ref, "conditions": conditions} for ref in manifest["spec"]["parentRefs"]]
        return {
            **manifest,
            "metadata": {**manifest["metadata"], "name": name, "generation": len(written)},
            "status": {"parents": parents if taken else []},
        }

    def _lacks_pods(self, manifest: Json) -> bool:
        active = [pod for pod in self.pods_of(manifest["metadata"]["name"]) if not pod.terminating]
        return self.most_pods is not None and len(active) < manifest["spec"]["replicas"]

    def taken_by_gateway(self) -> Json | None:
        """The routing document that requests really go by."""
        lag = self._ticks(self.gateway_ticks or 0)
        return next((document for at, document in reversed(self.published) if at + lag <= self.now), None)

    def _seen(self, pod: SimulatedPod) -> Pod:
        node = self.nodes.get(pod.node or "")
        return Pod(
            namespace=NAMESPACE if pod.deployment else "elsewhere",
            name=pod.name,
            uid=pod.uid,
            gpus=pod.gpus,
            created=_text(pod.created),
            node=pod.node or pod.placed_on,
            bound=pod.node is not None,
            deployment=pod.deployment,
            gated=pod.gated,
            other_gates=pod.other_gates,
            ready=pod.deployment is not None
            and pod.reports_ready
            and not pod.terminating
            and node is not None
            and node.ready,
            started=pod.started,
            listed=self.is_listed(pod),
            terminating=pod.terminating,
            serving=pod.serving,
            draining_since=pod.draining_since,
            unrouted_since=pod.unrouted_since,
            requests_inside=pod.requests_inside if pod.draining_since is not None else None,
            placed_since=None if pod.placed_since is None else _text(pod.placed_since),
            **self._trouble(pod),
        )

    def _trouble(self, pod: SimulatedPod) -> Json:
        words = self.crashes(pod) if pod.deployment is not None and pod.bound_at is not None else None
        if words is not None and "ImagePull" in words:
            return {"trouble": words}
        if words is not None and pod.bound_at is not None:
            # Each start ends after a tick, and the next one comes later and later.
            ran = int((self.now - pod.bound_at).total_seconds() // TICK_SECONDS)
            return {"trouble": "CrashLoopBackOff: ", "crashes": ran.bit_length(), "last_words": words} if ran else {}
        return {"trouble": "Unschedulable: no node has the GPUs"} if pod.unschedulable else {}

    def _pools_to_read(self) -> list[Json]:
        """Of the spec, and those that the record says the plan has left and still sizes."""
        present = list(self.spec.get("nodePools", ()))
        data = self.objects.get(("ConfigMap", f"{PLAN}-plan"), {}).get("data", {})
        try:
            record = json.loads(data.get("plan.json", "{}"))
        except ValueError:
            record = {}
        left = record.get("leaving", []) if isinstance(record, dict) else []
        sized = [item["resize"]["name"] for item in present if "resize" in item]
        gone = [item for item in left if item["resize"]["name"] not in sized]
        return present + [{**item, "name": f"{item['name']}~left"} for item in gone]

    def _pool_seen(self, item: Json) -> PoolObject:
        name = item["resize"]["name"]
        pool = self.pools.get(name)
        if pool is None:
            return PoolObject(
                pool=item["name"],
                reference=f"NodePool//{name}",
                problem_reason="PoolMissing",
                problem="is not there; create it or correct the name",
            )
        return PoolObject(
            pool=item["name"],
            reference=f"NodePool//{name}",
            wanted=pool.wanted,
            actual=len(self.nodes_of(name)) + len(pool.booting),
            claimed_by=pool.claimed_by,
            allowed_namespaces=pool.allowed,
            max_nodes=pool.max_nodes,
            asked=pool.asked,
            size_manager=pool.manager,
            refusal=None if pool.refused_at is None else Refusal(at=_text(pool.refused_at), message="nothing is left"),
        )

    # --- the operator's writes ------------------------------------------------------------------------------------

    def write(self, action: AnyAction, seen: Observation, spec: PlanSpec) -> bool:
        """Take one write as the API server would. False: it was refused, or had nothing left to act on."""
        taken = self._write(action, seen, spec)
        if self.controllers_keep_up:
            self.run_controllers()
        return taken

    def _write(self, action: AnyAction, seen: Observation, spec: PlanSpec) -> bool:
        match action:
            case ApplyObject():
                return self._apply(action.manifest)
            case ScaleDeployment():
                self._scale(action.name, action.replicas)
                self.scalers.pop(action.name, None)
                if action.set_by is not None:
                    annotations = self.objects["Deployment", action.name]["metadata"]["annotations"]
                    annotations[names.REPLICAS_SET_BY_ANNOTATION] = action.set_by
                return True
            case DeleteObject():
                kind = action.object_kind
                if kind == "Deployment":
                    for pod in self.pods_of(action.name):
                        self.delete_pod(pod)
                return self.objects.pop((kind, action.name), None) is not None
            case ClaimPool():
                return self._patch_pool(action.pool, seen, spec, claimed_by=action.claimed_by, nodes=None)
            case ResizePool():
                return self._patch_pool(action.pool, seen, spec, claimed_by=f"{NAMESPACE}/{PLAN}", nodes=action.nodes)
            case _:
                pod = self.pods.get(action.pod)
                if pod is None or pod.uid != action.uid:
                    return False
                self._patch_pod(pod, action)
                return True

    def _scale(self, name: str, replicas: int) -> None:
        before = self.objects["Deployment", name]
        spec_after = {**before["spec"], "replicas": replicas}
        metadata = {**before["metadata"], "annotations": dict(before["metadata"]["annotations"])}
        self.objects["Deployment", name] = {**before, "metadata": metadata, "spec": spec_after}

    def _patch_pod(self, pod: SimulatedPod, action: AnyAction) -> None:
        match action:
            case PlacePod():
                assert pod.gated, f"{pod.name} is placed twice: affinity of a pod without a gate cannot change"
                assert not pod.other_gates, f"{pod.name} is placed while {pod.other_gates} hold it"
                pod.gated, pod.placed_on, pod.placed_since = False, action.node, self.now
                pod.must_be_on = action.node_affinity["nodeSelectorTerms"][0]["matchFields"][-1]["values"][0]
            case DrainPod():
                pod.draining_since, pod.deletion_cost = action.since, -1000
                pod.serving = pod.serving and not action.leave_service
            case NoteUnrouted():
                pod.unrouted_since = action.since
            case RestorePod():
                pod.draining_since, pod.deletion_cost, pod.serving, pod.unrouted_since = None, 0, True, None
            case DeletePod():
                self.delete_pod(pod)

    def _apply(self, manifest: Json) -> bool:
        key = (manifest["kind"], manifest["metadata"]["name"])
        if key in self.foreign_objects or self.refuses(manifest):
            return False
        before = self.objects.get(key)
        if before is not None and key[0] == "Deployment":
            assert before["spec"]["template"] == manifest["spec"]["template"], f"{key[1]} would roll its pods over"
        self.objects[key] = manifest
        if key[0] == "HTTPRoute":
            self.routes_written.setdefault(key[1], []).append((self.now, manifest))
        if "routing.json" in manifest.get("data", {}):
            self.published.append((self.now, json.loads(manifest["data"]["routing.json"])))
        return True

    def _patch_pool(self, name: str, seen: Observation, spec: PlanSpec, *, claimed_by: str, nodes: int | None) -> bool:
        resize = next(item.resize for item in spec.node_pools if item.name == name)
        assert resize is not None
        pool, before = self.pools[resize.name], seen.pool(name)
        assert before is not None
        if pool.claimed_by not in (None, f"{NAMESPACE}/{PLAN}") or pool.wanted != before.wanted:
            return False
        pool.claimed_by = claimed_by or None
        pool.asked = None if not claimed_by else pool.wanted if nodes is None else nodes
        if nodes is not None:
            pool.wanted, pool.manager = nodes, None
            pool.refusals += nodes > pool.provider_has
        return True

    # --- controllers ----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Time passes: what was due happens, then controllers react."""
        self.now += timedelta(seconds=TICK_SECONDS)
        for pool in self.pools.values():
            pool.refusals += pool.wanted > pool.provider_has
            due = [moment for moment in pool.booting if moment <= self.now]
            pool.booting = [moment for moment in pool.booting if moment > self.now]
            for _ in due:
                pool.made += 1
                name = f"{pool.name}-{pool.made}"
                gpus = 0 if pool.blind else pool.gpus
                self.nodes[name] = SimulatedNode(name, dict(pool.labels), gpus, pool.name)
        for pod in list(self.pods.values()):
            lost = self.vanished.get(pod.node or "")
            collected = lost is not None and lost + self._ticks(self.collect_ticks) <= self.now
            if collected or (pod.gone_at is not None and pod.gone_at <= self.now and lost is None):
                del self.pods[pod.name]
            elif pod.bound_at is not None and not pod.terminating and self._alive(pod.node):
                started = pod.bound_at + self._ticks(self.start_ticks) <= self.now
                pod.reports_ready = pod.reports_ready or (
                    started and not self.never_ready(pod.serial) and self.crashes(pod) is None
                )
                pod.started = pod.started or pod.reports_ready
        self.run_controllers()

    def run_controllers(self) -> None:
        """All that reacts at once: ReplicaSets, the scheduler, the providers of pools."""
        for kind, name in sorted(self.objects):
            if kind == "Deployment" and (kind, name) not in self.foreign_objects:
                self._reconcile_replicas(name)
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
            template = spec["template"]["spec"]
            limits = template["containers"][0]["resources"]["limits"]
            pod = self._new_pod(f"{name}-{self._serial:04d}", sum(map(int, limits.values())))
            pod.deployment, pod.selector = name, template["nodeSelector"]
            pod.gated = bool(template["schedulingGates"])
            queue = spec["template"]["metadata"]["labels"].get(names.QUEUE_LABEL)
            pod.other_gates = (QUEUE_GATE,) if queue else ()
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

    def _schedule(self) -> None:
        for pod in sorted(self.pods.values(), key=lambda pod: pod.serial):
            if pod.node is not None or pod.gated or pod.other_gates or pod.terminating:
                continue
            fitting = [
                node
                for node in self.nodes.values()
                if node.ready
                and node.schedulable
                and not node.disrupted
                and pod.must_be_on in (None, node.name)
                and pod.selector.items() <= node.labels.items()
                and self.free_gpus(node.name) >= pod.gpus
            ]
            pod.unschedulable = not fitting
            if fitting:
                pod.node, pod.bound_at = max(fitting, key=lambda node: self.free_gpus(node.name)).name, self.now

    def _reconcile_pool(self, pool: SimulatedPool) -> None:
        nodes = self.nodes_of(pool.name)
        while len(nodes) + len(pool.booting) < min(pool.wanted, pool.provider_has):
            pool.booting.append(self.now + self._ticks(self.boot_ticks))
        if len(nodes) + len(pool.booting) < pool.wanted:
            pool.refused_at = self.now if pool.tells else None
        while len(nodes) + len(pool.booting) > pool.wanted and pool.booting:
            pool.booting.pop()
        nodes.sort(key=lambda node: (sum(pod.node == node.name for pod in self.pods.values()) > 0, node.name))
        for node in nodes[: max(0, len(nodes) - pool.wanted)]:
            del self.nodes[node.name]
            self.vanished[node.name] = self.now

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
        return any(self.is_ready(other) and other.serving for other in self.pods_of(pod.deployment) if other is not pod)

    # --- looking ---------------------------------------------------------------------------------------------------

    def nodes_of(self, pool: str) -> list[SimulatedNode]:
        return [node for node in self.nodes.values() if node.pool == pool]

    def pods_of(self, deployment: str) -> list[SimulatedPod]:
        return [pod for pod in self.pods.values() if pod.deployment == deployment]

    def our_pods(self) -> list[SimulatedPod]:
        return [pod for pod in self.pods.values() if pod.deployment is not None]

    def is_ready(self, pod: SimulatedPod) -> bool:
        """Really: not only in the API."""
        return pod.reports_ready and not pod.terminating and self._alive(pod.node)

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

    def _ticks(self, count: int) -> timedelta:
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
        if self.is_ready(pod) and pod.deployment in self.targets_of_gateway() and not self._others_serve(pod):
            self.removed_early.append(pod.name)
        if pod.node is None:
            del self.pods[pod.name]
        else:
            pod.gone_at = self.now + self._ticks(self.stop_ticks)


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
