"""``NodePool`` of ``karpenter.sh``: a static one has a size, a dynamic one follows the pods that wait for nodes.

Source: kubernetes-sigs/karpenter, pkg/apis/v1/nodepool.go, nodepool_status.go and labels.go; designs/static-capacity.md. A
pool is static while ``spec.replicas`` is set, and cannot change over; of its limits only ``limits.nodes`` counts.

Replicas wait behind their gate until their node is there, so a dynamic pool would make none: it is refused. One that could
make nodes of several GPU types is refused for that, since neither its price nor what runs on its nodes would be known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import override

from servingplan.model.world import NodeTemplate
from servingplan.pool_kinds.any_path import AnyPath
from servingplan.pool_kinds.protocol import (
    INSTANCE_TYPE,
    ZONE,
    Json,
    at,
    object_name,
    taints_of,
    text_map,
    texts,
    written_number,
)

POOL_LABEL = "karpenter.sh/nodepool"
CAPACITY_TYPE = "karpenter.sh/capacity-type"
GPU_NAMES = (
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "karpenter.k8s.aws/instance-gpu-name",
    "karpenter.azure.com/sku-gpu-name",
    "cloud.google.com/gke-accelerator",
)
"""Labels that name one type of GPU."""
_GPU_COUNTS = ("karpenter.k8s.aws/instance-gpu-count", "karpenter.azure.com/sku-gpu-count")
_CAPACITY_TYPES = {"on-demand": "OnDemand", "spot": "Spot", "reserved": "Reserved"}
_TEMPLATE = ("spec", "template")


class KarpenterNodePool(AnyPath):
    """Sized by ``spec.replicas``; ``status.nodes`` is the number of nodes that exist."""

    status_keys = ("nodes",)

    @override
    def problem(self, item: Json) -> str | None:
        """Why a dynamic pool is refused; None for a static one."""
        if self.wanted(item) is not None:
            return None
        static = "make a static NodePool with spec.replicas, which a dynamic one cannot get any more"
        allowed = _allowed_values(item)
        if not any(len(allowed.get(key, ())) == 1 for key in (*GPU_NAMES, INSTANCE_TYPE)):
            said = [f"{key} in {', '.join(allowed[key])}" for key in (*GPU_NAMES, INSTANCE_TYPE) if key in allowed]
            return (
                "is dynamic, and could make nodes of several GPU types "
                f"({'; '.join(said) or 'its requirements name no GPU and no type of instance'}); {static}, whose "
                "requirements leave one type"
            )
        return f"is dynamic: it makes nodes for pods that wait to be scheduled, and replicas wait for a node; {static}"

    @override
    def bounds(self, item: Json) -> tuple[int, int | None]:
        """``limits.nodes`` as the most nodes."""
        return 0, written_number(at(item, ("spec", "limits", "nodes")))

    @override
    def node_label(self, item: Json) -> tuple[str, str] | None:
        """The label ``karpenter.sh/nodepool``."""
        return POOL_LABEL, object_name(item)

    @override
    def template(self, item: Json) -> NodeTemplate:
        """The labels and taints of the template, and the requirements that allow only one value."""
        allowed = _allowed_values(item)
        labels = {key: values[0] for key, values in allowed.items() if len(values) == 1}
        capacity = labels.get(CAPACITY_TYPE)
        counts = [written_number(labels[key]) for key in _GPU_COUNTS if key in labels]
        return NodeTemplate(
            labels={**labels, POOL_LABEL: object_name(item)},
            taints=taints_of(at(item, (*_TEMPLATE, "spec", "taints"))),
            startup_taints=taints_of(at(item, (*_TEMPLATE, "spec", "startupTaints"))),
            instance_types=allowed.get(INSTANCE_TYPE, ()),
            zones=allowed.get(ZONE, ()),
            gpus_per_node=next((count for count in counts if count), None),
            capacity_type=None if capacity is None else _CAPACITY_TYPES.get(capacity),
        )


def _allowed_values(item: Json) -> dict[str, tuple[str, ...]]:
    """The values of each label that the template's labels and requirements allow, sorted. Operators other than ``In`` allow
    any value."""
    found = {key: {value} for key, value in text_map(at(item, (*_TEMPLATE, "metadata", "labels"))).items()}
    requirements = at(item, (*_TEMPLATE, "spec", "requirements"))
    for requirement in requirements if isinstance(requirements, list) else ():
        if isinstance(requirement, Mapping) and requirement.get("operator") == "In":
            key, values = str(requirement.get("key")), set(texts(requirement.get("values")))
            found[key] = found[key] & values if key in found else values
    return {key: tuple(sorted(values)) for key, values in found.items() if values}
