"""All that one turn may know, from the state of the cluster as it is at that moment, each source with its own failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from servingplan.api.parse import parse_spec
from servingplan.api.v1alpha1 import PlanSpec, Resize
from servingplan.errors import ApiError, Forbidden, NotFound
from servingplan.kube import CONFIG_MAPS, HTTP_ROUTES, PLANS, Api, Resource
from servingplan.model import names
from servingplan.model.times import seconds_since
from servingplan.model.world import (
    Failure,
    LiveObject,
    Node,
    Observation,
    OtherPlan,
    PlanObject,
    Pod,
    PoolObject,
    Refusal,
    SeenCatalogue,
    SeenModelConfig,
    SeenProfiles,
)
from servingplan.observe import parse
from servingplan.observe.asking import SharedThreads
from servingplan.observe.budgets import namespace_budget
from servingplan.observe.demand import DemandReader
from servingplan.observe.engines import KEPT_SECONDS, SILENT_SECONDS, Told, requests_inside
from servingplan.observe.gateway import ask_gateway, in_time
from servingplan.observe.sizes import ceiling, number
from servingplan.observe.state import OWN_KINDS, ClusterState, Snapshot, SourceState
from servingplan.observe.urls import UrlPolicy
from servingplan.planning.record import effective_spec, record_of
from servingplan.pool_kinds.table import kind_at, kind_key, path_of
from servingplan.profiles.config_json import CONFIG_KEY
from servingplan.profiles.rows import ROWS_KEY

Json = dict[str, Any]
LEADER_WORKER_SET = ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
"""API version and kind that replicas over several nodes need."""


def read_clock() -> str:
    """Now, RFC 3339, UTC, whole seconds: the only clock of a turn."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Reader:
    """Makes observations of one plan at a time from the state of the cluster. Blocks: call it in a thread."""

    def __init__(
        self,
        api: Api,
        state: ClusterState,
        *,
        pool_kinds: frozenset[str] | None,
        urls: UrlPolicy,
        pod_access: frozenset[str] | None = None,
        namespace_budgets: Mapping[str, float] = MappingProxyType({}),
        demand: DemandReader | None = None,
        clock: Callable[[], str] = read_clock,
    ) -> None:
        """``state`` is followed, or was loaded once. ``pool_kinds``: kinds that may be sized, as ``Kind.group``; None allows
        every kind. ``urls``: what plans may have asked. ``pod_access``: what podTemplates may ask for; None allows
        everything. ``namespace_budgets``: $/h by namespace (``observe.budgets``). Without ``demand`` nothing is measured."""
        self._api = api
        self._state = state
        self._urls = urls
        self._budgets = namespace_budgets
        self._pod_access = None if pod_access is None else tuple(sorted(pod_access))
        self._demand = demand
        self._pool_kinds = pool_kinds
        self._clock = clock
        self._gateway_threads = SharedThreads(4, share=2, name="gateway")
        self._silent: dict[str, datetime] = {}
        """Pods whose engines did not answer, and until when they are not asked again."""
        self._asking_threads = SharedThreads(16, share=4, name="asking")
        self._told: dict[str, Told] = {}
        """What engines last told, by pod."""

    def close(self) -> None:
        """Let the threads go."""
        for threads in (self._gateway_threads, self._asking_threads):
            threads.shutdown()

    def observe(self, namespace: str, name: str) -> Observation | None:
        """The world of a plan, or None where the plan is gone. Raises ``ApiError`` where it cannot be read itself."""
        now = self._clock()
        found = self._look(namespace, name)
        if found is None:
            return None
        seen, plan = found
        label = names.label_value(plan.name)
        failures = [
            _failure("other plans" if source == "plans" else source, state.trouble.error, self._since(now, state))
            for source, state in seen.sources.items()
            if state.trouble is not None and source not in ("HTTPRoutes", "catalogues", "refusals")
        ]
        objects = [
            item.for_plan(plan.uid)
            for resource in OWN_KINDS
            for item in seen.objects[resource.kind]
            if (item.namespace, item.plan_label) == (namespace, label)
        ]
        spec = _spec_for_reading(plan, objects)
        routes_unread = self._routes_unread(now, seen, spec, failures)
        if routes_unread is None:
            objects += [
                item.for_plan(plan.uid)
                for item in seen.objects[HTTP_ROUTES.kind]
                if (item.namespace, item.plan_label) == (namespace, label)
            ]
        routing = names.routing_name(plan.name, spec.gateway.config_map if spec else None)
        objects += self._named_config_maps(plan, objects, (routing, names.record_name(plan.name)), failures)
        configs = {item.published_config.config_map for item in (spec.models if spec else ()) if item.published_config}
        ack_url = spec.gateway.ack_url if spec else None
        gateway = (
            self._gateway_threads.of(namespace).submit(
                ask_gateway, ack_url, plan.key, self._asking_threads.of(namespace), self._urls
            )
            if ack_url
            else None
        )
        pools = tuple(
            self._pool(seen, plan.namespace, pool.name, pool.resize)
            for pool in (spec.node_pools if spec else ())
            if pool.resize is not None
        )
        nodes, pods = _near(seen, plan, label, spec, pools)
        pods = self._with_requests(now, namespace, pods, spec.change.drain_seconds if spec else 0)
        return Observation(
            now=now,
            plan=plan,
            nodes=nodes,
            pods=pods,
            objects=tuple(sorted(objects, key=lambda item: (item.kind, item.name))),
            pools=pools,
            other_plans=_other_plans(seen.plans, plan),
            namespace_budget=namespace_budget(plan, seen.plans, self._budgets),
            leader_worker_sets=self._multi_node_api(failures),
            http_routes_unread=routes_unread,
            gateway=None if gateway is None else in_time(gateway),
            failures=tuple(failures),
            ages={
                source: round(state.age_seconds)
                for source, state in seen.sources.items()
                if state.age_seconds is not None
            },
            demand=self._demand.seen(plan.namespace, plan.name, spec) if self._demand else None,
            profiles=tuple(
                self._profiles(seen, plan.namespace, item.config_map) for item in (spec.profiles if spec else ())
            ),
            pod_access=self._pod_access,
            catalogues=_catalogues(seen),
            model_configs=tuple(self._model_config(plan.namespace, name) for name in sorted(configs)),
        )

    def _with_requests(self, now: str, namespace: str, pods: tuple[Pod, ...], drain_seconds: int) -> tuple[Pod, ...]:
        """Those whose drain would be over, with the requests that their engines still have. A turn waits for the answers, so
        one that was silent is left alone for a while; one that told of requests is believed until it is silent several
        times in a row."""
        moment = datetime.fromisoformat(now)
        kept = moment - timedelta(seconds=KEPT_SECONDS)
        self._silent = {uid: until for uid, until in list(self._silent.items()) if until > moment}
        self._told = {uid: told for uid, told in list(self._told.items()) if told.at > kept}
        draining = {
            pod.uid: pod.address
            for pod in pods
            if pod.ready
            and pod.address is not None
            and pod.uid not in self._silent
            and seconds_since(pod.unrouted_since or pod.draining_since, now) >= drain_seconds
        }
        if not draining:
            return pods
        told = {uid: self._told[uid] for uid in draining if uid in self._told}
        longest_ago_first = sorted(draining, key=lambda uid: (told[uid].at if uid in told else kept, uid))
        found = requests_inside({uid: draining[uid] for uid in longest_ago_first}, self._asking_threads.of(namespace))
        for uid, count in found.items():
            before = told.pop(uid, None)
            self._told.pop(uid, None)
            after = Told(count, moment) if count is not None else before and before.silent(moment)
            if after is not None:
                told[uid] = self._told[uid] = after
            else:
                self._silent[uid] = moment + timedelta(seconds=SILENT_SECONDS)
        return tuple(
            pod.model_copy(
                update={
                    "requests_inside": told[pod.uid].requests if pod.uid in told else None,
                    "unasked": pod.uid in draining and pod.uid not in found and pod.uid not in told,
                }
            )
            for pod in pods
        )

    def is_outdated(self, plan: PlanObject) -> bool:
        """Whether the plan is known to be another one than this by now."""
        now = self._state.plan(plan.uid)
        return now is not None and (now.generation, now.deleting_since) != (plan.generation, plan.deleting_since)

    def _is_gone(self, seen: Snapshot, key: str) -> bool:
        """Whether a plan that has a claim is not there, or never could be. One that is not known is asked for: it may
        be new."""
        if any(plan.key == key for plan in seen.plans):
            return False
        namespace, _, name = key.partition("/")
        if not namespace or not name:
            return True
        try:
            self._api.get(PLANS, name, namespace=namespace)
        except NotFound:
            return True
        except ApiError:
            return False
        return False

    def _look(self, namespace: str, name: str) -> tuple[Snapshot, PlanObject] | None:
        """The state and the plan in it. A plan that is not in it is asked for: somebody may have seen it before we did."""
        for _ in range(2):
            seen = self._state.snapshot()
            plan = next((plan for plan in seen.plans if (plan.namespace, plan.name) == (namespace, name)), None)
            if plan is not None:
                return seen, plan
            try:
                self._state.wrote(PLANS, self._api.get(PLANS, name, namespace=namespace))
            except NotFound:
                return None
        return None

    def _since(self, now: str, state: SourceState) -> str | None:
        """When a source was last heard of, RFC 3339."""
        if state.age_seconds is None:
            return None
        moment = datetime.fromisoformat(now) - timedelta(seconds=round(state.age_seconds))
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    def _multi_node_api(self, failures: list[Failure]) -> bool:
        try:
            return self._state.serves(*LEADER_WORKER_SET)
        except ApiError as error:
            failures.append(_failure("the LeaderWorkerSet API", error))
            return False

    def _routes_unread(self, now: str, seen: Snapshot, spec: PlanSpec | None, failures: list[Failure]) -> str | None:
        """Why there are no HTTPRoutes. Only a plan that asks for them minds."""
        state = seen.sources["HTTPRoutes"]
        if state.absent:
            return (
                "the API server knows no HTTPRoute in gateway.networking.k8s.io/v1: install the CRDs of the Gateway API, or "
                "leave spec.gateway.httpRoute out; the ConfigMap is written all the same"
            )
        if state.trouble is None:
            return None
        failure = _failure("HTTPRoutes", state.trouble.error, self._since(now, state))
        wanted = spec is not None and spec.gateway.http_route is not None
        if wanted and not isinstance(state.trouble.error, Forbidden):
            failures.append(failure)
        return failure.message

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

    def _profiles(self, seen: Snapshot, namespace: str, name: str) -> SeenProfiles:
        """Rows of measurements. That they cannot be had is a fact, not a failure: the plan goes on without them. A ConfigMap
        without the label for measured rates is not watched and is asked for."""
        known = next((item for item in seen.profiles if (item.namespace, item.name) == (namespace, name)), None)
        if known is not None:
            return _rows(name, known.rows)
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
        return _rows(name, parse.seen_rates(raw).rows)

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

    def _pool(self, seen: Snapshot, plan_namespace: str, pool: str, resize: Resize) -> PoolObject:
        namespace = resize.namespace or plan_namespace
        reference = f"{resize.kind}/{namespace}/{resize.name}"
        key = kind_key(resize.api_version, resize.kind)
        if self._pool_kinds is not None and key not in self._pool_kinds:
            allowed = ", ".join(sorted(self._pool_kinds)) or "none"
            return PoolObject(
                pool=pool,
                reference=reference,
                problem_reason="KindNotAllowed",
                problem=f"this installation does not size objects of kind {key} (allowed: {allowed}); "
                "add it to the chart's value poolKinds",
            )
        try:
            resource, item = self._state.pool(resize.api_version, resize.kind, namespace, resize.name)
            reference = pool_reference(resource, resize, plan_namespace)
            if item is None:
                raise NotFound(404, "NotFound", f"{resource.plural} {resize.name} was not found")
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
        annotations = item["metadata"].get("annotations") or {}
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
        template = template.model_copy(update={"taints": tuple(filter(parse.may_stay, template.taints))})
        holder = annotations.get(names.CLAIM_ANNOTATION) or None
        orphaned = holder is not None and self._is_gone(seen, holder)
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
            allowed_namespaces=tuple(part.strip() for part in allowed_text.split(",") if part.strip()),
            resource_version=item["metadata"].get("resourceVersion", ""),
            asked=number(annotations.get(names.SIZE_ANNOTATION)),
            size_manager=parse.size_manager(item, path, names.POOL_MANAGER),
            sized_by=kind.sized_by(item),
            node_label=kind.node_label(item),
            template=template,
            refusal=_last_refusal(seen, item, kind.node_label(item)),
        )


