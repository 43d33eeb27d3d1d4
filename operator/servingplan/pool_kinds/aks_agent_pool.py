"""``ManagedClustersAgentPool`` of ``containerservice.azure.com``: a node pool of AKS, by Azure Service Operator (ASO).

Source: Azure/azure-service-operator, v2/api/containerservice (structure.txt, managed_clusters_agent_pool_types_gen.go) and
v2/samples/containerservice. The version is that of the plan's reference: ASO serves many. A pool of mode System has at
least one node, any pool at most 1,000 (the description of ``count``). With ``enableAutoScaling`` AKS sets ``count`` itself.
"""

from __future__ import annotations

from typing import override

from servingplan.model.world import NodeTemplate
from servingplan.pool_kinds.any_path import AnyPath
from servingplan.pool_kinds.protocol import INSTANCE_TYPE, Json, at, object_name, text_map, texts, written_taints

COUNT = ("spec", "count")
POOL_LABEL = "kubernetes.azure.com/agentpool"
MOST_NODES = 1000
_CAPACITY_TYPES = {"Regular": "OnDemand", "Spot": "Spot"}


class AksAgentPool(AnyPath):
    """Sized by ``spec.count``; ``status.count`` is the number of nodes that exist."""

    status_keys = ("count",)

    def __init__(self) -> None:
        super().__init__(COUNT)

    @override
    def bounds(self, item: Json) -> tuple[int, int | None]:
        """The bounds of AKS."""
        return (1 if at(item, ("spec", "mode")) == "System" else 0), MOST_NODES

    @override
    def sized_by(self, item: Json) -> str | None:
        """AKS's autoscaler, if it is on."""
        if at(item, ("spec", "enableAutoScaling")) is True:
            least, most = at(item, ("spec", "minCount")), at(item, ("spec", "maxCount"))
            return f"the cluster autoscaler of AKS (spec.enableAutoScaling, minCount {least}, maxCount {most})"
        return None

    @override
    def node_label(self, item: Json) -> tuple[str, str] | None:
        """The label ``kubernetes.azure.com/agentpool``."""
        return POOL_LABEL, _pool_name(item)

    @override
    def template(self, item: Json) -> NodeTemplate:
        """The labels, taints and sizes of nodes that the pool states for AKS."""
        spec = at(item, ("spec",))
        size, priority = at(spec, ("vmSize",)), at(spec, ("scaleSetPriority",))
        labels = text_map(at(spec, ("nodeLabels",))) | {POOL_LABEL: _pool_name(item)}
        types = (size,) if isinstance(size, str) else ()
        labels |= dict.fromkeys((INSTANCE_TYPE,), size) if types else {}
        return NodeTemplate(
            labels=labels,
            taints=written_taints(texts(at(spec, ("nodeTaints",)))),
            instance_types=types,
            capacity_type=_CAPACITY_TYPES.get(priority) if isinstance(priority, str) else None,
        )


def _pool_name(item: Json) -> str:
    return str(at(item, ("spec", "azureName")) or object_name(item))
