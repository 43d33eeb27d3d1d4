"""Holds the state of the cluster: its sources, and one snapshot of all of them.

Every kind has one informer for the whole operator, or one for each namespace if the operator may only read some. All share one
lock, so that a snapshot is of one moment. Kinds that size pools are watched from when a plan first names them, in the version
that the plan names.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from servingplan.errors import ApiError, Forbidden, NotFound
from servingplan.kube import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    DEVICE_CLASSES,
    DISRUPTION_BUDGETS,
    ENDPOINT_SLICES,
    EVENTS,
    HTTP_ROUTES,
    LEADER_WORKER_SETS,
    NODES,
    PLANS,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    SERVICES,
    Api,
    Resource,
)
from servingplan.model import names
from servingplan.model.manifests import Rewriting, rewriting
from servingplan.model.world import DeviceClass, Node, PlanObject
from servingplan.observe import devices, parse, pods, pools, queues, refusals
from servingplan.observe.devices import SeenClaim, SeenDevices
from servingplan.observe.parse import SeenAdditions, SeenObject, SeenRates
from servingplan.observe.pods import SeenPod, SeenSlice
from servingplan.observe.refusals import SeenRefusal
from servingplan.watch.informer import Health, Informer, Source, Trouble

Json = dict[str, Any]
log = logging.getLogger("servingplan")

PATIENCE_SECONDS = 30.0
"""If a source cannot be read for longer, it is reported and no decision uses it. Until then its last facts count."""
EVENTS_OF_CLUSTER = "default"
"""The namespace of Events about objects without a namespace."""
OWN_KINDS = (DEPLOYMENTS, SERVICES, DISRUPTION_BUDGETS, CONFIG_MAPS)
"""Kinds of the objects that the operator writes for a plan, beside those of kinds that a cluster need not serve."""
OPTIONAL_KINDS = (LEADER_WORKER_SETS, HTTP_ROUTES, RESOURCE_CLAIM_TEMPLATES)
"""Kinds that a cluster need not serve."""
DEVICE_KINDS: dict[Resource, Callable[[Json], Any]] = {
    RESOURCE_SLICES: devices.seen_devices,
    RESOURCE_CLAIMS: devices.seen_claim,
    DEVICE_CLASSES: devices.device_class_of,
}
"""What tells of the devices of nodes, and the facts of each."""
NODE_CLAIM = ("karpenter.sh/v1", "NodeClaim")
_ALIVE = "status.phase!=Succeeded,status.phase!=Failed"


@dataclass(frozen=True)
class News:
    """An object was added, removed, or changed in a field that a turn reads. Fields that its kind lacks are None or empty."""

    source: str
    """The source's name in ``Snapshot``; ``pools`` for objects of pools."""
    namespace: str = ""
    plan_label: str | None = None
    node: str | None = None
    """The node of a pod, or the name of the node itself."""
    labels: dict[str, str] = field(default_factory=dict)
    """The labels of a node."""
    name: str = ""
    """The name of a ConfigMap with measured rates."""


@dataclass(frozen=True)
class SourceState:
    """The health of a source."""

    absent: bool
    trouble: Trouble | None
    """The trouble, if it lasts longer than ``PATIENCE_SECONDS`` or if nothing was ever read; else None."""
    age_seconds: float | None
    """The time since the API server was last heard of; None if never."""


@dataclass(frozen=True)
class Snapshot:
    """All facts at one moment."""

    plans: list[PlanObject]
    nodes: list[Node]
    pods: list[SeenPod]
    objects: dict[str, list[SeenObject]]
    """The objects by kind."""
    rewritten: dict[str, Rewriting]
    """What admission made of our last writes of objects, by uid (``manifests.rewriting``)."""
    slices: list[SeenSlice]
    profiles: list[SeenRates]
    catalogues: list[SeenAdditions]
    refusals: list[SeenRefusal]
    devices: list[SeenDevices]
    claims: list[SeenClaim]
    """The claims that hold devices, in all namespaces."""
    device_classes: list[DeviceClass]
    queues: list[queues.SeenQueue]
    sources: dict[str, SourceState]


