"""Karpenter with its KWOK provider: a cloud that sells GPU nodes until its market is sold out, and pools of a size we ask for.

Each node type has one static NodePool (``spec.replicas``): ``kubectl scale nodepool h100-8x --replicas=2`` rents two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from localcluster import binaries
from localcluster.nodes import ZONE, NodeType

ALLOWED_NAMESPACES_ANNOTATION = "servingplan.dev/allowed-namespaces"
NODE_CLASS = "default"
ON_DEMAND, SPOT = "on-demand", "spot"
_SPOT_PRICE = 0.4
"""The part of the price on demand that a Spot node costs."""


def instance_types(node_types: Sequence[NodeType]) -> list[dict[str, Any]]:
    """The provider's catalogue, in the form its parser reads (its own example file has another)."""
    return [
        {
            "name": node_type.name,
            "architecture": "amd64",
            "operatingSystems": ["linux"],
            "resources": node_type.resources,
            "offerings": [
                {
                    "Price": node_type.dollars_per_hour * share,
                    "Available": True,
                    "Requirements": [
                        {"key": "karpenter.sh/capacity-type", "operator": "In", "values": [capacity_type]},
                        {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [ZONE]},
                    ],
                }
                for capacity_type, share in ((ON_DEMAND, 1), (SPOT, _SPOT_PRICE))
            ],
        }
        for node_type in node_types
    ]


def crd_files() -> list[Path]:
    """Karpenter's custom resource definitions, from the source the program was built from."""
    module = binaries.module_folder("karpenter", "sigs.k8s.io/karpenter")
    return sorted(file for crds in ("pkg/apis/crds", "kwok/apis/crds") for file in (module / crds).glob("*.yaml"))


def environment(instance_types_file: Path, market_file: Path, *, metrics_port: int, probe_port: int) -> dict[str, str]:
    """Settings of the Karpenter process, which takes them from environment variables.

    ``market_file`` names what cannot be had (``soldOut``) and what has yet to come (``held``), each a JSON list; it is read
    at every launch.
    """
    return {
        "MARKET_FILE": str(market_file),
        "INSTANCE_TYPES_FILE_PATH": str(instance_types_file),
        "FEATURE_GATES": "StaticCapacity=true,NodeOverlay=false",
        "METRICS_PORT": str(metrics_port),
        "HEALTH_PROBE_PORT": str(probe_port),
        "DISABLE_LEADER_ELECTION": "true",
        "KARPENTER_SERVICE": "karpenter",
        "SYSTEM_NAMESPACE": "kube-system",
        "BATCH_IDLE_DURATION": "1s",
        "BATCH_MAX_DURATION": "5s",
    }


def node_class(*, registration_delay_seconds: float = 3, name: str = NODE_CLASS) -> dict[str, Any]:
    """A KWOKNodeClass whose nodes take this long to boot."""
    return {
        "apiVersion": "karpenter.kwok.sh/v1alpha1",
        "kind": "KWOKNodeClass",
        "metadata": {"name": name},
        "spec": {"nodeRegistrationDelay": f"{registration_delay_seconds}s"},
    }


def static_node_pool(
    node_type: NodeType,
    *,
    name: str | None = None,
    replicas: int = 0,
    limit_nodes: int | None = None,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    node_class_name: str = NODE_CLASS,
    capacity_type: str = ON_DEMAND,
) -> dict[str, Any]:
    """A static NodePool of one node type, named as the type unless told otherwise.

    Annotations allow a plan to size it (``ALLOWED_NAMESPACES_ANNOTATION``); labels go onto its nodes.
    """
    spec: dict[str, Any] = {
        "replicas": replicas,
        "template": {
            "metadata": {"labels": {**node_type.gpu_labels, **(labels or {})}},
            "spec": {
                "nodeClassRef": {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": node_class_name},
                "requirements": [
                    {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [node_type.name]},
                    {"key": "karpenter.sh/capacity-type", "operator": "In", "values": [capacity_type]},
                ],
                "expireAfter": "Never",
            },
        },
    }
    if limit_nodes is not None:
        spec["limits"] = {"nodes": str(limit_nodes)}
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": name or node_type.name, "annotations": dict(annotations or {})},
        "spec": spec,
    }


def dynamic_node_pool(node_types: Sequence[NodeType], *, name: str, annotations: Mapping[str, str]) -> dict[str, Any]:
    """A NodePool without a size, of several node types: it follows the pods that wait to be scheduled."""
    made = static_node_pool(node_types[0], name=name, annotations=annotations)
    template = made["spec"]["template"]
    del made["spec"]["replicas"], template["metadata"]
    template["spec"]["requirements"][0]["values"] = [node_type.name for node_type in node_types]
    return made
