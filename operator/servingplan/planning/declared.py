"""Contradictions between the plan and its pools: what nodes, and the object that makes them, say of GPU, number, selector and
taints.

Nodes are compared once they are ready and show GPUs, the object at any time. What they do not say contradicts nothing. Labels
of the vendor's feature discovery and types of instances name one card. Names that clouds use may mean several cards, so they
contradict only if the family differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.hardware import GpuType, is_share
from servingplan.model.times import seconds_since
from servingplan.model.world import DeviceClass, Node, NodeTemplate, PoolObject, Taint
from servingplan.planning.devices import chosen, product_in, slice_in, text_of
from servingplan.planning.resources import offered_by
from servingplan.pool_kinds.protocol import INSTANCE_TYPE
from servingplan.profiles.catalogue import Catalogue
from servingplan.render.deployment import tolerations

FEATURE_LABELS = (
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "beta.amd.com/gpu.product-name",
    "amd.com/gpu.product",
)
"""Labels that are set by the vendor's feature discovery, which reads the card itself."""
CLOUD_LABELS = (
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "karpenter.azure.com/sku-gpu-name",
    "k8s.amazonaws.com/accelerator",
    "kubernetes.azure.com/accelerator",
    "cluster-api/accelerator",
)
COUNT_LABELS = ("nvidia.com/gpu.count", "karpenter.k8s.aws/instance-gpu-count", "karpenter.azure.com/sku-gpu-count")

STARTUP_TAINT_SECONDS = 600.0
"""After how long, from a node's creation, its taints count as lasting. Agents that prepare a node for pods remove theirs
within minutes, when drivers and images are there."""

FALSE_DECLARATION = "FalseDeclaration"
UNTOLERATED = "UntoleratedTaint"
_TOLERATE = "add it to models[].engine.podTemplate.spec.tolerations, or take the pool out"
NO_MATCH = "NoNodeMatches"


@dataclass(frozen=True)
class Contradiction:
    """What a node, or the pool's object, says that differs from the plan."""

    reason: str
    message: str
    node: str | None = None
    """The node on which nothing may be placed. None: the plan is wrong about the pool, and its nodes are used as they are."""


def contradictions(
    *,
    spec: PlanSpec,
    pool: NodePool,
    gpu: GpuType | None,
    nodes: Sequence[Node],
    classes: Sequence[DeviceClass] = (),
    catalogue: Catalogue,
    startup_taints: Sequence[Taint],
    now: str,
) -> list[Contradiction]:
    """What the nodes of one pool say otherwise than the plan, worst first. ``pool`` has its resource, and ``nodes``, which
    match it, are counted by it. ``classes``: the DeviceClasses of the cluster.

    ``startup_taints`` are those that the pool's object says its nodes lose again. ``now`` is RFC 3339.
    """
    found = _of_class(pool, classes)
    if found:
        return found
    tolerated = _tolerated(spec, pool)
    for node in nodes:
        if not node.usable:
            continue
        where = f"nodePools[{pool.name}]"
        if (said := _node_of_other_card(pool, gpu, node, classes, catalogue)) is not None:
            text = f"{where}.gpu is {pool.gpu or 'not given'}, node {node.name} says {said[0]}={said[1]}"
            found.append(Contradiction(FALSE_DECLARATION, f"{text}; correct gpu or nodeSelector", node.name))
        elif node.gpus == 0 and (offered_by(node) or node.devices):
            found.append(Contradiction(FALSE_DECLARATION, f"{where}{_other_gpus(pool, node)}", node.name))
        elif node.gpus > 0 and (taint := _untolerated(node, tolerated, startup_taints, now)) is not None:
            text = (
                f"{where}: node {node.name} has the taint {_taint_text(taint)}, which no replica tolerates; {_TOLERATE}"
            )
            found.append(Contradiction(UNTOLERATED, text, node.name))
    return found + _other_count(pool, nodes)


