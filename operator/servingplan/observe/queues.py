"""Kueue's quota of GPUs for the queue that a plan names.

A LocalQueue of the plan's namespace leads to a ClusterQueue, which has so many GPUs of each ResourceFlavor, and may borrow more
from its cohort. Its status says how many are reserved (kueue: apis/kueue/v1beta2/clusterqueue_types.go, cohort_types.go).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from servingplan.errors import NotFound
from servingplan.kube import Api, Resource
from servingplan.model.world import FlavorQuota
from servingplan.observe.cohorts import Member, available
from servingplan.observe.parse import Json
from servingplan.render.quantities import amount_of

VERSIONS = ("kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1")
"""What is read of them is the same in both, but for the name of the field that names a cohort."""


class SeenLocalQueue(NamedTuple):
    """The queue that plans of a namespace name."""

    namespace: str
    name: str
    cluster_queue: str
    stopped: bool = False
    """It admits nobody."""


class SeenFlavor(NamedTuple):
    """Nodes that quota is given of."""

    name: str
    node_labels: Mapping[str, str]


type Quotas = Mapping[tuple[str, str], Member]
"""Quotas of one ClusterQueue or Cohort by flavor and resource."""


class SeenClusterQueue(NamedTuple):
    """All quota behind a LocalQueue."""

    name: str
    quotas: Quotas
    cohort: str | None = None
    stopped: bool = False
    """Whether it admits nobody, like a LocalQueue that is stopped."""
    reclaims: bool = False
    """Whether it takes its nominal quota back from whoever in the cohort borrowed it, of any priority."""


class SeenCohort(NamedTuple):
    """Quota that queues share, beside that of each."""

    name: str
    quotas: Quotas
    cohort: str | None = None
    """The cohort that it belongs to."""


SeenQueue = SeenLocalQueue | SeenFlavor | SeenClusterQueue | SeenCohort


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
    return SeenLocalQueue(metadata["namespace"], metadata["name"], str(spec.get("clusterQueue", "")), _stopped(item))


def _stopped(item: Json) -> bool:
    """Whether a queue admits nobody: somebody stopped it, or Kueue calls it inactive, as where a flavor of it is missing."""
    conditions = (item.get("status") or {}).get("conditions") or ()
    inactive = any(entry.get("type") == "Active" and entry.get("status") == "False" for entry in conditions)
    return inactive or item.get("spec", {}).get("stopPolicy") not in (None, "None")


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
    name, cohort = item["metadata"]["name"], spec.get("cohortName") or spec.get("cohort") or None
    reclaims = (spec.get("preemption") or {}).get("reclaimWithinCohort") == "Any"
    quotas = _quotas(name, cohort, spec, reserved)
    return SeenClusterQueue(name, quotas, cohort, _stopped(item), reclaims)


def seen_cohort(item: Json) -> SeenCohort:
    """The facts of a Cohort."""
    spec = item.get("spec", {})
    name, cohort = item["metadata"]["name"], spec.get("parentName") or spec.get("parent") or None
    return SeenCohort(name, _quotas(name, cohort, spec, {}), cohort)


def _quotas(
    name: str, cohort: str | None, spec: Mapping[str, Any], reserved: Mapping[tuple[str, str], int]
) -> dict[tuple[str, str], Member]:
    return {
        (flavor["name"], resource["name"]): Member(
            name,
            cohort,
            _gpus(resource.get("nominalQuota")),
            _limit(resource.get("borrowingLimit")),
            _limit(resource.get("lendingLimit")),
            reserved.get((flavor["name"], resource["name"]), 0),
        )
        for group in spec.get("resourceGroups") or ()
        for flavor in group.get("flavors") or ()
        for resource in flavor.get("resources") or ()
    }


def _limit(quantity: Any) -> int | None:
    return None if quantity is None else _gpus(quantity)


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
            flavor=flavor,
            node_labels=dict(labels.get(flavor, {})),
            resource=resource,
            most=quota.used if stopped else _most(found, (flavor, resource), items),
            reserved=quota.used,
        )
        for (flavor, resource), quota in sorted(found.quotas.items())
    )


def _most(queue: SeenClusterQueue, of: tuple[str, str], items: Iterable[SeenQueue]) -> int:
    """GPUs that a queue may hold of a flavor and resource: what it holds, and what it and its cohort have left.

    What it holds stays its own where quota was cut or others hold too much, since Kueue takes nothing away then.
    """
    quota = queue.quotas[of]
    queues, cohorts = (
        [item.quotas.get(of, Member(item.name, item.cohort)) for item in items if isinstance(item, kind)]
        for kind in (SeenClusterQueue, SeenCohort)
    )
    left = available(quota, queues, cohorts)
    if left is None:
        return quota.used
    most = quota.used + max(0, left)
    return max(most, quota.nominal) if queue.reclaims else most
