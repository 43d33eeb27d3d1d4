"""The facts of nodes, plans and objects of plans: the few fields that matter, any of which may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from servingplan.model import names
from servingplan.model.world import LiveObject, Node, PlanObject, Taint
from servingplan.pool_kinds.protocol import taints_of
from servingplan.profiles.rows import ROWS_KEY
from servingplan.render import quantities

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
    allocatable = status.get("allocatable") or {}
    gpus = {
        name: count
        for name, value in allocatable.items()
        if names.is_gpu_resource(name) and (count := whole(value)) > 0
    }
    return Node(
        name=metadata["name"],
        labels=metadata.get("labels") or {},
        gpus=gpus.get(names.GPU_RESOURCE, 0),
        gpu_resources=gpus if gpus.keys() - {names.GPU_RESOURCE} else {},
        cpu_millicores=_amount(allocatable.get("cpu"), 1000),
        memory_bytes=_amount(allocatable.get("memory")),
        ready=condition_of(status, "Ready") == "True",
        schedulable=not spec.get("unschedulable", False),
        created=metadata.get("creationTimestamp") or "",
        disrupted=any(taint.get("key") in DISRUPTION_TAINTS for taint in taints) or "deletionTimestamp" in metadata,
        taints=tuple(filter(may_stay, taints_of(taints))),
        machine=_machine_of(metadata.get("annotations") or {}),
        state_taints=tuple(
            taint for taint in taints_of(taints) if not may_stay(taint) and taint.key not in DISRUPTION_TAINTS
        ),
    )


def _machine_of(annotations: Mapping[str, str]) -> str:
    """The Machine that Cluster API notes on a node (kubernetes-sigs/cluster-api, api/core/v1beta2/machine_types.go and
    common_types.go), as ``NAMESPACE/NAME``; empty if it notes none."""
    namespace, name = (annotations.get(f"cluster.x-k8s.io/{key}") for key in ("cluster-namespace", "machine"))
    return f"{namespace}/{name}" if namespace and name else ""


def _amount(quantity: Any, units: int = 1) -> int | None:
    """A quantity in parts of its unit (``units`` parts each), rounded down; None if it is no quantity, or 0."""
    amount = quantities.amount_of(quantity)
    return None if amount is None else int(amount * units) or None


def may_stay(taint: Taint) -> bool:
    """Whether a taint does not change with the state of a node."""
    passing = taint.key in DISRUPTION_TAINTS or taint.key.startswith(STATE_TAINTS) or taint.key.endswith(AGENT_TAINT)
    return not passing


class SeenObject(NamedTuple):
    """A Deployment, LeaderWorkerSet, Service, ConfigMap or HTTPRoute of any owner."""

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
        replicas_owner=replicas_owner(item) if kind in (names.DEPLOYMENT, names.LEADER_WORKER_SET) else None,
    )
    labels = metadata.get("labels") or {}
    uid = controller.get("uid") if controller is not None else None
    return SeenObject(metadata.get("namespace", ""), labels.get(names.PLAN_LABEL), uid, live)


def object_of(item: Json, *, kind: str, plan_uid: str) -> LiveObject:
    """The facts of a Deployment, Service, ConfigMap or HTTPRoute for a plan."""
    return seen_object(item, kind).for_plan(plan_uid)


def plan_of(item: Json) -> PlanObject:
    """A plan as it stands in the cluster."""
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
    """What a ConfigMap adds to the catalogue, by key."""
    metadata = item["metadata"]
    kind = (metadata.get("labels") or {}).get(names.CATALOGUE_LABEL, "")
    return SeenAdditions(metadata["name"], kind, tuple(sorted((item.get("data") or {}).items())))


def _replica_failure(status: Json) -> str | None:
    """Why the API server refuses the Deployment's pods (its controller copies this from the ReplicaSet); None: it does not."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}"[:300]
    return None


def replicas_owner(item: Json) -> tuple[str, str] | None:
    """The manager that owns ``spec.replicas`` of an object beside or instead of us, and when it wrote. Of several, the
    last; None if there is none."""
    others = [
        (str(entry.get("time", "")), str(entry.get("manager", "unknown")))
        for entry in item["metadata"].get("managedFields") or ()
        if entry.get("manager") != names.FIELD_MANAGER and owns(entry.get("fieldsV1") or {}, ("spec", "replicas"))
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


def owns(fields: Json, path: tuple[str, ...]) -> bool:
    """Whether the ``fieldsV1`` of a manager hold the field at a path."""
    found: Any = fields
    for key in path:
        if not isinstance(found, dict) or f"f:{key}" not in found:
            return False
        found = found[f"f:{key}"]
    return True


def condition_of(status: Json, kind: str) -> str | None:
    """Status of a condition: True, False or Unknown; None where it is not told."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == kind:
            value = condition.get("status")
            return str(value) if value is not None else None
    return None
