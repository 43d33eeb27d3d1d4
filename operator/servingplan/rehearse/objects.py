"""The simulated cluster as its API server shows it: what a node, a pod or a pool is, in the words of the API."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from servingplan.api.v1alpha1 import API_VERSION, KIND
from servingplan.kube import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    DEVICE_CLASSES,
    DISRUPTION_BUDGETS,
    ENDPOINT_SLICES,
    EVENTS,
    HTTP_ROUTES,
    LEADER_WORKER_SETS,
    NODES,
    PLANS,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    SERVICES,
    Resource,
)
from servingplan.model import names
from servingplan.model.fleet import digest
from servingplan.rehearse.api_server import Key

if TYPE_CHECKING:
    from servingplan.rehearse.cluster import SimulatedCluster
    from servingplan.rehearse.parts import SimulatedNode, SimulatedPod, SimulatedPool

NODE_POOLS = Resource("karpenter.sh/v1", "nodepools", "NodePool", namespaced=False)
NODE_CLAIMS = Resource("karpenter.sh/v1", "nodeclaims", "NodeClaim", namespaced=False)
DEVICE_KINDS = (RESOURCE_SLICES, RESOURCE_CLAIMS, RESOURCE_CLAIM_TEMPLATES, DEVICE_CLASSES)
DRIVER = "gpu.nvidia.com"
"""The driver of devices, and its only DeviceClass."""
RESOURCES = (
    *DEVICE_KINDS,
    *(PLANS, NODES, PODS, SERVICES, CONFIG_MAPS, DEPLOYMENTS),
    *(DISRUPTION_BUDGETS, ENDPOINT_SLICES, HTTP_ROUTES, LEADER_WORKER_SETS, EVENTS, NODE_POOLS, NODE_CLAIMS),
)
NAMESPACE = "llm"
PLAN = "chat"
PLAN_UID = "plan-uid"
_LAST_WORDS = re.compile(r"(?P<reason>\w+) \(exit code (?P<code>\d+)\)(: (?P<message>.*))?")

Json = dict[str, Any]


def text(moment: datetime) -> str:
    """RFC 3339, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def shown(cluster: SimulatedCluster) -> Iterator[tuple[Key, Json]]:
    """All objects, without their versions."""
    yield (KIND, cluster.namespace, cluster.plan), _plan(cluster)
    for name, spec in cluster.other_plans.items():
        metadata = {"namespace": cluster.namespace, "name": name, "uid": f"{name}-{digest(spec)}", "generation": 1}
        yield (
            (KIND, cluster.namespace, name),
            {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec},
        )
    for node in cluster.nodes.values():
        yield ("Node", "", node.name), _node(node, devices=cluster.devices)
    for pod in cluster.pods.values():
        yield ("Pod", cluster.namespace if pod.deployment else "elsewhere", pod.name), _pod(cluster, pod)
    for pool in cluster.pools.values():
        yield ("NodePool", "", pool.name), _pool(cluster, pool)
    for kind, name in cluster.objects:
        yield (kind, cluster.namespace, name), _object(cluster, kind, name)
    if cluster.devices:
        yield from _devices(cluster)
    services = {name for kind, name in cluster.objects if kind == "Service"}
    for service in sorted(services | {pod.deployment for pod in cluster.our_pods() if pod.deployment}):
        yield ("EndpointSlice", cluster.namespace, f"{service}-x"), _slice(cluster, service)


def _plan(cluster: SimulatedCluster) -> Json:
    metadata: Json = {
        "namespace": cluster.namespace,
        "name": cluster.plan,
        "uid": PLAN_UID,
        "generation": cluster.generation,
        "labels": {} if cluster.queue is None else {names.QUEUE_LABEL: cluster.queue},
        "annotations": {} if cluster.approved is None else {names.APPROVE_ANNOTATION: cluster.approved},
    }
    if cluster.deleting_since is not None:
        metadata["deletionTimestamp"] = cluster.deleting_since
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": metadata,
        "spec": cluster.spec,
        "status": cluster.status,
    }


def device_names(node: SimulatedNode) -> list[str]:
    """The devices of a node."""
    return [f"gpu-{index}" for index in range(node.gpus)]


def _devices(cluster: SimulatedCluster) -> Iterator[tuple[Key, Json]]:
    expression = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == 'gpu'"
    spec = {"selectors": [{"cel": {"expression": expression}}]}
    yield ("DeviceClass", "", DRIVER), {"metadata": {"name": DRIVER, "uid": "class"}, "spec": spec}
    for node in cluster.nodes.values():
        if node.name not in cluster.silent_drivers:
            yield ("ResourceSlice", "", node.name), _device_slice(node)
    for pod in cluster.pods.values():
        if pod.claimed:
            namespace = cluster.namespace if pod.deployment else "elsewhere"
            yield ("ResourceClaim", namespace, pod.name), _claim(cluster, pod, namespace)


