"""Kueue's quota of GPUs for the queue that a plan names.

A LocalQueue of the plan's namespace leads to a ClusterQueue, which has so many GPUs of each ResourceFlavor, some of them
borrowed from its cohort. Its status says how many are reserved (kueue: apis/kueue/v1beta2/clusterqueue_types.go).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from servingplan.errors import NotFound
from servingplan.kube import Api, Resource
from servingplan.model.world import FlavorQuota
from servingplan.observe.parse import Json
from servingplan.render.quantities import amount_of

VERSIONS = ("kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1")
"""What is read of them is the same in both."""


class SeenLocalQueue(NamedTuple):
    """The queue that plans of a namespace name."""

    namespace: str
    name: str
    cluster_queue: str
    stopped: bool = False
    """It admits nobody (``stopPolicy``)."""


class SeenFlavor(NamedTuple):
    """Nodes that quota is given of."""

    name: str
    node_labels: Mapping[str, str]


class SeenQuota(NamedTuple):
    """The quota of one resource in one flavor of a ClusterQueue."""

    flavor: str
    resource: str
    most: int | None
    """What the queue may hold, borrowed parts included; None: nothing bounds it."""
    reserved: int
    """What it holds."""


class SeenClusterQueue(NamedTuple):
    """All quota behind a LocalQueue."""

    name: str
    quotas: tuple[SeenQuota, ...]
    stopped: bool = False
    """Whether it admits nobody, like a LocalQueue that is stopped."""


SeenQueue = SeenLocalQueue | SeenFlavor | SeenClusterQueue


def discovered(kind: str) -> Callable[[Api], Resource]:
    """How a kind of Kueue's is found: in the newest version that is served. Raises ``NotFound`` where none is."""

    def find(api: Api) -> Resource:
        for version in VERSIONS[:-1]:
            try:
                return api.discover(version, kind)
            except NotFound:
                continue
        return api.discover(VERSIONS[-1], kind)

    return find


def seen_local_queue(item: Json) -> SeenLocalQueue:
    """The facts of a LocalQueue."""
    metadata = item["metadata"]
    spec = item.get("spec", {})
    return SeenLocalQueue(metadata["namespace"], metadata["name"], str(spec.get("clusterQueue", "")), _stopped(spec))


def _stopped(spec: Mapping[str, Any]) -> bool:
    return spec.get("stopPolicy") not in (None, "None")


def seen_flavor(item: Json) -> SeenFlavor:
    """The facts of a ResourceFlavor."""
    return SeenFlavor(item["metadata"]["name"], dict(item.get("spec", {}).get("nodeLabels") or {}))


def seen_cluster_queue(item: Json) -> SeenClusterQueue:
    """The facts of a ClusterQueue."""
    spec, status = item.get("spec", {}), item.get("status") or {}
    reserved = {
        (flavor.get("name"), resource.get("name")): _gpus(resource.get("total"))
        for flavor in status.get("flavorsReservation") or ()
        for resource in flavor.get("resources") or ()
    }
    in_cohort = bool(spec.get("cohortName") or spec.get("cohort"))
    quotas = [
        SeenQuota(
            flavor["name"],
            resource["name"],
            _most(resource, in_cohort),
            reserved.get((flavor["name"], resource["name"]), 0),
        )
        for group in spec.get("resourceGroups") or ()
        for flavor in group.get("flavors") or ()
        for resource in flavor.get("resources") or ()
    ]
    return SeenClusterQueue(item["metadata"]["name"], tuple(quotas), _stopped(spec))


def _most(resource: Mapping[str, Any], in_cohort: bool) -> int | None:
    """What a queue may hold of a resource. In a cohort it borrows without bound, unless it has a limit."""
    limit = resource.get("borrowingLimit")
    if in_cohort and limit is None:
        return None
    return _gpus(resource.get("nominalQuota")) + (_gpus(limit) if in_cohort else 0)


def _gpus(quantity: Any) -> int:
    """The whole number in a quantity; the API server writes 2000 as ``2k``. 0 where it is none."""
    amount = amount_of(quantity)
    return 0 if amount is None else max(0, int(amount))


def quota_of(seen: Iterable[SeenQueue], namespace: str, queue: str) -> tuple[FlavorQuota, ...] | None:
    """The quota behind a queue, by flavor and resource; None where Kueue or the queue is not there, or cannot be read.

    Of a queue that is stopped nobody can have more than is reserved.
    """
    items = list(seen)
    local = next(
        (item for item in items if isinstance(item, SeenLocalQueue) and item[:2] == (namespace, queue)),
        None,
    )
    behind = None if local is None else local.cluster_queue
    found = next((item for item in items if isinstance(item, SeenClusterQueue) and item.name == behind), None)
    if local is None or found is None:
        return None
    stopped = local.stopped or found.stopped
    labels = {item.name: item.node_labels for item in items if isinstance(item, SeenFlavor)}
    return tuple(
        FlavorQuota(
            flavor=quota.flavor,
            node_labels=dict(labels.get(quota.flavor, {})),
            resource=quota.resource,
            most=quota.reserved if stopped else quota.most,
            reserved=quota.reserved,
        )
        for quota in sorted(found.quotas, key=lambda quota: (quota.flavor, quota.resource))
    )
