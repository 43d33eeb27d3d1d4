"""``MachineDeployment``, ``MachinePool`` and ``MachineSet`` of Cluster API, and OpenShift's ``MachineSet``.

Source: kubernetes-sigs/cluster-api, api/core/v1beta2/machinedeployment_types.go, machinepool_types.go, machine_types.go,
common_types.go, and docs/book/src/reference/api/metadata-propagation.md: of a machine's labels only those of three domains
reach its node. What the cluster autoscaler is told by annotations: kubernetes/autoscaler,
cluster-autoscaler/cloudprovider/clusterapi/clusterapi_utils.go; the group in front of the two bounds differs by installation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import override

from servingplan.model.world import NodeTemplate
from servingplan.pool_kinds.any_path import AnyPath
from servingplan.pool_kinds.protocol import Json, annotation, at, taints_of, text_map, written_number, written_taints

AUTOSCALER_MIN = "/cluster-api-autoscaler-node-group-min-size"
AUTOSCALER_MAX = "/cluster-api-autoscaler-node-group-max-size"
REPLICAS_MANAGED_BY = "cluster.x-k8s.io/replicas-managed-by"
_CAPACITY = "capacity.cluster-autoscaler.kubernetes.io/"
GPU_COUNT = f"{_CAPACITY}gpu-count"
LABELS = f"{_CAPACITY}labels"
TAINTS = f"{_CAPACITY}taints"
_NODE_LABEL_DOMAINS = ("node-role.kubernetes.io", "node-restriction.kubernetes.io", "node.cluster.x-k8s.io")
_TEMPLATE = ("spec", "template")


class MachineReplicas(AnyPath):
    """Sized by ``spec.replicas``; ``status.replicas`` is the number of machines that exist."""

    status_keys = ("replicas",)
    annotations = (AUTOSCALER_MIN, AUTOSCALER_MAX, REPLICAS_MANAGED_BY, GPU_COUNT, LABELS, TAINTS)

    @override
    def sized_by(self, item: Json) -> str | None:
        """Another program that sizes it: the cluster autoscaler, if its bounds are annotated; whatever manages the replicas
        of a MachinePool from outside; or the MachineDeployment of a MachineSet."""
        managed = annotation(item, REPLICAS_MANAGED_BY)
        if managed is not None and managed.lower() != "false":
            return f"{managed or 'somebody outside Cluster API'} (annotation {REPLICAS_MANAGED_BY})"
        least, most = annotation(item, AUTOSCALER_MIN), annotation(item, AUTOSCALER_MAX)
        if least is not None or most is not None:
            return f"the cluster autoscaler (annotations ...{AUTOSCALER_MIN} {least}, ...{AUTOSCALER_MAX} {most})"
        owners = at(item, ("metadata", "ownerReferences"))
        for owner in owners if isinstance(owners, list) else ():
            if isinstance(owner, Mapping) and owner.get("controller") and owner.get("kind") == "MachineDeployment":
                return f"its MachineDeployment {owner.get('name')}, which is the object to name"
        return None

    @override
    def template(self, item: Json) -> NodeTemplate:
        """The labels that reach nodes, the taints of machines, and what the annotations for the autoscaler say of nodes
        that do not exist yet."""
        own = text_map(at(item, (*_TEMPLATE, "metadata", "labels")))
        told = (entry.partition("=") for entry in (annotation(item, LABELS) or "").split(",") if "=" in entry)
        machine_taints = at(item, (*_TEMPLATE, "spec", "taints"))
        machine_taints = machine_taints if isinstance(machine_taints, list) else []
        passing = [taint for taint in machine_taints if at(taint, ("propagation",)) == "OnInitialization"]
        return NodeTemplate(
            labels={
                **{key.strip(): value.strip() for key, _, value in told},
                **{key: value for key, value in own.items() if _reaches_nodes(key)},
            },
            taints=(
                *taints_of([taint for taint in machine_taints if taint not in passing]),
                *written_taints((annotation(item, TAINTS) or "").split(",")),
            ),
            startup_taints=taints_of(passing),
            gpus_per_node=written_number(annotation(item, GPU_COUNT)) or None,
        )


def _reaches_nodes(label: str) -> bool:
    domain, slash, _ = label.partition("/")
    return bool(slash) and any(domain == known or domain.endswith(f".{known}") for known in _NODE_LABEL_DOMAINS)
