"""Makes the observation of one turn from the present state of the cluster, with each source's own failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from servingplan.api.pools_v1alpha1 import Resize
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import ApiError, Forbidden, NotFound
from servingplan.kube import (
    HTTP_ROUTES,
    LEADER_WORKER_SETS,
    PLANS,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    Api,
    Resource,
)
from servingplan.model import names
from servingplan.model.manifests import Rewriting
from servingplan.model.times import later, text_of
from servingplan.model.world import Failure, LiveObject, Observation, PlanObject, PoolObject
from servingplan.observe.budgets import namespace_budget
from servingplan.observe.config_maps import ConfigMaps, catalogues
from servingplan.observe.demand import Demand
from servingplan.observe.engine_figures import Engines
from servingplan.observe.engines import EngineRequests
from servingplan.observe.failures import failure, unsure
from servingplan.observe.near import near, with_devices
from servingplan.observe.offerings import Market
from servingplan.observe.other_plans import other_plans
from servingplan.observe.outside import Outside, OverHttp
from servingplan.observe.pools import pool_object, pool_reference
from servingplan.observe.queues import quota_of
from servingplan.observe.state import (
    DEVICE_KINDS,
    OPTIONAL_KINDS,
    OWN_KINDS,
    ClusterState,
    Snapshot,
    SourceState,
    source_of,
)
from servingplan.observe.urls import UrlPolicy
from servingplan.planning.record import effective_spec, record_of
from servingplan.pool_kinds.table import kind_key

Json = dict[str, Any]
GROUPS = f"{LEADER_WORKER_SETS.kind}s"
"""The source of LeaderWorkerSets."""
DEVICES = tuple(source_of(resource) for resource in (*DEVICE_KINDS, RESOURCE_CLAIM_TEMPLATES))
"""The sources without which GPUs that are devices can be neither counted nor asked for."""
_NOT_OF_EVERY_PLAN = ("HTTPRoutes", GROUPS, *DEVICES, "catalogues", "refusals", "queues")
"""Sources whose trouble fails only the plans that need them, or none."""
KARPENTER = "NodePool.karpenter.sh"
_WRITTEN = (*OWN_KINDS, *OPTIONAL_KINDS, PODS, PLANS)
"""What a turn writes in its plan's namespace."""


def read_clock() -> str:
    """The present time, RFC 3339, UTC, whole seconds: the only clock of a turn."""
    return text_of(datetime.now(UTC))


