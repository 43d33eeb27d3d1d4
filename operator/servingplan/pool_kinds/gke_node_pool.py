"""``ContainerNodePool`` of ``container.cnrm.cloud.google.com``: a node pool of GKE, by Config Connector.

Source: GoogleCloudPlatform/k8s-config-connector, apis/container/v1beta1/containernodepool_types.go and
containercluster_types.go. ``nodeCount`` counts the nodes of each zone. The zones are ``nodeLocations``; without them those of
the cluster, which the pool's location (where that is a zone) or the URLs of its instance groups tell. The status has no
number of nodes. The pool's autoscaler is on while the block ``autoscaling`` is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, override

from servingplan.model.world import NodeTemplate
from servingplan.pool_kinds.any_path import AnyPath
from servingplan.pool_kinds.protocol import (
    INSTANCE_TYPE,
    ZONE,
    Json,
    at,
    object_name,
    taints_of,
    text_map,
    texts,
    whole_number,
)

NODE_COUNT = ("spec", "nodeCount")
POOL_LABEL = "cloud.google.com/gke-nodepool"
_ACCELERATOR = "cloud.google.com/gke-accelerator"
_ZONE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*-[a-z]")
"""Tells a zone (``us-central1-a``) from a region (``us-central1``)."""
_ZONE_IN_URL = re.compile(r"/zones/([^/]+)/")


class GkeNodePool(AnyPath):
    """Sized by ``spec.nodeCount``, times the number of zones."""

    status_keys = ("instanceGroupUrls",)

    def __init__(self) -> None:
        super().__init__(NODE_COUNT)

    @override
    def problem(self, item: Json) -> str | None:
        """Why the number or the zones are not known; None if they are."""
        if whole_number(at(item, NODE_COUNT)) is None:
            return "has no whole number at .spec.nodeCount: give it one (initialNodeCount counts only when it is made)"
        if not _zones(item):
            return (
                "counts its nodes by zone (.spec.nodeCount), and does not say which zones it has: give it "
                ".spec.nodeLocations"
            )
        return None

    @override
    def wanted(self, item: Json) -> int | None:
        """``nodeCount`` times the number of zones."""
        count, zones = whole_number(at(item, NODE_COUNT)), len(_zones(item))
        return None if count is None or not zones else count * zones

    @override
    def actual(self, item: Json) -> int | None:
        """None, because the status has no number of nodes."""
        return None

    @override
    def step(self, item: Json) -> int:
        """One node in each zone."""
        return max(1, len(_zones(item)))

    @override
    def sized_by(self, item: Json) -> str | None:
        """GKE's autoscaler, or the queue of pools that only ProvisioningRequests fill."""
        if at(item, ("spec", "autoscaling")):
            return "the cluster autoscaler of GKE (spec.autoscaling)"
        if at(item, ("spec", "queuedProvisioning", "enabled")) is True:
            return "ProvisioningRequests (spec.queuedProvisioning)"
        return None

    @override
    def node_label(self, item: Json) -> tuple[str, str] | None:
        """The label ``cloud.google.com/gke-nodepool``."""
        return POOL_LABEL, _pool_name(item)

    @override
    def template(self, item: Json) -> NodeTemplate:
        """The labels, taints and accelerators in ``nodeConfig``."""
        config = at(item, ("spec", "nodeConfig"))
        machine, zones = at(config, ("machineType",)), _zones(item)
        types = (machine,) if isinstance(machine, str) else ()
        labels = text_map(at(config, ("labels",))) | {POOL_LABEL: _pool_name(item)}
        labels |= dict.fromkeys((INSTANCE_TYPE,), machine) if types else {}
        labels |= {ZONE: zones[0]} if len(zones) == 1 else {}
        card = _card(config)
        labels |= {_ACCELERATOR: str(card["type"])} if card and card.get("type") else {}
        return NodeTemplate(
            labels=labels,
            taints=taints_of(at(config, ("taint",))),
            instance_types=types,
            gpus_per_node=whole_number(card.get("count")) or None if card else None,
            capacity_type=_capacity_type(config),
        )


def _zones(item: Json) -> tuple[str, ...]:
    """The zones of the pool, sorted; empty if they are not known."""
    own = texts(at(item, ("spec", "nodeLocations")))
    if own:
        return tuple(sorted(set(own)))
    location = at(item, ("spec", "location"))
    if isinstance(location, str) and _ZONE_NAME.fullmatch(location):
        return (location,)
    urls = texts(at(item, ("status", "instanceGroupUrls")))
    return tuple(sorted({match[1] for url in urls if (match := _ZONE_IN_URL.search(url))}))


def _card(config: Any) -> Mapping[str, Any] | None:
    """The one kind of whole accelerator; None if there is none, if there are several, or if they are slices or shares."""
    cards = at(config, ("guestAccelerator",))
    if not isinstance(cards, list) or len(cards) != 1 or not isinstance(cards[0], Mapping):
        return None
    return None if cards[0].get("gpuPartitionSize") or cards[0].get("gpuSharingConfig") else cards[0]


def _capacity_type(config: Any) -> str | None:
    if at(config, ("spot",)) is True or at(config, ("preemptible",)) is True:
        return "Spot"
    reserved = at(config, ("reservationAffinity", "consumeReservationType")) == "SPECIFIC_RESERVATION"
    return "Reserved" if reserved else None


def _pool_name(item: Json) -> str:
    return str(at(item, ("spec", "resourceID")) or object_name(item))