def _other_gpus(pool: NodePool, node: Node) -> str:
    """What is said of a node that has GPUs, but none that the pool counts."""
    has = [f"{count} {name}" for name, count in sorted(offered_by(node).items())]
    has += [f"devices in ResourceSlices ({text_of(node.devices)})"] if node.devices else []
    if pool.dra is not None:
        asked = "".join(f" with {key}={value}" for key, value in sorted(pool.dra.asked.items()))
        counts, advice = f".dra counts devices of {pool.dra.device_class}{asked}", "correct dra or nodeSelector"
    elif node.devices:
        counts, advice = f" counts {pool.resource_name}", "give dra with a deviceClass, or correct nodeSelector"
    else:
        counts, advice = f".resourceName is {pool.resource_name}", "correct gpu, resourceName or nodeSelector"
        has = sorted(offered_by(node))
    return f"{counts}, node {node.name} has {', '.join(has)}; {advice}"


def _of_class(pool: NodePool, classes: Sequence[DeviceClass]) -> list[Contradiction]:
    """What is wrong with the DeviceClass of a pool: it does not exist, or it is not understood."""
    if pool.dra is None:
        return []
    where, name = f"nodePools[{pool.name}].dra.deviceClass is {pool.dra.device_class}", pool.dra.device_class
    found = next((item for item in classes if item.name == name), None)
    if found is None:
        there = ", ".join(item.name for item in classes) or "none"
        text = f"{where}, the cluster has no such DeviceClass (it has {there}); correct it, or install the GPUs' DRA driver"
        return [Contradiction(FALSE_DECLARATION, text)]
    if found.unread is not None:
        text = (
            f"{where}, which selects by more than the driver and texts of attributes ({found.unread}); give a DeviceClass that "
            "compares only these"
        )
        return [Contradiction(FALSE_DECLARATION, text)]
    return []


def false_of_object(
    *, spec: PlanSpec, pool: NodePool, gpu: GpuType | None, found: PoolObject, shown: bool, catalogue: Catalogue
) -> list[Contradiction]:
    """What the pool's object says of its future nodes that differs from the plan. ``shown``: nodes of the pool show their
    GPUs, so their number is known from them."""
    if pool.resize is None:
        return []
    template, where = found.template, f"nodePools[{pool.name}]"
    says = f"{pool.resize.kind} {pool.resize.name} makes nodes"
    out: list[Contradiction] = []
    for key, value in sorted(pool.node_selector.items()):
        if template.labels.get(key, value) != value:
            text = f"{where}.nodeSelector asks for {key}={value}, {says} with {key}={template.labels[key]}; correct one"
            out.append(Contradiction(NO_MATCH, text))
    if (said := _other_card(pool, gpu, template.labels, catalogue)) is not None:
        text = f"{where}.gpu is {pool.gpu}, {says} with {said[0]}={said[1]}; correct gpu or resize"
        out.append(Contradiction(FALSE_DECLARATION, text))
    elif (several := _several_cards(template, catalogue)) is not None:
        text = f"{where}.resize: {says} of several GPU types ({several}); leave it one"
        out.append(Contradiction(FALSE_DECLARATION, text))
    counts = (None, pool.gpus_per_node)
    if not shown and pool.gpus_per_node is not None and template.gpus_per_node not in counts:
        text = f"{where}.gpusPerNode is {pool.gpus_per_node}, {says} of {template.gpus_per_node} GPUs; correct one"
        out.append(Contradiction(FALSE_DECLARATION, text))
    if template.capacity_type not in (None, pool.capacity_type):
        text = f"{where}.capacityType is {pool.capacity_type}, {says} as {template.capacity_type}; correct one"
        out.append(Contradiction(FALSE_DECLARATION, text))
    if (taint := _refused(template.taints, _tolerated(spec, pool))) is not None:
        text = f"{where}: {says} with the taint {_taint_text(taint)}, which no replica tolerates; {_TOLERATE}"
        out.append(Contradiction(UNTOLERATED, text))
    return out


def unmatched(
    pool: NodePool, nodes: Sequence[Node], others: Sequence[Node], node_label: tuple[str, str] | None
) -> Contradiction | None:
    """Nodes of the pool's own object, if its selector matches none of them. ``others`` are nodes of the cluster that are
    known beside ``nodes``; ``node_label`` is the label by which nodes name the object."""
    resize = pool.resize
    if nodes or resize is None or node_label is None:
        return None
    strays = [node for node in others if node.ready and node.labels.get(node_label[0]) == node_label[1]]
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


