"""EFFECT. Reads what the doctor judges. Nothing is written; access reviews are questions that the API server does not keep."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any, Protocol
from urllib.parse import urlsplit

from servingplan.api.v1alpha1 import GROUP, PLURAL
from servingplan.doctor.facts import (
    Facts,
    Leader,
    Operator,
    PlanFacts,
    PrometheusFacts,
    Right,
    SizedObject,
    Unread,
)
from servingplan.doctor.rights import PoolResource, needed
from servingplan.errors import ApiError, NotFound
from servingplan.kube import CONFIG_MAPS, DEPLOYMENTS, ENDPOINT_SLICES, NODES, PLANS, PODS, SERVICES, Resource
from servingplan.lease import LABELS as LEASE_LABELS
from servingplan.lease import LEASES, lease_names
from servingplan.model import names
from servingplan.model.readings import SeenCatalogue
from servingplan.observe.parse import node_of, owns, seen_additions
from servingplan.pool_kinds.table import KINDS, path_of

Json = dict[str, Any]

OPERATOR_LABELS = "app.kubernetes.io/component=operator"
CHART_LABEL = "helm.sh/chart"
DEFAULT_POOL_KINDS = "NodePool.karpenter.sh"
DEFAULT_LEASE_NAMESPACE = "kube-system"
"""The chart's defaults, for a cluster where no operator is found."""
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
NAMESPACES = Resource("v1", "namespaces", "Namespace", namespaced=False)
SELF_REVIEWS = Resource("authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False)
REVIEWS = Resource("authorization.k8s.io/v1", "subjectaccessreviews", "SubjectAccessReview", False)
GATEWAYS = Resource("gateway.networking.k8s.io/v1", "gateways", "Gateway")
LEASE_SEEN_SECONDS = 60.0
"""How old the renewal of a Lease may be; its holder renews it every two seconds."""
_THREADS = 16
_SERVICE_ACCOUNT = "system:serviceaccount:"


class Reads(Protocol):
    """The calls to the API server that the doctor needs; ``Kube`` has them."""

    def list(
        self, resource: Resource, *, namespace: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> Iterator[Json]: ...

    def get(
        self, resource: Resource, name: str, *, namespace: str | None = None, subresource: str | None = None
    ) -> Json: ...

    def create(self, resource: Resource, manifest: Json, *, namespace: str | None = None) -> Json: ...

    def discover(self, api_version: str, kind: str) -> Resource: ...

    def groups(self) -> dict[str, tuple[str, ...]]: ...


def read(api: Reads, *, namespace: str, account: str | None, prometheus_url: str) -> Facts:
    """What the doctor judges. ``account``: whose rights are asked for; None: the caller's own. ``prometheus_url``: empty means
    that of the operator that is found. Raises ``ApiError`` if the API server cannot be reached."""
    groups = api.groups()
    with ThreadPoolExecutor(_THREADS) as threads:
        operators = _tried(lambda: _operators(api))
        settings = _settings(operators, namespace)
        kinds = sorted({*KINDS, *names.words(settings.get("SERVINGPLAN_POOL_KINDS", DEFAULT_POOL_KINDS))})
        looked_up = {key: _tried(partial(_resource, api, key, groups)) for key in kinds}
        served = {key: found for key, found in looked_up.items() if isinstance(found, Resource)}
        allowed = names.words(settings.get("SERVINGPLAN_POOL_KINDS", DEFAULT_POOL_KINDS))
        rights = needed(
            namespace=namespace,
            pools=[_pool_resource(served[key]) for key in allowed if key in served],
            groups=groups,
            lease_namespace=settings.get("SERVINGPLAN_LEASE_NAMESPACE", DEFAULT_LEASE_NAMESPACE),
            catalogue_namespace=settings.get("SERVINGPLAN_CATALOGUE_NAMESPACE", ""),
            marks_machines=settings.get("SERVINGPLAN_MARK_MACHINES") == "true",
        )
        url = prometheus_url or settings.get("SERVINGPLAN_PROMETHEUS_URL", "")
        catalogue_namespace = settings.get("SERVINGPLAN_CATALOGUE_NAMESPACE", "")
        reviews = [threads.submit(_is_refused, api, right, account) for right in rights]
        pools = {key: threads.submit(_tried, partial(_sized, api, key, served[key])) for key in served}
        exists = threads.submit(_tried, lambda: _exists(api, namespace))
        definition = threads.submit(_tried, lambda: _definition(api))
        nodes = threads.submit(_tried, lambda: tuple(map(node_of, api.list(NODES))))
        plans = threads.submit(_tried, lambda: _plans(api) if GROUP in groups else ())
        readers = threads.submit(_tried, lambda: _routing_readers(api, namespace))
        gateways = threads.submit(_tried, lambda: _gateways(api, groups))
        prometheus = threads.submit(_tried, lambda: _prometheus(api, url))
        devices = threads.submit(_tried, lambda: _devices(api, groups))
        classes = threads.submit(_tried, lambda: _device_classes(api, groups))
        leases_in = settings.get("SERVINGPLAN_LEASE_NAMESPACE", DEFAULT_LEASE_NAMESPACE)
        leader = threads.submit(_tried, lambda: _leader(api, leases_in, namespace))
        queues = threads.submit(_tried, lambda: _queues(api, groups, namespace))
        catalogues = threads.submit(_tried, lambda: _catalogues(api, catalogue_namespace))
        found = {key: future.result() for key, future in pools.items()}
        return Facts(
            namespace=namespace,
            account=account,
            groups=groups,
            namespace_exists=exists.result(),
            rights=len(rights),
            refused=_tried(lambda: _refused(rights, reviews)),
            operators=operators,
            leader=leader.result(),
            definition=definition.result(),
            nodes=nodes.result(),
            pools=tuple(item for items in found.values() if not isinstance(items, Unread) for item in items),
            unread_pools={key: it.why for key, it in (looked_up | found).items() if isinstance(it, Unread)},
            plans=plans.result(),
            routing_readers=readers.result(),
            gateways=gateways.result(),
            prometheus=prometheus.result(),
            devices=devices.result(),
            device_classes=classes.result(),
            queues=queues.result(),
            catalogues=catalogues.result(),
        )


def _tried[Found](make: Callable[[], Found]) -> Found | Unread:
    try:
        return make()
    except ApiError as error:
        return Unread(error.message)


def _settings(operators: tuple[Operator, ...] | Unread, namespace: str) -> Mapping[str, str]:
    """The settings of the operator that manages the namespace, else those of the first operator."""
    found = () if isinstance(operators, Unread) else operators
    mine = [item for item in found if item.has(namespace)]
    return next(iter([*mine, *found])).settings if found else {}


def _operators(api: Reads) -> tuple[Operator, ...]:
    found = (_operator(item) for item in api.list(DEPLOYMENTS, labels=OPERATOR_LABELS))
    return tuple(sorted((item for item in found if item is not None), key=lambda item: (item.namespace, item.name)))


def _operator(item: Json) -> Operator | None:
    """A Deployment with our settings; other operators have the same label."""
    metadata, spec = item["metadata"], item.get("spec") or {}
    labels = metadata.get("labels") or {}
    pod = (spec.get("template") or {}).get("spec") or {}
    said = [entry for container in pod.get("containers") or () for entry in container.get("env") or ()]
    settings = {
        entry["name"]: str(entry.get("value") or "") for entry in said if entry["name"].startswith("SERVINGPLAN_")
    }
    if not settings:
        return None
    return Operator(
        namespace=metadata["namespace"],
        name=metadata["name"],
        release=labels.get("app.kubernetes.io/instance", "") if CHART_LABEL in labels else "",
        account=pod.get("serviceAccountName") or "default",
        replicas=spec.get("replicas", 1),
        ready=(item.get("status") or {}).get("readyReplicas") or 0,
        settings=settings,
    )


def _leader(api: Reads, lease_namespace: str, namespace: str) -> Leader | Unread | None:
    """Who renewed the Lease for a namespace, or for all, in the last minute by the clock here, which may be off by less."""
    if not lease_namespace:
        return Unread("the installation has no Lease")
    label = ",".join(f"{key}={value}" for key, value in LEASE_LABELS.items())
    for item in api.list(LEASES, namespace=lease_namespace, labels=label):
        name, spec = item["metadata"]["name"], item.get("spec") or {}
        if name not in lease_names((namespace,)) + lease_names(()) or not spec.get("renewTime"):
            continue
        seconds = (datetime.now(UTC) - datetime.fromisoformat(spec["renewTime"])).total_seconds()
        if abs(seconds) <= LEASE_SEEN_SECONDS:
            return Leader(f"{lease_namespace}/{name}", str(spec.get("holderIdentity")), max(0.0, seconds))
    return None


def _resource(api: Reads, key: str, groups: Mapping[str, tuple[str, ...]]) -> Resource | None:
    """The resource of ``Kind.group`` in the group's preferred version; None if it is not served."""
    kind, _, group = key.partition(".")
    if group not in groups:
        return None
    try:
        return api.discover(f"{group}/{groups[group][0]}", kind)
    except NotFound:
        return None


def _pool_resource(resource: Resource) -> PoolResource:
    return PoolResource(resource.api_version.partition("/")[0], resource.plural)


def _is_refused(api: Reads, right: Right, account: str | None) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = {"group": right.group, "resource": resource, "subresource": subresource, "verb": right.verb}
    if right.namespace is not None:
        attributes["namespace"] = right.namespace
    spec: Json = {"resourceAttributes": attributes}
    kind = SELF_REVIEWS
    if account is not None:
        kind = REVIEWS
        spec |= {"user": account, "groups": _groups_of(account)}
    asked = {"apiVersion": kind.api_version, "kind": kind.kind, "spec": spec}
    return not api.create(kind, asked).get("status", {}).get("allowed", False)


def _groups_of(account: str) -> list[str]:
    """The groups that the API server gives an authenticated user, and those of a ServiceAccount."""
    groups = ["system:authenticated"]
    if account.startswith(_SERVICE_ACCOUNT):
        namespace = account.removeprefix(_SERVICE_ACCOUNT).partition(":")[0]
        groups += ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    return groups


def _refused(rights: tuple[Right, ...], reviews: list[Future[bool]]) -> tuple[Right, ...]:
    return tuple(right for right, review in zip(rights, reviews, strict=True) if review.result())


def _exists(api: Reads, namespace: str) -> bool:
    try:
        api.get(NAMESPACES, namespace)
    except NotFound:
        return False
    return True


def _definition(api: Reads) -> Json | None:
    try:
        return api.get(CRDS, f"{PLURAL}.{GROUP}")
    except NotFound:
        return None


def _sized(api: Reads, key: str, resource: Resource) -> tuple[SizedObject, ...]:
    return tuple(_sized_object(key, resource, item) for item in api.list(resource))


def _sized_object(key: str, resource: Resource, item: Json) -> SizedObject:
    metadata = item["metadata"]
    annotations = metadata.get("annotations") or {}
    path, _ = path_of(key, metadata["name"], annotations, written=None, scalable=resource.scalable)
    owners = {
        str(entry.get("manager", "unknown"))
        for entry in metadata.get("managedFields") or ()
        if path is not None and owns(entry.get("fieldsV1") or {}, path)
    }
    return SizedObject(
        key=key,
        resource=f"{resource.plural}.{resource.api_version.partition('/')[0]}",
        namespace=metadata.get("namespace"),
        name=metadata["name"],
        item=item,
        scalable=resource.scalable,
        size_owners=tuple(sorted(owners - {names.POOL_MANAGER})),
    )


def _plans(api: Reads) -> tuple[PlanFacts, ...]:
    return tuple(_plan(item) for item in api.list(PLANS))


def _plan(item: Json) -> PlanFacts:
    metadata = item["metadata"]
    gateway = (item.get("spec") or {}).get("gateway") or {}
    return PlanFacts(
        namespace=metadata["namespace"],
        name=metadata["name"],
        routing=names.routing_name(metadata["name"], gateway.get("configMap")),
        has_routes=bool(gateway.get("httpRoute")),
        deleted_at=metadata.get("deletionTimestamp"),
    )


def _routing_readers(api: Reads, namespace: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = defaultdict(set)
    for item in api.list(PODS, namespace=namespace, fields="status.phase!=Succeeded,status.phase!=Failed"):
        for name in _config_maps_of(item.get("spec") or {}):
            found[name].add(item["metadata"]["name"])
    return {name: tuple(sorted(pods)) for name, pods in found.items()}


def _config_maps_of(pod: Json) -> Iterator[str]:
    """The ConfigMaps that a pod mounts, or has ``gateway-sync`` follow."""
    for volume in pod.get("volumes") or ():
        parts: Iterable[Json] = (volume, *((volume.get("projected") or {}).get("sources") or ()))
        yield from (part["configMap"]["name"] for part in parts if (part.get("configMap") or {}).get("name"))
    for container in (*(pod.get("initContainers") or ()), *(pod.get("containers") or ())):
        said = [str(word) for word in (*(container.get("command") or ()), *(container.get("args") or ()))]
        yield from (after for word, after in pairwise(said) if word == "--config-map")
        yield from (word.removeprefix("--config-map=") for word in said if word.startswith("--config-map="))
        for entry in container.get("env") or ():
            if entry["name"] == "SERVINGPLAN_CONFIG_MAP" and entry.get("value"):
                yield entry["value"]


def _gateways(api: Reads, groups: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    if "gateway.networking.k8s.io" not in groups:
        return ()
    return tuple(sorted(f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in api.list(GATEWAYS)))


def _prometheus(api: Reads, url: str) -> PrometheusFacts | None:
    if not url:
        return None
    host = (urlsplit(url).hostname or "").split(".")
    if len(host) < 2 or host[2:3] not in ([], ["svc"]):
        return PrometheusFacts(url, None)
    name, namespace = host[:2]
    try:
        api.get(SERVICES, name, namespace=namespace)
    except NotFound:
        return PrometheusFacts(url, f"{namespace}/{name}")
    slices = api.list(ENDPOINT_SLICES, namespace=namespace, labels=f"{names.SERVICE_LABEL}={name}")
    ready = {
        address
        for item in slices
        for endpoint in item.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready") is not False
        for address in endpoint.get("addresses") or ()
    }
    return PrometheusFacts(url, f"{namespace}/{name}", len(ready))


def _devices(api: Reads, groups: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    resource = _resource(api, "ResourceSlice.resource.k8s.io", groups)
    if resource is None:
        return {}
    found: Counter[str] = Counter()
    for item in api.list(resource):
        spec = item.get("spec") or {}
        found[str(spec.get("driver"))] += len(spec.get("devices") or ())
    return dict(sorted(found.items()))


def _device_classes(api: Reads, groups: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    resource = _resource(api, "DeviceClass.resource.k8s.io", groups)
    return () if resource is None else tuple(sorted(_names(api.list(resource))))


def _queues(api: Reads, groups: Mapping[str, tuple[str, ...]], namespace: str) -> tuple[str, ...]:
    resource = _resource(api, "LocalQueue.kueue.x-k8s.io", groups)
    return () if resource is None else tuple(sorted(_names(api.list(resource, namespace=namespace))))


def _catalogues(api: Reads, namespace: str) -> tuple[SeenCatalogue, ...]:
    """What ConfigMaps of the operator's namespace add to the catalogue."""
    if not namespace:
        return ()
    found = map(seen_additions, api.list(CONFIG_MAPS, namespace=namespace, labels=names.CATALOGUE_LABEL))
    return tuple(
        SeenCatalogue(config_map=item.name, kind=item.kind, key=key, text=text)
        for item in sorted(found)
        for key, text in item.data
    )


def _names(items: Iterable[Json]) -> Iterator[str]:
    return (item["metadata"]["name"] for item in items)
