"""Parses API objects into facts: the few fields that matter. No field is expected to exist."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from servingplan.model import names
from servingplan.model.world import LiveObject, Node, PlanObject, Pod, Refusal, Taint
from servingplan.pool_kinds.protocol import taints_of
from servingplan.pool_kinds.table import STATUS_KEYS, reads_annotation
from servingplan.profiles.rows import ROWS_KEY

Json = dict[str, Any]

DISRUPTION_TAINTS = (
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
    "cloud.google.com/impending-node-termination",
    "aws-node-termination-handler/spot-itn",
)
"""Taints by which autoscalers and clouds announce that they will remove a node."""
STATE_TAINTS = (
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "node.cluster.x-k8s.io/",
    "karpenter.sh/",
    "startup-taint.cluster-autoscaler.kubernetes.io/",
    "status-taint.cluster-autoscaler.kubernetes.io/",
    "ignore-taint.cluster-autoscaler.kubernetes.io/",
)
"""Prefixes of taints that change with the state of a node."""
AGENT_TAINT = "/agent-not-ready"
"""The suffix of taints that agents of networks and storage remove once they run: ``node.cilium.io``, ``ebs.csi.aws.com``,
``efs.csi.aws.com``, ``fsx.csi.aws.com``."""
HTTP_ROUTE = "HTTPRoute"
OUT_OF_STOCK = (
    "insufficientcapacity",
    "insufficientinstancecapacity",
    "insufficienthostcapacity",
    "reservationcapacityexceeded",
    "unfulfillablecapacity",
    "asginstancelaunchfailures",
    "resource_pool_exhausted",
    "stockout",
    "outofstock",
    "allocationfailed",
    "skunotavailable",
    "quotaexceeded",
    "quota_exceeded",
    "vcpulimitexceeded",
    "instancelimitexceeded",
)
"""Words, without spaces and in small letters, by which providers refuse a machine: Karpenter, EC2 and its Auto Scaling groups,
GCE, Azure, and quotas, which count as limits of stock."""
NODE_POOL_LABEL = "karpenter.sh/nodepool"
CLAIM_REFUSED = "InsufficientCapacityError"
"""The reason of Karpenter's Event on a refused NodeClaim, which Karpenter then deletes."""
Endpoint = tuple[str, str]
"""The name of a Service, and the uid of a pod behind it."""
_KEPT_ANNOTATIONS = (
    names.FACTS_ANNOTATION,
    names.PLAN_HASH_ANNOTATION,
    names.SPEC_HASH_ANNOTATION,
    names.COMING_SINCE_ANNOTATION,
    names.REPLICAS_SET_BY_ANNOTATION,
)


