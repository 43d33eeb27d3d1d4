"""Keeps one kind of object in memory as facts: lists it once by pages, then watches it from that version on.

A watch that ends is resumed from the last version that was seen. If that version is too old (410), the kind is listed again,
and objects that the list lacks are reported as gone. Every failure backs off. The informer holds the facts that ``parse``
returns, never the object.

Objects that we wrote ourselves are taken over at once, with the version that the API server gave them, so that no decision uses
the older state. An older event or list changes nothing. An answer to a write that is older than the watch brings nothing back.
Of two objects with one name, the one with the greater version is there, and the other is gone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from servingplan.errors import ApiError, Forbidden, Gone, NotFound
from servingplan.kube import Api, Resource

log = logging.getLogger("servingplan.watch")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 10.0
"""A watch that lasted this long resets the back-off."""
UNLISTED_SECONDS = 10.0
"""How long a source that could never be listed is waited for."""
TOMBSTONE_SECONDS = 600.0
"""How long our own deletion is remembered, so that older lists and events do not undo it."""

Json = dict[str, Any]
Name = tuple[str, str]
"""Namespace and name, which only one object has at a time."""


@dataclass(frozen=True)
class Source[F]:
    """What an informer lists and watches."""

    name: str
    """Its name for people, such as pods or nodes."""
    resource: Callable[[Api], Resource]
    """Finds the resource. It raises ``NotFound`` if the API server does not know the kind."""
    parse: Callable[[Json], F | None]
    """Returns the facts of an object, or None if the object is not held."""
    namespace: str | None = None
    labels: str | None = None
    fields: str | None = None
    optional: bool = False
    """Whether the kind may be absent. Then it has no objects, which is not a failure."""


@dataclass(frozen=True)
class Trouble:
    """Why a source is not up to date."""

    since: float
    """The time on the informer's clock."""
    error: ApiError


@dataclass
class Entry[F]:
    """One object that is held."""

    name: Name
    version: int
    facts: F


@dataclass
class Health:
    """The health of an informer. Under the lock it is replaced, never changed."""

    synced: bool = False
    """Whether all objects were listed once."""
    absent: bool = False
    """Whether the API server does not know the kind."""
    contact: float | None = None
    """When the API server was last heard of, on the informer's clock."""
    trouble: Trouble | None = None


