"""Objects that size node pools: what is kept of one, and what a turn is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from servingplan.api.pools_v1alpha1 import Resize
from servingplan.kube import Resource
from servingplan.model import names
from servingplan.model.world import PoolObject, Refusal
from servingplan.observe.parse import Json, may_stay, owns
from servingplan.observe.refusals import NODE_POOL_LABEL, SeenRefusal, own_refusal
from servingplan.observe.sizes import ceiling, number
from servingplan.pool_kinds.table import STATUS_KEYS, kind_at, kind_key, path_of, reads_annotation


def seen_pool(item: Json) -> Json:
    """The parts of a pool's object that a turn reads. The owner may choose the path of the size, so the spec is kept whole;
    such objects are few."""
    metadata, status = item["metadata"], item.get("status") or {}
    annotations = metadata.get("annotations") or {}
    ours = (
        names.CLAIM_ANNOTATION,
        names.SIZE_ANNOTATION,
        names.ALLOWED_NAMESPACES_ANNOTATION,
        names.MAX_NODES_ANNOTATION,
        names.REPLICAS_PATH_ANNOTATION,
        names.PRICE_ANNOTATION,
    )
    kept = {"name": metadata["name"], "namespace": metadata.get("namespace")}
    return {
        "metadata": {
            **kept,
            "resourceVersion": metadata.get("resourceVersion", ""),
            "annotations": {key: text for key, text in annotations.items() if key in ours or reads_annotation(key)},
            "ownerReferences": metadata.get("ownerReferences") or [],
            "managedFields": [
                {"manager": entry.get("manager"), "fieldsV1": {"f:spec": (entry.get("fieldsV1") or {})["f:spec"]}}
                for entry in metadata.get("managedFields") or ()
                if "f:spec" in (entry.get("fieldsV1") or {})
            ],
        },
        "spec": item.get("spec") or {},
        "status": {key: status[key] for key in STATUS_KEYS if key in status},
        "refusal": own_refusal(status),
    }


def pool_object(
    pool: str,
    resize: Resize,
    resource: Resource,
    reference: str,
    item: Json,
    refusals: Iterable[SeenRefusal],
    is_gone: Callable[[str], bool],
) -> PoolObject:
    """What a turn is told of a pool's object, which was read as ``item``.

    ``refusals`` are those of all Karpenter NodePools. ``is_gone`` tells whether a plan, by ``namespace/name``, is not there
    any more.
    """
    annotations = item["metadata"].get("annotations") or {}
    key = kind_key(resize.api_version, resize.kind)
    path, path_problem = path_of(
        key, resize.name, annotations, written=resize.replicas_path, scalable=resource.scalable
    )
    if path is None:
        return PoolObject(pool=pool, reference=reference, problem_reason="PathNotAllowed", problem=path_problem)
    kind = kind_at(key, path)
    wanted, problem = kind.wanted(item), kind.problem(item)
    if wanted is None or problem is not None:
        return PoolObject(pool=pool, reference=reference, problem_reason="NotResizable", problem=problem)
    max_nodes, max_nodes_problem = ceiling(annotations, wanted)
    least, most = kind.bounds(item)
    template = kind.template(item)
    template = template.model_copy(update={"taints": tuple(filter(may_stay, template.taints))})
    holder = annotations.get(names.CLAIM_ANNOTATION) or None
    orphaned = holder is not None and is_gone(holder)
    allowed_text = annotations.get(names.ALLOWED_NAMESPACES_ANNOTATION, "")
    return PoolObject(
        pool=pool,
        reference=reference,
        wanted=wanted,
        actual=kind.actual(item),
        claimed_by=holder if not orphaned else None,
        orphan_of=holder if orphaned else None,
        path=path,
        path_problem=path_problem,
        step=kind.step(item),
        min_nodes=least,
        max_nodes=min((bound for bound in (max_nodes, most) if bound is not None), default=None),
        max_nodes_problem=max_nodes_problem,
        dollars_per_node_hour=annotations.get(names.PRICE_ANNOTATION),
        allowed_namespaces=names.words(allowed_text),
        resource_version=item["metadata"].get("resourceVersion", ""),
        asked=number(annotations.get(names.SIZE_ANNOTATION)),
        size_manager=size_manager(item, path, names.POOL_MANAGER),
        sized_by=kind.sized_by(item),
        node_label=kind.node_label(item),
        template=template,
        refusal=_last_refusal(item, kind.node_label(item), refusals),
    )


def _last_refusal(item: Json, node_label: tuple[str, str] | None, refusals: Iterable[SeenRefusal]) -> Refusal | None:
    """The last refusal of the pool's stock: by its own object, or of claims for nodes with the label. None: no refusal."""
    told: list[Refusal] = [item["refusal"]] if item.get("refusal") is not None else []
    told += [found.refusal for found in refusals if (NODE_POOL_LABEL, found.pool) == node_label]
    return max(told, key=lambda refusal: refusal.at, default=None)


def size_manager(item: Json, path: tuple[str, ...], ours: str) -> str | None:
    """Another manager that owns the field at ``path``, for messages only; None if there is none.

    ``managedFields`` cannot prove who set a size: a write of 0 through ``/scale`` leaves the field without an owner (seen with
    Kubernetes 1.36). So an annotation on the object notes the size that we asked for.
    """
    owners = {
        entry.get("manager", "unknown")
        for entry in item["metadata"].get("managedFields") or ()
        if owns(entry.get("fieldsV1") or {}, path)
    }
    return min(owners - {ours}, default=None)


def pool_reference(resource: Resource, resize: Resize, plan_namespace: str) -> str:
    """The reference ``kind/namespace/name``; the namespace is empty for kinds without one."""
    namespace = (resize.namespace or plan_namespace) if resource.namespaced else ""
    return f"{resize.kind}/{namespace}/{resize.name}"


def reference_text(resize: Resize) -> str:
    """The same as ``pool_reference`` for kinds without a namespace; most node pools are of such kinds."""
    return f"{resize.kind}/{resize.namespace or ''}/{resize.name}"
