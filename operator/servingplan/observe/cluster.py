"""Reads all that one turn may know, each source with its own failure."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from servingplan.api.parse import parse_spec
from servingplan.api.v1alpha1 import PlanSpec, Resize
from servingplan.errors import ApiError, Forbidden, NotFound
from servingplan.kube import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    HTTP_ROUTES,
    NODES,
    PLANS,
    PODS,
    SERVICES,
    Api,
    Resource,
)
from servingplan.model.world import (
    Failure,
    LiveObject,
    Node,
    Observation,
    OtherPlan,
    PlanObject,
    Pod,
    PoolObject,
    SeenCatalogue,
    SeenModelConfig,
    SeenProfiles,
)
from servingplan.observe import parse
from servingplan.observe.demand import DemandReader
from servingplan.observe.gateway import ask_gateway
from servingplan.planning.record import effective_spec, record_of
from servingplan.profiles.config_json import CONFIG_KEY
from servingplan.profiles.rows import ROWS_KEY
from servingplan.render import names

Json = dict[str, Any]
LEADER_WORKER_SET = ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
"""API version and kind that replicas over several nodes need."""
_OWN_KINDS = (("Deployment", DEPLOYMENTS), ("Service", SERVICES), ("ConfigMap", CONFIG_MAPS))


def read_clock() -> str:
    """Now, RFC 3339, UTC, whole seconds: the only clock of a turn."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Reader:
    """Reads one plan's world. Blocks: call it in a thread."""

    def __init__(
        self,
        api: Api,
        *,
        pool_kinds: frozenset[str] | None,
        catalogue_namespace: str | None = None,
        demand: DemandReader | None = None,
        clock: Callable[[], str] = read_clock,
    ) -> None:
        """``pool_kinds``: kinds that may be sized, as ``Kind.group``; None allows every kind. ``catalogue_namespace``: where
        ConfigMaps with the catalogue's label are read, the operator's own; None: nowhere. Without ``demand`` nothing is
        measured."""
        self._catalogue_namespace = catalogue_namespace
        self._api = api
        self._demand = demand
        self._pool_kinds = pool_kinds
        self._clock = clock
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="observe")
        self._gateway_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="gateway")
        self._asking_threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix="asking")

    def close(self) -> None:
        """Let the threads go."""
        for threads in (self._threads, self._gateway_threads, self._asking_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    def observe(self, namespace: str, name: str) -> Observation | None:
        """The world of a plan, or None where the plan is gone. Raises ``ApiError`` where it cannot be read itself."""
        now = self._clock()
        try:
            raw = self._api.get(PLANS, name, namespace=namespace)
        except NotFound:
            return None
        plan = plan_of(raw)
        label = names.label_value(plan.name)
        failures: list[Failure] = []
        own = [self._threads.submit(self._own_objects, kind, resource, plan, label) for kind, resource in _OWN_KINDS]
        nodes_read = self._threads.submit(self._nodes)
        endpoints_read = self._threads.submit(self._endpoints, plan, label)
        others_read = self._threads.submit(self._other_plans, plan)
        multi_node_read = self._threads.submit(self._multi_node_apis)
        routes_read = self._threads.submit(self._http_routes, plan, label)
        objects: list[LiveObject] = []
        for (kind, _), read in zip(_OWN_KINDS, own, strict=True):
            objects.extend(_listed(read, f"{kind}s", failures))
        spec = _spec_for_reading(plan, objects)
        routes, routes_unread = _routes_listed(routes_read, spec, failures)
        objects += routes
        pool_reads = [
            self._threads.submit(self._pool, plan.namespace, pool.name, pool.resize)
            for pool in (spec.node_pools if spec else ())
            if pool.resize is not None
        ]
        profile_reads = [
            self._threads.submit(self._profiles, plan.namespace, item.config_map)
            for item in (spec.profiles if spec else ())
        ]
        catalogues_read = self._threads.submit(self._catalogues)
        configs = {item.published_config.config_map for item in (spec.models if spec else ()) if item.published_config}
        config_reads = [self._threads.submit(self._model_config, plan.namespace, name) for name in sorted(configs)]
        ack_url = spec.gateway.ack_url if spec else None
        gateway = (
            self._gateway_threads.submit(ask_gateway, ack_url, plan.key, self._asking_threads) if ack_url else None
        )
        routing = names.routing_name(plan.name, spec.gateway.config_map if spec else None)
        objects += self._named_config_maps(plan, objects, (routing, names.record_name(plan.name)), failures)
        nodes = {node.name: node for node in _listed(nodes_read, "nodes", failures)}
        endpoints = frozenset(_listed(endpoints_read, "EndpointSlices", failures))
        pods = _listed(self._threads.submit(self._pods, plan, label, nodes, endpoints), "pods", failures)
        # Nodes of the plan's pools, nodes that hold its pods, and whoever else holds GPUs on these: no others matter.
        held = {pod.node for pod in pods if pod.deployment is not None}
        selectors = [pool.node_selector for pool in (spec.node_pools if spec else ())]
        near = {
            name: node
            for name, node in sorted(nodes.items())
            if name in held or any(_matches(node.labels, selector) for selector in selectors)
        }
        return Observation(
            now=now,
            plan=plan,
            nodes=tuple(near.values()),
            pods=tuple(
                sorted(
                    (pod for pod in pods if pod.deployment is not None or pod.node in near),
                    key=lambda pod: (pod.namespace, pod.name),
                )
            ),
            objects=tuple(sorted(objects, key=lambda item: (item.kind, item.name))),
            pools=tuple(read.result() for read in pool_reads),
            other_plans=tuple(_listed(others_read, "other plans", failures)),
            leader_worker_sets=bool(_listed(multi_node_read, "the LeaderWorkerSet API", failures)),
            http_routes_unread=routes_unread,
            gateway=None if gateway is None else gateway.result(),
            failures=tuple(failures),
            demand=self._demand.seen(plan.namespace, plan.name, spec) if self._demand else None,
            profiles=tuple(read.result() for read in profile_reads),
            catalogues=tuple(catalogues_read.result()),
            model_configs=tuple(read.result() for read in config_reads),
        )

    def _nodes(self) -> list[Node]:
        return [parse.node_of(item) for item in self._api.list(NODES)]

    def _endpoints(self, plan: PlanObject, label: str) -> list[parse.Endpoint]:
        """EndpointSlices carry the labels of their Services."""
        slices = self._api.list(ENDPOINT_SLICES, namespace=plan.namespace, labels=f"{names.PLAN_LABEL}={label}")
        return [endpoint for item in slices for endpoint in parse.endpoints_of(item)]

    def _pods(
        self, plan: PlanObject, label: str, nodes: dict[str, Node], endpoints: frozenset[parse.Endpoint]
    ) -> list[Pod]:
        alive = "status.phase!=Succeeded,status.phase!=Failed"
        found = (
            parse.pod_of(item, plan_label=label, namespace=plan.namespace, nodes=nodes, endpoints=endpoints)
            for item in self._api.list(PODS, fields=alive)
        )
        return [pod for pod in found if pod is not None]

    def _multi_node_apis(self) -> list[Resource]:
        """The LeaderWorkerSet resource, where there is one. A yes is remembered by ``discover``; a no is one small read."""
        try:
            return [self._api.discover(*LEADER_WORKER_SET)]
        except NotFound:
            return []

    def _http_routes(self, plan: PlanObject, label: str) -> list[LiveObject]:
        resource = self._api.discover(HTTP_ROUTES.api_version, HTTP_ROUTES.kind)
        return self._own_objects(HTTP_ROUTES.kind, resource, plan, label)

    def _own_objects(self, kind: str, resource: Resource, plan: PlanObject, label: str) -> list[LiveObject]:
        listed = self._api.list(resource, namespace=plan.namespace, labels=f"{names.PLAN_LABEL}={label}")
        return [parse.object_of(item, kind=kind, plan_uid=plan.uid) for item in listed]

    def _named_config_maps(
        self, plan: PlanObject, objects: list[LiveObject], wanted: tuple[str, ...], failures: list[Failure]
    ) -> list[LiveObject]:
        """ConfigMaps of our names that lack our label: somebody else's, or ours with the label taken off."""
        known = {item.name for item in objects if item.kind == "ConfigMap"}
        found = []
        for name in sorted(set(wanted) - known):
            try:
                raw = self._api.get(CONFIG_MAPS, name, namespace=plan.namespace)
            except NotFound:
                continue
            except ApiError as error:
                failures.append(_failure("ConfigMaps", error))
                continue
            found.append(parse.object_of(raw, kind="ConfigMap", plan_uid=plan.uid))
        return found

    def _profiles(self, namespace: str, name: str) -> SeenProfiles:
        """Rows of measurements. That they cannot be had is a fact, not a failure: the plan goes on without them."""
        try:
            raw = self._api.get(CONFIG_MAPS, name, namespace=namespace)
        except NotFound:
            return SeenProfiles(
                config_map=name,
                problem_reason="ProfilesMissing",
                problem="is not there; create it (servingplan profile import -o configmap), or take it out",
            )
        except ApiError as error:
            failure = _failure(f"the ConfigMap {name}", error)
            return SeenProfiles(config_map=name, problem_reason=failure.reason, problem=failure.message)
        rows = (raw.get("data") or {}).get(ROWS_KEY)
        if not isinstance(rows, str):
            return SeenProfiles(
                config_map=name,
                problem_reason="ProfilesMissing",
                problem=f"has no key {ROWS_KEY}; write it with servingplan profile import -o configmap",
            )
        return SeenProfiles(config_map=name, rows=rows)

    def _catalogues(self) -> list[SeenCatalogue]:
        """What the installation adds to the catalogue. That it cannot be had is a fact, not a failure."""
        if not self._catalogue_namespace:
            return []
        try:
            read = self._api.list(CONFIG_MAPS, namespace=self._catalogue_namespace, labels=names.CATALOGUE_LABEL)
            found = sorted(read, key=lambda item: str(item["metadata"]["name"]))
        except ApiError as error:
            where = f"ConfigMaps with the label {names.CATALOGUE_LABEL} in namespace {self._catalogue_namespace}"
            return [SeenCatalogue(config_map=where, kind="", problem=_failure(where, error).message)]
        return [
            SeenCatalogue(
                config_map=item["metadata"]["name"],
                kind=(item["metadata"].get("labels") or {}).get(names.CATALOGUE_LABEL, ""),
                key=key,
                text=text,
            )
            for item in found
            for key, text in sorted((item.get("data") or {}).items())
        ]

    def _model_config(self, namespace: str, name: str) -> SeenModelConfig:
        """A model's own configuration. That it cannot be had is a fact: the spec is then wrong by that field."""
        try:
            raw = self._api.get(CONFIG_MAPS, name, namespace=namespace)
        except NotFound:
            return SeenModelConfig(config_map=name, problem=f"is not there; create it with the key {CONFIG_KEY}")
        except ApiError as error:
            return SeenModelConfig(config_map=name, problem=_failure(f"the ConfigMap {name}", error).message)
        text = (raw.get("data") or {}).get(CONFIG_KEY)
        if not isinstance(text, str):
            return SeenModelConfig(config_map=name, problem=f"has no key {CONFIG_KEY}")
        return SeenModelConfig(config_map=name, text=text)

    def _pool(self, plan_namespace: str, pool: str, resize: Resize) -> PoolObject:
        namespace = resize.namespace or plan_namespace
        reference = f"{resize.kind}/{namespace}/{resize.name}"
        group = resize.api_version.rpartition("/")[0]
        if self._pool_kinds is not None and f"{resize.kind}.{group}" not in self._pool_kinds:
            allowed = ", ".join(sorted(self._pool_kinds)) or "none"
            return PoolObject(
                pool=pool,
                reference=reference,
                problem_reason="KindNotAllowed",
                problem=f"this installation does not size objects of kind {resize.kind}.{group} (allowed: {allowed}); "
                "add it to the chart's value poolKinds",
            )
        try:
            resource = self._api.discover(resize.api_version, resize.kind)
            reference = pool_reference(resource, resize, plan_namespace)
            where = namespace if resource.namespaced else None
            item = self._api.get(resource, resize.name, namespace=where)
            path = resize.size_path
            wanted = parse.at(item, path)
        except NotFound as error:
            return PoolObject(
                pool=pool,
                reference=reference,
                problem_reason="PoolMissing",
                problem=f"is not there ({error.message}); create it or correct the name",
            )
        except ApiError as error:
            failure = _failure(reference, error)
            return PoolObject(pool=pool, reference=reference, problem_reason=failure.reason, problem=failure.message)
        if not isinstance(wanted, int):
            return PoolObject(
                pool=pool,
                reference=reference,
                problem_reason="NotResizable",
                problem=f"has no whole number at .{'.'.join(path)}: give it one (a Karpenter NodePool is static once "
                "spec.replicas is set), or correct replicasPath",
            )
        annotations = item["metadata"].get("annotations") or {}
        sizes = (parse.at(item, ("status", field)) for field in ("nodes", "replicas", "count"))
        asked = annotations.get(names.SIZE_ANNOTATION, "")
        allowed_text = annotations.get(names.ALLOWED_NAMESPACES_ANNOTATION, "")
        return PoolObject(
            pool=pool,
            reference=reference,
            wanted=wanted,
            actual=next((size for size in sizes if isinstance(size, int)), None),
            claimed_by=annotations.get(names.CLAIM_ANNOTATION) or None,
            allowed_namespaces=tuple(part.strip() for part in allowed_text.split(",") if part.strip()),
            resource_version=item["metadata"].get("resourceVersion", ""),
            asked=int(asked) if asked.isdigit() else None,
            size_manager=parse.size_manager(item, path, names.POOL_MANAGER),
        )

    def _other_plans(self, plan: PlanObject) -> list[OtherPlan]:
        found = []
        for item in self._api.list(PLANS):
            other = plan_of(item)
            if other.uid == plan.uid:
                continue
            spec, _ = parse_spec(other.spec)
            prices = {
                _reference_text(pool.resize): str(pool.dollars_per_node_hour)
                for pool in (spec.node_pools if spec else ())
                if pool.resize is not None and pool.dollars_per_node_hour is not None
            }
            if prices:
                found.append(OtherPlan(key=other.key, prices=prices))
        return sorted(found, key=lambda other: other.key)


def pool_reference(resource: Resource, resize: Resize, plan_namespace: str) -> str:
    """``kind/namespace/name``; the namespace is empty for kinds without one."""
    namespace = (resize.namespace or plan_namespace) if resource.namespaced else ""
    return f"{resize.kind}/{namespace}/{resize.name}"


def _reference_text(resize: Resize) -> str:
    """As ``pool_reference`` has it for kinds without a namespace, which node pools mostly are."""
    return f"{resize.kind}/{resize.namespace or ''}/{resize.name}"


def plan_of(raw: Json) -> PlanObject:
    """A plan as the API server has it."""
    metadata = raw["metadata"]
    return PlanObject(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        spec=raw.get("spec"),
        deleting_since=metadata.get("deletionTimestamp"),
        approved_hash=(metadata.get("annotations") or {}).get(names.APPROVE_ANNOTATION),
        status=raw.get("status") or {},
    )


def _spec_for_reading(plan: PlanObject, objects: list[LiveObject]) -> PlanSpec | None:
    """The spec that the turn will act by, from what is read so far."""
    name = names.record_name(plan.name)
    live = next((item for item in objects if item.kind == "ConfigMap" and item.name == name), None)
    return effective_spec(plan.spec, record_of(live))[0]


def _matches(labels: dict[str, str], selector: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def _failure(source: str, error: ApiError) -> Failure:
    if isinstance(error, Forbidden):
        message = f"the operator may not read {source}: {error.message}; grant it with the chart's ClusterRole"
        return Failure(source=source, reason="ReadForbidden", message=message)
    return Failure(source=source, reason="ReadFailed", message=f"{source} could not be read: {error}")


def _routes_listed(
    read: Future[list[LiveObject]], spec: PlanSpec | None, failures: list[Failure]
) -> tuple[list[LiveObject], str | None]:
    """HTTPRoutes, or why there are none. Only a plan that asks for them minds."""
    try:
        return read.result(), None
    except NotFound:
        return [], (
            "the API server knows no HTTPRoute in gateway.networking.k8s.io/v1: install the CRDs of the Gateway API, or "
            "leave spec.gateway.httpRoute out; the ConfigMap is written all the same"
        )
    except ApiError as error:
        failure = _failure("HTTPRoutes", error)
        if spec is not None and spec.gateway.http_route is not None and not isinstance(error, Forbidden):
            failures.append(failure)
        return [], failure.message


def _listed[T](read: Future[list[T]], source: str, failures: list[Failure]) -> list[T]:
    """What was read, or nothing and a failure noted."""
    try:
        return read.result()
    except ApiError as error:
        failures.append(_failure(source, error))
        return []
