"""An API server in memory: versions that grow, lists by page, watches with bookmarks, a history that is forgotten, faults."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from servingplan.errors import ApiError, Gone, NotFound
from servingplan.kube import CONFIG_MAPS, Resource

Json = dict[str, Any]
Key = tuple[str, str, str]
"""Kind, namespace (empty where it has none) and name."""
LOST = ApiError(0, "Unreachable", "connection reset")


class Change(NamedTuple):
    """One write; None stands for an object that is not there."""

    version: int
    kind: str
    before: Json | None
    after: Json | None


class ApiServer:
    """Objects by kind, namespace and name; every write gets the next version. Watches end when they have told all that they
    may tell. What it hands out is never changed afterwards."""

    def __init__(self, *resources: Resource, page_size: int = 2) -> None:
        self.resources = {(item.api_version, item.kind): item for item in resources or (CONFIG_MAPS,)}
        self.page_size = page_size
        self.version = 0
        self.held: dict[Key, Json] = {}
        self.history: list[Change] = []
        self.forgotten = 0
        """Versions up to this one cannot be watched from any more."""
        self.lists = 0
        self.watches = 0
        self.faults: list[Exception] = []
        """Raised by the next lists and watches, one each."""
        self.tells_at_most: int | None = None
        """Events of a watch before its connection is lost."""
        self.withheld: Callable[[str], int] = lambda kind: 0
        """How many of the last events of a kind are not told yet."""
        self.repeats: Callable[[str], int] = lambda kind: 0
        """How many events of before a version are told once more by a watch from there."""
        self.between_pages: list[Any] = []
        """Called, one each, after a page of a list was read."""

    # --- writes ---------------------------------------------------------------------------------------------------------

    def store(self, key: Key, item: Json) -> Json:
        """The object with the version that it gets now."""
        self.version += 1
        stored = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
        self.history.append(Change(self.version, key[0], self.held.get(key), stored))
        self.held[key] = stored
        return stored

    def drop(self, key: Key) -> Json:
        """Delete an object; what it was."""
        item = self.held.pop(key)
        self.version += 1
        self.history.append(Change(self.version, key[0], item, None))
        return item

    def put(self, name: str, value: Any) -> Json:
        """Create or change an object that holds a value."""
        key = (CONFIG_MAPS.kind, "", name)
        before = self.held.get(key)
        uid = before["metadata"]["uid"] if before else f"uid-{self.version + 1}"
        return self.store(key, {"metadata": {"name": name, "uid": uid}, "value": value})

    def remove(self, name: str) -> str:
        """Delete an object that holds a value; its uid."""
        return str(self.drop((CONFIG_MAPS.kind, "", name))["metadata"]["uid"])

    def uid(self, name: str) -> str | None:
        """The uid of an object that holds a value; None if there is none."""
        item = self.held.get((CONFIG_MAPS.kind, "", name))
        return None if item is None else str(item["metadata"]["uid"])

    @property
    def values(self) -> dict[str, Any]:
        """The values by name."""
        return {name: item["value"] for (_, _, name), item in self.held.items()}

    def compact(self) -> None:
        """Forget what happened."""
        self.forgotten = self.version
        self.history.clear()

    # --- what an informer asks ---------------------------------------------------------------------------------------------

    def pages(
        self, resource: Resource, *, namespace: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> Iterator[Json]:
        """The list as of one version, whatever is written meanwhile."""
        self._fail()
        self.lists += 1
        chosen = selector(resource.kind, namespace, labels, fields)
        items, version = [item for key, item in sorted(self.held.items()) if chosen(key[0], item)], str(self.version)
        for start in range(0, max(1, len(items)), self.page_size):
            yield {"metadata": {"resourceVersion": version}, "items": items[start : start + self.page_size]}
            if self.between_pages:
                self.between_pages.pop(0)()

    def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
        since: str | None = None,
    ) -> Iterator[tuple[str, Json]]:
        """What happened since a version. An object that is not selected any more is told as deleted."""
        self._fail()
        self.watches += 1
        begin = int(since or 0)
        if begin < self.forgotten:
            raise Gone(410, "Expired", "too old resource version")
        yield "OPEN", {"metadata": {}}
        chosen = selector(resource.kind, namespace, labels, fields)
        first = bisect.bisect_right(self.history, begin, key=lambda change: change.version)
        events = [change for change in self.history[first:] if change.kind == resource.kind]
        late = self.withheld(resource.kind)
        if again := self.repeats(resource.kind):
            events = [change for change in self.history[:first] if change.kind == resource.kind][-again:] + events
        told = 0
        for change in events[: len(events) - late] if late else events:
            was = change.before is not None and chosen(change.kind, change.before)
            item = change.after if change.after is not None and chosen(change.kind, change.after) else None
            if item is None and not was:
                continue
            if self.tells_at_most is not None and told >= self.tells_at_most:
                raise ApiError(LOST.status, LOST.reason, LOST.message)
            told += 1
            if item is not None:
                yield ("MODIFIED" if was else "ADDED"), item
            elif change.before is not None:
                metadata = {**change.before["metadata"], "resourceVersion": str(change.version)}
                yield "DELETED", {**change.before, "metadata": metadata}
        if not late:
            yield "BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}}

    def discover(self, api_version: str, kind: str) -> Resource:
        """A kind that is there."""
        found = self.resources.get((api_version, kind))
        if found is None:
            raise NotFound(404, "NotFound", f"the API server knows no kind {kind} in {api_version}")
        return found

    def forget(self, resource: Resource) -> None:
        """Nothing is remembered."""

    def _fail(self) -> None:
        if self.faults:
            raise self.faults.pop(0)


def selector(kind: str, namespace: str | None, labels: str | None, fields: str | None) -> Callable[[str, Json], bool]:
    """Whether an object of a kind is asked for. Of labels and fields it knows what the operator asks with."""
    terms = [_label_term(term) for term in (labels or "").split(",") if term]
    terms += [_field_term(term) for term in (fields or "").split(",") if term]

    def chosen(of: str, item: Json) -> bool:
        if of != kind or (namespace is not None and item["metadata"].get("namespace") != namespace):
            return False
        return all(term(item) for term in terms)

    return chosen


def _label_term(term: str) -> Callable[[Json], bool]:
    absent, name = term.startswith("!"), term.lstrip("!")
    return lambda item: (name in (item["metadata"].get("labels") or {})) != absent


def _field_term(term: str) -> Callable[[Json], bool]:
    unlike = "!=" in term
    path, _, wanted = term.partition("!=" if unlike else "=")

    def holds(item: Json) -> bool:
        found: Any = item
        for part in path.split("."):
            found = (found or {}).get(part)
        return (str(found or "") == wanted) != unlike

    return holds