def node_of(item: Json) -> Node:
    """The facts of a Node."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    taints = spec.get("taints") or ()
    gpus = {
        name: count
        for name, value in (status.get("allocatable") or {}).items()
        if names.is_gpu_resource(name) and (count := whole(value)) > 0
    }
    return Node(
        name=metadata["name"],
        labels=metadata.get("labels") or {},
        gpus=gpus.get(names.GPU_RESOURCE, 0),
        gpu_resources=gpus if gpus.keys() - {names.GPU_RESOURCE} else {},
        ready=_condition(status, "Ready") == "True",
        schedulable=not spec.get("unschedulable", False),
        created=metadata.get("creationTimestamp") or "",
        disrupted=any(taint.get("key") in DISRUPTION_TAINTS for taint in taints) or "deletionTimestamp" in metadata,
        taints=tuple(filter(may_stay, taints_of(taints))),
    )


def may_stay(taint: Taint) -> bool:
    """Whether a taint does not change with the state of a node."""
    passing = taint.key in DISRUPTION_TAINTS or taint.key.startswith(STATE_TAINTS) or taint.key.endswith(AGENT_TAINT)
    return not passing


def pod_gpus(item: Json) -> int:
    """The GPUs that the scheduler counts for a pod: the sum of its containers, or one init container if that is more."""
    spec = item.get("spec") or {}

    def of(containers: Iterable[Json]) -> list[int]:
        asked = (container.get("resources") or {} for container in containers)
        return [
            sum(
                whole(amount)
                for name, amount in {**(item.get("limits") or {}), **(item.get("requests") or {})}.items()
                if names.is_gpu_resource(name)
            )
            for item in asked
        ]

    return max(sum(of(spec.get("containers") or ())), *of(spec.get("initContainers") or ()), 0)


def endpoints_of(item: Json) -> set[Endpoint]:
    """The endpoints that an EndpointSlice lists as ready for requests."""
    service = (item["metadata"].get("labels") or {}).get(names.SERVICE_LABEL)
    found = set()
    for endpoint in item.get("endpoints") or ():
        conditions, target = endpoint.get("conditions") or {}, endpoint.get("targetRef") or {}
        ready = conditions.get("ready") is not False and not conditions.get(
            "terminating"
        )  # an absent field means ready
        if ready and service and target.get("kind") == "Pod":
            found.add((service, target.get("uid", "")))
    return found


class SeenPod(NamedTuple):
    """A pod with a plan's label or with GPUs of a node, without facts from other objects."""

    plan_label: str | None
    """The label of its plan, which is in the pod's namespace; None if it has no plan."""
    deployment: str | None
    own: Pod
    """The pod for its own plan; ``ready`` is from the pod's status, ``listed`` is False."""
    holds_gpus: bool
    """Whether it holds GPUs of a node, which is all that counts for other plans."""

    def for_plan(
        self, *, plan_label: str, namespace: str, nodes: Mapping[str, Node] | None, endpoints: Collection[Endpoint]
    ) -> Pod | None:
        """The pod for one plan; None if it does not matter to that plan.

        ``nodes``: the existing nodes (None: they could not be read, and the pod's own status counts). ``endpoints``: those of
        the plan's Services.
        """
        if self.deployment is None or (self.plan_label, self.own.namespace) != (plan_label, namespace):
            return _foreign(self.own) if self.holds_gpus else None
        # The API server keeps a pod Ready for up to a minute after its node is gone, so the node decides.
        ready = self.own.ready
        if ready and nodes is not None:
            node = nodes.get(self.own.node or "") if self.own.bound else None
            ready = node is not None and node.ready
        listed = (self.deployment, self.own.uid) in endpoints
        return self.own.model_copy(update={"ready": ready, "listed": listed})


def _foreign(pod: Pod) -> Pod:
    return Pod(
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        gpus=pod.gpus,
        created=pod.created,
        bound=pod.bound,
        terminating=pod.terminating,
        node=pod.node,
    )


def seen_pod(item: Json) -> SeenPod | None:
    """The facts of a Pod; None if it is no plan's and holds no GPUs of a node."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    labels = metadata.get("labels") or {}
    annotations = metadata.get("annotations") or {}
    plan_label = labels.get(names.PLAN_LABEL)
    deployment = labels.get(names.DEPLOYMENT_LABEL) if plan_label is not None else None
    gpus = pod_gpus(item)
    bound_to = spec.get("nodeName")
    holds_gpus = gpus > 0 and bound_to is not None
    if deployment is None and not holds_gpus:
        return None
    terminating = "deletionTimestamp" in metadata
    common: Json = {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "gpus": gpus,
        "created": metadata.get("creationTimestamp", ""),
        "bound": bound_to is not None,
        "terminating": terminating,
    }
    if deployment is None:
        return SeenPod(None, None, Pod(**common, node=bound_to), holds_gpus)
    gates = [str(gate.get("name")) for gate in spec.get("schedulingGates") or ()]
    gated = names.PLACEMENT_GATE in gates
    placed_on = annotations.get(names.PLACED_ON_ANNOTATION) if not gated else None
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    draining_since = annotations.get(names.DRAINING_SINCE_ANNOTATION)
    own = Pod(
        **common,
        node=bound_to or placed_on,
        deployment=deployment,
        gated=gated,
        other_gates=tuple(gate for gate in gates if gate != names.PLACEMENT_GATE),
        ready=not terminating and _condition(status, "Ready") == "True",
        started=_started(status),
        unready_since=_unready_since(status),
        serving=labels.get(names.SERVING_LABEL) == "true",
        draining_since=draining_since,
        address=status.get("podIP") if draining_since is not None else None,
        unrouted_since=annotations.get(names.UNROUTED_SINCE_ANNOTATION),
        placed_since=annotations.get(names.PLACED_SINCE_ANNOTATION) if not gated else None,
        node_affinity=affinity if gated else None,
        trouble=_trouble(status) if not gated else None,
        **_crashes(status),
    )
    return SeenPod(plan_label, deployment, own, holds_gpus)


def pod_of(
    item: Json, *, plan_label: str, namespace: str, nodes: Mapping[str, Node] | None, endpoints: Collection[Endpoint]
) -> Pod | None:
    """The facts of a Pod for one plan; None if it does not matter to that plan."""
    seen = seen_pod(item)
    if seen is None:
        return None
    return seen.for_plan(plan_label=plan_label, namespace=namespace, nodes=nodes, endpoints=endpoints)


class SeenObject(NamedTuple):
    """A Deployment, Service, ConfigMap or HTTPRoute of any owner."""

    namespace: str
    plan_label: str | None
    controller: str | None
    """The uid of its controller; None if it has none."""
    live: LiveObject
    """The object for its own plan."""

    def for_plan(self, uid: str) -> LiveObject:
        """The object for a plan. If the object is not the plan's own, only its owner is kept."""
        if self.controller == uid:
            return self.live
        metadata = self.live.manifest["metadata"]
        manifest = {"metadata": {"labels": metadata["labels"], "annotations": metadata["annotations"]}}
        return self.live.model_copy(update={"ours": False, "manifest": manifest})