class ClusterState:
    """Holds all informers of a process."""

    def __init__(
        self,
        api: Api,
        *,
        namespaces: tuple[str, ...] = (),
        catalogue_namespace: str | None = None,
        changed: Callable[[News], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``namespaces``: the watched namespaces of plans; empty means all. ``catalogue_namespace``: the namespace of
        ConfigMaps that add to the catalogue; None: none. ``changed`` is called in an informer's thread."""
        self._api = api
        self._changed = changed
        self._clock = clock
        self.lock = threading.Condition(threading.RLock())
        self._informers: dict[str, list[Informer[Any]]] = {}
        self._pools: dict[tuple[str, str], Informer[Json]] = {}
        self._unanswered: dict[tuple[Resource, str | None, str], str | None] = {}
        """Objects that a write of ours may have changed, with their uids where these are known."""
        self._rewritten: dict[str, Rewriting] = {}
        """What admission made of our last writes, by uid of the object."""
        self._following = False
        self._stopped = False
        self._add(Source("plans", _known(PLANS), _plan, optional=True))
        self._add(Source("nodes", _known(NODES), parse.node_of))
        bound = f"{_ALIVE},spec.nodeName!="
        self._add(Source("pods", _known(PODS), pods.seen_pod, labels=f"!{names.PLAN_LABEL}", fields=bound))
        self._add(Source("pods", _known(PODS), pods.seen_pod, labels=names.PLAN_LABEL, fields=_ALIVE))
        refused = f"involvedObject.kind=NodeClaim,reason={refusals.CLAIM_REFUSED}"
        self._add(
            Source(
                "refusals", _known(EVENTS), refusals.seen_claim_event, EVENTS_OF_CLUSTER, fields=refused, optional=True
            )
        )
        self._add(Source("refusals", _discovered(*NODE_CLAIM), refusals.seen_claim, optional=True))
        for resource, facts_of in DEVICE_KINDS.items():
            known = _discovered(resource.api_version, resource.kind)
            self._add(Source(source_of(resource), known, facts_of, optional=True))
        self._add(Source("queues", queues.discovered("ClusterQueue"), queues.seen_cluster_queue, optional=True))
        self._add(Source("queues", queues.discovered("Cohort"), queues.seen_cohort, optional=True))
        self._add(Source("queues", queues.discovered("ResourceFlavor"), queues.seen_flavor, optional=True))
        if catalogue_namespace is not None:
            where, label = catalogue_namespace, names.CATALOGUE_LABEL
            self._add(Source("catalogues", _known(CONFIG_MAPS), parse.seen_additions, where, label))
        for namespace in namespaces or (None,):
            for resource in OWN_KINDS:
                source = Source(
                    f"{resource.kind}s", _known(resource), _object(resource.kind), namespace, names.PLAN_LABEL
                )
                self._add(source)
            rates = Source("profiles", _known(CONFIG_MAPS), parse.seen_rates, namespace, names.PROFILES_LABEL)
            self._add(rates)
            self._add(Source("EndpointSlices", _known(ENDPOINT_SLICES), pods.seen_slice, namespace, names.PLAN_LABEL))
            local = queues.discovered("LocalQueue")
            self._add(Source("queues", local, queues.seen_local_queue, namespace, optional=True))
            for resource in OPTIONAL_KINDS:
                known = _discovered(resource.api_version, resource.kind)
                label = names.PLAN_LABEL
                self._add(Source(f"{resource.kind}s", known, _object(resource.kind), namespace, label, optional=True))

    def _add(self, source: Source[Any]) -> None:
        informer = Informer(self._api, source, lock=self.lock, changed=self._tell, clock=self._clock)
        self._informers.setdefault(source.name, []).append(informer)

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start watching the cluster."""
        with self.lock:
            self._following = True
            informers = [*self.informers()]
        for informer in informers:
            informer.start()

    def stop(self) -> None:
        """Stop watching. The threads do not keep the process alive."""
        with self.lock:
            self._stopped = True
            informers = [*self.informers()]
            self.lock.notify_all()
        for informer in informers:
            informer.stop()

    def step(self) -> None:
        """Let every informer try once in the caller's thread, where no thread follows the cluster."""
        for informer in [*self.informers()]:
            informer.attempt()

    def load(self) -> None:
        """Read everything once, without watching it."""
        for informer in [*self.informers()]:
            informer.load()

    @property
    def settled(self) -> bool:
        """Whether every source was listed once, or has a known reason why it cannot be."""
        with self.lock:
            # Kinds of pools are waited for by the plans that name them.
            return all(informer.settled for sources in self._informers.values() for informer in sources)

    def wait_settled(self, seconds: float) -> bool:
        """Wait until ``settled``, at most ``seconds``; whether it is."""
        with self.lock:
            return bool(self.lock.wait_for(lambda: self.settled or self._stopped, seconds)) and not self._stopped

    def informers(self) -> Iterator[Informer[Any]]:
        """All that there are by now."""
        for informers in self._informers.values():
            yield from informers
        yield from self._pools.values()

    # --- reading -------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The snapshot of this moment."""
        with self.lock:
            return Snapshot(
                plans=self._facts("plans"),
                nodes=self._facts("nodes"),
                pods=self._facts("pods"),
                objects={resource.kind: self._facts(f"{resource.kind}s") for resource in (*OWN_KINDS, *OPTIONAL_KINDS)},
                rewritten=dict(self._rewritten),
                slices=self._facts("EndpointSlices"),
                profiles=self._facts("profiles"),
                catalogues=self._facts("catalogues"),
                refusals=self._facts("refusals"),
                devices=self._facts(source_of(RESOURCE_SLICES)),
                claims=self._facts(source_of(RESOURCE_CLAIMS)),
                device_classes=self._facts(source_of(DEVICE_CLASSES)),
                queues=self._facts("queues"),
                sources={name: self._state_of(informers) for name, informers in self._informers.items()},
            )

    def plan(self, uid: str) -> PlanObject | None:
        """The plan with this uid; None if it is not known."""
        with self.lock:
            return next((plan for plan in self._facts("plans") if plan.uid == uid), None)

    def pool(self, api_version: str, kind: str, namespace: str | None, name: str) -> tuple[Resource, Json | None]:
        """The resource of a kind that sizes pools, and the object of that name (None: it does not exist).

        The kind is watched from the first call on, which waits for its list. Raises ``ApiError`` if it cannot be read.
        """
        resource = self._api.discover(api_version, kind)
        key = (api_version, kind)
        with self.lock:
            informer = self._pools.get(key)
            fresh = informer is None
            if informer is None:
                source = Source("pools", _discovered(api_version, kind), pools.seen_pool)
                informer = Informer(self._api, source, lock=self.lock, changed=self._tell, clock=self._clock)
                self._pools[key] = informer
        if fresh and self._following:
            informer.start()
        elif fresh:
            informer.load()
        with self.lock:
            if self._following:
                self.lock.wait_for(lambda: informer.settled or self._stopped, PATIENCE_SECONDS)
            state = self._state_of([informer])
            if state.trouble is not None:
                raise state.trouble.error
            if not informer.health.synced:
                raise ApiError(0, "NotSynced", f"objects of kind {kind} were not listed yet")
            where = namespace if resource.namespaced else None
            found = (item for item in informer.facts if item["metadata"]["name"] == name)
            return resource, next((item for item in found if item["metadata"]["namespace"] == where), None)

    def _facts(self, name: str) -> list[Any]:
        return [facts for informer in self._informers.get(name, ()) for facts in informer.facts]

    def _state_of(self, informers: list[Informer[Any]]) -> SourceState:
        now = self._clock()
        healths = [informer.health for informer in informers]
        ages = [now - health.contact for health in healths if health.contact is not None]
        troubles = [health.trouble for health in healths if health.trouble is not None and _counts(health, now)]
        return SourceState(
            absent=all(health.absent for health in healths),
            trouble=min(troubles, key=lambda item: item.since, default=None),
            age_seconds=max(ages, default=None),
        )

    # --- our own writes --------------------------------------------------------------------------------------------------

    def wrote(self, resource: Resource, item: Json) -> None:
        """Take over an object that our write returned, so that the next snapshot has it."""
        for informer in self._informers_of(resource, item["metadata"]):
            informer.wrote(item)

    def applied(self, manifest: Json, answer: Json) -> None:
        """Keep what admission (a mutating webhook) made of a manifest, or the next turn would write it again, for ever."""
        uid, found = answer["metadata"]["uid"], rewriting(manifest, answer)
        with self.lock:
            if found is None:
                self._rewritten.pop(uid, None)
                return
            news, self._rewritten[uid] = self._rewritten.get(uid) != found, found
        if news:
            what = f"{manifest['kind']} {answer['metadata'].get('namespace')}/{answer['metadata']['name']}"
            fields = ", ".join(found.fields)
            log.warning("%s: the cluster's admission changes %s; it is left as it is then", what, fields)

    def deleted(self, resource: Resource, uid: str) -> None:
        """Take over that our deletion removed an object."""
        with self.lock:
            self._rewritten.pop(uid, None)
        for informer in self._informers_of(resource, None):
            informer.deleted(uid)

    def unanswered(self, resource: Resource, namespace: str | None, name: str, uid: str | None = None) -> None:
        """A write of ours of which nobody knows whether it was carried out."""
        with self.lock:
            self._unanswered[resource, namespace, name] = uid

    def make_sure(self, concerns: Callable[[Resource, str | None, str], bool]) -> list[tuple[Resource, str, ApiError]]:
        """Read what writes without an answer have left, so that nothing is decided on what was there before them; what
        cannot be read, with the reason. ``concerns`` chooses by resource, namespace and name."""
        with self.lock:
            unanswered = {key: uid for key, uid in self._unanswered.items() if concerns(*key)}
        unread: list[tuple[Resource, str, ApiError]] = []
        for (resource, namespace, name), uid in unanswered.items():
            left = None
            try:
                left = self._api.get(resource, name, namespace=namespace)
                self.wrote(resource, left)
            except (NotFound, Forbidden):
                pass  # it is gone, or was never ours to read: then no informer has it either
            except ApiError as error:
                unread.append((resource, name, error))
                continue
            if uid is not None and (left is None or left["metadata"]["uid"] != uid):
                self.deleted(resource, uid)
            with self.lock:
                self._unanswered.pop((resource, namespace, name), None)
        return unread

    def _informers_of(self, resource: Resource, metadata: Json | None) -> list[Informer[Any]]:
        with self.lock:
            if informer := self._pools.get((resource.api_version, resource.kind)):
                return [informer]
            if resource.kind == PODS.kind:
                return [item for item in self._informers["pods"] if item.source.labels == names.PLAN_LABEL]
            name = "plans" if resource.kind == PLANS.kind else f"{resource.kind}s"
            found = self._informers.get(name, [])
            if metadata is not None and name not in ("plans", "nodes"):
                found = [item for item in found if item.source.namespace in (None, metadata.get("namespace"))]
            return found

    # --- news ------------------------------------------------------------------------------------------------------------

    def _tell(self, source: Source[Any], before: Any, after: Any) -> None:
        if isinstance(before, PlanObject) and isinstance(after, PlanObject):
            # What we tell ourselves is no news.
            before, after = before.model_copy(update={"status": {}}), after.model_copy(update={"status": {}})
            if before == after:
                return
        for facts in (before, after):
            if facts is not None:
                self._changed(_news(source.name, facts))


class Overlaid:
    """An ``Api`` whose writes are in the state at once, so that no decision is made on what was there before them. Where the
    answer to a write is lost, the state is told that what it left must be read (``ClusterState.make_sure``)."""

    def __init__(self, api: Api, state: ClusterState) -> None:
        self._api = api
        self._state = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def apply(self, resource: Resource, manifest: Json, **more: Any) -> Json:
        """See ``Api.apply``."""
        metadata = manifest["metadata"]
        with self._sure_of(resource, metadata.get("namespace"), metadata["name"]):
            found: Json = self._api.apply(resource, manifest, **more)
        self._state.wrote(resource, found)
        if "subresource" not in more:
            self._state.applied(manifest, found)
        return found

    def merge(self, resource: Resource, name: str, patch: Json, **more: Any) -> Json:
        """See ``Api.merge``."""
        with self._sure_of(resource, more.get("namespace"), name):
            found: Json = self._api.merge(resource, name, patch, **more)
        self._state.wrote(resource, found)
        return found

    def json_patch(self, resource: Resource, name: str, operations: Sequence[Json], **more: Any) -> Json:
        """See ``Api.json_patch``."""
        with self._sure_of(resource, more.get("namespace"), name):
            found: Json = self._api.json_patch(resource, name, operations, **more)
        self._state.wrote(resource, found)
        return found

    def delete(self, resource: Resource, name: str, *, uid: str, namespace: str | None = None) -> Json | None:
        """See ``Api.delete``."""
        with self._sure_of(resource, namespace, name, uid):
            left = self._api.delete(resource, name, uid=uid, namespace=namespace)
        if left is None or "deletionTimestamp" not in left["metadata"]:
            self._state.deleted(resource, uid)
        else:
            self._state.wrote(resource, left)
        return left

    @contextmanager
    def _sure_of(self, resource: Resource, namespace: str | None, name: str, uid: str | None = None) -> Iterator[None]:
        try:
            yield
        except ApiError as error:
            if error.status == 0 or error.status >= 500:
                self._state.unanswered(resource, namespace, name, uid)
            raise


def _counts(health: Health, now: float) -> bool:
    """Whether a trouble is reported: at once if nothing was ever read, else after ``PATIENCE_SECONDS``."""
    trouble = health.trouble
    return trouble is not None and (not health.synced or now - trouble.since > PATIENCE_SECONDS)


def source_of(resource: Resource) -> str:
    """The name of a kind's source."""
    return f"{resource.kind}es" if resource.kind.endswith("s") else f"{resource.kind}s"


def _known(resource: Resource) -> Callable[[Api], Resource]:
    return lambda _: resource


def _discovered(api_version: str, kind: str) -> Callable[[Api], Resource]:
    return lambda api: api.discover(api_version, kind)


def _object(kind: str) -> Callable[[Json], SeenObject]:
    return lambda item: parse.seen_object(item, kind)


def _plan(item: Json) -> PlanObject:
    return parse.plan_of(item)


def _news(name: str, facts: Any) -> News:
    match facts:
        case Node():
            return News(name, node=facts.name, labels=facts.labels)
        case SeenPod():
            return News(name, facts.own.namespace, facts.plan_label, node=facts.own.node)
        case SeenObject() | SeenSlice():
            return News(name, facts.namespace, facts.plan_label)
        case SeenDevices():
            return News(name, node=facts.node)
        case SeenClaim():
            return News(name, facts.namespace, facts.plan_label)
        case SeenRates():
            return News(name, facts.namespace, name=facts.name)
        case PlanObject():
            return News(name, facts.namespace, names.label_value(facts.name))
        case _:
            return News(name)
