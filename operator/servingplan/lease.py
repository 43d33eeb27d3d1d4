"""EFFECT. One operator acts at a time, by Leases of ``coordination.k8s.io``: one for each watched namespace, or one for all.

A candidate that finds a held Lease waits until it has not changed for its whole duration, by the candidate's own clock, as in
client-go. A holder that could not renew for ``RENEW_SECONDS`` stops acting. That is shorter than the duration, so it stops
before another one starts. A Lease for all namespaces and one for a single namespace exclude each other: a candidate with such
a rival does not start. If two wait for each other, the one with the later ``acquireTime`` gives way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from servingplan.errors import ApiError, Conflict, NotFound
from servingplan.kube import Api, Resource

log = logging.getLogger("servingplan.lease")

LEASES = Resource("coordination.k8s.io/v1", "leases", "Lease")
MANAGER = "servingplan-lease"
ALL = "servingplan-all"
DURATION_SECONDS = 10
RENEW_SECONDS = 7.0
"""How long a holder may act after its last renewal."""
PERIOD_SECONDS = 2.0
LABELS = {"app.kubernetes.io/managed-by": "servingplan"}

Json = dict[str, Any]


def lease_names(namespaces: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the Leases of an operator that watches these namespaces; empty means all."""
    return tuple(f"servingplan-in-{name}" for name in sorted(namespaces)) or (ALL,)


@dataclass
class _Seen:
    """Another process's Lease, and since when it has not changed."""

    version: str
    at: float


class Lease:
    """The Leases of one process. One thread calls ``step`` repeatedly; any thread may call ``held``."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        namespaces: tuple[str, ...],
        identity: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], str] = lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    ) -> None:
        """``namespace``: the namespace of the Leases. ``namespaces``: the watched namespaces; empty means all."""
        self._api = api
        self._namespace = namespace
        self._names = lease_names(namespaces)
        self.identity = identity
        self._clock = clock
        self._wall = wall
        self._renewed_at: float | None = None
        self._acquired: dict[str, str] = {}
        self._seen: dict[str, _Seen] = {}
        self.waiting_for: str | None = None
        """The holder of the Lease, for people, while this process waits."""

    @property
    def held(self) -> bool:
        """Whether this process may act now."""
        renewed = self._renewed_at
        return renewed is not None and self._clock() - renewed < RENEW_SECONDS

    def step(self) -> bool:
        """Take or renew all Leases. Whether they are held now."""
        begun, acting = self._clock(), self.held
        try:
            held = [self._take(name) for name in self._names]
            # Written before the others are read: if two start together, at least one sees the other.
            rival = None if acting or not all(held) else self._rival()
            taken = all(held) and rival is None
        except ApiError as error:
            log.warning("the lease could not be taken or renewed: %s", error)
            return self.held
        if taken:
            self.waiting_for = None
            self._renewed_at = begun
        else:
            self._renewed_at = None
            if rival is None or rival < min((at, name) for name, at in self._acquired.items()):
                self._give_back()
        return taken

    def release(self) -> None:
        """Release the Leases, so that another process may start at once."""
        self._renewed_at = None
        self._give_back()

    def _give_back(self) -> None:
        for name in [*self._acquired]:
            self._acquired.pop(name)
            try:
                found = self._api.get(LEASES, name, namespace=self._namespace)
                if (found.get("spec") or {}).get("holderIdentity") != self.identity:
                    continue
                patch = {
                    "metadata": {"resourceVersion": found["metadata"]["resourceVersion"]},
                    "spec": {"holderIdentity": None, "renewTime": None, "leaseDurationSeconds": 1},
                }
                self._api.merge(LEASES, name, patch, manager=MANAGER, namespace=self._namespace)
            except ApiError as error:
                log.warning("lease %s could not be released: %s", name, error)

    def _take(self, name: str) -> bool:
        now = self._wall()
        try:
            found = self._api.get(LEASES, name, namespace=self._namespace)
        except NotFound:
            return self._create(name, now)
        spec = found.get("spec") or {}
        holder = spec.get("holderIdentity")
        mine = holder == self.identity
        if not mine and holder and self._is_live(name, found):
            self.waiting_for = f"{holder} (lease {self._namespace}/{name})"
            self._acquired.pop(name, None)
            return False
        acquired = spec.get("acquireTime") if mine else now
        patch = {
            "metadata": {"resourceVersion": found["metadata"]["resourceVersion"]},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": DURATION_SECONDS,
                "acquireTime": acquired or now,
                "renewTime": now,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (0 if mine else 1),
            },
        }
        try:
            self._api.merge(LEASES, name, patch, manager=MANAGER, namespace=self._namespace)
        except Conflict:
            self._acquired.pop(name, None)
            return False  # another process was faster
        self._acquired[name] = acquired or now
        return True

    def _create(self, name: str, now: str) -> bool:
        manifest = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": self._namespace, "labels": LABELS},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": DURATION_SECONDS,
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }
        try:
            self._api.create(LEASES, manifest, namespace=self._namespace)
        except Conflict:
            return False
        self._acquired[name] = now
        return True

    def _is_live(self, name: str, found: Json) -> bool:
        """Whether a Lease was renewed within its duration, as far as this process has seen."""
        version, now = found["metadata"]["resourceVersion"], self._clock()
        seen = self._seen.get(name)
        if seen is None or seen.version != version:
            seen = self._seen[name] = _Seen(version, now)
        duration = (found.get("spec") or {}).get("leaseDurationSeconds") or DURATION_SECONDS
        return now - seen.at < float(duration)

    def _rival(self) -> tuple[str, str] | None:
        """The time and the name of another installation's live Lease for the same namespaces under another name; None if there
        is none."""
        label = ",".join(f"{key}={value}" for key, value in LABELS.items())
        for found in self._api.list(LEASES, namespace=self._namespace, labels=label):
            name, spec = found["metadata"]["name"], found.get("spec") or {}
            holder = spec.get("holderIdentity")
            if name in self._names or not holder or ALL not in (name, *self._names):
                continue
            if self._is_live(name, found):
                self.waiting_for = f"{holder} (lease {self._namespace}/{name}), which watches the same namespaces"
                return spec.get("acquireTime") or "", name
        return None


class Keeper:
    """Takes the steps of a ``Lease`` in a thread. It calls ``lost`` once if the lease was held and is lost."""

    def __init__(self, lease: Lease, *, lost: Callable[[], None]) -> None:
        self.lease = lease
        self._lost = lost
        self._won = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait for the lease at most ``seconds``; whether it is held."""
        return self._won.wait(seconds)

    def stop(self) -> None:
        """Stop the thread and release the Leases."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(PERIOD_SECONDS + 5)
        self.lease.release()

    def _step(self) -> bool:
        """Whether the lease is held. Nothing ends the thread while it may be: nobody would tell that it is lost."""
        try:
            return self.lease.step()
        except Exception:
            log.exception("the lease could not be taken or renewed")
            return self.lease.held

    def _keep(self) -> None:
        told: str | None = None
        while not self._stopped.is_set():
            if self._step():
                if not self._won.is_set():
                    log.info("%s has the lease and starts", self.lease.identity)
                self._won.set()
            elif self._won.is_set() and not self.lease.held:
                log.error("%s has lost the lease and stops", self.lease.identity)
                self._lost()
                return
            elif self.lease.waiting_for != told:
                told = self.lease.waiting_for
                log.info("standing by for %s", told or "the lease")
            self._stopped.wait(PERIOD_SECONDS)
