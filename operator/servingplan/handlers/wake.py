"""Who wakes whom: changes in the cluster end the sleep of the plans that they concern. Nothing is decided from an event.

A watch that fails is begun again; what it missed meanwhile is seen by the next periodic turn.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from servingplan.errors import ApiError, NotFound
from servingplan.kube import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    HTTP_ROUTES,
    NODES,
    PODS,
    SERVICES,
    Api,
    Resource,
)
from servingplan.model.world import Observation
from servingplan.observe.parse import endpoints_of, node_of, pod_gpus
from servingplan.planning.record import effective_spec, read_record
from servingplan.render import names
from servingplan.settings import Settings

log = logging.getLogger("servingplan.wake")

Json = dict[str, Any]
LONGEST_PAUSE_SECONDS = 30.0
_OWN_RESOURCES = (DEPLOYMENTS, SERVICES, CONFIG_MAPS)
_HTTP_ROUTE_KIND = "HTTPRoute.gateway.networking.k8s.io"


@dataclass(frozen=True)
class News:
    """An object came, went, or changed in what a turn reads of it."""

    resource: Resource
    namespace: str
    labels: dict[str, str]
    node: str | None
    """Of a pod, or the name of the node itself."""
    name: str = ""

    @classmethod
    def of(cls, resource: Resource, item: Json) -> News:
        """From the object."""
        metadata = item["metadata"]
        node = metadata["name"] if resource == NODES else (item.get("spec") or {}).get("nodeName")
        return cls(resource, metadata.get("namespace", ""), metadata.get("labels") or {}, node, metadata["name"])


@dataclass(frozen=True)
class Interest:
    """What the turns of a plan read: a change of anything else leaves it asleep."""

    namespace: str
    label: str
    selectors: tuple[dict[str, str], ...]
    """Of the nodes of its pools."""
    nodes: frozenset[str]
    """Those that are there, and those that hold its pods."""
    profiles: frozenset[str] = frozenset()
    """ConfigMaps with measured rates that it names."""

    @classmethod
    def of(cls, world: Observation) -> Interest:
        """From what the last turn saw."""
        spec, _ = effective_spec(world.plan.spec, read_record(world))
        return cls(
            namespace=world.plan.namespace,
            label=names.label_value(world.plan.name),
            selectors=tuple(pool.node_selector for pool in spec.node_pools) if spec else (),
            nodes=frozenset(node.name for node in world.nodes),
            profiles=frozenset(item.config_map for item in spec.profiles) if spec else frozenset(),
        )

    def concerns(self, news: News) -> bool:
        """Whether a turn may come out differently."""
        if news.resource == NODES:
            return news.node in self.nodes or any(item.items() <= news.labels.items() for item in self.selectors)
        if (news.namespace, news.labels.get(names.PLAN_LABEL)) == (self.namespace, self.label):
            return True
        if news.resource == PODS:
            return news.node in self.nodes
        if news.resource == CONFIG_MAPS and names.PROFILES_LABEL in news.labels:
            return news.namespace == self.namespace and news.name in self.profiles
        return news.resource not in (*_OWN_RESOURCES, ENDPOINT_SLICES, HTTP_ROUTES)  # pool objects are few


class Alarm:
    """Ends the sleep of plans. The plans' side belongs to the event loop, ``ring`` to any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._bells: dict[tuple[str, str], asyncio.Event] = {}
        self._interests: dict[tuple[str, str], Interest] = {}

    def bell(self, namespace: str, name: str) -> asyncio.Event:
        """The event that a plan sleeps on."""
        return self._bells.setdefault((namespace, name), asyncio.Event())

    def care(self, namespace: str, name: str, interest: Interest) -> None:
        """From now on only what concerns the plan wakes it; until this is first called everything does."""
        before = self._interests.get((namespace, name))
        self._interests[namespace, name] = interest
        if before is not None and before.selectors != interest.selectors:
            self.bell(namespace, name).set()  # for what happened while the interest was still the old one

    def forget(self, namespace: str, name: str) -> None:
        """The plan is gone."""
        self._bells.pop((namespace, name), None)
        self._interests.pop((namespace, name), None)

    def ring(self, news: News | None = None) -> None:
        """Wake the plans that the news concern; without any, all of them."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ring, news)

    def wake(self, namespace: str, name: str) -> None:
        """Wake one plan, from any thread: its demand changed suddenly."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake, namespace, name)

    def _wake(self, namespace: str, name: str) -> None:
        bell = self._bells.get((namespace, name))
        if bell is not None:
            bell.set()

    def _ring(self, news: News | None) -> None:
        for plan, bell in self._bells.items():
            interest = self._interests.get(plan)
            if news is None or interest is None or interest.concerns(news):
                bell.set()


