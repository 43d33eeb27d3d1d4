"""What nodes say of themselves against what the plan says of their pool: GPU, number, selector, taints.

Nodes are compared once they are ready and show GPUs; what they do not say contradicts nothing. Labels of the vendor's feature
discovery and types of instances name one card; names of clouds may mean several, so they contradict only another family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servingplan.api.v1alpha1 import NodePool, PlanSpec
from servingplan.model.hardware import GpuType, is_share
from servingplan.model.times import seconds_since
from servingplan.model.world import Node, Taint
from servingplan.planning.resources import offered_by
from servingplan.profiles.catalogue import Catalogue
from servingplan.render.deployment import tolerations

INSTANCE = "node.kubernetes.io/instance-type"
FEATURE_LABELS = (
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "beta.amd.com/gpu.product-name",
    "amd.com/gpu.product",
)
"""By the vendor's feature discovery, which reads the card itself."""
CLOUD_LABELS = (
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "karpenter.azure.com/sku-gpu-name",
    "k8s.amazonaws.com/accelerator",
    "kubernetes.azure.com/accelerator",
    "cluster-api/accelerator",
)
COUNT_LABELS = ("nvidia.com/gpu.count", "karpenter.k8s.aws/instance-gpu-count", "karpenter.azure.com/sku-gpu-count")
KARPENTER_POOL = "karpenter.sh/nodepool"

STARTUP_TAINT_SECONDS = 600.0
"""How long a node may bear taints before they count as lasting, since it was created: agents that get it ready for pods take
theirs off once drivers and images are there, within minutes."""

FALSE_DECLARATION = "FalseDeclaration"
UNTOLERATED = "UntoleratedTaint"
NO_MATCH = "NoNodeMatches"


@dataclass(frozen=True)
class Contradiction:
    """What a node, or the pool, says otherwise than the plan."""

    reason: str
    message: str
    node: str | None = None
    """On which nothing may be placed; None: the plan is wrong about the pool, and its nodes are used as they are."""


def contradictions(
    *,
    spec: PlanSpec,
    pool: NodePool,
    gpu: GpuType | None,
    nodes: Sequence[Node],
    catalogue: Catalogue,
    startup_taints: Sequence[Taint],
    now: str,
) -> list[Contradiction]:
    """What the nodes of one pool say otherwise than the plan, worst first. ``pool`` has its resource, and ``nodes``, which
    match it, are counted by it.

    ``startup_taints`` are those that the pool's object says its nodes lose again. ``now`` is RFC 3339.
    """
    found: list[Contradiction] = []
    tolerated = [[*tolerations(pool), *_own_tolerations(model.engine.pod_template)] for model in spec.models]
    for node in nodes:
        if not node.usable:
            continue
        where = f"nodePools[{pool.name}]"
        if (said := _other_card(pool, gpu, node, catalogue)) is not None:
            text = f"{where}.gpu is {pool.gpu}, node {node.name} says {said[0]}={said[1]}"
            found.append(Contradiction(FALSE_DECLARATION, f"{text}; correct gpu or nodeSelector", node.name))
        elif node.gpus == 0 and offered_by(node):
            text = f"{where}.resourceName is {pool.resource_name}, node {node.name} has {', '.join(sorted(offered_by(node)))}"
            found.append(
                Contradiction(FALSE_DECLARATION, f"{text}; correct gpu, resourceName or nodeSelector", node.name)
            )
        elif node.gpus > 0 and (taint := _untolerated(node, tolerated, startup_taints, now)) is not None:
            text = (
                f"{where}: node {node.name} has the taint {taint.key}={taint.value}:{taint.effect}, which no replica "
                "tolerates; add it to models[].engine.podTemplate.spec.tolerations, or take the pool out"
            )
            found.append(Contradiction(UNTOLERATED, text, node.name))
    return found + _other_count(pool, nodes)