class Reader:
    """Makes observations of one plan at a time from the state of the cluster. It blocks, so call it in a thread."""

    def __init__(
        self,
        api: Api,
        state: ClusterState,
        *,
        pool_kinds: frozenset[str] | None,
        urls: UrlPolicy,
        pod_access: frozenset[str] | None = None,
        marks_machines: bool = False,
        namespace_budgets: Mapping[str, float] = MappingProxyType({}),
        demand: Demand | None = None,
        engines: Engines | None = None,
        offerings: Market | None = None,
        outside: Outside | None = None,
        clock: Callable[[], str] = read_clock,
    ) -> None:
        """``state`` is followed, or was loaded once. ``pool_kinds``: kinds that may be sized, as ``Kind.group``; None allows
        every kind. ``urls``: what plans may have asked. ``pod_access``: what podTemplates may ask for; None allows
        everything. ``namespace_budgets``: $/h by namespace (``observe.budgets``). Without ``demand`` and ``engines`` nothing
        is measured, without ``offerings`` nobody says what can be had.
        ``outside``: who asks gateways and engines; None: over HTTP what ``urls`` allows."""
        self._api = api
        self._config_maps = ConfigMaps(api)
        self._state = state
        self._outside = outside or OverHttp(urls)
        self._budgets = namespace_budgets
        self._marks_machines = marks_machines
        self._pod_access = None if pod_access is None else tuple(sorted(pod_access))
        self._demand = demand
        self._engines = engines
        self._offerings = offerings
        self._pool_kinds = pool_kinds
        self._clock = clock
        self._engine_requests = EngineRequests(self._outside.requests_inside)

    def close(self) -> None:
        """Stop the threads."""
        self._outside.close()

    def observe(self, namespace: str, name: str) -> Observation | None:
        """The observation of a plan; None if the plan is gone. Raises ``ApiError`` if the plan itself cannot be read."""
        now = self._clock()
        unanswered = self._state.make_sure(lambda resource, where, _: where == namespace and resource in _WRITTEN)
        found = self._look(namespace, name)
        if found is None:
            return None
        seen, plan = found
        label = names.label_value(plan.name)
        failures = self._troubles(now, seen, (source for source in seen.sources if source not in _NOT_OF_EVERY_PLAN))
        objects = [item for resource in OWN_KINDS for item in _objects_of(seen, plan, resource)]
        spec = _spec_for_reading(plan, objects)
        sizing = {(pool.resize.kind, pool.resize.name) for pool in (spec.node_pools if spec else ()) if pool.resize}
        unanswered += self._state.make_sure(lambda resource, _, name: (resource.kind, name) in sizing)
        failures += [unsure(*item) for item in unanswered]
        routes_unread = self._routes_unread(now, seen, spec, failures)
        groups_served = self._groups_served(now, seen, label, namespace, failures)
        if routes_unread is None:
            objects += _objects_of(seen, plan, HTTP_ROUTES)
        if groups_served:
            objects += _objects_of(seen, plan, LEADER_WORKER_SETS)
        objects += _objects_of(seen, plan, RESOURCE_CLAIM_TEMPLATES)
        if any(pool.dra is not None for pool in (spec.node_pools if spec else ())):
            failures += self._troubles(now, seen, DEVICES)
        routing = names.routing_name(plan.name, spec.gateway.config_map if spec else None)
        objects += self._config_maps.without_label(plan, objects, (routing, names.record_name(plan.name)), failures)
        configs = {item.published_config.config_map for item in (spec.models if spec else ()) if item.published_config}
        ack_url = spec.gateway.ack_url if spec else None
        gateway = self._outside.gateway(ack_url, plan.key) if ack_url else None
        pools = tuple(
            self._pool(seen, plan.namespace, pool.name, pool.resize)
            for pool in (spec.node_pools if spec else ())
            if pool.resize is not None
        )
        nodes, pods = near(seen, plan, label, spec, pools)
        nodes = with_devices(seen, plan, label, nodes)
        pods = self._engine_requests.told(now, namespace, pods, spec.change.drain_seconds if spec else 0)
        return Observation(
            now=now,
            plan=plan,
            nodes=nodes,
            pods=pods,
            objects=tuple(sorted(objects, key=lambda item: (item.kind, item.name))),
            pools=pools,
            other_plans=other_plans(seen.plans, plan),
            namespace_budget=namespace_budget(plan, seen.plans, self._budgets),
            leader_worker_sets=groups_served,
            http_routes_unread=routes_unread,
            device_classes=tuple(sorted(seen.device_classes, key=lambda item: item.name)),
            gateway=None if gateway is None else gateway(),
            failures=tuple(failures),
            ages={
                source: round(state.age_seconds)
                for source, state in seen.sources.items()
                if state.age_seconds is not None
            },
            quota=None if plan.queue is None else quota_of(seen.queues, plan.namespace, plan.queue),
            demand=self._demand.seen(plan.namespace, plan.name, spec) if self._demand else None,
            engines=self._engines.seen(plan.namespace, plan.name, spec) if self._engines else None,
            profiles=tuple(
                self._config_maps.profiles(seen, plan.namespace, item.config_map)
                for item in (spec.profiles if spec else ())
            ),
            pod_access=self._pod_access,
            marks_machines=self._marks_machines,
            catalogues=catalogues(seen),
            model_configs=tuple(self._config_maps.model_config(plan.namespace, name) for name in sorted(configs)),
        )

    def _troubles(self, now: str, seen: Snapshot, sources: Iterable[str]) -> list[Failure]:
        """The failures of those of these sources that cannot be read."""
        states = ((source, seen.sources[source]) for source in sources)
        return [
            failure("other plans" if source == "plans" else source, state.trouble.error, self._since(now, state))
            for source, state in states
            if state.trouble is not None
        ]

    def _is_gone(self, seen: Snapshot, key: str) -> bool:
        """Whether the plan of a claim does not exist, or never could. A plan that is not in the state is read, since it may
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
        """The state and the plan in it. A plan that is not in it is read, since the watch may be late."""
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
        """When the source was last heard of, RFC 3339; None if never."""
        if state.age_seconds is None:
            return None
        return later(now, -round(state.age_seconds))

    def _groups_served(self, now: str, seen: Snapshot, label: str, namespace: str, failures: list[Failure]) -> bool:
        """Whether LeaderWorkerSets are served and may be read. That they may not is a failure only where the plan has any."""
        state = seen.sources[GROUPS]
        if state.trouble is None:
            return not state.absent
        own = (item for item in seen.pods if (item.plan_label, item.own.namespace) == (label, namespace))
        if not isinstance(state.trouble.error, Forbidden) or any(item.member is not None for item in own):
            failures.append(failure(GROUPS, state.trouble.error, self._since(now, state)))
        return False

    def _routes_unread(self, now: str, seen: Snapshot, spec: PlanSpec | None, failures: list[Failure]) -> str | None:
        """Text of why there are no HTTPRoutes; None if they were read, or if the plan does not ask for them."""
        state = seen.sources["HTTPRoutes"]
        if state.absent:
            return (
                "the API server knows no HTTPRoute in gateway.networking.k8s.io/v1: install the CRDs of the Gateway API, or "
                "leave spec.gateway.httpRoute out; the ConfigMap is written all the same"
            )
        if state.trouble is None:
            return None
        found = failure("HTTPRoutes", state.trouble.error, self._since(now, state))
        wanted = spec is not None and spec.gateway.http_route is not None
        if wanted and not isinstance(state.trouble.error, Forbidden):
            failures.append(found)
        return found.message

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
                problem=f"does not exist ({error.message}); create it or correct the name",
            )
        except ApiError as error:
            unread = failure(reference, error)
            return PoolObject(pool=pool, reference=reference, problem_reason=unread.reason, problem=unread.message)
        found = pool_object(
            pool, resize, resource, reference, item, seen.refusals, lambda plan: self._is_gone(seen, plan)
        )
        offered = self._offerings.of(found.template) if self._offerings is not None and key == KARPENTER else None
        return found if offered is None else found.model_copy(update={"offered": offered})


def _spec_for_reading(plan: PlanObject, objects: list[LiveObject]) -> PlanSpec | None:
    """The spec by which the turn will act, from the objects read so far; None if there is none."""
    name = names.record_name(plan.name)
    live = next((item for item in objects if item.kind == "ConfigMap" and item.name == name), None)
    return effective_spec(plan.spec, record_of(live))[0]


def _objects_of(seen: Snapshot, plan: PlanObject, resource: Resource) -> list[LiveObject]:
    """The objects of a kind that carry the plan's label."""
    label = names.label_value(plan.name)
    found = [
        item.for_plan(plan.uid)
        for item in seen.objects[resource.kind]
        if (item.namespace, item.plan_label) == (plan.namespace, label)
    ]
    return [item if (made := seen.rewritten.get(item.uid)) is None else _rewritten(item, made) for item in found]


def _rewritten(item: LiveObject, made: Rewriting) -> LiveObject:
    return item.model_copy(update={"rewritten": made.digests, "rewritten_fields": made.fields})
