"""One kind of object, kept in memory as facts: listed once by pages, then watched from that version on.

A watch that ends is resumed from the last version that was seen; a version that is too old (410) is listed anew, and what
the list has not is told as gone. Everything backs off. What is held is what ``parse`` makes of an object, never the object.

Objects that we wrote ourselves are put in at once with the version that the API server gave them, so that nothing is
decided on what was there before; an event or a list that is older than that changes nothing. An answer of the API server
that is older than what the watch has told brings nothing back.
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
"""A watch that lasted this long was a good one: the next pause is the first again."""
TOMBSTONE_SECONDS = 600.0
"""How long a deletion of ours is remembered against lists and events of before."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Source[F]:
    """What an informer keeps."""

    name: str
    """For people: pods, nodes."""
    resource: Callable[[Api], Resource]
    """Finds the resource; raises ``NotFound`` where the API server does not know the kind."""
    parse: Callable[[Json], F | None]
    """Facts of an object; None: it is not held."""
    namespace: str | None = None
    labels: str | None = None
    fields: str | None = None
    optional: bool = False
    """The kind may be absent: then there are none, and that is no failure."""


@dataclass(frozen=True)
class Trouble:
    """Why a source is not up to date."""

    since: float
    """Clock of the informer."""
    error: ApiError


@dataclass
class Entry[F]:
    """One object."""

    version: int
    facts: F


@dataclass
class Health:
    """How an informer is doing; replaced, never changed, under the lock."""

    synced: bool = False
    """All that is there was listed once."""
    absent: bool = False
    """The API server does not know the kind."""
    contact: float | None = None
    """Clock; when the API server last told of it."""
    trouble: Trouble | None = None


class Informer[F]:
    """Keeps one source. ``changed(before, after)`` is called in the informer's thread, outside the lock."""

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
        self._tombstones: dict[str, float] = {}
        self._version: str | None = None
        self._health = Health()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    # --- reading; under the lock that all informers of a state share -------------------------------------------------

    @property
    def facts(self) -> list[F]:
        """Of all objects that are held, in no order."""
        with self._lock:
            return [entry.facts for entry in self._entries.values()]

    @property
    def health(self) -> Health:
        """How it is doing."""
        with self._lock:
            return self._health

    @property
    def settled(self) -> bool:
        """Listed once, or known why it cannot be."""
        health = self.health
        refused = health.trouble is not None and isinstance(health.trouble.error, Forbidden)
        return health.synced or health.absent or refused

    # --- our own writes --------------------------------------------------------------------------------------------

    def wrote(self, item: Json) -> None:
        """Take over an object as the API server returned it from a write of ours.

        The object may be gone by now, and its end told, before the answer was read. So an object that is not held is taken
        over only where it is newer than all that was told.
        """
        self._put(item, answer=True)

    def deleted(self, uid: str) -> None:
        """A deletion of ours that the API server has carried out."""
        with self._lock:
            before = self._entries.pop(uid, None)
            self._tombstones[uid] = self._clock()
        if before is not None:
            self._changed(self.source, before.facts, None)

    # --- keeping up ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, in a thread that does not keep the process alive."""
        self._thread = threading.Thread(target=self.run, name=f"informer-{self.source.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End at the next event or pause."""
        self._stopped.set()

    def run(self) -> None:
        """Until ``stop``."""
        pause = FIRST_PAUSE_SECONDS
        while not self._stopped.is_set():
            started = self._clock()
            try:
                self.once()
                error = None
            except Exception as caught:
                error = caught
            if self._stopped.is_set():
                return
            self._note(error)
            pause = FIRST_PAUSE_SECONDS if self._clock() - started > STEADY_SECONDS else pause
            asked = getattr(error, "retry_after_seconds", None) or 0.0
            # A watch that ended in order is resumed soon; everything else backs off.
            self._stopped.wait(max(asked, pause))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def once(self) -> None:
        """List, unless a version is known to go on from, and watch until the API server ends it."""
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
        """List once, without watching: for one look."""
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
                    found[item["metadata"]["uid"]] = Entry(_number(item), facts)
        at = int(version) if version.isdigit() else 0
        news: list[tuple[F | None, F | None]] = []
        with self._lock:
            now = self._clock()
            self._tombstones = {uid: then for uid, then in self._tombstones.items() if now - then < TOMBSTONE_SECONDS}
            for uid in self._tombstones:
                found.pop(uid, None)
            for uid, entry in self._entries.items():
                # What we wrote while the list was under way is not in it.
                if entry.version > (found[uid].version if uid in found else at):
                    found[uid] = entry
            for uid in self._entries.keys() | found.keys():
                before, after = self._entries.get(uid), found.get(uid)
                old, new = before.facts if before else None, after.facts if after else None
                if old != new:
                    news.append((old, new))
            self._entries = found
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
        uid, version, facts = item["metadata"]["uid"], _number(item), self._parsed(item)
        with self._lock:
            before = self._entries.get(uid)
            if uid in self._tombstones or (before is not None and version and version < before.version):
                return
            if answer and before is None and version and version <= self._told_until:
                return
            if facts is not None:
                self._entries[uid] = Entry(version, facts)
            else:
                self._entries.pop(uid, None)
        old = before.facts if before is not None else None
        if old != facts:
            self._changed(self.source, old, facts)

    def _remove(self, item: Json) -> None:
        uid = item["metadata"]["uid"]
        with self._lock:
            before = self._entries.pop(uid, None)
            self._tombstones.pop(uid, None)
            self._version = item["metadata"].get("resourceVersion") or self._version
        if before is not None:
            self._changed(self.source, before.facts, None)

    @property
    def _told_until(self) -> int:
        """The version up to which lists and watches have told everything; 0 where it is not known."""
        return int(self._version) if self._version is not None and self._version.isdigit() else 0

    def _parsed(self, item: Json) -> F | None:
        try:
            return self.source.parse(item)
        except Exception:
            name = (item.get("metadata") or {}).get("name")
            log.exception("%s: %s cannot be understood, and is left out", self.source.name, name)
            return None

    def _note(self, error: Exception | None) -> None:
        """How the last attempt ended."""
        with self._lock:
            health = self._health
            if error is None:
                self._health = Health(synced=True, contact=self._clock())
            elif isinstance(error, Gone):
                log.info("%s: the version to go on from is too old: listing anew", self.source.name)
            elif isinstance(error, NotFound) and self.source.optional:
                self._entries = {}
                self._health = Health(absent=True, contact=self._clock())
            else:
                since = health.trouble.since if health.trouble is not None else self._clock()
                told = (
                    error if isinstance(error, ApiError) else ApiError(0, "Failed", f"{type(error).__name__}: {error}")
                )
                self._health = Health(health.synced, False, health.contact, Trouble(since, told))
            self._lock.notify_all()
        if error is not None and not isinstance(error, ApiError):
            log.error("the watch of %s failed; it is begun again", self.source.name, exc_info=error)
        elif error is not None and not isinstance(error, Gone | NotFound):
            log.warning("the watch of %s ended: %s; it is begun again", self.source.name, error)


def _number(item: Json) -> int:
    """Resource versions are whole numbers that grow, one count for all objects of a kind (kubernetes.io, API concepts,
    since 1.35); 0 where one is not."""
    text = item["metadata"].get("resourceVersion", "")
    return int(text) if text.isdigit() else 0