def _last_refusal(seen: Snapshot, item: Json, node_label: tuple[str, str] | None) -> Refusal | None:
    """What was last said of the pool's stock: by its own object, or of claims whose nodes would carry the label."""
    told: list[Refusal] = [item["refusal"]] if item.get("refusal") is not None else []
    told += [found.refusal for found in seen.refusals if (parse.NODE_POOL_LABEL, found.pool) == node_label]
    return max(told, key=lambda refusal: refusal.at, default=None)


def _catalogues(seen: Snapshot) -> tuple[SeenCatalogue, ...]:
    """What the installation adds to the catalogue. That it cannot be had is a fact, not a failure."""
    state = seen.sources.get("catalogues")
    if state is not None and state.trouble is not None:
        where = f"ConfigMaps with the label {names.CATALOGUE_LABEL}"
        return (SeenCatalogue(config_map=where, kind="", problem=_failure(where, state.trouble.error).message),)
    return tuple(
        SeenCatalogue(config_map=item.name, kind=item.kind, key=key, text=text)
        for item in sorted(seen.catalogues)
        for key, text in item.data
    )


def _rows(name: str, rows: str | None) -> SeenProfiles:
    if rows is None:
        return SeenProfiles(
            config_map=name,
            problem_reason="ProfilesMissing",
            problem=f"has no key {ROWS_KEY}; write it with servingplan profile import -o configmap",
        )
    return SeenProfiles(config_map=name, rows=rows)


