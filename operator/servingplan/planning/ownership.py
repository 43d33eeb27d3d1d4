"""Who may size the object of a pool: what its owner allows, which plan has claimed it, and who else sets its size."""

from __future__ import annotations

from dataclasses import replace

from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.errors import InputError
from servingplan.model.world import Observation, PoolObject
from servingplan.planning.pools import LEFT, Pool, Problem
from servingplan.pool_kinds.protocol import ZONE

SHARED_OBJECT = "SharedObject"
"""The reason if two pools of the spec name one object."""


def bounded(pool: NodePool, world: Observation) -> NodePool:
    """The pool within the limits that its owner sets for every plan, and within the bounds and steps of its object."""
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


def as_its_object_says(pool: NodePool, world: Observation) -> NodePool:
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


def gpus_to_come(pool: NodePool, world: Observation) -> int:
    """The GPUs of a node that does not exist yet, as the pool's object says; 0 if it does not."""
    found = world.pool(pool.name)
    return 0 if pool.resize is None or found is None else found.template.gpus_per_node or 0


def path_error(pool: NodePool, world: Observation) -> InputError | None:
    """What is wrong with the path to the size that the plan gives. The size is read at the object's own path, so that its
    nodes still count."""
    found = world.pool(pool.name)
    if pool.resize is None or found is None or found.path_problem is None or pool.name.endswith(LEFT):
        return None
    return InputError(f"spec.nodePools[{pool.name}].resize.replicasPath", pool.resize.replicas_path, found.path_problem)


def ceiling_problem(pool: NodePool, world: Observation) -> Problem | None:
    """Why the owner's ceiling cannot be read. The pool does not grow meanwhile."""
    found = world.pool(pool.name)
    if pool.resize is None or found is None or found.max_nodes_problem is None:
        return None
    where = f"nodePools[{pool.name}].resize: {pool.resize.kind} {pool.resize.name}"
    return Problem("CeilingUnreadable", f"{where}: {found.max_nodes_problem}")


def each_object_once(pools: list[Pool]) -> tuple[list[Pool], list[InputError]]:
    """The pools, and what is wrong in the spec: two pools that name one object would set its size in turn. Neither is
    sized, and the spend counts for the first."""
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
        shared = Problem(SHARED_OBJECT, f"{message}: it is left as it is")
        out = [replace(item, conflict=shared) if item.name == holder else item for item in out]
        out.append(replace(pool, problem=shared))
    return out, errors


def conflict(pool: NodePool, world: Observation) -> Problem | None:
    """The problem that somebody else sizes the pool, or changed its size after this plan asked for one. The pool is theirs
    until they give it back."""
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


def withdrawn(pool: NodePool, world: Observation) -> Problem | None:
    """The problem that the owner no longer allows the plan to size a pool that it still has."""
    found = world.pool(pool.name)
    if pool.resize is None or found is None or found.problem_reason is not None or found.claimed_by != world.plan.key:
        return None
    if lets(found, world.plan.namespace):
        return None
    return Problem(
        "NotAllowed",
        f"nodePools[{pool.name}].resize: {pool.resize.kind} {pool.resize.name} no longer lets plans of namespace "
        f"{world.plan.namespace} size it: its replicas leave once others serve, then it is given back; to keep it, add the "
        "namespace to its annotation servingplan.dev/allowed-namespaces",
    )


def lets(found: PoolObject, namespace: str) -> bool:
    """Whether the owner allows plans of a namespace to size the object."""
    return "*" in found.allowed_namespaces or namespace in found.allowed_namespaces


def problem(pool: NodePool, world: Observation) -> Problem | None:
    """Why the plan does without a pool for which it names an object; None if it may size it."""
    if pool.resize is None:
        return None
    found = world.pool(pool.name)
    where = f"nodePools[{pool.name}].resize: {pool.resize.kind} {pool.resize.name}"
    if found is None:
        return Problem("ReadFailed", f"{where} was not read")
    if found.problem_reason is not None:
        return Problem(found.problem_reason, f"{where}: {found.problem}")
    if not lets(found, world.plan.namespace) and found.claimed_by != world.plan.key:
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
