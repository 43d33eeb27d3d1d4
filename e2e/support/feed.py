"""Everything that happens in the cluster, in the order in which the API server stored it.

One watch per kind. Resource versions of one cluster come from one counter, so events of all kinds are brought into one
order by it: listeners see each state that the API server held, none that it never held.
"""

from __future__ import annotations

import heapq
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import kubernetes.client
import urllib3.exceptions

from servingplan.kube import Resource

Json = dict[str, Any]
Listener = Callable[[float, str, str, Json], None]
"""Called with the time at which an event was received (monotonic), the kind, ADDED, MODIFIED or DELETED, the object."""

SORTING_SECONDS = 0.25
"""Events wait this long for older ones of other kinds."""


class Feed:
    """Watches from entering to leaving the context. Listeners are called in one thread."""

    def __init__(self, client: kubernetes.client.ApiClient, resources: list[Resource]) -> None:
        self._client = client
        self._resources = resources
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int, float, str, str, Json]] = []
        self._count = 0
        self._objects: dict[str, dict[str, Json]] = {resource.kind: {} for resource in self._resources}
        self._listeners: list[Listener] = []
        self._ticks: list[Callable[[float], None]] = []
        self._stopped = threading.Event()
        self._synced = {resource.kind: threading.Event() for resource in self._resources}

    def __enter__(self) -> Feed:
        for resource in self._resources:
            threading.Thread(target=self._watch, args=(resource,), name=f"feed-{resource.plural}", daemon=True).start()
        threading.Thread(target=self._dispatch, name="feed", daemon=True).start()
        for kind, event in self._synced.items():
            assert event.wait(20), f"no list of {kind} within 20 s"
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def listen(self, listener: Listener, tick: Callable[[float], None]) -> None:
        """From now on, with all that is there as ADDED. ``tick`` is called between events, some times a second."""
        with self._lock:
            for kind, objects in self._objects.items():
                for item in objects.values():
                    listener(time.monotonic(), kind, "ADDED", item)
            self._listeners.append(listener)
            self._ticks.append(tick)

    def leave(self, listener: Listener, tick: Callable[[float], None]) -> None:
        """Hear no more."""
        with self._lock:
            self._listeners.remove(listener)
            self._ticks.remove(tick)

    def catch_up(self) -> None:
        """Wait until listeners have heard of all that has happened so far."""
        time.sleep(SORTING_SECONDS + 0.25)

    def _watch(self, resource: Resource) -> None:
        known: dict[str, Json] = {}
        while not self._stopped.is_set():
            try:
                listed = json.loads(self._get(resource, {}).data)
                fresh = {item["metadata"]["uid"]: item for item in listed.get("items") or ()}
                version = listed["metadata"]["resourceVersion"]
                for uid in known.keys() - fresh.keys():
                    gone = {**known[uid], "metadata": {**known[uid]["metadata"], "resourceVersion": version}}
                    self._take(resource.kind, "DELETED", gone)
                for uid, item in fresh.items():
                    if uid not in known or _version(known[uid]) != _version(item):
                        self._take(resource.kind, "ADDED", item)
                known = fresh
                self._synced[resource.kind].set()
                for event in self._stream(resource, version):
                    if event["type"] == "ERROR":
                        break
                    item = event["object"]
                    if event["type"] == "DELETED":
                        known.pop(item["metadata"]["uid"], None)
                    else:
                        known[item["metadata"]["uid"]] = item
                    self._take(resource.kind, event["type"], item)
            except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError):
                self._stopped.wait(0.5)

    def _get(self, resource: Resource, query: dict[str, str]) -> urllib3.BaseHTTPResponse:
        configuration = self._client.configuration
        headers = {"Accept": "application/json"}
        if token := configuration.get_api_key_with_prefix("BearerToken"):
            headers["Authorization"] = token
        return self._client.rest_client.pool_manager.request(
            "GET",
            f"{configuration.host}{resource.path()}",
            fields=query,
            headers=headers,
            retries=False,
            preload_content=not query,
            timeout=urllib3.Timeout(connect=10, read=None if query else 30),
        )

    def _stream(self, resource: Resource, version: str) -> Iterator[Json]:
        response = self._get(resource, {"watch": "true", "resourceVersion": version, "timeoutSeconds": "1800"})
        rest = b""
        try:
            for chunk in response.stream(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (json.loads(line) for line in lines if line)
                if self._stopped.is_set():
                    return
        finally:
            response.close()

    def _take(self, kind: str, change: str, item: Json) -> None:
        version = _version(item)
        item["metadata"].pop("managedFields", None)
        with self._lock:
            self._count += 1
            heapq.heappush(self._waiting, (version, self._count, time.monotonic(), kind, change, item))

    def _dispatch(self) -> None:
        while not self._stopped.wait(0.05):
            with self._lock:
                now = time.monotonic()
                while self._waiting and self._waiting[0][2] < now - SORTING_SECONDS:
                    _, _, received, kind, change, item = heapq.heappop(self._waiting)
                    uid = item["metadata"]["uid"]
                    if change == "DELETED":
                        self._objects[kind].pop(uid, None)
                    else:
                        self._objects[kind][uid] = item
                    for listener in self._listeners:
                        listener(received, kind, change, item)
                for tick in self._ticks:
                    tick(now - SORTING_SECONDS)


def _version(item: Json) -> int:
    return int(item["metadata"]["resourceVersion"])