def _near(
    seen: Snapshot, plan: PlanObject, label: str, spec: PlanSpec | None, objects: tuple[PoolObject, ...]
) -> tuple[tuple[Node, ...], tuple[Pod, ...]]:
    """Nodes of the plan's pools, nodes that hold its pods, and whoever else holds GPUs on these: no others matter."""
    nodes = {node.name: node for node in seen.nodes}
    # Nodes that have not been heard of for long say nothing about a pod's end: then its own word counts.
    known = nodes if seen.sources["nodes"].trouble is None else None
    endpoints = frozenset(
        endpoint
        for item in seen.slices
        if (item.namespace, item.plan_label) == (plan.namespace, label)
        for endpoint in item.endpoints
    )
    own = [
        pod
        for item in seen.pods
        if (item.plan_label, item.own.namespace) == (label, plan.namespace)
        and (pod := item.for_plan(plan_label=label, namespace=plan.namespace, nodes=known, endpoints=endpoints))
    ]
    held = {pod.node for pod in own if pod.deployment is not None}
    selectors = [pool.node_selector for pool in (spec.node_pools if spec else ())]
    # Nodes that name a pool's object, and that its selector does not match: it is told.
    selectors += [dict((item.node_label,)) for item in objects if item.node_label is not None]
    near = {
        name: node
        for name, node in sorted(nodes.items())
        if name in held or any(_matches(node.labels, selector) for selector in selectors)
    }
    others = [
        pod
        for item in seen.pods
        if item.own.node in near
        and (item.plan_label, item.own.namespace) != (label, plan.namespace)
        and (pod := item.for_plan(plan_label=label, namespace=plan.namespace, nodes=known, endpoints=endpoints))
    ]
    mine = [pod for pod in own if pod.deployment is not None or pod.node in near]
    return tuple(near.values()), tuple(sorted([*mine, *others], key=lambda pod: (pod.namespace, pod.name)))


