"""An API server's lists and watches of one kind of object: versions that grow, pages, a history that is forgotten."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from servingplan.errors import ApiError, Gone, NotFound
from servingplan.kube import CONFIG_MAPS, Resource

Json = dict[str, Any]


class ApiServer:
    """Objects by name; every write gets the next version. Watches end when they have told all that they may tell."""

    def __init__(self, resource: Resource = CONFIG_MAPS, *, page_size: int = 2) -> None:
        self.resource = resource
        self.page_size = page_size
        self.version = 0
        self.objects: dict[str, Json] = {}
        self.history: list[tuple[int, str, Json]] = []
        self.forgotten = 0
        """Versions up to this one cannot be watched from any more."""
        self.lists = 0
        self.watches = 0
        self.faults: list[Exception] = []
        """Raised by the next requests, one each."""
        self.tells_at_most: int | None = None
        """Events of a watch before its connection is lost."""
        self.between_pages: list[Any] = []
        """Called, one each, after a page of a list was read."""

    # --- writes ---------------------------------------------------------------------------------------------------------

    def put(self, name: str, value: Any) -> Json:
        """Create or change an object."""
        self.version += 1
        kind = "MODIFIED" if name in self.objects else "ADDED"
        uid = self.objects[name]["metadata"]["uid"] if name in self.objects else f"uid-{self.version}"
        item = {"metadata": {"name": name, "uid": uid, "resourceVersion": str(self.version)}, "value": value}
        self.objects[name] = item
        self.history.append((self.version, kind, item))
        return copy.deepcopy(item)

    def remove(self, name: str) -> str:
        """Delete an object; its uid."""
        item = self.objects.pop(name)
        self.version += 1
        gone = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
        self.history.append((self.version, "DELETED", gone))
        return str(item["metadata"]["uid"])

    def compact(self) -> None:
        """Forget what happened."""
        self.forgotten = self.version
        self.history.clear()

    # --- what an informer asks ---------------------------------------------------------------------------------------------

    def pages(self, resource: Resource, **_: Any) -> Iterator[Json]:
        """The list as of one version, whatever is written meanwhile."""
        self._fail()
        self.lists += 1
        items, version = [copy.deepcopy(item) for _, item in sorted(self.objects.items())], str(self.version)
        for start in range(0, max(1, len(items)), self.page_size):
            yield {"metadata": {"resourceVersion": version}, "items": items[start : start + self.page_size]}
            if self.between_pages:
                self.between_pages.pop(0)()

    def watch(self, resource: Resource, *, since: str | None = None, **_: Any) -> Iterator[tuple[str, Json]]:
        """What happened since a version."""
        self._fail()
        self.watches += 1
        begin = int(since or 0)
        if begin < self.forgotten:
            raise Gone(410, "Expired", "too old resource version")
        yield "OPEN", {"metadata": {}}
        told = 0
        for version, kind, item in list(self.history):
            if version <= begin:
                continue
            if self.tells_at_most is not None and told >= self.tells_at_most:
                raise ApiError(0, "Unreachable", "connection reset")
            told += 1
            yield kind, copy.deepcopy(item)
        yield "BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}}

    def discover(self, api_version: str, kind: str) -> Resource:
        """The one kind that there is."""
        if kind != self.resource.kind:
            raise NotFound(404, "NotFound", kind)
        return self.resource

    def forget(self, resource: Resource) -> None:
        """Nothing is remembered."""

    def _fail(self) -> None:
        if self.faults:
            raise self.faults.pop(0)