def seen_object(item: Json, kind: str) -> SeenObject:
    """The facts of a Deployment, Service, ConfigMap or HTTPRoute: the fields that we render, why a Deployment's pods are not
    created, and what gateways report of a route."""
    metadata = item["metadata"]
    controller = next((ref for ref in metadata.get("ownerReferences") or () if ref.get("controller")), None)
    if controller is not None:
        owner = f"{controller.get('kind')} {controller.get('name')}"
    else:
        managers = sorted({entry.get("manager", "?") for entry in metadata.get("managedFields") or ()})
        owner = f"its creator ({', '.join(managers) or 'unknown'})"
    annotations = metadata.get("annotations") or {}
    manifest: Json = {
        "metadata": {
            "labels": metadata.get("labels") or {},
            "annotations": {key: annotations[key] for key in _KEPT_ANNOTATIONS if key in annotations},
        }
    }
    for key in ("spec", "data"):
        if key in item:
            manifest[key] = item[key]
    if kind == "Deployment" and (failure := _replica_failure(item.get("status") or {})):
        manifest["status"] = {"replicaFailure": failure}
    if kind == HTTP_ROUTE:
        manifest["metadata"]["generation"] = metadata.get("generation")
        manifest["status"] = item.get("status") or {}
    live = LiveObject(
        kind=kind,
        name=metadata["name"],
        uid=metadata["uid"],
        ours=True,
        owner=owner,
        manifest=manifest,
        replicas_owner=replicas_owner(item) if kind == "Deployment" else None,
    )
    labels = metadata.get("labels") or {}
    uid = controller.get("uid") if controller is not None else None
    return SeenObject(metadata.get("namespace", ""), labels.get(names.PLAN_LABEL), uid, live)


def object_of(item: Json, *, kind: str, plan_uid: str) -> LiveObject:
    """The facts of a Deployment, Service, ConfigMap or HTTPRoute for a plan."""
    return seen_object(item, kind).for_plan(plan_uid)


class SeenSlice(NamedTuple):
    """An EndpointSlice of a plan's Service; it has the labels of the Service."""

    namespace: str
    plan_label: str | None
    endpoints: frozenset[Endpoint]


def seen_slice(item: Json) -> SeenSlice:
    """The facts of an EndpointSlice: the pods that it lists as ready."""
    metadata = item["metadata"]
    label = (metadata.get("labels") or {}).get(names.PLAN_LABEL)
    return SeenSlice(metadata.get("namespace", ""), label, frozenset(endpoints_of(item)))