def _other_plans(plans: list[PlanObject], plan: PlanObject) -> tuple[OtherPlan, ...]:
    """What all other plans of the cluster say pool objects cost."""
    found = []
    for other in plans:
        if other.uid == plan.uid:
            continue
        prices = _prices(other)
        if prices:
            found.append(OtherPlan(key=other.key, prices=prices))
    return tuple(sorted(found, key=lambda other: other.key))


def _prices(plan: PlanObject) -> dict[str, str]:
    """Read once for each generation of a plan: the specs of all plans are parsed for each of them otherwise."""
    key = (plan.uid, plan.generation)
    if key not in _PRICES:
        while len(_PRICES) >= _MOST_PRICES:
            _PRICES.pop(next(iter(_PRICES)), None)
        spec, _ = parse_spec(plan.spec)
        _PRICES[key] = {
            _reference_text(pool.resize): str(pool.dollars_per_node_hour)
            for pool in (spec.node_pools if spec else ())
            if pool.resize is not None and pool.dollars_per_node_hour is not None
        }
    return _PRICES[key]


_PRICES: dict[tuple[str, int], dict[str, str]] = {}
_MOST_PRICES = 2000


def pool_reference(resource: Resource, resize: Resize, plan_namespace: str) -> str:
    """``kind/namespace/name``; the namespace is empty for kinds without one."""
    namespace = (resize.namespace or plan_namespace) if resource.namespaced else ""
    return f"{resize.kind}/{namespace}/{resize.name}"


def _reference_text(resize: Resize) -> str:
    """As ``pool_reference`` has it for kinds without a namespace, which node pools mostly are."""
    return f"{resize.kind}/{resize.namespace or ''}/{resize.name}"


def _spec_for_reading(plan: PlanObject, objects: list[LiveObject]) -> PlanSpec | None:
    """The spec that the turn will act by, from what is read so far."""
    name = names.record_name(plan.name)
    live = next((item for item in objects if item.kind == "ConfigMap" and item.name == name), None)
    return effective_spec(plan.spec, record_of(live))[0]


def _matches(labels: dict[str, str], selector: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def _failure(source: str, error: ApiError, since: str | None = None) -> Failure:
    if isinstance(error, Forbidden):
        message = f"the operator may not read {source}: {error.message}; grant it with the chart's ClusterRole"
        return Failure(source=source, reason="ReadForbidden", message=message, since=since)
    when = f" since {since}" if since is not None else ""
    return Failure(
        source=source, reason="ReadFailed", message=f"{source} could not be read{when}: {error}", since=since
    )