class Informer[F]:
    """Keeps the facts of one source. It calls ``changed(before, after)`` in its thread, outside the lock."""

    def __init__(
        self,
        api: Api,
        source: Source[F],
        *,
        lock: threading.Condition | None = None,
        changed: Callable[[Source[F], F | None, F | None], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self._api = api
        self._lock = lock or threading.Condition()
        self._changed = changed
        self._clock = clock
        self._entries: dict[str, Entry[F]] = {}
        """By uid."""
        self._uids: dict[Name, str] = {}
        self._tombstones: dict[str, float] = {}
        self._version: str | None = None
        self._health = Health()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    # --- reading; under the lock that all informers of a state share -------------------------------------------------

    @property
    def facts(self) -> list[F]:
        """The facts of all held objects, in no order."""
        with self._lock:
            return [entry.facts for entry in self._entries.values()]

    def versions(self) -> dict[str, int]:
        """The version that is held of each object, by uid."""
        with self._lock:
            return {uid: entry.version for uid, entry in self._entries.items()}

    @property
    def health(self) -> Health:
        """The present health."""
        with self._lock:
            return self._health

    @property
    def settled(self) -> bool:
        """Whether the source was listed once, or has a known reason why it cannot be: who cannot list it for a while does not
        wait for ever, and tells."""
        health = self.health
        trouble = health.trouble
        known = trouble is not None and (
            isinstance(trouble.error, Forbidden) or self._clock() - trouble.since > UNLISTED_SECONDS
        )
        return health.synced or health.absent or known

    # --- our own writes --------------------------------------------------------------------------------------------

    def wrote(self, item: Json) -> None:
        """Take over an object that the API server returned from our write.

        The object may be gone by now, and the watch may have reported its end before the answer was read. So an object that
        is not held is taken over only if it is newer than everything that was reported.
        """
        self._put(item, answer=True)

    def deleted(self, uid: str) -> None:
        """Take over our deletion that the API server has carried out."""
        with self._lock:
            before = self._drop(uid)
            self._tombstones[uid] = self._clock()
        if before is not None:
            self._changed(self.source, before.facts, None)

    # --- keeping up ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a thread, which does not keep the process alive."""
        self._thread = threading.Thread(target=self.run, name=f"informer-{self.source.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop at the next event or pause."""
        self._stopped.set()

    def run(self) -> None:
        """List and watch until ``stop``."""
        pause = FIRST_PAUSE_SECONDS
        while not self._stopped.is_set():
            started = self._clock()
            error = self.attempt()
            if self._stopped.is_set():
                return
            pause = FIRST_PAUSE_SECONDS if self._clock() - started > STEADY_SECONDS else pause
            asked = getattr(error, "retry_after_seconds", None) or 0.0
            # A watch that ended normally is resumed soon; everything else backs off.
            self._stopped.wait(max(asked, pause))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def attempt(self) -> Exception | None:
        """List and watch as far as it goes; how that ended counts as the source's health."""
        try:
            self.once()
            error = None
        except Exception as caught:
            error = caught
        if not self._stopped.is_set():
            self._note(error)
        return error

    def once(self) -> None:
        """List, unless a version is known to resume from, then watch until the API server ends the watch."""
        resource = self.source.resource(self._api)
        try:
            if self._version is None:
                self._list(resource)
            self._watch(resource)
        except Gone:
            self._version = None
            raise
        except NotFound:
            self._api.forget(resource)
            self._version = None
            raise

    def load(self) -> None:
        """List once, without watching."""
        try:
            self._list(self.source.resource(self._api))
        except Exception as error:
            self._note(error)

    def _list(self, resource: Resource) -> None:
        found: dict[str, Entry[F]] = {}
        version = ""
        where = self.source
        for page in self._api.pages(resource, namespace=where.namespace, labels=where.labels, fields=where.fields):
            version = page.get("metadata", {}).get("resourceVersion", "")
            for item in page.get("items") or ():
                facts = self._parsed(item)
                if facts is not None:
                    found[item["metadata"]["uid"]] = Entry(_name(item), _number(item), facts)
        at = int(version) if version.isdigit() else 0
        news: list[tuple[F | None, F | None]] = []
        with self._lock:
            now = self._clock()
            self._tombstones = {uid: then for uid, then in self._tombstones.items() if now - then < TOMBSTONE_SECONDS}
            for uid in self._tombstones:
                found.pop(uid, None)
            uids = {entry.name: uid for uid, entry in found.items()}
            for uid, entry in self._entries.items():
                # Our writes during the list are not in it.
                listed = uids.get(entry.name)
                if entry.version > (at if listed is None else found[listed].version):
                    if listed is not None:
                        del found[listed]
                    found[uid], uids[entry.name] = entry, uid
            for uid in self._entries.keys() | found.keys():
                before, after = self._entries.get(uid), found.get(uid)
                old, new = before.facts if before else None, after.facts if after else None
                if old != new:
                    news.append((old, new))
            self._entries, self._uids = found, uids
            self._version = version or None
            self._health = Health(synced=True, contact=now)
            self._lock.notify_all()
        for old, new in news:
            self._changed(self.source, old, new)

    def _watch(self, resource: Resource) -> None:
        where = self.source
        events = self._api.watch(
            resource, namespace=where.namespace, labels=where.labels, fields=where.fields, since=self._version
        )
        for kind, item in events:
            if self._stopped.is_set():
                return
            if kind == "DELETED":
                self._remove(item)
            elif kind in ("ADDED", "MODIFIED"):
                self._put(item)
            with self._lock:
                self._version = item["metadata"].get("resourceVersion") or self._version
                self._health = Health(synced=True, contact=self._clock())

    def _put(self, item: Json, *, answer: bool = False) -> None:
        uid, name, version, facts = item["metadata"]["uid"], _name(item), _number(item), self._parsed(item)
        with self._lock:
            known = self._uids.get(name, uid)
            before = self._entries.get(known)
            if uid in self._tombstones or (before is not None and version and version < before.version):
                return
            if answer and before is None and version and version <= self._told_until:
                return
            self._drop(known)
            if facts is not None:
                self._entries[uid], self._uids[name] = Entry(name, version, facts), uid
        old = before.facts if before is not None else None
        if known != uid and old is not None:  # the end of a predecessor, of which the watch has not told yet
            self._changed(self.source, old, None)
            old = None
        if old != facts:
            self._changed(self.source, old, facts)

    def _remove(self, item: Json) -> None:
        uid = item["metadata"]["uid"]
        with self._lock:
            before = self._drop(uid)
            self._tombstones.pop(uid, None)
            self._version = item["metadata"].get("resourceVersion") or self._version
        if before is not None:
            self._changed(self.source, before.facts, None)

    def _drop(self, uid: str) -> Entry[F] | None:
        """Hold an object no longer. Returns what was held. Under the lock."""
        entry = self._entries.pop(uid, None)
        if entry is not None:
            del self._uids[entry.name]
        return entry

    @property
    def _told_until(self) -> int:
        """The version up to which lists and watches have reported everything; 0 if it is not known."""
        return int(self._version) if self._version is not None and self._version.isdigit() else 0

    def _parsed(self, item: Json) -> F | None:
        try:
            return self.source.parse(item)
        except Exception:
            name = (item.get("metadata") or {}).get("name")
            log.exception("%s: %s cannot be parsed, and is left out", self.source.name, name)
            return None

    def _note(self, error: Exception | None) -> None:
        """Keep how the last attempt ended."""
        with self._lock:
            health = self._health
            refused = health.trouble is not None and isinstance(health.trouble.error, Forbidden)
            if error is None:
                self._health = Health(synced=True, contact=self._clock())
            elif isinstance(error, NotFound) and self.source.optional:
                self._entries, self._uids = {}, {}
                self._health = Health(absent=True, contact=self._clock())
            else:
                since = health.trouble.since if health.trouble is not None else self._clock()
                told = (
                    error if isinstance(error, ApiError) else ApiError(0, "Failed", f"{type(error).__name__}: {error}")
                )
                self._health = Health(health.synced, False, health.contact, Trouble(since, told))
            self._lock.notify_all()
        if error is not None and not isinstance(error, ApiError):
            log.error("the watch of %s failed; it is restarted", self.source.name, exc_info=error)
        elif isinstance(error, Forbidden) and self.source.optional and refused:
            pass  # an installation without this right was told of once
        elif isinstance(error, Gone):
            log.info("%s: the resource version is too old: listing again", self.source.name)
        elif error is not None and not isinstance(error, NotFound):
            log.warning("the watch of %s ended: %s; it is restarted", self.source.name, error)


def _name(item: Json) -> Name:
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _number(item: Json) -> int:
    """The resource version as a number; 0 if it is not one. Resource versions are whole numbers that grow, one count for all
    objects of a kind (kubernetes.io, API concepts, since 1.35)."""
    text = item["metadata"].get("resourceVersion", "")
    return int(text) if text.isdigit() else 0