def plan_of(item: Json) -> PlanObject:
    """The facts of a plan's object."""
    metadata = item["metadata"]
    return PlanObject(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        spec=item.get("spec"),
        deleting_since=metadata.get("deletionTimestamp"),
        created=metadata.get("creationTimestamp") or "",
        queue=(metadata.get("labels") or {}).get(names.QUEUE_LABEL),
        approved_hash=(metadata.get("annotations") or {}).get(names.APPROVE_ANNOTATION),
        status=item.get("status") or {},
    )


class SeenRates(NamedTuple):
    """A ConfigMap with measured rates."""

    namespace: str
    name: str
    rows: str | None
    """The rows as CSV; None if the key is missing."""


def seen_rates(item: Json) -> SeenRates:
    """The facts of a ConfigMap with measured rates."""
    rows = (item.get("data") or {}).get(ROWS_KEY)
    metadata = item.get("metadata") or {}
    return SeenRates(metadata.get("namespace", ""), metadata.get("name", ""), rows if isinstance(rows, str) else None)


class SeenAdditions(NamedTuple):
    """A ConfigMap that adds to the catalogue."""

    name: str
    kind: str
    """The kind of addition, from the label."""
    data: tuple[tuple[str, str], ...]


def seen_additions(item: Json) -> SeenAdditions:
    """The facts of a ConfigMap that adds to the catalogue."""
    metadata = item["metadata"]
    kind = (metadata.get("labels") or {}).get(names.CATALOGUE_LABEL, "")
    return SeenAdditions(metadata["name"], kind, tuple(sorted((item.get("data") or {}).items())))


class SeenRefusal(NamedTuple):
    """The refusal of a NodeClaim, which got no node."""

    pool: str
    """The name of its Karpenter NodePool."""
    refusal: Refusal


def seen_claim(item: Json) -> SeenRefusal | None:
    """The refusal of a NodeClaim for lack of capacity; None if it was not refused."""
    pool = (item["metadata"].get("labels") or {}).get(NODE_POOL_LABEL)
    for condition in (item.get("status") or {}).get("conditions") or ():
        refused = condition.get("type") == "Launched" and condition.get("status") in ("False", "Unknown")
        if pool and refused and _says_out_of_stock(condition.get("reason")):
            return SeenRefusal(pool, _refusal(condition, condition.get("lastTransitionTime")))
    return None


def seen_claim_event(item: Json) -> SeenRefusal | None:
    """The refusal in an Event on a NodeClaim; else None. The claim is gone by then. Its name is the pool's with a suffix."""
    about = item.get("involvedObject") or {}
    pool, _, suffix = str(about.get("name", "")).rpartition("-")
    if item.get("reason") != CLAIM_REFUSED or about.get("kind") != "NodeClaim" or not (pool and suffix):
        return None
    times = ((item.get("series") or {}).get("lastObservedTime"), item.get("lastTimestamp"), item.get("eventTime"))
    at = next((time for time in times if time), item["metadata"].get("creationTimestamp"))
    return SeenRefusal(pool, _refusal(item, at))


def _says_out_of_stock(text: Any) -> bool:
    plain = str(text or "").lower().replace(" ", "")
    return any(word in plain for word in OUT_OF_STOCK)


