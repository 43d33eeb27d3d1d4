"""EFFECT. Watches one routing ConfigMap and the EndpointSlices of its plans' Services, and writes Envoy's files.

It does what the kubelet does for a mounted ConfigMap, but within milliseconds instead of a minute, and with each replica's own
address. A replica that is no longer ready gets no more requests as soon as the API server knows. If something cannot be read,
the files stay as they are.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from servingplan.errors import ApiError, Forbidden
from servingplan.gateway_sync.endpoints import Addresses, addresses_of
from servingplan.gateway_sync.envoy import services_with_replicas
from servingplan.gateway_sync.folder import Folder
from servingplan.gateway_sync.handover import services_with_weight, with_routes_of, without_the_empty
from servingplan.kube import CONFIG_MAPS, ENDPOINT_SLICES, Kube, Resource
from servingplan.model import names
from servingplan.model.names import ROUTING_KEY
from servingplan.routing.envoy import Place, clusters, endpoint_files, envoy_files, route_configuration

log = logging.getLogger("servingplan.gateway")

Json = dict[str, Any]
SHORTEST_PAUSE_SECONDS = 0.02
"""The shortest time between two versions of the files, so that a burst of changes is one version."""
LONGEST_RETRY_SECONDS = 5.0
HOLDING_PAUSE_SECONDS = 0.05
"""The time between two checks whether held weights may be written."""
SETTLING_SECONDS = 0.1
"""If no Envoy can be asked: the time from a Service's first replica in the files to the first weight on it."""
LONGEST_HOLD_SECONDS = 10.0
"""The longest time that new weights wait for Envoy to know the replicas of their Services."""
LEAVING_SECONDS = 60.0
"""How long a removed Service stays in the files, since Envoy may still have routes to it."""