def _device_slice(node: SimulatedNode) -> Json:
    listed = [
        {"name": name, "attributes": {"type": {"string": "gpu"}, "uuid": {"string": f"{node.uid}-{name}"}}}
        for name in device_names(node)
    ]
    pool = {"name": node.name, "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": DRIVER, "nodeName": node.name, "pool": pool, "devices": listed}
    return {"metadata": {"name": node.name, "uid": f"slice-{node.uid}"}, "spec": spec}


def _claim(cluster: SimulatedCluster, pod: SimulatedPod, namespace: str) -> Json:
    results = [{"request": "gpus", "driver": DRIVER, "pool": pod.node, "device": name} for name in pod.devices]
    labels = (
        {names.PLAN_LABEL: names.label_value(cluster.plan), names.DEPLOYMENT_LABEL: pod.deployment}
        if pod.deployment
        else {}
    )
    return {
        "metadata": {"namespace": namespace, "name": pod.name, "uid": f"claim-{pod.uid}", "labels": labels},
        "status": {"allocation": {"devices": {"results": results}}} if results else {},
    }


def _node(node: SimulatedNode, *, devices: bool) -> Json:
    taints = [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}] if node.disrupted else []
    taints += [{"key": "karpenter.sh/unregistered", "effect": "NoExecute"}] if node.closed else []
    return {
        "metadata": {"name": node.name, "uid": node.uid, "labels": dict(node.labels)},
        "spec": {
            "unschedulable": not node.schedulable,
            "taints": taints,
        },
        "status": {
            "allocatable": {**({} if devices else {node.resource: str(node.gpus)}), **node.allocatable},
            "conditions": [{"type": "Ready", "status": "True" if node.ready else "Unknown"}],
        },
    }


def _pod(cluster: SimulatedCluster, pod: SimulatedPod) -> Json:
    """The pod with the Ready condition that its kubelet wrote last, whatever became of its node."""
    limits = {} if pod.claims_from is not None else {pod.resource: str(pod.gpus)}
    metadata: Json = {
        "namespace": cluster.namespace if pod.deployment else "elsewhere",
        "name": pod.name,
        "uid": pod.uid,
        "creationTimestamp": text(pod.created),
        "labels": {},
        "annotations": {},
    }
    if pod.deployment is not None:
        metadata["labels"] = {
            names.PLAN_LABEL: names.label_value(cluster.plan),
            names.DEPLOYMENT_LABEL: pod.deployment,
            names.SERVING_LABEL: str(pod.serving).lower(),
        }
        if pod.group is not None:
            metadata["labels"] |= {names.GROUP_LABEL: str(pod.group), names.WORKER_LABEL: str(pod.rank)}
        if pod.rank:
            del metadata["labels"][names.SERVING_LABEL]
        marks = {
            names.PLACED_ON_ANNOTATION: pod.placed_on,
            names.PLACED_SINCE_ANNOTATION: None if pod.placed_since is None else text(pod.placed_since),
            names.DRAINING_SINCE_ANNOTATION: pod.draining_since,
            names.UNROUTED_SINCE_ANNOTATION: pod.unrouted_since,
            names.DELETION_COST_ANNOTATION: str(pod.deletion_cost) if pod.deletion_cost else None,
        }
        marks[names.DEVICES_ANNOTATION] = json.dumps({"count": pod.gpus}) if pod.claims_from is not None else None
        marks[names.GROUP_SIZE_ANNOTATION] = None if pod.group is None else str(pod.size)
        metadata["annotations"] = {key: value for key, value in marks.items() if value is not None}
    if pod.gone_at is not None:
        metadata["deletionTimestamp"] = text(pod.gone_at)
    gates = [*pod.other_gates, *([names.PLACEMENT_GATE] if pod.gated else [])]
    spec: Json = {
        "schedulingGates": [{"name": gate} for gate in gates],
        "containers": [{"name": "engine", "resources": {"limits": limits}}],
    }
    if pod.node is not None:
        spec["nodeName"] = pod.node
    if pod.affinity is not None:
        spec["affinity"] = pod.affinity
    conditions = [{"type": "Ready", "status": str(pod.reports_ready)}]
    if pod.ready_since is not None:
        conditions[0]["lastTransitionTime"] = text(pod.ready_since)
    if pod.unschedulable:
        refused = {"status": "False", "reason": "Unschedulable", "message": "no node has the GPUs"}
        conditions.append({"type": "PodScheduled", **refused})
    status = {
        "phase": "Running" if pod.reports_ready else "Pending",
        "podIP": f"10.0.{pod.serial // 256}.{pod.serial % 256}",
        "conditions": conditions,
        "containerStatuses": [{"name": "engine", "started": pod.started, **_state(cluster, pod)}],
    }
    return {"metadata": metadata, "spec": spec, "status": status}