class Watchers:
    """One thread per kind of object."""

    def __init__(self, *, api: Api, settings: Settings, ring: Callable[[News | None], None]) -> None:
        self._api = api
        self._settings = settings
        self._ring = ring
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to watch."""
        self._begin(NODES, None, None, _node_facts)
        self._begin(PODS, None, None, _pod_facts)
        for namespace in self._settings.namespaces or (None,):
            for resource in _OWN_RESOURCES:
                self._begin(resource, namespace, names.PLAN_LABEL, _own_facts)
            self._begin(CONFIG_MAPS, namespace, names.PROFILES_LABEL, _own_facts)
            self._begin(ENDPOINT_SLICES, namespace, names.PLAN_LABEL, _slice_facts)
            self._begin_kind(_HTTP_ROUTE_KIND, namespace, names.PLAN_LABEL, _route_facts)
        for kind in sorted(self._settings.pool_kinds or ()):
            self._begin_kind(kind, None, None, _pool_facts)

    def stop(self) -> None:
        """End after the present event; the threads do not keep the process alive."""
        self._stopped.set()

    def _begin(
        self, resource: Resource, namespace: str | None, labels: str | None, facts: Callable[[Json], Any]
    ) -> None:
        where = (resource, namespace, labels, facts)
        threading.Thread(target=self._watch, args=where, name=f"watch-{resource.plural}", daemon=True).start()

    def _begin_kind(self, kind: str, namespace: str | None, labels: str | None, facts: Callable[[Json], Any]) -> None:
        where = (kind, namespace, labels, facts)
        threading.Thread(target=self._watch_kind, args=where, name=f"watch-{kind}", daemon=True).start()

    def _watch_kind(self, kind: str, namespace: str | None, labels: str | None, facts: Callable[[Json], Any]) -> None:
        """Of kinds whose API may be installed after the operator."""
        name, _, group = kind.partition(".")
        while not self._stopped.is_set():
            try:
                resource = self._api.discover(f"{group}/v1", name)
            except ApiError:
                self._stopped.wait(LONGEST_PAUSE_SECONDS)
                continue
            self._watch(resource, namespace, labels, facts)

    def _watch(
        self, resource: Resource, namespace: str | None, labels: str | None, facts: Callable[[Json], Any]
    ) -> None:
        pause = 0.5
        while not self._stopped.is_set():
            started = time.monotonic()
            known: dict[str, str] = {}  # begun anew with each watch, so that what went between two is not kept for ever
            try:
                for kind, item in self._api.watch(resource, namespace=namespace, labels=labels):
                    if self._stopped.is_set():
                        return
                    if self._is_news(known, kind, item, facts):
                        self._ring(News.of(resource, item))
            except NotFound:
                return
            except ApiError as error:
                log.warning("the watch of %s ended: %s; it is begun again", resource.plural, error)
            except Exception:
                log.exception("the watch of %s failed; it is begun again", resource.plural)
            pause = 0.5 if time.monotonic() - started > 60 else min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._ring(None)
            self._stopped.wait(pause)

    def _is_news(self, known: dict[str, str], kind: str, item: Json, facts: Callable[[Json], Any]) -> bool:
        """Heartbeats and other people's fields are no news."""
        uid = item["metadata"]["uid"]
        if kind == "DELETED":
            return known.pop(uid, None) is not None
        seen = facts(item)
        if seen is None:
            return False
        text = hashlib.blake2b(json.dumps(seen, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()
        before, known[uid] = known.get(uid), text
        return before != text


def _node_facts(item: Json) -> Any:
    return node_of(item).model_dump()


def _pod_facts(item: Json) -> Any:
    metadata, status = item["metadata"], item.get("status") or {}
    ours = names.PLAN_LABEL in (metadata.get("labels") or {})
    if not ours and pod_gpus(item) == 0:
        return None
    return [
        (item.get("spec") or {}).get("nodeName"),
        (item.get("spec") or {}).get("schedulingGates"),
        metadata.get("deletionTimestamp") is not None,
        metadata.get("labels"),
        [(entry.get("type"), entry.get("status")) for entry in status.get("conditions") or ()],
        status.get("phase"),
    ]


def _own_facts(item: Json) -> Any:
    return [item["metadata"].get("labels"), item.get("spec"), item.get("data")]


def _slice_facts(item: Json) -> Any:
    return sorted(endpoints_of(item))


def _route_facts(item: Json) -> Any:
    return [*_own_facts(item), item["metadata"].get("generation"), item.get("status")]


def _pool_facts(item: Json) -> Any:
    return [item["metadata"].get("annotations"), item.get("spec"), (item.get("status") or {}).get("nodes")]
