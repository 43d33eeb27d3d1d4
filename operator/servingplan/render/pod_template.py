"""What a user's podTemplate may say: how it is merged into the plan's pod template, and what it must leave as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from servingplan.api.models_v1alpha1 import Model
from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.errors import InputError
from servingplan.model import names
from servingplan.render import claim_template

Json = dict[str, Any]

_MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "ports": ("containerPort", "protocol"),
}
"""The key fields of list items by list, if they are not ``name``: ``x-kubernetes-patch-merge-key`` and
``x-kubernetes-list-map-keys`` of the API's types (kubernetes/api core/v1/types.go)."""
_DEFAULTS = {"protocol": "TCP"}
"""The defaults of key fields that may be absent."""


def merge(base: Any, over: Any, field: str = "") -> Any:
    """``over`` merged into ``base``: maps by key, lists of items by Kubernetes' merge key of ``field``; other lists are
    appended."""
    if isinstance(base, dict) and isinstance(over, dict):
        merged_map = {**base}
        for key, value in over.items():
            merged_map[key] = merge(base[key], value, key) if key in base else value
        return merged_map
    if isinstance(base, list) and isinstance(over, list):
        keys = _MERGE_KEYS.get(field, ("name",))
        if all(isinstance(item, dict) and keys[0] in item for item in [*base, *over]):
            merged = {_identity(item, keys): item for item in base}
            for item in over:
                identity = _identity(item, keys)
                merged[identity] = merge(merged.get(identity, {}), item)
            return list(merged.values())
        return base + [item for item in over if item not in base]
    return over