def _state(cluster: SimulatedCluster, pod: SimulatedPod) -> Json:
    """The state of a container that does not start: each start ends after a tick, and the next one comes later and later."""
    words = cluster.crashes(pod) if pod.deployment is not None and pod.bound_at is not None else None
    if words is None or pod.reports_ready:
        return {}
    if "ImagePull" in words:
        reason, _, message = words.partition(": ")
        return {"state": {"waiting": {"reason": reason, "message": message}}}
    ran = cluster.ticks_since(pod.bound_at)
    if not ran:
        return {}
    said = _LAST_WORDS.fullmatch(words)
    assert said is not None, words
    ended = {"reason": said["reason"], "exitCode": int(said["code"]), "message": said["message"] or ""}
    return {
        "restartCount": ran.bit_length() - 1,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": ended},
    }


def _pool(cluster: SimulatedCluster, pool: SimulatedPool) -> Json:
    annotations = {
        names.CLAIM_ANNOTATION: pool.claimed_by,
        names.SIZE_ANNOTATION: None if pool.asked is None else str(pool.asked),
        names.ALLOWED_NAMESPACES_ANNOTATION: ",".join(pool.allowed) or None,
        names.MAX_NODES_ANNOTATION: None if pool.max_nodes is None else str(pool.max_nodes),
    }
    refused = None if pool.refused_at is None else text(pool.refused_at)
    words = {"reason": "InsufficientCapacity", "message": "nothing is left", "lastTransitionTime": refused}
    owner = {"manager": pool.manager or names.POOL_MANAGER, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    return {
        "metadata": {
            "name": pool.name,
            "uid": f"pool-{pool.name}",
            "annotations": {key: value for key, value in annotations.items() if value is not None},
            "managedFields": [owner],
        },
        "spec": {"replicas": pool.wanted, "template": {"metadata": {"labels": pool.promised}}},
        "status": {
            "nodes": len(cluster.nodes_of(pool.name)) + len(pool.booting),
            "conditions": [] if refused is None else [{"type": "Launched", "status": "False", **words}],
        },
    }


def _object(cluster: SimulatedCluster, kind: str, name: str) -> Json:
    manifest = cluster.objects[kind, name]
    metadata = {**manifest["metadata"], "namespace": cluster.namespace, "name": name, "uid": cluster.uid_of(kind, name)}
    managers: list[Json] = [{"manager": names.FIELD_MANAGER, "operation": "Apply"}]
    if (kind, name) in cluster.foreign_objects:
        metadata.update(ownerReferences=[], labels={})
        managers = [{"manager": "somebody", "operation": "Update"}]
    elif kind in (names.DEPLOYMENT, names.LEADER_WORKER_SET) and name in cluster.scalers:
        manager, time = cluster.scalers[name]
        managers.append({"manager": manager, "time": time, "fieldsV1": {"f:spec": {"f:replicas": {}}}})
    item = {**manifest, "metadata": {**metadata, "managedFields": managers}}
    if kind == "Deployment" and cluster.lacks_pods(manifest, name):
        failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
        item["status"] = {"conditions": [failure]}
    if kind == "HTTPRoute" and name in cluster.routes_written:
        item["metadata"]["generation"] = len(cluster.routes_written[name])
        item["status"] = {"parents": _parents(cluster, manifest, name)}
    return item


def _parents(cluster: SimulatedCluster, manifest: Json, name: str) -> list[Json]:
    """What the gateway says of the route that it has by now."""
    taken = cluster.routes_taken(name)
    conditions: list[Json] = [
        {"type": kind, "status": "True", "observedGeneration": taken} for kind in ("Accepted", "ResolvedRefs")
    ]
    for condition in conditions:
        if cluster.route_objection and condition["type"] == cluster.route_objection[0]:
            _, reason, message = cluster.route_objection
            condition.update(status="False", reason=reason, message=message)
    return [{"parentRef": ref, "conditions": conditions} for ref in manifest["spec"]["parentRefs"]] if taken else []


def _slice(cluster: SimulatedCluster, service: str) -> Json:
    """The slice as the EndpointSlice controller writes it, some time after the pods are as they are."""
    listed = [pod for pod in cluster.pods_of(service) if cluster.is_listed(pod)]
    return {
        "metadata": {
            "namespace": cluster.namespace,
            "name": f"{service}-x",
            "uid": f"slice-{service}",
            "labels": {names.SERVICE_LABEL: service, names.PLAN_LABEL: names.label_value(cluster.plan)},
        },
        "endpoints": [{"targetRef": {"kind": "Pod", "uid": pod.uid}, "conditions": {"ready": True}} for pod in listed],
    }
