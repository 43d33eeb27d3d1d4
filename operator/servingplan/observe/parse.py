"""API objects as facts: the few fields that matter of each, read without trusting that any is there."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from servingplan.model.world import LiveObject, Node, Pod
from servingplan.render import names

Json = dict[str, Any]

DISRUPTION_TAINTS = (
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
    "cloud.google.com/impending-node-termination",
    "aws-node-termination-handler/spot-itn",
)
"""Taints by which autoscalers and clouds announce that a node is about to go."""
HTTP_ROUTE = "HTTPRoute"
Endpoint = tuple[str, str]
"""Name of a Service, and uid of a pod behind it."""
_KEPT_ANNOTATIONS = (
    names.FACTS_ANNOTATION,
    names.PLAN_HASH_ANNOTATION,
    names.SPEC_HASH_ANNOTATION,
    names.COMING_SINCE_ANNOTATION,
)


def node_of(item: Json) -> Node:
    """A Node."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    taints = {taint.get("key") for taint in spec.get("taints") or ()}
    return Node(
        name=metadata["name"],
        labels=metadata.get("labels") or {},
        gpus=whole((status.get("allocatable") or {}).get(names.GPU_RESOURCE)),
        ready=_condition(status, "Ready") == "True",
        schedulable=not spec.get("unschedulable", False),
        disrupted=bool(taints.intersection(DISRUPTION_TAINTS)) or "deletionTimestamp" in metadata,
    )


def pod_gpus(item: Json) -> int:
    """GPUs that the scheduler counts for a pod: the sum of its containers, or one init container if that is more."""
    spec = item.get("spec") or {}

    def of(containers: Iterable[Json]) -> list[int]:
        return [
            whole(((container.get("resources") or {}).get("requests") or {}).get(names.GPU_RESOURCE))
            or whole(((container.get("resources") or {}).get("limits") or {}).get(names.GPU_RESOURCE))
            for container in containers
        ]

    return max(sum(of(spec.get("containers") or ())), *of(spec.get("initContainers") or ()), 0)


def endpoints_of(item: Json) -> set[Endpoint]:
    """The pods that an EndpointSlice lists as ready for requests."""
    service = (item["metadata"].get("labels") or {}).get(names.SERVICE_LABEL)
    found = set()
    for endpoint in item.get("endpoints") or ():
        conditions, target = endpoint.get("conditions") or {}, endpoint.get("targetRef") or {}
        ready = conditions.get("ready") is not False and not conditions.get("terminating")  # absent means ready
        if ready and service and target.get("kind") == "Pod":
            found.add((service, target.get("uid", "")))
    return found


def pod_of(
    item: Json, *, plan_label: str, namespace: str, nodes: Mapping[str, Node], endpoints: Collection[Endpoint]
) -> Pod | None:
    """A Pod, if it is the plan's or holds GPUs of a node; else None. ``endpoints``: of the plan's Services."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    labels = metadata.get("labels") or {}
    annotations = metadata.get("annotations") or {}
    ours = metadata.get("namespace") == namespace and labels.get(names.PLAN_LABEL) == plan_label
    deployment = labels.get(names.DEPLOYMENT_LABEL) if ours else None
    gpus = pod_gpus(item)
    bound_to = spec.get("nodeName")
    if deployment is None and (gpus == 0 or bound_to is None):
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
        return Pod(**common, node=bound_to)
    gated = any(gate.get("name") == names.PLACEMENT_GATE for gate in spec.get("schedulingGates") or ())
    placed_on = annotations.get(names.PLACED_ON_ANNOTATION) if not gated else None
    # The API server keeps a pod Ready for up to a minute after its node is gone: the node has the last word.
    node = nodes.get(bound_to) if bound_to is not None else None
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    return Pod(
        **common,
        node=bound_to or placed_on,
        deployment=deployment,
        gated=gated,
        ready=not terminating and _condition(status, "Ready") == "True" and node is not None and node.ready,
        listed=(deployment, metadata["uid"]) in endpoints,
        serving=labels.get(names.SERVING_LABEL) == "true",
        draining_since=annotations.get(names.DRAINING_SINCE_ANNOTATION),
        unrouted_since=annotations.get(names.UNROUTED_SINCE_ANNOTATION),
        placed_since=annotations.get(names.PLACED_SINCE_ANNOTATION) if not gated else None,
        node_affinity=affinity if gated else None,
        trouble=_trouble(status) if not gated else None,
    )


def object_of(item: Json, *, kind: str, plan_uid: str) -> LiveObject:
    """A Deployment, Service, ConfigMap or HTTPRoute with what we render of it, what keeps a Deployment's pods from being
    made, and what gateways say of a route."""
    metadata = item["metadata"]
    controller = next((ref for ref in metadata.get("ownerReferences") or () if ref.get("controller")), None)
    ours = controller is not None and controller.get("uid") == plan_uid
    if controller is not None:
        owner = f"{controller.get('kind')} {controller.get('name')}"
    else:
        managers = sorted({entry.get("manager", "?") for entry in metadata.get("managedFields") or ()})
        owner = f"whoever made it ({', '.join(managers) or 'unknown'})"
    annotations = metadata.get("annotations") or {}
    manifest: Json = {
        "metadata": {
            "labels": metadata.get("labels") or {},
            "annotations": {key: annotations[key] for key in _KEPT_ANNOTATIONS if key in annotations},
        }
    }
    for key in ("spec", "data"):
        if ours and key in item:
            manifest[key] = item[key]
    if ours and kind == "Deployment" and (failure := _replica_failure(item.get("status") or {})):
        manifest["status"] = {"replicaFailure": failure}
    if ours and kind == HTTP_ROUTE:
        manifest["metadata"]["generation"] = metadata.get("generation")
        manifest["status"] = item.get("status") or {}
    return LiveObject(kind=kind, name=metadata["name"], uid=metadata["uid"], ours=ours, owner=owner, manifest=manifest)


def _replica_failure(status: Json) -> str | None:
    """Why the API server does not take the Deployment's pods; its controller copies it from the ReplicaSet."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}"[:300]
    return None


def size_manager(item: Json, path: tuple[str, ...], ours: str) -> str | None:
    """Another manager that owns the field at ``path``; for messages only.

    ``managedFields`` cannot prove who set a size: a write of 0 through ``/scale`` leaves nobody owning it (seen with
    Kubernetes 1.36). What we asked for is noted on the object instead.
    """
    owners = {
        entry.get("manager", "unknown")
        for entry in item["metadata"].get("managedFields") or ()
        if _has(entry.get("fieldsV1") or {}, path)
    }
    return min(owners - {ours}, default=None)


def at(item: Any, path: Iterable[str]) -> Any:
    """Value at a path of keys, or None."""
    for key in path:
        if not isinstance(item, dict):
            return None
        item = item.get(key)
    return item


def whole(value: Any) -> int:
    """A whole number from a quantity, 0 where it is none."""
    try:
        return int(str(value))
    except ValueError:
        return 0


def loads(text: Any) -> Json | None:
    """A JSON object, or None."""
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


def _trouble(status: Json) -> str | None:
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting['reason']}: {waiting.get('message', '')}"[:300]
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return f"Unschedulable: {condition.get('message', '')}"[:300]
    return None