def selector_text(pool: NodePool) -> str:
    """The selector of a pool as it is written on a command line."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in sorted(pool.node_selector.items())) + "}"


def _other_card(
    pool: NodePool, gpu: GpuType | None, labels: Mapping[str, str], catalogue: Catalogue
) -> tuple[str, str] | None:
    """The label and the value by which nodes name a card other than the plan's; None if they do not."""
    if pool.gpu is None or pool.gpu_spec is not None or gpu is None:
        return None
    for label in (*FEATURE_LABELS, INSTANCE_TYPE):
        said = labels.get(label)
        if said is None:
            continue
        if is_share(said):
            return label, said
        card = catalogue.find_gpu(said)
        if card is not None:
            return None if card.name == gpu.name else (label, said)
    for label in CLOUD_LABELS:
        card = catalogue.find_gpu(labels[label]) if label in labels else None
        if card is not None and _family(card) != _family(gpu):
            return label, labels[label]
    return None


def _node_of_other_card(
    pool: NodePool, gpu: GpuType | None, node: Node, classes: Sequence[DeviceClass], catalogue: Catalogue
) -> tuple[str, str] | None:
    """The same as ``_other_card``, for a node. The devices that the pool counts come before labels; slices name no card."""
    devices = () if pool.dra is None else chosen(pool.dra, classes, node)
    if pool.gpu_spec is None:
        said = next((said for item in devices if (said := slice_in(item.attributes)) is not None), None)
        if said is not None:
            return said
    named = product_in(devices)
    if named is None:
        return _other_card(pool, gpu, node.labels, catalogue)
    return None if _other_card(pool, gpu, {FEATURE_LABELS[0]: named[1]}, catalogue) is None else named


def _several_cards(template: NodeTemplate, catalogue: Catalogue) -> str | None:
    """The types of instances, in words, if those that are known have different cards; else None."""
    cards = {name: card.name for name in template.instance_types if (card := catalogue.find_gpu(name)) is not None}
    if len(set(cards.values())) < 2:
        return None
    return ", ".join(f"{name}: {card}" for name, card in sorted(cards.items()))


def _family(gpu: GpuType) -> str:
    return gpu.name.partition("-")[0]


def _other_count(pool: NodePool, nodes: Sequence[Node]) -> list[Contradiction]:
    """A number of GPUs that contradicts every node. A node with a broken GPU shows fewer than it has, so labels and other
    nodes may confirm the plan's number."""
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
        f"nodePools[{pool.name}].gpusPerNode is {declared}, node {best.name} has {best.gpus} of "
        f"{pool.resource_name if pool.dra is None else pool.dra.device_class}; correct gpusPerNode or nodeSelector"
    )
    return [Contradiction(FALSE_DECLARATION, text)]


def _untolerated(
    node: Node, tolerated: Sequence[Sequence[Mapping[str, Any]]], startup_taints: Sequence[Taint], now: str
) -> Taint | None:
    """A taint of a node that keeps the replicas of every model off it for good."""
    if seconds_since(node.created, now) < STARTUP_TAINT_SECONDS:
        return None
    passing = {(taint.key, taint.effect) for taint in startup_taints}
    return _refused([taint for taint in node.taints if (taint.key, taint.effect) not in passing], tolerated)


def keeps_off(taints: Sequence[Taint], spec: PlanSpec, pool: NodePool) -> bool:
    """Whether these taints keep the replicas of every model off a node of the pool."""
    return _refused(taints, _tolerated(spec, pool)) is not None


def _tolerated(spec: PlanSpec, pool: NodePool) -> list[list[Mapping[str, Any]]]:
    """The taints that the replicas of each model tolerate on the pool."""
    return [[*tolerations(pool), *_own_tolerations(model.engine.pod_template)] for model in spec.models]


def _refused(taints: Sequence[Taint], tolerated: Sequence[Sequence[Mapping[str, Any]]]) -> Taint | None:
    """A taint that the replicas of no model tolerate; None if those of some model tolerate all."""
    refused = [
        next((taint for taint in taints if not any(_tolerates(item, taint) for item in items)), None)
        for items in tolerated
    ]
    return None if None in refused else refused[0]


def _taint_text(taint: Taint) -> str:
    return f"{taint.key}={taint.value}:{taint.effect}"


def _tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    """Whether a toleration covers a taint, by the rules of the scheduler (kubernetes/api core/v1, Toleration)."""
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