def _refusal(item: Json, at: Any) -> Refusal:
    moment = datetime.fromisoformat(str(at)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Refusal(at=moment, message=str(item.get("message") or item.get("reason") or "")[:300])


def _own_refusal(status: Json) -> Refusal | None:
    """The refusal in a pool object's own conditions or in its provider's health issues; None if there is none."""
    for condition in status.get("conditions") or ():
        texts = (condition.get("reason"), condition.get("message"))
        if condition.get("lastTransitionTime") and any(map(_says_out_of_stock, texts)):
            return _refusal(condition, condition["lastTransitionTime"])
    return None


def seen_pool(item: Json) -> Json:
    """The parts of a pool's object that a turn reads. The owner may choose the path of the size, so the spec is kept whole;
    such objects are few."""
    metadata, status = item["metadata"], item.get("status") or {}
    annotations = metadata.get("annotations") or {}
    ours = (
        names.CLAIM_ANNOTATION,
        names.SIZE_ANNOTATION,
        names.ALLOWED_NAMESPACES_ANNOTATION,
        names.MAX_NODES_ANNOTATION,
        names.REPLICAS_PATH_ANNOTATION,
        names.PRICE_ANNOTATION,
    )
    kept = {"name": metadata["name"], "namespace": metadata.get("namespace")}
    return {
        "metadata": {
            **kept,
            "resourceVersion": metadata.get("resourceVersion", ""),
            "annotations": {key: text for key, text in annotations.items() if key in ours or reads_annotation(key)},
            "ownerReferences": metadata.get("ownerReferences") or [],
            "managedFields": [
                {"manager": entry.get("manager"), "fieldsV1": {"f:spec": (entry.get("fieldsV1") or {})["f:spec"]}}
                for entry in metadata.get("managedFields") or ()
                if "f:spec" in (entry.get("fieldsV1") or {})
            ],
        },
        "spec": item.get("spec") or {},
        "status": {key: status[key] for key in STATUS_KEYS if key in status},
        "refusal": _own_refusal(status),
    }


def _replica_failure(status: Json) -> str | None:
    """Why the API server refuses the Deployment's pods (its controller copies this from the ReplicaSet); None: it does not."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}"[:300]
    return None


def size_manager(item: Json, path: tuple[str, ...], ours: str) -> str | None:
    """Another manager that owns the field at ``path``, for messages only; None if there is none.

    ``managedFields`` cannot prove who set a size: a write of 0 through ``/scale`` leaves the field without an owner (seen with
    Kubernetes 1.36). So an annotation on the object notes the size that we asked for.
    """
    owners = {
        entry.get("manager", "unknown")
        for entry in item["metadata"].get("managedFields") or ()
        if _has(entry.get("fieldsV1") or {}, path)
    }
    return min(owners - {ours}, default=None)


def replicas_owner(item: Json) -> tuple[str, str] | None:
    """The manager that owns ``spec.replicas`` of a Deployment beside or instead of us, and when it wrote. Of several, the
    last; None if there is none."""
    others = [
        (str(entry.get("time", "")), str(entry.get("manager", "unknown")))
        for entry in item["metadata"].get("managedFields") or ()
        if entry.get("manager") != names.FIELD_MANAGER and _has(entry.get("fieldsV1") or {}, ("spec", "replicas"))
    ]
    if not others:
        return None
    time, manager = max(others)
    return manager, time


def whole(value: Any) -> int:
    """The whole number in a quantity; 0 if it is not one."""
    try:
        return int(str(value))
    except ValueError:
        return 0


def loads(text: Any) -> Json | None:
    """The JSON object in a text; None if there is none."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _has(fields: Json, path: tuple[str, ...]) -> bool:
    found: Any = fields
    for key in path:
        if not isinstance(found, dict) or f"f:{key}" not in found:
            return False
        found = found[f"f:{key}"]
    return True


def _condition(status: Json, kind: str) -> str | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == kind:
            value = condition.get("status")
            return str(value) if value is not None else None
    return None


def _started(status: Json) -> bool:
    containers = status.get("containerStatuses") or ()
    return bool(containers) and all(container.get("started") for container in containers)


def _unready_since(status: Json) -> str | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready" and condition.get("status") != "True":
            since = condition.get("lastTransitionTime")
            return str(since) if since else None
    return None


def _crashes(status: Json) -> Json:
    """The crashes of the container that ended most often; empty for a ready pod."""
    if _condition(status, "Ready") == "True":
        return {}
    found: tuple[int, str | None] = (0, None)
    for container in status.get("containerStatuses") or ():
        state, last = container.get("state") or {}, container.get("lastState") or {}
        waits = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
        ended = state.get("terminated") or last.get("terminated") or {}
        if not ended.get("exitCode") and not waits:
            continue
        crashes = int(container.get("restartCount") or 0) + (1 if waits or "terminated" in state else 0)
        message = str(ended.get("message") or "").strip()[-200:]
        reason = f"{ended.get('reason', 'Error')} (exit code {ended.get('exitCode', 'unknown')})"
        found = max(found, (crashes, f"{reason}: {message}" if message else reason), key=lambda item: item[0])
    return {"crashes": found[0], "last_words": found[1]} if found[0] else {}


def _trouble(status: Json) -> str | None:
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting['reason']}: {waiting.get('message', '')}"[:300]
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return f"Unschedulable: {condition.get('message', '')}"[:300]
    return None