def _identity(item: Json, keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(str(item.get(key, _DEFAULTS.get(key))) for key in keys)


def has_own_cache(pod_template: Mapping[str, Any]) -> bool:
    """Whether podTemplate mounts something where the image keeps caches: then it stays their place."""
    mounts = engine_in(pod_template).get("volumeMounts")
    paths = (within(mount, "mountPath") for mount in (mounts if isinstance(mounts, list) else ()))
    return any("/.cache" in str(path) for path in paths)


def engine_in(pod_template: Mapping[str, Any]) -> Json:
    """What podTemplate says of the engine; empty where it says nothing, or what is none."""
    listed = within(pod_template, "spec", "containers")
    found = (item for item in (listed if isinstance(listed, list) else ()) if within(item, "name") == "engine")
    return next(found, {})


def check_nulls(value: Any, where: str) -> None:
    """Refuse a null, which would remove what the plan renders, such as the gate that keeps the budget.

    Raises ``InputError``.
    """
    if value is None:
        raise InputError(where, None, "null is not allowed; remove it, or give a value")
    if isinstance(value, dict):
        for key, item in value.items():
            check_nulls(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            name = item.get("name") if isinstance(item, dict) else None
            check_nulls(item, f"{where}[{index if name is None else name}]")


def check_template(model: Model, pool: NodePool, template: Json, gpus: int, resource: str) -> None:
    """Check the merged template: the plan decides its GPUs, arguments, node, gates and node selector.

    Raises ``InputError``.
    """
    field = f"spec.models[{model.name}].engine.podTemplate"
    if not isinstance(template.get("spec"), dict) or not isinstance(template.get("metadata"), dict):
        raise InputError(field, template, "must be a partial PodTemplateSpec with metadata and spec")
    pod = template["spec"]
    for kind in ("containers", "initContainers"):
        listed = pod.get(kind, [])
        if not isinstance(listed, list) or not all(isinstance(item, dict) and "name" in item for item in listed):
            raise InputError(f"{field}.spec.{kind}", listed, "must be a list of containers with names")
        for item in listed:
            engine = kind == "containers" and item["name"] == "engine"
            where = f"{field}.spec.{kind}[{item['name']}].resources"
            for part in ("limits", "requests"):
                held = within(item, "resources", part) or {}
                if not isinstance(held, dict):
                    raise InputError(f"{where}.{part}", held, "must be a map of resources to amounts")
                gpu_resources = {name: amount for name, amount in held.items() if names.is_gpu_resource(name)}
                asked = gpu_resources.get(resource)
                if engine and pool.dra is not None and gpu_resources:
                    raise InputError(where, gpu_resources, "the GPUs are devices of a claim (dra); remove it")
                if engine and pool.dra is None and (str(asked) != str(gpus) or len(gpu_resources) > 1):
                    raise InputError(where, gpu_resources, f"the plan decides {resource}; remove it")
                if not engine and gpu_resources:
                    raise InputError(where, gpu_resources, "only the engine may hold GPUs; remove it")
    for item in within(model.engine.pod_template, "spec", "containers") or ():
        if item["name"] == "engine" and "args" in item:
            raise InputError(
                f"{field}.spec.containers[engine].args", item["args"], "give arguments in engine.extraArgs instead"
            )
    if "nodeName" in pod:
        raise InputError(f"{field}.spec.nodeName", pod["nodeName"], "the plan decides the node; remove it")
    asked = model.engine.priority_class_name
    if asked is not None and pod["priorityClassName"] != asked:
        raise InputError(
            f"{field}.spec.priorityClassName",
            pod["priorityClassName"],
            f"engine.priorityClassName is {asked}; remove one of them",
        )
    gates = pod["schedulingGates"]
    if not isinstance(gates, list) or {"name": names.PLACEMENT_GATE} not in gates:
        raise InputError(f"{field}.spec.schedulingGates", gates, "must be a list of gates to add to the plan's own")
    for key, value in pool.node_selector.items():
        if within(pod, "nodeSelector", key) != value:
            raise InputError(
                f"{field}.spec.nodeSelector", pod.get("nodeSelector"), f"the plan decides the pool; remove {key}"
            )


def check_claim(model: Model, template: Json, asked: str | None) -> None:
    """Check that the claim for the GPUs, where the pods have one, is as rendered. Raises ``InputError``."""
    field = f"spec.models[{model.name}].engine.podTemplate"
    found = within(template, "metadata", "annotations", names.DEVICES_ANNOTATION)
    if found != asked:
        where = f"{field}.metadata.annotations[{names.DEVICES_ANNOTATION}]"
        raise InputError(where, found, "the plan decides the devices; remove it")
    if asked is None:
        return
    engine = next(item for item in template["spec"]["containers"] if item["name"] == "engine")
    ours = {"name": claim_template.CLAIM}
    for where, listed in (
        ("resourceClaims", template["spec"]["resourceClaims"]),
        ("containers[engine].resources.claims", engine["resources"]["claims"]),
    ):
        if not isinstance(listed, list) or ours not in listed:
            raise InputError(
                f"{field}.spec.{where}",
                listed,
                f"{claim_template.CLAIM} is the claim for the GPUs; choose another name",
            )


def check_volumes(model: Model, volumes: list[Json], mounts: list[Json], template: Json) -> None:
    """Check that the plan's volumes are still there, and that the volume of the weights and its mount are as rendered.

    Raises ``InputError``.
    """
    pod = template["spec"]
    engine = next(item for item in pod["containers"] if item["name"] == "engine")
    field = f"spec.models[{model.name}].engine.podTemplate.spec"
    listed = [("volumes", pod.get("volumes"))] if volumes else []
    listed += [("containers[engine].volumeMounts", engine.get("volumeMounts"))] if mounts else []
    for where, found in listed:
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise InputError(f"{field}.{where}", found, "must be a list of maps, to which the plan adds its own")
    for ours in (item for item in volumes if item["name"] == "weights"):
        found = next((item for item in pod["volumes"] if item.get("name") == "weights"), None)
        if found != ours:
            raise InputError(f"{field}.volumes[weights]", found, "is the volume of the weights; choose another name")
    for ours in (item for item in mounts if item["name"] == "weights"):
        path = ours["mountPath"]
        found = next((item for item in engine["volumeMounts"] if item.get("mountPath") == path), None)
        if found != ours:
            raise InputError(
                f"{field}.containers[engine].volumeMounts", found, f"{path} holds the weights; choose another mountPath"
            )


def within(value: Any, *keys: str) -> Any:
    """The value below these keys; None if there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
