"""PURE. Finds the addresses of each Service's replicas in its EndpointSlices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from servingplan.model.names import SERVICE_LABEL

Json = dict[str, Any]
PORT_NAME = "http"

Addresses = dict[str, tuple[tuple[str, int], ...]]
"""The address and port of every replica, by Service."""


def addresses_of(slices: Iterable[Json]) -> Addresses:
    """The ready replicas of each Service. If none is ready, the replicas that still serve while they terminate, since an
    answer from them is better than none. Replicas that failed their probe are in neither."""
    ready: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
    ending: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
    for item in slices:
        service = (item["metadata"].get("labels") or {}).get(SERVICE_LABEL)
        port = _port(item)
        if service is None or port is None:
            continue
        for endpoint in item.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            places = {(address, port) for address in endpoint.get("addresses") or ()}
            if conditions.get("ready", True):  # an absent field means ready
                ready[service] |= places
            elif conditions.get("serving") and conditions.get("terminating"):
                ending[service] |= places
    return {name: tuple(sorted(ready[name] or ending[name])) for name in sorted({*ready, *ending})}


def _port(item: Json) -> int | None:
    ports = [entry for entry in item.get("ports") or () if entry.get("port")]
    named = [entry for entry in ports if entry.get("name") == PORT_NAME]
    return next((int(entry["port"]) for entry in named or ports), None)
