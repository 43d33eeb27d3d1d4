"""The front door of the simulated cluster: the operator's ``Api``, with all that an API server refuses."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, override

from servingplan.api.v1alpha1 import KIND
from servingplan.errors import ApiError, Conflict, Invalid, NotFound
from servingplan.kube import EVENTS, Resource
from servingplan.rehearse import objects
from servingplan.rehearse.api_server import LOST, ApiServer, Key
from servingplan.rehearse.patches import applied, holds, merged, patched

if TYPE_CHECKING:
    from servingplan.rehearse.cluster import SimulatedCluster

Json = dict[str, Any]
MOST_HISTORY = 4000
"""Changes that can be watched from."""


class SimulatedApi(ApiServer):
    """``servingplan.kube.Api`` of a simulated cluster.

    The cluster's facts are the truth. Before each request they are shown as objects, and those that differ from what was
    shown before get a new version; what is written to an object becomes a fact again, or the write fails the test.
    """

    def __init__(self, cluster: SimulatedCluster) -> None:
        super().__init__(*objects.RESOURCES, page_size=500)
        self.cluster = cluster
        self.refuses: Callable[[str, Key], ApiError | None] = lambda verb, key: None
        """What a request is answered with instead of being carried out."""
        self.loses: Callable[[str, Key], bool] = lambda verb, key: False
        """Whether a write is carried out and its answer is lost."""
        self.around: Callable[[str, Key], AbstractContextManager[None]] = lambda verb, key: contextlib.nullcontext()
        """Open while a write is carried out, and while what follows from it at once happens."""
        self.wrote: Callable[[Key, str, Json | None], None] = lambda key, uid, item: None
        """Told of each write that was carried out: the object's uid and what it became, None where it went."""
        self.events: list[Json] = []
        self._shown: dict[Key, Json] = {}
        self._applied: dict[Key, Json] = {}
        self._held_still = False

    def __deepcopy__(self, memo: dict[int, Any]) -> SimulatedApi:
        """Another API server over the same objects: it goes on from the same version, and has no history."""
        found = SimulatedApi(copy.deepcopy(self.cluster, memo))
        found.version = found.forgotten = self.version
        found._applied = dict(self._applied)
        return found

    def refresh(self) -> None:
        """Show the cluster as it is now."""
        if self._held_still:
            return
        shown = dict(objects.shown(self.cluster))
        for key in [key for key in self.held if key not in shown]:
            self.drop(key)
        for key, item in shown.items():
            before = self._shown.get(key)
            if before is not None and key in self.held and before["metadata"]["uid"] != item["metadata"]["uid"]:
                self.drop(key)
                before = None
            if before != item or key not in self.held:
                self.store(key, item)
        self._shown = shown
        if len(self.history) > MOST_HISTORY:
            self.forgotten = self.history[MOST_HISTORY // 2].version
            del self.history[: MOST_HISTORY // 2 + 1]

    @contextlib.contextmanager
    def one_moment(self) -> Iterator[None]:
        """While this is open, nothing happens in the cluster but what is written."""
        self.refresh()
        self._held_still = True
        try:
            yield
        finally:
            self._held_still = False

    # --- reading --------------------------------------------------------------------------------------------------------

    @override
    def discover(self, api_version: str, kind: str) -> Resource:
        """The same as ``Api.discover``."""
        if kind in self.cluster.absent_kinds:
            raise NotFound(404, "NotFound", f"the API server knows no kind {kind} in {api_version}")
        return super().discover(api_version, kind)

    def list(self, resource: Resource, **asked: Any) -> Iterator[Json]:
        """The same as ``Api.list``."""
        for page in self.pages(resource, **asked):
            yield from page["items"]

    @override
    def pages(self, resource: Resource, **asked: Any) -> Iterator[Json]:
        """The same as ``Api.pages``."""
        self.refresh()
        self._answer("list", (resource.kind, "", ""))
        return super().pages(resource, **asked)

    @override
    def watch(self, resource: Resource, **asked: Any) -> Iterator[tuple[str, Json]]:
        """The same as ``Api.watch``."""
        self.refresh()
        self._answer("watch", (resource.kind, "", ""))
        return super().watch(resource, **asked)

    def get(
        self, resource: Resource, name: str, *, namespace: str | None = None, subresource: str | None = None
    ) -> Json:
        """The same as ``Api.get``."""
        self.refresh()
        key = _key(resource, name, namespace)
        self._answer("get", key)
        return self._there(key)

    # --- writing --------------------------------------------------------------------------------------------------------

    def create(self, resource: Resource, manifest: Json, *, namespace: str | None = None) -> Json:
        """The same as ``Api.create`` for Events; they are kept, and nobody watches them."""
        assert resource == EVENTS, resource
        self._answer("create", (resource.kind, namespace or "", ""))
        self.events.append(manifest)
        return manifest

    def apply(
        self, resource: Resource, manifest: Json, *, manager: str, force: bool, subresource: str | None = None
    ) -> Json:
        """The same as ``Api.apply``."""
        metadata = manifest["metadata"]
        key = _key(resource, metadata["name"], metadata.get("namespace"))
        if subresource == "status":
            return self._written("apply status", key, lambda: self._apply_status(key, manifest))
        return self._written("apply", key, lambda: self._apply(key, manifest))

    def merge(
        self,
        resource: Resource,
        name: str,
        patch: Json,
        *,
        manager: str,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        """The same as ``Api.merge``."""
        key = _key(resource, name, namespace)

        def write() -> None:
            before = self._there(key)
            for field in ("uid", "resourceVersion"):
                wanted = patch.get("metadata", {}).get(field, before["metadata"][field])
                if wanted != before["metadata"][field]:
                    raise Conflict(409, "Conflict", f"{key[0]} {name}: {field} is {before['metadata'][field]}")
            self.cluster.take(key[0], name, merged(before, patch), patch, manager)
            self.refresh()
            versionless = {**patch, "metadata": {**patch.get("metadata", {})}}
            versionless["metadata"].pop("resourceVersion", None)
            assert holds(self._there(key), versionless), f"the simulated cluster has no place for {patch} of {key}"

        return self._written("merge", key, write)

    def json_patch(
        self, resource: Resource, name: str, operations: Sequence[Json], *, manager: str, namespace: str | None = None
    ) -> Json:
        """The same as ``Api.json_patch``."""
        key = _key(resource, name, namespace)

        def write() -> None:
            after = patched(self._there(key), operations)
            self.cluster.take(key[0], name, after, after, manager)
            self.refresh()
            after["metadata"].pop("resourceVersion")
            assert holds(self._there(key), after), f"the simulated cluster has no place for {operations} of {key}"

        return self._written("json_patch", key, write)

    def delete(self, resource: Resource, name: str, *, uid: str, namespace: str | None = None) -> Json | None:
        """The same as ``Api.delete``."""
        key = _key(resource, name, namespace)

        def write() -> None:
            if self._there(key)["metadata"]["uid"] != uid:
                raise Conflict(409, "Conflict", f"{key[0]} {name}: the UID in the precondition is another one")
            self.cluster.delete(key[0], name)

        try:
            return self._write("delete", key, write)
        except NotFound:
            return None

    def _apply(self, key: Key, manifest: Json) -> None:
        kind, _, name = key
        assert (kind, name) not in self.cluster.foreign_objects, f"{kind} {name} is somebody else's"
        if kind in self.cluster.absent_kinds:
            raise NotFound(404, "NotFound", f"the API server knows no kind {kind}")
        if self.cluster.refuses(manifest):
            raise Invalid(422, "Invalid", f"{kind} {name} is refused")
        live = self.cluster.objects.get((kind, name), {})
        last = self._applied.get(key, {}) if live else {}
        self._applied[key] = manifest
        self.cluster.put(applied(live, last, manifest))

    def _apply_status(self, key: Key, manifest: Json) -> None:
        assert key[0] == KIND, key
        if self._there(key)["metadata"]["uid"] != manifest["metadata"]["uid"]:
            raise Conflict(409, "Conflict", f"{key[0]} {key[2]}: uid mismatch")
        self.cluster.status = manifest["status"]

    def _written(self, verb: str, key: Key, write: Callable[[], None]) -> Json:
        """Carry a write out that leaves the object there; what it is by that."""
        item = self._write(verb, key, write)
        if item is None:
            raise NotFound(404, "NotFound", f"{key[0]} {key[2]} is not there")
        return item

    def _write(self, verb: str, key: Key, write: Callable[[], None]) -> Json | None:
        """Carry a write out; what the object is by it, before anything else happens, and None where it went."""
        self.refresh()
        with self.around(verb, key):
            self._answer(verb, key)
            before = self.held.get(key)
            write()
            self.refresh()
            item = self.held.get(key)
            self.wrote(key, (item or before or {})["metadata"]["uid"], item)
            if verb != "apply status" and self.cluster.controllers_keep_up:
                self.cluster.run_controllers()
                self.refresh()
        if self.loses(verb, key):
            raise ApiError(LOST.status, LOST.reason, LOST.message)
        return item

    def _there(self, key: Key) -> Json:
        if key not in self.held:
            raise NotFound(404, "NotFound", f"{key[0]} {key[2]} is not there")
        return self.held[key]

    def _answer(self, verb: str, key: Key) -> None:
        if (error := self.refuses(verb, key)) is not None:
            raise error


def _key(resource: Resource, name: str, namespace: str | None) -> Key:
    return resource.kind, (namespace or "") if resource.namespaced else "", name
