"""GPUs that are devices of Dynamic Resource Allocation: which devices of a node a pool counts, and which are held by
others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from servingplan.api.pools_v1alpha1 import Dra
from servingplan.model.world import DeviceClass, Devices, Node

PRODUCT_NAME = "productName"
"""The attribute by which drivers name the card."""
MIG = "mig"
_SLICES = (MIG, "amdgpu-partition")
"""Values of the attribute ``type`` by which the drivers of NVIDIA and AMD tell parts of a card from whole ones."""


def class_of(dra: Dra, classes: Iterable[DeviceClass]) -> DeviceClass | None:
    """The pool's DeviceClass; None if it is not there, or asks for something that is not understood."""
    found = next((item for item in classes if item.name == dra.device_class), None)
    return None if found is None or found.unread is not None else found


def imagined_class(dra: Dra) -> DeviceClass:
    """The class that is assumed without a cluster: that of the driver with its name."""
    return DeviceClass(name=dra.device_class, driver=dra.device_class)


def asked_of(dra: Dra, device_class: DeviceClass) -> dict[str, str]:
    """The attributes that a device must have for the pool, by the class and by the pool itself."""
    return {**device_class.attributes, **dra.asked}


def chosen(dra: Dra, classes: Iterable[DeviceClass], node: Node) -> tuple[Devices, ...]:
    """The devices of a node that the scheduler would allocate to a claim of the pool."""
    found = class_of(dra, classes)
    if found is None:
        return ()
    return tuple(
        item
        for item in node.devices
        if found.driver in (None, item.driver)
        and found.attributes.items() <= item.attributes.items()
        and dra.asked.items() <= item.attributes.items()
    )


def like(dra: Dra, classes: Iterable[DeviceClass], count: int) -> tuple[Devices, ...]:
    """The free devices that the pool counts, on a node that does not exist yet."""
    found = class_of(dra, classes)
    if found is None:
        return ()
    attributes = asked_of(dra, found)
    return (Devices(driver=found.driver or dra.device_class, attributes=attributes, count=count),)


def product_in(devices: Iterable[Devices]) -> tuple[str, str] | None:
    """The attribute and the value by which devices name their card; None if they do not."""
    named = (
        (key, value)
        for item in devices
        for key, value in sorted(item.attributes.items())
        if key.rpartition("/")[2] == PRODUCT_NAME
    )
    return next(named, None)


def slice_in(attributes: Mapping[str, str]) -> tuple[str, str] | None:
    """The attribute and the value by which devices say that they are parts of a card; None if they do not."""
    found = ((key, value) for key, value in attributes.items() if key.endswith("/type") and value in _SLICES)
    return next(found, None)


def text_of(devices: Iterable[Devices]) -> str:
    """The devices of a node, in words."""
    return ", ".join(
        f"{item.count} of {item.driver}"
        + "".join(
            f" {name}={value}"
            for key, value in sorted(item.attributes.items())
            if (name := key.rpartition("/")[2]) in ("type", "profile", PRODUCT_NAME)
        )
        for item in devices
    )
