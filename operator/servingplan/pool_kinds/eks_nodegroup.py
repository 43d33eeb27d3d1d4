"""``Nodegroup`` of ``eks.services.k8s.aws``: a managed node group of EKS, by AWS Controllers for Kubernetes (ACK).

Source: aws-controllers-k8s/eks-controller, apis/v1alpha1/nodegroup.go, types.go, enums.go and annotation.go: the controller
sets the group's size unless the annotation says that an autoscaler does. The status has no number of nodes. Tags by which
the cluster autoscaler finds its groups: kubernetes/autoscaler, cluster-autoscaler/cloudprovider/aws/README.md.
"""

from __future__ import annotations

from typing import override

from servingplan.model.world import NodeTemplate
from servingplan.pool_kinds.any_path import AnyPath
from servingplan.pool_kinds.protocol import (
    INSTANCE_TYPE,
    Json,
    annotation,
    at,
    object_name,
    taints_of,
    text_map,
    texts,
    whole_number,
)

DESIRED_SIZE = ("spec", "scalingConfig", "desiredSize")
MANAGED_BY = "eks.services.k8s.aws/desired-size-managed-by"
EXTERNAL = "external-autoscaler"
POOL_LABEL = "eks.amazonaws.com/nodegroup"
_CAPACITY_LABEL = "eks.amazonaws.com/capacityType"
_AUTOSCALER_TAG = "k8s.io/cluster-autoscaler/"
_CAPACITY_TYPES = {"ON_DEMAND": "OnDemand", "SPOT": "Spot", "CAPACITY_BLOCK": "Reserved"}


class EksNodegroup(AnyPath):
    """Sized by ``spec.scalingConfig.desiredSize``, within ``minSize`` and ``maxSize``."""

    status_keys = ()
    annotations = (MANAGED_BY,)

    def __init__(self) -> None:
        super().__init__(DESIRED_SIZE)

    @override
    def bounds(self, item: Json) -> tuple[int, int | None]:
        """``minSize`` and ``maxSize``, because AWS refuses a desired size outside them."""
        scaling = at(item, DESIRED_SIZE[:-1])
        return whole_number(at(scaling, ("minSize",))) or 0, whole_number(at(scaling, ("maxSize",)))

    @override
    def sized_by(self, item: Json) -> str | None:
        """Another program that sizes it: the one that an annotation allows instead of the controller, or the cluster
        autoscaler by its tags."""
        if annotation(item, MANAGED_BY) == EXTERNAL:
            return (
                f"an autoscaler outside (annotation {MANAGED_BY}: {EXTERNAL}, with which the size here has no effect)"
            )
        cluster = at(item, ("spec", "clusterName"))
        tags = text_map(at(item, ("spec", "tags")))
        for tag in (f"{_AUTOSCALER_TAG}enabled", f"{_AUTOSCALER_TAG}{cluster}"):
            if tags.get(tag, "false").lower() != "false":
                return f"the cluster autoscaler (tag {tag})"
        return None

    @override
    def node_label(self, item: Json) -> tuple[str, str] | None:
        """The label ``eks.amazonaws.com/nodegroup``."""
        return POOL_LABEL, _group_name(item)

    @override
    def template(self, item: Json) -> NodeTemplate:
        """The labels, taints and instance types that the group states for EKS."""
        spec = at(item, ("spec",))
        types = tuple(sorted(texts(at(spec, ("instanceTypes",)))))
        capacity = at(spec, ("capacityType",))
        labels = text_map(at(spec, ("labels",))) | {POOL_LABEL: _group_name(item)}
        if len(types) == 1:
            labels[INSTANCE_TYPE] = types[0]
        if capacity in _CAPACITY_TYPES:
            labels[_CAPACITY_LABEL] = capacity
        return NodeTemplate(
            labels=labels,
            taints=taints_of(at(spec, ("taints",))),
            instance_types=types,
            capacity_type=_CAPACITY_TYPES.get(capacity) if isinstance(capacity, str) else None,
        )


def _group_name(item: Json) -> str:
    return str(at(item, ("spec", "name")) or object_name(item))
