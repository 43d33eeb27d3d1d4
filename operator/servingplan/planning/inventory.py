"""The pools of a spec as they were observed: nodes, GPUs, prices, and what is wrong about them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace

from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import InputError
from servingplan.model.hardware import GpuType, is_share
from servingplan.model.world import Node, Observation, Pod, PoolObject
from servingplan.planning import ownership
from servingplan.planning.declared import Contradiction, contradictions, false_of_object, keeps_off, unmatched
from servingplan.planning.devices import chosen, product_in
from servingplan.planning.known import Known
from servingplan.planning.pools import LEFT, Pool, PoolNode, Problem
from servingplan.planning.quota import with_quotas
from servingplan.planning.reservations import reserved
from servingplan.planning.resources import are_apart, counted_by, offered_by, resource_errors, resource_of, slice_errors
from servingplan.pool_kinds.protocol import INSTANCE_TYPE
from servingplan.profiles.additions import Price, price_of
from servingplan.profiles.catalogue import Catalogue, find_gpu

PRODUCT_LABELS = (
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "beta.amd.com/gpu.product-name",
    "cloud.google.com/gke-accelerator",
    INSTANCE_TYPE,
    "karpenter.k8s.aws/instance-gpu-name",
    "karpenter.azure.com/sku-gpu-name",
    "k8s.amazonaws.com/accelerator",
    "kubernetes.azure.com/accelerator",
    "cluster-api/accelerator",
    "amd.com/gpu.product",
)
"""Node labels that name the GPU, in order of trust; set by feature discovery of the vendor or by the cloud. Types of
instances tell apart what shorter names do not: the A100 of 40 and of 80 GB."""


_DOLLARS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")


_VENDORS = ("nvidia", "amd")
"""Values of AKS's accelerator label, which name no product."""


def read_pools(
    spec: PlanSpec, world: Observation, known: Known, behind: Collection[str] = ()
) -> tuple[tuple[Pool, ...], tuple[InputError, ...]]:
    """The pools in order of name, and what is wrong about them in the spec. ``behind``: the names of those that only the plan
    in force has."""
    by_node = _pods_by_node(world)
    pools: list[Pool] = []
    errors: list[InputError] = []
    for written in sorted(spec.node_pools, key=lambda pool: pool.name):
        item = ownership.as_its_object_says(ownership.bounded(written, world), world)
        pool, found = _read(item, _nodes_of(item, world, by_node), spec, world, known)
        pools.append(replace(pool, behind=item.name in behind))
        errors += found
    shared, shared_errors = ownership.each_object_once(pools)
    return with_quotas(tuple(_each_node_once(shared)), world), (*errors, *shared_errors)


def _nodes_of(item: NodePool, world: Observation, by_node: Mapping[str, list[Pod]]) -> tuple[PoolNode, ...]:
    """The nodes that the selector of a pool matches, by name."""
    return tuple(
        PoolNode(
            node=node,
            foreign_gpus=_held_by_others(item, node, by_node[node.name], world),
            our_pods=tuple(pod for pod in by_node[node.name] if _is_ours(pod, world)),
        )
        for node in sorted(world.nodes, key=lambda node: node.name)
        if all(node.labels.get(key) == value for key, value in item.node_selector.items())
    )


def _held_by_others(item: NodePool, node: Node, pods: list[Pod], world: Observation) -> int:
    """The GPUs of a node that the pool counts and that others hold, by their claims or by their pods."""
    if item.dra is not None:
        return sum(found.held_by_others for found in chosen(item.dra, world.device_classes, node))
    return sum(pod.gpus for pod in pods if not _is_ours(pod, world))


def _counted(item: NodePool, resource: str, node: PoolNode, world: Observation) -> PoolNode:
    """The node with the GPUs that the pool has on it.

    Devices that pods of this plan hold count also while their driver is restarted and publishes none.
    """
    if item.dra is None:
        return replace(node, node=counted_by(resource, node.node))
    published = sum(found.count for found in chosen(item.dra, world.device_classes, node.node))
    held = node.foreign_gpus + sum(pod.gpus for pod in node.our_pods if pod.bound)
    counted = {"gpus": max(published, held), "gpu_resources": offered_by(node.node)}
    return replace(node, node=node.node.model_copy(update=counted))


def _read(
    item: NodePool, nodes: tuple[PoolNode, ...], spec: PlanSpec, world: Observation, known: Known
) -> tuple[Pool, list[InputError]]:
    """One pool, and what is wrong with it in the spec."""
    left = item.name.endswith(LEFT)
    gpu, gpu_error = _gpu_of(item, nodes, world, known.catalogue)
    errors = [] if gpu_error is None else [gpu_error]
    resource = resource_of(item, gpu, [node.node for node in nodes], known.catalogue)
    if not left:
        errors += resource_errors(item, gpu, resource, known.catalogue, spec.models)
        errors += slice_errors(item, gpu, world.device_classes)
    item = item.model_copy(update={"resource_name": resource})
    nodes = tuple(_counted(item, resource, node, world) for node in nodes)
    withdrawn = ownership.withdrawn(item, world)
    told = [] if left or withdrawn is not None else _contradictions(spec, item, gpu, nodes, world, known.catalogue)
    wrong = {problem.node for problem in told}
    nodes = tuple(
        replace(
            node,
            contradicts=node.name in wrong and not node.our_pods,
            kept_off=keeps_off(node.node.state_taints, spec, item),
        )
        for node in nodes
    )
    if (path_error := ownership.path_error(item, world)) is not None:
        errors.append(path_error)
    seen = max((node.node.gpus for node in nodes), default=0)
    gpus_per_node = item.gpus_per_node or seen or ownership.gpus_to_come(item, world)
    if gpus_per_node == 0 and item.resize is not None:
        advice = "is not given and neither a node of the pool nor its object tells; give the number of GPUs of one node"
        errors.append(InputError(f"spec.nodePools[{item.name}].gpusPerNode", None, advice))
    pool = Pool(
        spec=item,
        gpu=gpu,
        gpus_per_node=gpus_per_node,
        dollars_per_node_hour=_price_of(item, world.pool(item.name), gpu, gpus_per_node, known.prices),
        nodes=nodes,
        object=world.pool(item.name),
        problem=ownership.problem(item, world),
        conflict=ownership.conflict(item, world),
        ceiling=ownership.ceiling_problem(item, world),
        withdrawn=withdrawn,
        contradiction=_told(told),
        apart=are_apart(item, resource, world.device_classes),
        reserved=reserved(item, world.now),
    )
    return pool, errors


def _contradictions(
    spec: PlanSpec,
    pool: NodePool,
    gpu: GpuType | None,
    nodes: tuple[PoolNode, ...],
    world: Observation,
    catalogue: Catalogue,
) -> list[Contradiction]:
    own = [node.node for node in nodes]
    matching = {node.name for node in own}
    sized = world.pool(pool.name)
    found = contradictions(
        spec=spec,
        pool=pool,
        gpu=gpu,
        nodes=own,
        classes=world.device_classes,
        catalogue=catalogue,
        startup_taints=() if sized is None else sized.template.startup_taints,
        now=world.now,
    )
    if sized is None:
        return found
    shown = any(node.usable and node.gpus > 0 for node in own)
    found += false_of_object(spec=spec, pool=pool, gpu=gpu, found=sized, shown=shown, catalogue=catalogue)
    others = [node for node in world.nodes if node.name not in matching]
    stray = unmatched(pool, own, others, sized.node_label)
    return found if stray is None else [*found, stray]


def _told(found: list[Contradiction]) -> Problem | None:
    """The first contradiction in full, and the number of further nodes that have one."""
    if not found:
        return None
    more = len({item.node for item in found[1:]} - {found[0].node, None})
    text = f"{found[0].message}; nothing is bought on this" + (f"; so do {more} nodes more" if more else "")
    return Problem(found[0].reason, text)


def _each_node_once(pools: list[Pool]) -> list[Pool]:
    """The pools, with each node in only one of them. A node that two selectors match belongs to the pool that sorts first;
    otherwise it would be planned twice."""
    taken: set[str] = set()
    out = []
    for pool in pools:
        own = tuple(node for node in pool.nodes if node.name not in taken)
        taken.update(node.name for node in own)
        out.append(replace(pool, nodes=own))
    return out


def _pods_by_node(world: Observation) -> Mapping[str, list[Pod]]:
    found: dict[str, list[Pod]] = defaultdict(list)
    for pod in world.pods:
        for node in pod.nodes:
            # Of a replica over several nodes each node holds its part.
            found[node].append(pod if not pod.workers else pod.model_copy(update={"node": node, "workers": ()}))
    return found


def _is_ours(pod: Pod, world: Observation) -> bool:
    return pod.deployment is not None and pod.namespace == world.plan.namespace


def _price_of(
    pool: NodePool, found: PoolObject | None, gpu: GpuType | None, gpus_per_node: int, prices: tuple[Price, ...]
) -> float | None:
    """The price of a node in $/h; None if nobody stated one, or if the owner's cannot be read.

    The first of these counts: what the owner of the pool's object wrote, what the plan states, the installation's prices for
    all GPUs of the node, the estimate of whoever makes the nodes.
    """
    if pool.resize is not None and found is not None and found.dollars_per_node_hour is not None:
        text = found.dollars_per_node_hour.strip()
        return float(text) if _DOLLARS.fullmatch(text) else None
    if pool.dollars_per_node_hour is not None:
        return float(pool.dollars_per_node_hour)
    price = None if gpu is None else price_of(prices, gpu, pool.capacity_type)
    if price is not None:
        return round(price.dollars_per_gpu_hour * gpus_per_node, 6) if gpus_per_node else None
    offered = found.offered if pool.resize is not None and found is not None else None
    return None if offered is None else offered.dollars_per_node_hour


def _gpu_of(
    pool: NodePool, nodes: tuple[PoolNode, ...], world: Observation, catalogue: Catalogue
) -> tuple[GpuType | None, InputError | None]:
    field = f"spec.nodePools[{pool.name}].gpu"
    name, sized = pool.gpu, world.pool(pool.name)
    if name is None:
        products = (_product_of(pool, node.node, world, catalogue) for node in nodes)
        found = Counter(product for product in products if product is not None)
        if not found and sized is not None and (product := product_of(sized.template.labels, catalogue)) is not None:
            found[product] += 1
        if not found:
            advice = "is not given, and neither a node of the pool nor its object has a label that names one; give the GPU type"
            return None, InputError(field, None, advice)
        name = min(found, key=lambda product: (-found[product], product))
    inline: tuple[GpuType, ...] = ()
    if pool.gpu_spec is not None:
        facts = pool.gpu_spec
        inline = (
            GpuType(
                name=name,
                memory_gb=float(facts.memory_gb),
                memory_bandwidth_gb_per_second=float(facts.memory_bandwidth_gb_per_second),
                bf16_dense_tflops=float(facts.bf16_dense_tflops),
                fp8_dense_tflops=None if facts.fp8_dense_tflops is None else float(facts.fp8_dense_tflops),
                link_gb_per_second_per_direction=float(facts.link_gb_per_second),
            ),
        )
    try:
        return find_gpu(name, inline=inline, catalogue=catalogue), None
    except InputError as error:
        return None, InputError(field, error.value, error.advice.replace("declare it inline", "give gpuSpec"))


def _product_of(pool: NodePool, node: Node, world: Observation, catalogue: Catalogue) -> str | None:
    """The names that a node gives its GPUs: by its devices, or by its labels."""
    devices = () if pool.dra is None else chosen(pool.dra, world.device_classes, node)
    named = product_in(devices)
    return product_of(node.labels, catalogue) if named is None else named[1]


def product_of(labels: Mapping[str, str], catalogue: Catalogue) -> str | None:
    """The name that the labels of nodes give their GPU; None if they give none.

    A share of a GPU comes first, then the first name that the catalogue knows, then the first there is. Vendors, and types of
    instances that the catalogue does not know, are no names of GPUs.
    """
    said = [labels[label] for label in PRODUCT_LABELS if label in labels]
    named = [name for name in said if name != labels.get(INSTANCE_TYPE) and name not in _VENDORS]
    shares = (name for name in named if is_share(name))
    known = (name for name in said if catalogue.find_gpu(name) is not None)
    return next(shares, None) or next(known, None) or next(iter(named), None)
