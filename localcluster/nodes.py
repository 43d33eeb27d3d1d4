"""GPU nodes that KWOK keeps alive: what a fixed fleet looks like to the scheduler, without any machine behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from kubernetes import client, utils

NOT_READY_ANNOTATION = "kwok.servingplan.dev/not-ready"
ZONE = "zone-a"


@dataclass(frozen=True)
class NodeType:
    """One kind of GPU machine, as a cloud would offer it and as GPU feature discovery would label it."""

    name: str
    gpu_product: str
    gpus: int
    gpu_memory_mebibytes: int
    cpus: int
    memory_gibibytes: int
    dollars_per_hour: float
    shows_gpus: bool = True
    """Whether its device plugin works."""

    @property
    def resources(self) -> dict[str, str]:
        """Capacity of one such node."""
        return {
            "cpu": str(self.cpus),
            "memory": f"{self.memory_gibibytes}Gi",
            "ephemeral-storage": "2000Gi",
            "pods": "110",
            **({"nvidia.com/gpu": str(self.gpus)} if self.shows_gpus else {}),
        }

    @property
    def gpu_labels(self) -> dict[str, str]:
        """The labels that tell workloads which GPU a node has."""
        return {
            "nvidia.com/gpu.product": self.gpu_product,
            "nvidia.com/gpu.count": str(self.gpus),
            "nvidia.com/gpu.memory": str(self.gpu_memory_mebibytes),
        }


H100 = NodeType("h100-8x", "NVIDIA-H100-80GB-HBM3", 8, 81559, 192, 2048, 55.04)
L40S = NodeType("l40s-8x", "NVIDIA-L40S", 8, 46068, 192, 1536, 30.13)
A100 = NodeType("a100-4x", "NVIDIA-A100-SXM4-80GB", 4, 81920, 48, 680, 20.22)
NODE_TYPES = (H100, L40S, A100)
BLIND = replace(A100, name="a100-4x-blind", shows_gpus=False)
"""A machine that comes up, and nobody sees its GPUs."""


def node(node_type: NodeType, name: str, *, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Manifest of a handmade node of a type."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/os": "linux",
                "node.kubernetes.io/instance-type": node_type.name,
                "topology.kubernetes.io/zone": ZONE,
                **node_type.gpu_labels,
                **(labels or {}),
            },
        },
        "status": {"capacity": node_type.resources, "allocatable": node_type.resources},
    }


def create(
    api: client.ApiClient,
    node_type: NodeType,
    count: int,
    *,
    prefix: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> list[str]:
    """Create ``count`` nodes named PREFIX-0, PREFIX-1, ... and return their names; KWOK makes them Ready."""
    names = [f"{prefix or node_type.name}-{number}" for number in range(count)]
    for name in names:
        utils.create_from_dict(api, node(node_type, name, labels=labels))
    return names


def delete(api: client.ApiClient, *names: str, with_pods: bool = False) -> None:
    """Delete nodes: how a machine that is gone looks once the cloud has said so.

    Their pods stay, Ready as they were, until the pod garbage collector finds them after 40 to 60 seconds, as in any
    cluster; ``with_pods`` has them go at once.
    """
    core = client.CoreV1Api(api)
    for name in names:
        core.delete_node(name)
        if with_pods:
            for pod in core.list_pod_for_all_namespaces(field_selector=f"spec.nodeName={name}").items:
                _delete_pod(core, pod)


def _delete_pod(core: client.CoreV1Api, pod: client.V1Pod) -> None:
    metadata = pod.metadata
    assert metadata is not None
    assert metadata.name is not None
    assert metadata.namespace is not None
    try:
        core.delete_namespaced_pod(metadata.name, metadata.namespace, grace_period_seconds=0)
    except client.ApiException as error:
        if error.status != HTTPStatus.NOT_FOUND:  # else the collector was faster
            raise


def cordon(api: client.ApiClient, name: str, *, cordoned: bool = True) -> None:
    """Close a node to new pods, or open it again."""
    client.CoreV1Api(api).patch_node(name, {"spec": {"unschedulable": cordoned}})


def fail(api: client.ApiClient, name: str, *, failed: bool = True) -> None:
    """Make a node NotReady without deleting it, or well again."""
    value = "true" if failed else None
    client.CoreV1Api(api).patch_node(name, {"metadata": {"annotations": {NOT_READY_ANNOTATION: value}}})


def is_ready(one: client.V1Node) -> bool:
    """Whether a node says that it is Ready."""
    conditions = one.status.conditions if one.status else None
    return any(c.type == "Ready" and c.status == "True" for c in conditions or ())
