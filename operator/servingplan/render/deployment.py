"""Renders a kind of replica as a Deployment and a Service.

The pod template of a name never changes: its digest is part of the name. Every pod is created with a scheduling gate. The
operator binds it to its planned node and removes the gate, so that the scheduler follows the planned packing and still decides
on resources and taints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from servingplan.api.models_v1alpha1 import Model, Variant
from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.errors import InputError
from servingplan.model import names
from servingplan.model.engine import EngineSettings
from servingplan.model.fleet import Fleet, PodNeeds, ReplicaSet, digest
from servingplan.model.world import PlanObject
from servingplan.render import claim_template, flags, quantities
from servingplan.render.pod_template import (
    check_claim,
    check_nulls,
    check_template,
    check_volumes,
    engine_in,
    has_own_cache,
    merge,
    within,
)

PORT = 8000
DRAIN_SLEEP_SECONDS = 15
"""The preStop sleep. It is longer than endpoints need to leave kube-proxy and gateways, so that no request meets a closed port
(KServe's engine template sleeps for the same reason)."""
UNTOLD_SHUTDOWN_SECONDS = 300
"""The time to stop after SIGTERM for an engine without a flag for the time of its requests."""
SHUTDOWN_MARGIN_SECONDS = 10
"""The time from the last request to the end of the process: the grace period must exceed the sum of both (vLLM#43208)."""

UNTOLD_STARTUP_SECONDS = 1800
"""How long replicas may take to start if nothing says it."""

CACHE = "/cache"
"""A volume of the pod, which outlives its containers, so that nothing is loaded or compiled again. It is the home of a
restricted engine."""
RESTRICTED_USER = 2000
"""The user ``vllm`` of newer images of vLLM (vllm-project/vllm#40275). Older ones do not know it, so ``USER`` says its name:
PyTorch asks for it as it starts (vllm-project/vllm#44548)."""
CACHE_ENVIRONMENT = {
    "HF_HOME": f"{CACHE}/huggingface",
    "TORCHINDUCTOR_CACHE_DIR": f"{CACHE}/inductor",
    "TRITON_CACHE_DIR": f"{CACHE}/triton",
    "VLLM_CACHE_ROOT": f"{CACHE}/vllm",
}
"""Where the engine keeps what it could use again."""
RESTRICTED_ENVIRONMENT = {
    "HOME": CACHE,
    "HF_HOME": CACHE_ENVIRONMENT["HF_HOME"],
    "TORCHINDUCTOR_CACHE_DIR": CACHE_ENVIRONMENT["TORCHINDUCTOR_CACHE_DIR"],
    "TRITON_CACHE_DIR": CACHE_ENVIRONMENT["TRITON_CACHE_DIR"],
    "USER": "vllm",
    "VLLM_CACHE_ROOT": CACHE_ENVIRONMENT["VLLM_CACHE_ROOT"],
    "XDG_CACHE_HOME": f"{CACHE}/xdg",
}
"""Where a restricted engine writes: the image's own folders are root's. The order is part of the name of each Deployment."""
LAYERS_VARIABLE = "VLLM_PP_LAYER_PARTITION"
"""vLLM's variable for the layers of each pipeline stage, without which it splits them evenly."""

Json = dict[str, Any]


class Group(NamedTuple):
    """How a replica over several nodes is split."""

    nodes: int
    """One pod takes each of them."""
    layers: tuple[int, ...]
    """The layers of the model by stage."""


def replica_template(
    *,
    model: Model,
    variant: Variant,
    pool: NodePool,
    tensor_parallel: int,
    pipeline_parallel: int,
    settings: EngineSettings | None,
    needs: PodNeeds | None = None,
    queue: str | None = None,
    group: Group | None = None,
    worker: bool = False,
) -> Json:
    """The pod template of one replica, without the labels that depend on the Deployment's name.

    ``settings`` are rendered as flags, except those in ``extraArgs``. None: a replica of a record from before settings were
    recorded, rendered as it was then, to the byte; so it is with ``needs``. ``queue``: Kueue's queue for the pods. ``group``:
    of a replica over several nodes, whose template is the leader's, or that of its workers.

    Raises ``InputError`` if ``extraArgs`` cannot be parsed, or if ``podTemplate`` sets what the plan decides.
    """
    gpus = tensor_parallel * pipeline_parallel // (1 if group is None else group.nodes)
    engine = model.engine
    resource = pool.resource_name or names.GPU_RESOURCE
    weights, volumes, mounts = _weights(model, variant)
    arguments = [
        flags.model_argument(weights, None if needs is None or settings is None else settings.version),
        f"--served-model-name={model.name}",
        f"--port={PORT}",
        f"--tensor-parallel-size={tensor_parallel}",
        f"--pipeline-parallel-size={pipeline_parallel}",
        *([] if group is None else flags.flags_of_a_group(group.nodes, headless=worker)),
        *_settings(model, settings),
        *engine.extra_args,
    ]
    if gpus > 1:
        # NCCL and the engine's workers exchange data through shared memory; the default 64 MiB is too small.
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    restricted = engine.security == "Restricted"
    cached = restricted or (needs is not None and not has_own_cache(engine.pod_template))
    if cached:
        volumes.append({"name": "engine-cache", "emptyDir": {}})
        mounts.append({"name": "engine-cache", "mountPath": CACHE})
    limit_seconds = (engine.startup_seconds or UNTOLD_STARTUP_SECONDS) if needs is None else needs.start_limit_seconds
    container: Json = {
        "name": "engine",
        "image": pool.engine_image or engine.image,
        "args": arguments,
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": _resources(resource, gpus, pool, _requests(needs, engine.pod_template)),
        **_probes(limit_seconds),
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SLEEP_SECONDS}}},
    }
    if settings is not None:
        container["terminationMessagePolicy"] = (
            "FallbackToLogsOnError"  # the last lines say why an engine does not start
        )
    if env := _environment(group, worker=worker, cached=cached, restricted=restricted):
        container["env"] = env
    if restricted:
        container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    if mounts:
        container["volumeMounts"] = mounts
    pod: Json = {
        "containers": [container],
        "nodeSelector": dict(sorted(pool.node_selector.items())),
        "schedulingGates": [{"name": names.PLACEMENT_GATE}],
        "terminationGracePeriodSeconds": DRAIN_SLEEP_SECONDS + _shutdown_seconds(settings),
        "tolerations": tolerations(pool),
    }
    if restricted or needs is not None:
        # An engine asks the API server nothing. Replicas of before needs were written stay as they are.
        pod["automountServiceAccountToken"] = False
    if restricted:
        pod["securityContext"] = {
            "fsGroup": RESTRICTED_USER,
            "runAsGroup": RESTRICTED_USER,
            "runAsNonRoot": True,
            "runAsUser": RESTRICTED_USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    if volumes:
        pod["volumes"] = volumes
    if engine.priority_class_name is not None:
        pod["priorityClassName"] = engine.priority_class_name
    check_nulls(engine.pod_template, f"spec.models[{model.name}].engine.podTemplate")
    metadata: Json = {} if queue is None else {"labels": {names.QUEUE_LABEL: queue}}
    if pool.dra is not None:
        metadata["annotations"] = {names.DEVICES_ANNOTATION: claim_template.asked(pool.dra, gpus)}
        # Which object the claim is made from is the name of the Deployment, which this template decides.
        pod["resourceClaims"] = [{"name": claim_template.CLAIM}]
    template = merge({"metadata": metadata, "spec": pod}, engine.pod_template)
    check_template(model, pool, template, gpus, resource)
    check_claim(model, template, metadata.get("annotations", {}).get(names.DEVICES_ANNOTATION))
    if worker:
        _take_no_requests(template)
    check_volumes(model, volumes, mounts, template)
    canonical: Json = quantities.canonical(template)
    return canonical


def _weights(model: Model, variant: Variant) -> tuple[str, list[Json], list[Json]]:
    """Where the engine finds its weights, and the volumes and mounts that this takes. Raises ``InputError``."""
    scheme, _, location = (variant.source or "").partition("://")
    weights, volumes, mounts = location, [], []
    if scheme == "pvc":
        claim, _, path = location.partition("/")
        volumes = [{"name": "weights", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}]
        mounts = [{"name": "weights", "mountPath": "/weights", "readOnly": True}]
        weights = f"/weights/{path}".rstrip("/")
    elif scheme == "oci":
        volumes = [{"name": "weights", "image": {"reference": location, "pullPolicy": "IfNotPresent"}}]
        mounts = [{"name": "weights", "mountPath": "/weights", "readOnly": True}]
        weights = "/weights"
    elif scheme != "hf" or not location:
        raise InputError(
            f"spec.models[{model.name}].variants[{variant.name}].source",
            variant.source,
            "is needed, and must begin with hf://, pvc:// or oci://",
        )
    return weights, volumes, mounts


def _probes(start_limit_seconds: int) -> Json:
    """The probes of an engine, which may take this long to start."""
    health = {"httpGet": {"path": "/health", "port": "http"}}
    return {
        "startupProbe": {**health, "periodSeconds": 5, "failureThreshold": -(-start_limit_seconds // 5)},
        "readinessProbe": {**health, "periodSeconds": 2, "failureThreshold": 2, "timeoutSeconds": 2},
        "livenessProbe": {**health, "periodSeconds": 15, "failureThreshold": 8, "timeoutSeconds": 10},
    }


def _environment(group: Group | None, *, worker: bool, cached: bool, restricted: bool) -> list[Json]:
    """The environment of an engine, before that of podTemplate. ``cached``: its caches are in a volume of the pod."""
    found: list[Json] = []
    if group is not None:
        found.append({"name": LAYERS_VARIABLE, "value": ",".join(map(str, group.layers))})
    if group is not None and not worker:
        own_address = {"fieldRef": {"fieldPath": "status.podIP"}}
        found.append({"name": flags.OWN_ADDRESS_VARIABLE, "valueFrom": own_address})
    if cached:
        variables = RESTRICTED_ENVIRONMENT if restricted else CACHE_ENVIRONMENT
        found += [{"name": name, "value": value} for name, value in variables.items()]
    return found


def _take_no_requests(template: Json) -> None:
    """Make the engine of a template a worker's, which has no port and no probes, whatever the user's template adds.

    Requests and probes go to its leader alone. All that can be known of a worker is that it runs.
    """
    engine = next(item for item in template["spec"]["containers"] if item["name"] == "engine")
    for key in ("ports", "startupProbe", "readinessProbe", "livenessProbe"):
        engine.pop(key, None)


def _resources(resource: str, gpus: int, pool: NodePool, more: dict[str, str]) -> Json:
    """What the engine's container asks for: GPUs as an extended resource, or by a claim for devices, and ``more``."""
    if pool.dra is not None:
        claims: Json = {"claims": [{"name": claim_template.CLAIM}]}
        return {**claims, "requests": more} if more else claims
    return {"limits": {resource: str(gpus)}, "requests": {resource: str(gpus), **more}}


def _requests(needs: PodNeeds | None, pod_template: Mapping[str, Any]) -> dict[str, str]:
    """What the engine asks for beside GPUs. What podTemplate only limits is left out: the API server asks for the limit."""
    if needs is None:
        return {}
    limited = within(engine_in(pod_template), "resources", "limits") or {}
    asked = {
        "cpu": None if needs.cpu_millicores is None else f"{needs.cpu_millicores}m",
        "memory": None if needs.memory_bytes is None else f"{needs.memory_bytes // 1024}Ki",
    }
    return {name: amount for name, amount in asked.items() if amount is not None and name not in limited}


def tolerations(pool: NodePool) -> list[Json]:
    """The tolerations of replicas on the pool's nodes, before those of podTemplate."""
    resource = pool.resource_name or names.GPU_RESOURCE
    keys = dict.fromkeys(
        (resource, f"{resource.partition('/')[0]}/gpu")
    )  # of slices too, nodes are tainted by whole GPUs
    if pool.capacity_type == "Spot":
        keys.update(dict.fromkeys(("cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority")))
    return [{"key": key, "operator": "Exists"} for key in keys]


def replica_name(*, plan: str, model: str, variant: str, where: str, template: Mapping[str, Any]) -> str:
    """The name of the Deployment or LeaderWorkerSet, which contains the digest of the replica's whole description.

    ``where``: the pool, or the layout of a replica that spans nodes.
    """
    return names.deployment_name(plan, model, digest([plan, model, variant, where, template]))


def _settings(model: Model, settings: EngineSettings | None) -> list[str]:
    if settings is None:
        return [f"--max-model-len={model.effective_max_model_len}"]
    return flags.flags_of(settings, leave_out=flags.read(model.engine.extra_args).words)


def _shutdown_seconds(settings: EngineSettings | None) -> int:
    if settings is None or settings.shutdown_seconds is None:
        return UNTOLD_SHUTDOWN_SECONDS
    return settings.shutdown_seconds + SHUTDOWN_MARGIN_SECONDS


def deployment(
    *, plan: PlanObject, replica_set: ReplicaSet, template: Json, replicas: int, startup_seconds: int, fleet: Fleet
) -> Json:
    """The Deployment with ``replicas`` copies."""
    labels = model_server_labels(plan, replica_set)
    selector = {names.PLAN_LABEL: labels[names.PLAN_LABEL], names.DEPLOYMENT_LABEL: replica_set.deployment}
    pod = merge(template, claim_template.claim_of(template, replica_set.deployment))
    pod = merge(pod, {"metadata": {"labels": {**labels, names.SERVING_LABEL: "true"}}})
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": workload_metadata(plan, replica_set, fleet),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector},
            # GPUs are not there twice: a pod that is to be replaced goes first.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "progressDeadlineSeconds": startup_seconds + 600,
            "revisionHistoryLimit": 1,
            "template": pod,
        },
    }


def service(*, plan: PlanObject, replica_set: ReplicaSet) -> Json:
    """The Service of the Deployment's serving copies."""
    labels = model_server_labels(plan, replica_set)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": replica_set.deployment,
            "namespace": plan.namespace,
            "labels": labels,
            "ownerReferences": [owner_reference(plan)],
        },
        "spec": {
            "type": "ClusterIP",
            "selector": {
                names.PLAN_LABEL: labels[names.PLAN_LABEL],
                names.DEPLOYMENT_LABEL: replica_set.deployment,
                names.SERVING_LABEL: "true",
            },
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def owner_reference(plan: PlanObject) -> Json:
    """The owner reference that makes the plan an object's controller, so that the object is deleted with the plan."""
    return {
        "apiVersion": "servingplan.dev/v1alpha1",
        "kind": "LLMServingPlan",
        "name": plan.name,
        "uid": plan.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def workload_metadata(plan: PlanObject, replica_set: ReplicaSet, fleet: Fleet) -> Json:
    """The metadata of a Deployment or LeaderWorkerSet. Its annotations name the plan and what it counts on."""
    facts = json.dumps(replica_set.facts.model_dump(), sort_keys=True, separators=(",", ":"))
    return {
        "name": replica_set.deployment,
        "namespace": plan.namespace,
        "labels": model_server_labels(plan, replica_set),
        "annotations": {names.FACTS_ANNOTATION: facts, names.PLAN_HASH_ANNOTATION: fleet.hash},
        "ownerReferences": [owner_reference(plan)],
    }


def model_server_labels(plan: PlanObject, replica_set: ReplicaSet) -> dict[str, str]:
    """The labels that a Deployment, its Service and its pods have in common."""
    return {
        "app.kubernetes.io/name": "vllm",
        "app.kubernetes.io/instance": replica_set.deployment,
        "app.kubernetes.io/component": "model-server",
        "app.kubernetes.io/part-of": names.label_value(plan.name),
        "app.kubernetes.io/managed-by": "servingplan",
        names.PLAN_LABEL: names.label_value(plan.name),
        names.DEPLOYMENT_LABEL: replica_set.deployment,
        names.MODEL_LABEL: names.label_value(replica_set.model),
        names.POOL_LABEL: names.label_value(replica_set.pool),
    }