class Sync:
    """Keeps the files of one gateway."""

    def __init__(self, *, api: Kube, namespace: str, config_map: str, place: Place, folder: Folder) -> None:
        self._api = api
        self._namespace = namespace
        self._config_map = config_map
        self._place = place
        self._folder = folder
        self._stopped = threading.Event()
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._document: Json | None = None
        self._slices: dict[str, Json] | None = None
        self._shown: Json | None = None
        """The document of the files, before Services without a replica were left out."""
        self._named: dict[str, tuple[Json, float]] = {}
        """The Services of written documents, and until when (``time.monotonic``) they were named."""
        self._known: dict[str, float] = {}
        """Since when (``time.monotonic``) the files have had replicas of a Service without interruption."""
        self._awaited: dict[str, float] = {}
        """Since when new weights have waited for replicas of a Service."""

    def run(self) -> None:
        """Keep the files until ``stop``."""
        watches = (
            (CONFIG_MAPS, {"fields": f"metadata.name={self._config_map}"}, self._routing_seen),
            (ENDPOINT_SLICES, {"labels": names.PLAN_LABEL}, self._slice_seen),
        )
        for resource, selectors, seen in watches:
            thread = threading.Thread(
                target=self._follow, args=(resource, selectors, seen), name=f"follow-{resource.plural}", daemon=True
            )
            thread.start()
        while not self._stopped.is_set():
            self._changed.wait()
            self._changed.clear()
            pause = SHORTEST_PAUSE_SECONDS
            try:
                if not self._write():
                    pause = HOLDING_PAUSE_SECONDS
                    self._changed.set()
            except Exception:
                log.exception(
                    "the files were not written and stay as they are; next try in %g s", LONGEST_RETRY_SECONDS
                )
                self._stopped.wait(LONGEST_RETRY_SECONDS)
                self._changed.set()
            self._stopped.wait(pause)

    def stop(self) -> None:
        """Stop ``run``. The watches end with the process."""
        self._stopped.set()
        self._changed.set()

    def _write(self) -> bool:
        """Write the files. False if new weights are held, so that it must be called again."""
        with self._lock:
            latest, slices = self._document, self._slices
            if latest is None or slices is None:
                return True
            addresses: Addresses = addresses_of(slices[name] for name in sorted(slices))
        started = time.monotonic()
        held = self._is_held(latest, started)
        document = self._with_leaving(with_routes_of(self._shown, latest) if held and self._shown else latest, started)
        replicas = {name for name, places in addresses.items() if places}
        files = envoy_files(
            without_the_empty(document, replicas), namespace=self._namespace, by_pod=True, place=self._place
        )
        files |= endpoint_files(document, addresses)
        if self._folder.put(files):
            log.info(
                "revision %s over %d replicas written in %.1f ms",
                document["revision"],
                sum(len(places) for places in addresses.values()),
                1000 * (time.monotonic() - started),
            )
        self._shown = document
        written = {item["service"] for item in document["services"]} & replicas
        self._known = {name: self._known.get(name, started) for name in written}
        return not held

    def _with_leaving(self, document: Json, now: float) -> Json:
        named = {item["service"]: (item, now) for item in document["services"]}
        recent = {name: found for name, found in self._named.items() if now - found[1] < LEAVING_SECONDS}
        self._named = recent | named
        return {**document, "services": [self._named[name][0] for name in sorted(self._named)]}

    def _is_held(self, latest: Json, now: float) -> bool:
        """Whether Envoy does not yet know some replicas that would get their first weight. It reads routes and addresses in
        no fixed order."""
        if self._shown is None:
            return False
        awaited = services_with_weight(latest) - services_with_weight(self._shown)
        awaited -= self._taken(awaited & self._known.keys(), now)
        self._awaited = {name: self._awaited.get(name, now) for name in awaited}
        return any(now - since < LONGEST_HOLD_SECONDS for since in self._awaited.values())

    def _taken(self, written: set[str], now: float) -> set[str]:
        """The Services with replicas in the files whose replicas Envoy has read."""
        found = services_with_replicas(self._place.admin_port, written) if written else set()
        if found is None:
            return {name for name in written if now - self._known[name] >= SETTLING_SECONDS}
        return found

    def _follow(self, resource: Resource, selectors: dict[str, str], seen: Callable[[str, Json], None]) -> None:
        retry = 0.1
        while not self._stopped.is_set():
            try:
                for kind, item in self._api.follow(resource, namespace=self._namespace, **selectors):
                    if self._stopped.is_set():
                        return
                    with self._lock:
                        seen(kind, item)
                    self._changed.set()
                    retry = 0.1
            except ApiError as error:
                hint = "; grant get, list and watch on it" if isinstance(error, Forbidden) else ""
                log.warning("%s cannot be watched: %s%s; next try in %.1f s", resource.plural, error, hint, retry)
            except Exception:
                log.exception("watching %s failed; next try in %.1f s", resource.plural, retry)
            self._stopped.wait(retry)
            retry = min(2 * retry, LONGEST_RETRY_SECONDS)

    def _routing_seen(self, kind: str, item: Json) -> None:
        """Keep the routing of a ConfigMap. One that is gone, or has no routing document, changes nothing."""
        found = item["items"] if kind == "LISTED" else [item] if kind in ("ADDED", "MODIFIED") else []
        for config_map in found:
            try:
                document = json.loads((config_map.get("data") or {})[ROUTING_KEY])
                route_configuration(document)
                clusters(document, namespace=self._namespace)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                log.warning("ConfigMap %s has no routing document (%r); the last one stays", self._config_map, error)
                continue
            self._document = document

    def _slice_seen(self, kind: str, item: Json) -> None:
        if kind == "LISTED":
            self._slices = {entry["metadata"]["name"]: entry for entry in item["items"]}
        elif self._slices is not None and kind == "DELETED":
            self._slices.pop(item["metadata"]["name"], None)
        elif self._slices is not None:
            self._slices[item["metadata"]["name"]] = item