def unmatched(pool: NodePool, nodes: Sequence[Node], others: Sequence[Node]) -> Contradiction | None:
    """Nodes of the pool's own object that its selector does not match, where it matches none; ``others``: nodes of the
    cluster that are known beside ``nodes``."""
    resize = pool.resize
    if nodes or resize is None or not is_karpenter(pool):
        return None
    strays = [node for node in others if node.ready and node.labels.get(KARPENTER_POOL) == resize.name]
    if not strays:
        return None
    said = ", ".join(
        f"{key}={strays[0].labels[key]}" if key in strays[0].labels else f"no label {key}"
        for key, value in sorted(pool.node_selector.items())
        if strays[0].labels.get(key) != value
    )
    count = f"{len(strays)} node{'s' if len(strays) > 1 else ''} of {resize.kind} {resize.name} "
    count += "exist" if len(strays) > 1 else "exists"
    text = f"nodePools[{pool.name}].nodeSelector: {count}, but none matches {selector_text(pool)}"
    return Contradiction(NO_MATCH, f"{text}: node {strays[0].name} has {said}")


def is_karpenter(pool: NodePool) -> bool:
    """Whether the pool's object is a Karpenter NodePool, whose nodes carry its name."""
    return pool.resize is not None and (pool.resize.api_version.partition("/")[0], pool.resize.kind) == (
        "karpenter.sh",
        "NodePool",
    )


def selector_text(pool: NodePool) -> str:
    """The selector of a pool as people write it."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in sorted(pool.node_selector.items())) + "}"


def _other_card(pool: NodePool, gpu: GpuType | None, node: Node, catalogue: Catalogue) -> tuple[str, str] | None:
    """Label and value by which a node names another card than the plan; None where it does not."""
    if pool.gpu is None or pool.gpu_spec is not None or gpu is None:
        return None
    for label in (*FEATURE_LABELS, INSTANCE):
        said = node.labels.get(label)
        if said is None:
            continue
        if is_share(said):
            return label, said
        card = catalogue.find_gpu(said)
        if card is not None:
            return None if card.name == gpu.name else (label, said)
    for label in CLOUD_LABELS:
        card = catalogue.find_gpu(node.labels[label]) if label in node.labels else None
        if card is not None and _family(card) != _family(gpu):
            return label, node.labels[label]
    return None


def _family(gpu: GpuType) -> str:
    return gpu.name.partition("-")[0]


def _other_count(pool: NodePool, nodes: Sequence[Node]) -> list[Contradiction]:
    """A number that no node has. A node with a broken GPU shows fewer than it has: labels, and other nodes, speak for it."""
    shown = [node for node in nodes if node.usable and node.gpus > 0]
    declared = pool.gpus_per_node
    if declared is None or not shown:
        return []
    for node in shown:
        labels = [node.labels[label] for label in COUNT_LABELS if label in node.labels]
        if node.gpus == declared or str(declared) in labels:
            return []
    best = max(shown, key=lambda node: (node.gpus, node.name))
    text = (
        f"nodePools[{pool.name}].gpusPerNode is {declared}, node {best.name} has {best.gpus} of {pool.resource_name}; correct "
        "gpusPerNode or nodeSelector"
    )
    return [Contradiction(FALSE_DECLARATION, text)]


def _untolerated(
    node: Node, tolerated: Sequence[Sequence[Mapping[str, Any]]], startup_taints: Sequence[Taint], now: str
) -> Taint | None:
    """A taint of a node that keeps the replicas of every model off it for good."""
    if seconds_since(node.created, now) < STARTUP_TAINT_SECONDS:
        return None
    passing = {(taint.key, taint.effect) for taint in startup_taints}
    lasting = [taint for taint in node.taints if (taint.key, taint.effect) not in passing]
    refused = [
        next((taint for taint in lasting if not any(_tolerates(item, taint) for item in items)), None)
        for items in tolerated
    ]
    return None if None in refused else refused[0]


def _tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    """By the rules of the scheduler (kubernetes/api core/v1, Toleration)."""
    if toleration.get("effect") not in (None, "", taint.effect):
        return False
    key = toleration.get("key") or ""
    if toleration.get("operator", "Equal") == "Exists":
        return key in ("", taint.key)
    return key == taint.key and (toleration.get("value") or "") == taint.value


def _own_tolerations(template: Any) -> list[Mapping[str, Any]]:
    spec = template.get("spec") if isinstance(template, Mapping) else None
    found = spec.get("tolerations") if isinstance(spec, Mapping) else None
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []
