"""Node pools as the plan may use them: what is there, what is ours, what it costs.

*Spend* of a pool that we size is price x max(size asked for, nodes that exist, booting and draining included), foreign
pods or not. Of fixed nodes, which nobody rents for this plan, it is price x the nodes that hold our replicas. Of a pool whose
size is not seen, it is price x the nodes that are, where any of them holds our replicas.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from servingplan.api.v1alpha1 import NodePool, PlanSpec
from servingplan.errors import InputError
from servingplan.model.fleet import LearnedCap, PoolStock
from servingplan.model.hardware import GpuType, is_share
from servingplan.model.world import Node, Observation, Pod, PoolObject
from servingplan.planning.declared import (
    Contradiction,
    contradictions,
    false_of_object,
    selector_text,
    unmatched,
)
from servingplan.planning.known import known_of
from servingplan.planning.resources import counted_by, resource_errors, resource_of
from servingplan.pool_kinds.protocol import INSTANCE_TYPE, ZONE
from servingplan.profiles.additions import Price, price_of
from servingplan.profiles.catalogue import Catalogue, find_gpu

CENT = 1e-6
"""Dollars per hour below which two amounts are the same."""
LEFT = "~left"
"""Ends the name of a pool that the spec no longer has; no user's pool can be named so."""
LOST = frozenset({"KindNotAllowed", "PoolMissing", "NotResizable", "PathNotAllowed", "ReadForbidden", "ReadFailed"})
"""Reasons for which the size of a pool is not seen: what stands there may be ours all the same."""
SHARED_OBJECT = "SharedObject"
"""Reason where two pools of the spec name one object."""
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


@dataclass(frozen=True)
class PoolNode:
    """A node of a pool."""

    node: Node
    foreign_gpus: int
    """Held by pods that are not this plan's."""
    our_pods: tuple[Pod, ...]
    """Pods of this plan that sit here or are tied here, those being deleted included."""
    contradicts: bool = False
    """It is not what the plan says, or takes none of our pods, and holds none: nothing is placed on it."""

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.node.name

    @property
    def free_gpus(self) -> int:
        """GPUs that are ours to use, used by us or not."""
        return max(0, self.node.gpus - self.foreign_gpus)

    @property
    def unused_gpus(self) -> int:
        """GPUs that nobody holds now."""
        return max(0, self.free_gpus - sum(pod.gpus for pod in self.our_pods))


@dataclass(frozen=True)
class Problem:
    """Why something cannot be done, for a condition."""

    reason: str
    message: str


@dataclass(frozen=True)
class Pool:
    """One pool of the spec, with all that was observed of it."""

    spec: NodePool
    gpu: GpuType | None
    gpus_per_node: int
    """0 where it is unknown."""
    dollars_per_node_hour: float | None
    nodes: tuple[PoolNode, ...]
    object: PoolObject | None
    problem: Problem | None = None
    """Why the plan does without this pool."""
    conflict: Problem | None = None
    """Why its size is left as it is."""
    ceiling: Problem | None = None
    """Its owner's ceiling cannot be read: it does not grow."""
    withdrawn: Problem | None = None
    """The owner no longer lets this plan size it, while the plan still has it: it is emptied and given back."""
    contradiction: Problem | None = None
    """Nodes say otherwise than the plan: it is neither grown nor, but for the budget, made smaller."""
    stock: PoolStock | None = None
    """What was learned of the nodes that it gives; only of pools that the plan sizes."""

    @property
    def name(self) -> str:
        """Name in the spec."""
        return self.spec.name

    @property
    def left(self) -> bool:
        """The spec no longer has it, or its owner wants it back: it goes to its floor and is given back."""
        return self.name.endswith(LEFT) or self.withdrawn is not None

    @property
    def rented(self) -> bool:
        """Its nodes are rented for this plan, so all of them count as spend."""
        return self.spec.resize is not None and self.problem is None

    @property
    def sized_by_us(self) -> bool:
        """Whether the plan may ask for another size."""
        return self.rented and self.conflict is None

    @property
    def usable_nodes(self) -> tuple[PoolNode, ...]:
        """Nodes that may take a replica now."""
        return tuple(node for node in self.nodes if node.node.usable and node.free_gpus > 0 and not node.contradicts)

    @property
    def spent_nodes(self) -> tuple[PoolNode, ...]:
        """Nodes that count in the pool's size and take no replica any more: cordoned, or fallen silent under replicas.

        One that is disrupted is not among them, since whoever takes it away also replaces it. One that is silent and empty
        may be booting.
        """
        return tuple(
            item
            for item in self.nodes
            if not item.node.disrupted and (not item.node.schedulable or (not item.node.ready and item.our_pods))
        )

    @property
    def blind_nodes(self) -> tuple[PoolNode, ...]:
        """Nodes that are Ready and show no GPUs: they boot, or something is wrong with them."""
        return tuple(item for item in self.nodes if item.node.usable and item.node.gpus == 0)

    @property
    def cap(self) -> LearnedCap | None:
        """The most nodes that the pool is known to give at this moment; None: nothing is known."""
        cap = self.stock.cap if self.stock is not None else None
        return None if cap is None or cap.probing else cap

    @property
    def most_nodes(self) -> int:
        """Nodes that a plan may count on: the spec's ``maxNodes``, and no more than the pool is known to give."""
        cap = self.cap
        known = math.inf if cap is None else max(0, cap.nodes - len(self.spent_nodes))
        return self._whole_steps(min(self.spec.cap, known))

    @property
    def least_nodes(self) -> int:
        """The spec's ``minNodes``, where the pool gives so many."""
        return self.spec.min_nodes if self.cap is None else min(self.spec.min_nodes, self.most_nodes)

    @property
    def most_to_ask_for(self) -> int:
        """Nodes that may be asked for now; one more than a cap that is over, or one in each zone."""
        cap = self.stock.cap if self.stock is not None else None
        known = math.inf if cap is None else cap.nodes + self.step if cap.probing else cap.nodes
        return self._whole_steps(min(max(self.spec.cap, self.spec.min_nodes), known))

    @property
    def step(self) -> int:
        """Sizes of its object are multiples of this."""
        return 1 if self.object is None else self.object.step

    def holding(self, nodes: int) -> int:
        """The least size of its object that holds so many nodes."""
        size = nodes if self.object is None else max(nodes, self.object.min_nodes)
        return size + -size % self.step

    def _whole_steps(self, nodes: float) -> int:
        """The largest size of its object that is no more than this."""
        return int(nodes) - int(nodes) % self.step

    @property
    def foreign_nodes(self) -> int:
        """Nodes that foreign pods hold altogether: of a rented pool they are paid, and of no use."""
        return sum(1 for node in self.nodes if node.node.usable and node.free_gpus == 0 and node.foreign_gpus > 0)

    @property
    def existing(self) -> int:
        """Nodes that exist, booting and draining included."""
        reported = self.object.actual if self.object is not None else None
        return max(len(self.nodes), reported or 0)

    @property
    def wanted(self) -> int:
        """Nodes that are asked for; of fixed nodes all that exist."""
        if self.object is None or self.object.wanted is None:
            return len(self.nodes)
        return self.object.wanted

    @property
    def occupied(self) -> int:
        """Nodes that hold our pods."""
        return sum(1 for node in self.nodes if node.our_pods)

    @property
    def idle_gpus(self) -> int:
        """GPUs of nodes that are paid for, booting ones included, that neither a ready replica nor a foreign pod holds.
        Fixed nodes count as paid while they hold our pods."""
        if self.spec.resize is not None and self.problem is not None:
            return 0
        paid = self.nodes if self.rented else tuple(node for node in self.nodes if node.our_pods)
        coming = max(0, max(self.wanted, self.existing) - len(self.nodes)) if self.rented else 0
        serving = sum(pod.gpus for node in paid for pod in node.our_pods if pod.reachable)
        return max(0, sum(node.free_gpus for node in paid) - serving) + coming * self.gpus_per_node

    def spend_at(self, nodes: int) -> float:
        """$/h when ``nodes`` are asked for (rented pools) or hold our pods (fixed nodes). ``nan`` without a price."""
        price = math.nan if self.dollars_per_node_hour is None else self.dollars_per_node_hour
        return price * (max(nodes, self.existing) if self.rented else nodes)

    @property
    def spend(self) -> float:
        """$/h now; ``nan`` where nodes are there or asked for and the price is unknown."""
        if self.spec.resize is not None and self.problem is not None:
            if self.problem.reason in LOST and self.occupied:
                return self.spend_at(len(self.nodes))  # all that is known of it
            return 0.0  # another plan, or nobody, pays for it
        return self.spend_at(self.wanted if self.rented else self.occupied)


def read_pools(spec: PlanSpec, world: Observation) -> tuple[tuple[Pool, ...], tuple[InputError, ...]]:
    """The pools in order of name, and what is wrong about them in the spec."""
    by_node: Mapping[str, list[Pod]] = _pods_by_node(world)
    known = known_of(world)
    pools: list[Pool] = []
    errors: list[InputError] = []
    for written in sorted(spec.node_pools, key=lambda pool: pool.name):
        item = _as_its_object_says(_bounded(written, world), world)
        nodes = tuple(
            PoolNode(
                node=node,
                foreign_gpus=sum(pod.gpus for pod in by_node[node.name] if not _is_ours(pod, world)),
                our_pods=tuple(pod for pod in by_node[node.name] if _is_ours(pod, world)),
            )
            for node in sorted(world.nodes, key=lambda node: node.name)
            if all(node.labels.get(key) == value for key, value in item.node_selector.items())
        )
        gpu, gpu_error = _gpu_of(item, nodes, world.pool(item.name), known.catalogue)
        if gpu_error is not None:
            errors.append(gpu_error)
        resource = resource_of(item, gpu, [node.node for node in nodes], known.catalogue)
        if not item.name.endswith(LEFT):
            errors += resource_errors(item, gpu, resource, known.catalogue)
        item = item.model_copy(update={"resource_name": resource})
        nodes = tuple(replace(node, node=counted_by(resource, node.node)) for node in nodes)
        withdrawn = _withdrawn(item, world)
        told: list[Contradiction] = []
        if not item.name.endswith(LEFT) and withdrawn is None:
            told = _contradictions(spec, item, gpu, nodes, world, known.catalogue)
        wrong = {problem.node for problem in told}
        nodes = tuple(replace(node, contradicts=node.name in wrong and not node.our_pods) for node in nodes)
        if (path_error := _path_error(item, world)) is not None:
            errors.append(path_error)
        gpus_per_node = (
            item.gpus_per_node or max((node.node.gpus for node in nodes), default=0) or _gpus_to_come(item, world)
        )
        if gpus_per_node == 0 and item.resize is not None:
            errors.append(
                InputError(
                    f"spec.nodePools[{item.name}].gpusPerNode",
                    None,
                    "is not given and neither a node of the pool nor its object tells; give the number of GPUs of one node",
                )
            )
        pools.append(
            Pool(
                spec=item,
                gpu=gpu,
                gpus_per_node=gpus_per_node,
                dollars_per_node_hour=_price_of(item, world.pool(item.name), gpu, gpus_per_node, known.prices),
                nodes=nodes,
                object=world.pool(item.name),
                problem=_problem(item, world),
                conflict=_conflict(item, world),
                ceiling=_ceiling_problem(item, world),
                withdrawn=withdrawn,
                contradiction=_told(told),
            )
        )
    shared, shared_errors = _each_object_once(pools)
    return tuple(_each_node_once(shared)), (*errors, *shared_errors)


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
    """The first in full, and how many nodes more."""
    if not found:
        return None
    more = len({item.node for item in found[1:]} - {found[0].node, None})
    text = f"{found[0].message}; nothing is bought on this" + (f"; so do {more} nodes more" if more else "")
    return Problem(found[0].reason, text)


def more_nodes(pools: tuple[Pool, ...]) -> str:
    """What to do where nodes are short; a selector that no node matches may be why."""
    missed = [no_node(pool) for pool in pools if pool.spec.resize is None and not pool.nodes]
    unmatched = f"{'; '.join(missed)}: correct it; or " if missed else ""
    return f"{unmatched}raise maxNodes, add nodes or another pool"


def no_node(pool: Pool) -> str:
    """Of fixed nodes that are not there, for people."""
    return f"0 nodes match spec.nodePools[{pool.name}].nodeSelector {selector_text(pool.spec)}"


def _bounded(pool: NodePool, world: Observation) -> NodePool:
    """The pool within what its owner lets every plan have, and the bounds and steps of its object."""
    found = world.pool(pool.name)
    if pool.resize is None or found is None:
        return pool
    most = pool.cap if found.max_nodes is None else min(pool.cap, found.max_nodes)
    most -= most % found.step
    least = max(min(pool.min_nodes, most), found.min_nodes)
    least += -least % found.step
    most = max(most, least)
    if (least, most) == (pool.min_nodes, pool.cap):
        return pool
    return pool.model_copy(update={"max_nodes": most, "min_nodes": least})


def _as_its_object_says(pool: NodePool, world: Observation) -> NodePool:
    """The pool with what its object states and the plan leaves open: how its nodes are rented, and their zone."""
    found = world.pool(pool.name)
    if pool.resize is None or found is None:
        return pool
    told: dict[str, str] = {}
    if "capacity_type" not in pool.model_fields_set and found.template.capacity_type is not None:
        told["capacity_type"] = found.template.capacity_type
    if pool.zone is None and ZONE in found.template.labels:
        told["zone"] = found.template.labels[ZONE]
    return pool.model_copy(update=told) if told else pool


def _gpus_to_come(pool: NodePool, world: Observation) -> int:
    """GPUs of a node that is not there yet, as the pool's object says; 0 where it does not."""
    found = world.pool(pool.name)
    return 0 if pool.resize is None or found is None else found.template.gpus_per_node or 0


def _path_error(pool: NodePool, world: Observation) -> InputError | None:
    """A path that is not the object's. The size is read at the object's own, so that what stands there still counts."""
    found = world.pool(pool.name)
    if pool.resize is None or found is None or found.path_problem is None or pool.name.endswith(LEFT):
        return None
    return InputError(f"spec.nodePools[{pool.name}].resize.replicasPath", pool.resize.replicas_path, found.path_problem)


def _ceiling_problem(pool: NodePool, world: Observation) -> Problem | None:
    found = world.pool(pool.name)
    if pool.resize is None or found is None or found.max_nodes_problem is None:
        return None
    where = f"nodePools[{pool.name}].resize: {pool.resize.kind} {pool.resize.name}"
    return Problem("CeilingUnreadable", f"{where}: {found.max_nodes_problem}")


def _each_object_once(pools: list[Pool]) -> tuple[list[Pool], list[InputError]]:
    """Two pools that name one object would set its size in turn. None of them is sized; the first pays for its nodes."""
    first: dict[str, str] = {}
    out: list[Pool] = []
    errors: list[InputError] = []
    for pool in pools:
        if pool.spec.resize is None or pool.object is None:
            out.append(pool)
            continue
        holder = first.setdefault(pool.object.reference, pool.name)
        if holder == pool.name:
            out.append(pool)
            continue
        message = f"nodePools[{pool.name}].resize names the same object as nodePools[{holder}]"
        advice = (
            f"names the same object as nodePools[{holder}]: its size cannot follow both; give one pool, or two objects"
        )
        errors.append(InputError(f"spec.nodePools[{pool.name}].resize", pool.spec.resize.name, advice))
        problem = Problem(SHARED_OBJECT, f"{message}: it is left as it is")
        out = [replace(item, conflict=problem) if item.name == holder else item for item in out]
        out.append(replace(pool, problem=problem))
    return out, errors


def _each_node_once(pools: list[Pool]) -> list[Pool]:
    """A node that two selectors match belongs to the pool that sorts first, or it would be planned twice."""
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
        if pod.node is not None:
            found[pod.node].append(pod)
    return found


def _is_ours(pod: Pod, world: Observation) -> bool:
    return pod.deployment is not None and pod.namespace == world.plan.namespace


def _price_of(
    pool: NodePool, found: PoolObject | None, gpu: GpuType | None, gpus_per_node: int, prices: tuple[Price, ...]
) -> float | None:
    """$/h of a node: as the owner of the pool's object wrote it, else as the plan has it, else as the installation's prices
    have it for all of its GPUs; None where nobody said, or the owner's cannot be read."""
    if pool.resize is not None and found is not None and found.dollars_per_node_hour is not None:
        text = found.dollars_per_node_hour.strip()
        return float(text) if _DOLLARS.fullmatch(text) else None
    if pool.dollars_per_node_hour is not None:
        return float(pool.dollars_per_node_hour)
    price = None if gpu is None else price_of(prices, gpu, pool.capacity_type)
    return None if price is None or not gpus_per_node else round(price.dollars_per_gpu_hour * gpus_per_node, 6)


