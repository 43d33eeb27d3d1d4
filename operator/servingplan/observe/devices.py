"""Devices of Dynamic Resource Allocation (``resource.k8s.io/v1``) as facts: slices, claims and classes.

Devices without a node of their own, with a taint that keeps pods off, or that share counters with others (partitions that
exclude each other) are left out: how many of these can be had at once depends on what is allocated.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from servingplan.model import names
from servingplan.model.world import DeviceClass, Devices

Json = dict[str, Any]

Device = tuple[str, str, str]
"""Driver, pool and name, which together are unique in a cluster."""
_SINGLE_DEVICE = re.compile(r"(uuid|id|addr|address|index|minor|root|serial|serialnumber)$", re.IGNORECASE)
"""Ends of names of attributes that tell single devices apart, such as uuid, pciBusID and resource.kubernetes.io/pcieRoot."""
_KEEPS_AWAY = ("NoSchedule", "NoExecute")
_TEXT = r"""(?:'([^'\\]*)'|"([^"\\]*)")"""
_DRIVER_TERM = re.compile(rf"device\.driver\s*==\s*{_TEXT}")
_ATTRIBUTE_TERM = re.compile(rf"device\.attributes\[{_TEXT}\]\.([A-Za-z_][A-Za-z0-9_]*)\s*==\s*{_TEXT}")


class SeenDevices(NamedTuple):
    """The devices of one ResourceSlice of a node."""

    node: str
    driver: str
    pool: str
    generation: int
    slices: int
    """The number of slices of which the pool consists in this generation."""
    devices: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """Names, with attributes in order of name."""


class SeenClaim(NamedTuple):
    """A ResourceClaim that holds devices."""

    namespace: str
    plan_label: str | None
    devices: frozenset[Device]


def seen_devices(item: Json) -> SeenDevices | None:
    """The facts of a ResourceSlice; None if its devices do not belong to one node."""
    spec = item.get("spec") or {}
    node, pool, driver = spec.get("nodeName"), spec.get("pool") or {}, str(spec.get("driver"))
    if not node:
        return None
    devices = tuple(
        (str(device.get("name")), _attributes(driver, device.get("attributes") or {}))
        for device in spec.get("devices") or ()
        if not device.get("consumesCounters")
        and not any(taint.get("effect") in _KEEPS_AWAY for taint in device.get("taints") or ())
    )
    count = int(pool.get("resourceSliceCount") or 1)
    return SeenDevices(node, driver, str(pool.get("name")), int(pool.get("generation") or 0), count, devices)


def _attributes(driver: str, found: Json) -> tuple[tuple[str, str], ...]:
    texts = {name if "/" in name else f"{driver}/{name}": value.get("string") for name, value in found.items()}
    return tuple(
        (name, text) for name, text in sorted(texts.items()) if text is not None and not _SINGLE_DEVICE.search(name)
    )


def seen_claim(item: Json) -> SeenClaim | None:
    """The facts of a ResourceClaim; None if it holds no device. Access for administrators holds none."""
    metadata, allocation = item["metadata"], (item.get("status") or {}).get("allocation") or {}
    held = frozenset(
        (str(result.get("driver")), str(result.get("pool")), str(result.get("device")))
        for result in (allocation.get("devices") or {}).get("results") or ()
        if not result.get("adminAccess")
    )
    if not held:
        return None
    return SeenClaim(metadata.get("namespace", ""), (metadata.get("labels") or {}).get(names.PLAN_LABEL), held)


def device_class_of(item: Json) -> DeviceClass:
    """What a DeviceClass asks for. Of its expressions those are read that compare the driver, or texts of attributes, and join
    such terms by ``&&``."""
    driver: str | None = None
    attributes: dict[str, str] = {}
    unread: str | None = None
    for selector in (item.get("spec") or {}).get("selectors") or ():
        expression = str((selector.get("cel") or {}).get("expression"))
        for term in map(str.strip, expression.split("&&")):
            if found := _DRIVER_TERM.fullmatch(term):
                driver = next(text for text in found.groups() if text is not None)
            elif found := _ATTRIBUTE_TERM.fullmatch(term):
                domain, value = found[1] or found[2], found[4] if found[4] is not None else found[5]
                attributes[f"{domain}/{found[3]}"] = value
            else:
                unread = expression
    return DeviceClass(name=item["metadata"]["name"], driver=driver, attributes=attributes, unread=unread)


def devices_by_node(
    slices: Iterable[SeenDevices], claims: Iterable[SeenClaim], *, namespace: str, plan_label: str
) -> dict[str, tuple[Devices, ...]]:
    """The devices of each node for a plan. Of a pool of devices only the newest generation counts, once all its slices are
    there, as for the scheduler."""
    newest: dict[tuple[str, str, str], list[SeenDevices]] = defaultdict(list)
    for item in slices:
        same = newest[item.node, item.driver, item.pool]
        if same and item.generation > same[0].generation:
            same.clear()
        if not same or item.generation == same[0].generation:
            same.append(item)
    held = {
        device
        for claim in claims
        if (claim.namespace, claim.plan_label) != (namespace, plan_label)
        for device in claim.devices
    }
    counts: dict[str, Counter[tuple[str, tuple[tuple[str, str], ...]]]] = defaultdict(Counter)
    others: dict[str, Counter[tuple[str, tuple[tuple[str, str], ...]]]] = defaultdict(Counter)
    for (node, driver, pool), parts in newest.items():
        if len(parts) < parts[0].slices:
            continue
        for name, attributes in (device for part in parts for device in part.devices):
            counts[node][driver, attributes] += 1
            others[node][driver, attributes] += (driver, pool, name) in held
    return {
        node: tuple(
            Devices(driver=key[0], attributes=dict(key[1]), count=count, held_by_others=others[node][key])
            for key, count in sorted(found.items())
        )
        for node, found in counts.items()
    }
