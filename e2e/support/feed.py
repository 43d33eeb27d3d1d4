"""Everything that happens in the cluster, in the order in which the API server stored it.

One watch per kind. Resource versions of one cluster come from one counter, so events of all kinds are brought into one
order by it: listeners see each state that the API server held, none that it never held. Watches run ahead of one another
as the machine has it, so events are held back until lists of all kinds have shown that no watch still owes an older one.
"""

from __future__ import annotations

import heapq
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import kubernetes.client
import urllib3.exceptions

from e2e.support.waiting import wait_for
from servingplan.kube import Resource

Json = dict[str, Any]
Listener = Callable[[float, str, str, Json], None]
"""Called with the time at which an event was received (monotonic), the kind, ADDED, MODIFIED or DELETED, the object."""

_ROUND_SECONDS = 0.1
"""Pause between two rounds of lists."""
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_FAILURES = (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError)


class _Listed(NamedTuple):
    """Versions of all objects of a kind, by uid, at one revision of the store."""

    revision: int
    versions: dict[str, int]


class _Heard:
    """What the watch of a kind has told so far."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._gone: set[str] = set()

    def note(self, uid: str, version: int, *, gone: bool) -> None:
        """One event."""
        if gone:
            self._versions.pop(uid, None)
            self._gone.add(uid)
        else:
            self._versions[uid] = version

    def owes_nothing_of(self, listed: _Listed) -> bool:
        """Whether all that led to what a list shows was told. What came and went meanwhile without a word leaves no trace
        in it, and may be told after younger events of other kinds."""
        changed = all(
            uid in self._gone or self._versions.get(uid, -1) >= version for uid, version in listed.versions.items()
        )
        ended = all(uid in listed.versions or version > listed.revision for uid, version in self._versions.items())
        return changed and ended


class Feed:
    """Watches from entering to leaving the context. Listeners are called in one thread."""

    def __init__(self, client: kubernetes.client.ApiClient, resources: list[Resource]) -> None:
        self._client = client
        self._resources = resources
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int, float, str, str, Json]] = []
        self._count = 0
        self._heard = {resource.kind: _Heard() for resource in resources}
        self._objects: dict[str, dict[str, Json]] = {resource.kind: {} for resource in resources}
        self._listeners: list[Listener] = []
        self._ticks: list[Callable[[float], None]] = []
        self._stopped = threading.Event()
        self._told_until = 0.0
        """All that was stored before this moment (monotonic) is told."""
        self._teller = threading.Thread(target=self._tell_on, name="feed", daemon=True)

    def __enter__(self) -> Feed:
        for resource in self._resources:
            threading.Thread(target=self._watch, args=(resource,), name=f"feed-{resource.plural}", daemon=True).start()
        self._teller.start()
        self.catch_up()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._teller.join()

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
        now = time.monotonic()
        wait_for(
            "the feed has told all",
            lambda: self._told_until > now or not self._teller.is_alive(),
            seconds=30,
        )
        assert self._told_until > now, "the feed has ended"

    def lag(self) -> str:
        """Seconds since the last moment of which all is told, and the threads that are left, for whoever has to find out."""
        threads = sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("feed"))
        return (
            f"{time.monotonic() - self._told_until:.1f} s behind, {len(self._waiting)} events untold, threads {threads}"
        )

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
                for event in self._stream(resource, version):
                    if event["type"] == "ERROR":
                        break
                    item = event["object"]
                    if event["type"] == "DELETED":
                        known.pop(item["metadata"]["uid"], None)
                    else:
                        known[item["metadata"]["uid"]] = item
                    self._take(resource.kind, event["type"], item)
            except _FAILURES:
                self._stopped.wait(0.5)

    def _get(
        self, resource: Resource, query: dict[str, str], *, accept: str = "application/json"
    ) -> urllib3.BaseHTTPResponse:
        configuration = self._client.configuration
        headers = {"Accept": accept}
        if token := configuration.get_api_key_with_prefix("BearerToken"):
            headers["Authorization"] = token
        return self._client.rest_client.pool_manager.request(
            "GET",
            f"{configuration.host}{resource.path()}",
            fields=query,
            headers=headers,
            retries=False,
            preload_content=not query,
            timeout=urllib3.Timeout(connect=60, read=None if query else 60),
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
            self._heard[kind].note(item["metadata"]["uid"], version, gone=change == "DELETED")

    def _tell_on(self) -> None:
        while not self._stopped.wait(_ROUND_SECONDS):
            began = time.monotonic()
            try:
                listed = {resource.kind: self._list(resource) for resource in self._resources}
            except _FAILURES:
                continue
            while not self._all_heard(listed):
                if self._stopped.wait(0.02):
                    return
            self._tell(min(item.revision for item in listed.values()), began)

    def _list(self, resource: Resource) -> _Listed:
        listed = json.loads(self._get(resource, {}, accept=_METADATA).data)
        return _Listed(_version(listed), {item["metadata"]["uid"]: _version(item) for item in listed["items"] or ()})

    def _all_heard(self, listed: dict[str, _Listed]) -> bool:
        with self._lock:
            return all(self._heard[kind].owes_nothing_of(item) for kind, item in listed.items())

    def _tell(self, revision: int, began: float) -> None:
        """All events up to a revision, of which the lists began at a moment."""
        with self._lock:
            while self._waiting and self._waiting[0][0] <= revision:
                _, _, received, kind, change, item = heapq.heappop(self._waiting)
                uid = item["metadata"]["uid"]
                if change == "DELETED":
                    self._objects[kind].pop(uid, None)
                else:
                    self._objects[kind][uid] = item
                for listener in self._listeners:
                    listener(received, kind, change, item)
            for tick in self._ticks:
                tick(began)
            self._told_until = began


def _version(item: Json) -> int:
    return int(item["metadata"]["resourceVersion"])
