"""Names, labels and annotations: derived from the plan alone, so that applying twice makes nothing twice."""

from __future__ import annotations

import hashlib
import re

FIELD_MANAGER = "servingplan"
"""Owns what we render. Never renamed: a rename leaves fields without an owner."""
POOL_MANAGER = "servingplan-pools"
"""Owns the size of node pools, and nothing else of them."""
STATUS_MANAGER = "servingplan-status"
"""Owns the plan's status."""

PREFIX = "servingplan.dev/"
FINALIZER = f"{PREFIX}retire"
"""Holds a plan until its replicas and pools are given back."""
PLAN_LABEL = f"{PREFIX}plan"
DEPLOYMENT_LABEL = f"{PREFIX}deployment"
MODEL_LABEL = f"{PREFIX}model"
POOL_LABEL = f"{PREFIX}pool"
SERVING_LABEL = f"{PREFIX}serving"
FACTS_ANNOTATION = f"{PREFIX}replica-facts"
PLAN_HASH_ANNOTATION = f"{PREFIX}plan-hash"
SPEC_HASH_ANNOTATION = f"{PREFIX}spec-hash"
PLACED_ON_ANNOTATION = f"{PREFIX}placed-on"
PLACED_SINCE_ANNOTATION = f"{PREFIX}placed-since"
DRAINING_SINCE_ANNOTATION = f"{PREFIX}draining-since"
UNROUTED_SINCE_ANNOTATION = f"{PREFIX}unrouted-since"
COMING_SINCE_ANNOTATION = f"{PREFIX}coming-since"
REPLICAS_SET_BY_ANNOTATION = f"{PREFIX}replicas-set-by"
"""An annotation of a Deployment: who else set its number of replicas before the plan's was set again, and when."""
APPROVE_ANNOTATION = f"{PREFIX}approve"
CLAIM_ANNOTATION = f"{PREFIX}claimed-by"
SIZE_ANNOTATION = f"{PREFIX}asked-nodes"
DEVICES_ANNOTATION = f"{PREFIX}devices"
"""An annotation of pods whose GPUs are devices of a claim: what the claim asks for."""
CATALOGUE_LABEL = f"{PREFIX}catalogue"
"""A label of ConfigMaps of the operator's namespace with rows of models, GPUs or prices: ``models``, ``gpus``, ``prices``."""
PROFILES_LABEL = f"{PREFIX}profiles"
"""A label of ConfigMaps with measured rates: the operator watches those that carry it."""
ALLOWED_NAMESPACES_ANNOTATION = f"{PREFIX}allowed-namespaces"
MAX_NODES_ANNOTATION = f"{PREFIX}max-nodes"
"""An annotation of a pool object: its owner's ceiling for every plan."""
PRICE_ANNOTATION = f"{PREFIX}dollars-per-node-hour"
"""An annotation of a pool object: its owner's price, which counts for every plan."""
REPLICAS_PATH_ANNOTATION = f"{PREFIX}replicas-path"
"""An annotation of a pool object: where its owner says that the size stands."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
"""Kueue's: on a plan it passes through to the pods, which Kueue then admits by the quota of that queue."""
DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
SERVICE_LABEL = "kubernetes.io/service-name"
"""The label by which an EndpointSlice names its Service."""
DEPLOYMENT = "Deployment"
LEADER_WORKER_SET = "LeaderWorkerSet"
"""Kinds of objects that make the pods of replicas: in one node, or over several."""
CLAIM_TEMPLATE = "ResourceClaimTemplate"
"""Kind of the object that each pod's claim for its devices is made from."""
GROUP_LABEL = "leaderworkerset.sigs.k8s.io/group-index"
WORKER_LABEL = "leaderworkerset.sigs.k8s.io/worker-index"
"""Labels of the pods of a LeaderWorkerSet: their group, and their place in it; the leader's is 0."""
GROUP_SIZE_ANNOTATION = "leaderworkerset.sigs.k8s.io/size"
ROUTING_KEY = "routing.json"
"""The key of the routing document in its ConfigMap."""
PLACEMENT_GATE = f"{PREFIX}placement"
GPU_RESOURCE = "nvidia.com/gpu"
GPU_RESOURCE_PATTERN = r"^[a-z0-9][-a-z0-9.]*/(gpu|gpu\.[A-Za-z0-9._-]+|mig-[A-Za-z0-9._-]+)$"
"""Names of extended resources that count GPUs or slices of them, and not, as others do, their memory or cores."""
DEVICE_ATTRIBUTE_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z_][A-Za-z0-9_]*$"
"""Whole names of the attributes of devices: DOMAIN/NAME (kubernetes/api resource/v1, QualifiedName)."""
_GPU_RESOURCES = re.compile(GPU_RESOURCE_PATTERN)

_LONGEST_DEPLOYMENT_NAME = 46
"""A pod's name adds up to 17 characters to its Deployment's and must stay a label value of 63."""


def is_gpu_resource(name: str) -> bool:
    """Whether an extended resource counts GPUs."""
    return _GPU_RESOURCES.match(name) is not None


def words(text: str) -> tuple[str, ...]:
    """The words of a list that is separated by commas, as in annotations and options; without empty ones."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def slug(text: str, longest: int) -> str:
    """Lower-case letters, digits and dashes; not unique by itself."""
    cleaned = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return cleaned[:longest].strip("-") or "x"


def deployment_name(plan: str, model: str, replica_digest: str) -> str:
    """``PLAN-MODEL-HASH``: the hash holds everything that a replica is, so another replica is another Deployment."""
    suffix = replica_digest[:6]
    room = _LONGEST_DEPLOYMENT_NAME - len(suffix) - 2
    plan_part = slug(plan, room // 2)
    if plan_part[0].isdigit():  # a Service's name begins with a letter
        plan_part = f"p{plan_part}"[: room // 2]
    return f"{plan_part}-{slug(model, room - len(plan_part))}-{suffix}"


def label_value(text: str) -> str:
    """A label value that people recognise; two texts never share one."""
    if len(text) <= 63 and re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", text):
        return text
    return f"{slug(text, 54)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def routing_name(plan: str, chosen: str | None) -> str:
    """ConfigMap of the routing document."""
    return chosen or f"{plan}-routing"


def http_route_name(plan: str, model: str, part: int) -> str:
    """``PLAN-MODEL-HASH``, and ``-2`` and so on where one object does not hold all rules of the model."""
    unique = hashlib.sha256(f"{plan} {model}".encode()).hexdigest()[:8]
    name = f"{slug(plan, 63)}-{slug(model, 128)}-{unique}"
    return name if part == 1 else f"{name}-{part}"


def record_name(plan: str) -> str:
    """ConfigMap of the plan record."""
    return f"{plan}-plan"


def arrivals_prefix(plan: str, model: str, name: str) -> str:
    """The prefix under which the gateway counts the requests of a class: ``stat_prefix`` of its local rate limit in Envoy.

    ``plan`` is ``namespace/name``. Envoy takes what stands before a dot for a level of its tree, so dots are escaped.
    """
    return "/".join((plan, model, name)).replace("%", "%25").replace(".", "%2E")