def _gpu_of(
    pool: NodePool, nodes: tuple[PoolNode, ...], sized: PoolObject | None, catalogue: Catalogue
) -> tuple[GpuType | None, InputError | None]:
    field = f"spec.nodePools[{pool.name}].gpu"
    name = pool.gpu
    if name is None:
        said = [node.node.labels for node in nodes]
        found = Counter(product for labels in said if (product := _product_of(labels, catalogue)) is not None)
        if not found and sized is not None and (product := _product_of(sized.template.labels, catalogue)) is not None:
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


def _product_of(labels: Mapping[str, str], catalogue: Catalogue) -> str | None:
    """What the labels of nodes call their GPU: a share of one, else the first that the catalogue knows, else the first there
    is; types of instances that the catalogue does not know, and vendors, name none."""
    said = [labels[label] for label in PRODUCT_LABELS if label in labels]
    named = [name for name in said if name != labels.get(INSTANCE_TYPE) and name not in _VENDORS]
    shares = (name for name in named if is_share(name))
    known = (name for name in said if catalogue.find_gpu(name) is not None)
    return next(shares, None) or next(known, None) or next(iter(named), None)


def _conflict(pool: NodePool, world: Observation) -> Problem | None:
    """Somebody else sizes the pool that this plan has, or changed its size since we asked for it. It is theirs then, until
    they give the pool back."""
    found = world.pool(pool.name)
    if pool.resize is None or found is None or found.claimed_by != world.plan.key:
        return None
    if found.sized_by is not None:
        return _sized_by_other(pool, found.sized_by)
    if found.asked is None or found.asked == found.wanted:
        return None
    return Problem(
        "FieldOwnershipConflict",
        f"nodePools[{pool.name}].resize: {pool.resize.kind} {pool.resize.name} was set to {found.wanted} nodes by "
        f"{found.size_manager or 'another manager'} after this plan asked for {found.asked}; it is left alone. Stop that "
        "manager from setting it, then remove the annotation servingplan.dev/claimed-by from the object",
    )


def _sized_by_other(pool: NodePool, who: str) -> Problem:
    resize = pool.resize
    what = "" if resize is None else f"{resize.kind} {resize.name}"
    return Problem(
        "SizedByOther",
        f"nodePools[{pool.name}].resize: {what} is sized by {who}; it is left alone. Turn that off, or leave resize out of the "
        "plan, which then uses the nodes that are there",
    )


def _withdrawn(pool: NodePool, world: Observation) -> Problem | None:
    found = world.pool(pool.name)
    if pool.resize is None or found is None or found.problem_reason is not None or found.claimed_by != world.plan.key:
        return None
    if _is_allowed(found, world):
        return None
    return Problem(
        "NotAllowed",
        f"nodePools[{pool.name}].resize: {pool.resize.kind} {pool.resize.name} no longer lets plans of namespace "
        f"{world.plan.namespace} size it: its replicas leave once others serve, then it is given back; to keep it, add the "
        "namespace to its annotation servingplan.dev/allowed-namespaces",
    )


def _is_allowed(found: PoolObject, world: Observation) -> bool:
    return lets(found, world.plan.namespace)


def lets(found: PoolObject, namespace: str) -> bool:
    """Whether the owner lets plans of a namespace size the object."""
    return "*" in found.allowed_namespaces or namespace in found.allowed_namespaces


def _problem(pool: NodePool, world: Observation) -> Problem | None:
    if pool.resize is None:
        return None
    found = world.pool(pool.name)
    where = f"nodePools[{pool.name}].resize: {pool.resize.kind} {pool.resize.name}"
    if found is None:
        return Problem("ReadFailed", f"{where} was not read")
    if found.problem_reason is not None:
        return Problem(found.problem_reason, f"{where}: {found.problem}")
    if not _is_allowed(found, world) and found.claimed_by != world.plan.key:
        return Problem(
            "NotAllowed",
            f"{where} does not let plans of namespace {world.plan.namespace} size it; add the namespace to its "
            "annotation servingplan.dev/allowed-namespaces",
        )
    if found.claimed_by not in (None, "", world.plan.key):
        return Problem(
            "ClaimedByOther",
            f"{where} is sized by plan {found.claimed_by}; take the pool out of one of the two plans (to clear a claim by "
            "hand, remove the annotation servingplan.dev/claimed-by from the object)",
        )
    if found.sized_by is not None and found.claimed_by != world.plan.key:
        return _sized_by_other(pool, found.sized_by)
    return None
