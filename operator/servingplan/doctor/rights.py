"""The rights that the operator needs, as the chart's roles grant them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from servingplan.api.v1alpha1 import GROUP, PLURAL
from servingplan.doctor.facts import Right

DEVICE_GROUP = "resource.k8s.io"
MACHINES_GROUP = "cluster.x-k8s.io"
FOLLOW = ("list", "watch")
READ = ("get", *FOLLOW)
CREATE_TO_DELETE = (*READ, "create", "patch", "delete")
OBSERVE = "read nodes, pods and plans"
WRITE = "write the objects of plans"
ROUTE = "write HTTPRoutes"
SPAN = "write replicas over several nodes"
DEVICES = "use GPUs that are devices"
SIZE = "size node pools"
REFUSALS = "read which nodes a provider refused"
MARK = "choose the Machine that a pool gives back"
LEAD = "hold the lease"
CATALOGUES = "read the catalogues of the installation"
QUOTA = "read the quota of queues"
OPTIONAL = (SPAN, DEVICES, QUOTA)
"""Purposes that an installation may leave out."""


class PoolResource(NamedTuple):
    """A kind of objects that size pools, as RBAC names it."""

    group: str
    plural: str


def needed(
    *,
    namespace: str,
    pools: Iterable[PoolResource],
    groups: Collection[str],
    lease_namespace: str,
    catalogue_namespace: str,
    marks_machines: bool = False,
) -> tuple[Right, ...]:
    """All rights for plans of a namespace, with these kinds of pools. ``groups``: API groups that the cluster serves. Without a
    namespace of leases or of catalogues nothing is needed for them. ``marks_machines``: this is switched on."""
    found = _rows(namespace, tuple(pools), groups, lease_namespace, catalogue_namespace)
    marking: tuple[_Row, ...] = (
        ((MARK, None, MACHINES_GROUP, "machines", ("get", "patch")),)
        if marks_machines and MACHINES_GROUP in groups
        else ()
    )
    return tuple(
        Right(group, resource, verb, where, purpose)
        for purpose, where, group, resource, verbs in (*found, *marking)
        for verb in verbs
    )


_Row = tuple[str, str | None, str, str, tuple[str, ...]]


def _rows(
    namespace: str,
    pools: tuple[PoolResource, ...],
    groups: Collection[str],
    lease_namespace: str,
    catalogue_namespace: str,
) -> Iterator[_Row]:
    yield from ((OBSERVE, None, "", name, FOLLOW) for name in ("nodes", "pods"))
    yield OBSERVE, None, GROUP, PLURAL, READ
    yield WRITE, namespace, GROUP, PLURAL, ("patch",)
    yield WRITE, namespace, GROUP, f"{PLURAL}/status", ("patch",)
    yield WRITE, namespace, "", "pods", ("get", "patch", "delete")
    yield WRITE, namespace, "", "services", CREATE_TO_DELETE
    yield WRITE, namespace, "", "configmaps", CREATE_TO_DELETE
    yield WRITE, namespace, "", "events", ("create",)
    yield WRITE, namespace, "apps", "deployments", CREATE_TO_DELETE
    yield WRITE, namespace, "policy", "poddisruptionbudgets", CREATE_TO_DELETE
    yield WRITE, namespace, "discovery.k8s.io", "endpointslices", FOLLOW
    if "gateway.networking.k8s.io" in groups:
        yield ROUTE, namespace, "gateway.networking.k8s.io", "httproutes", CREATE_TO_DELETE
    if "leaderworkerset.x-k8s.io" in groups:
        yield SPAN, namespace, "leaderworkerset.x-k8s.io", "leaderworkersets", CREATE_TO_DELETE
    if DEVICE_GROUP in groups:
        for name in ("resourceslices", "resourceclaims", "deviceclasses"):
            yield DEVICES, None, DEVICE_GROUP, name, FOLLOW
        yield DEVICES, namespace, DEVICE_GROUP, "resourceclaimtemplates", CREATE_TO_DELETE
    if "kueue.x-k8s.io" in groups:
        yield QUOTA, namespace, "kueue.x-k8s.io", "localqueues", FOLLOW
        yield QUOTA, None, "kueue.x-k8s.io", "clusterqueues", FOLLOW
        yield QUOTA, None, "kueue.x-k8s.io", "cohorts", FOLLOW
        yield QUOTA, None, "kueue.x-k8s.io", "resourceflavors", FOLLOW
    for group, plural in pools:
        yield SIZE, None, group, plural, (*READ, "patch")
        if group == "karpenter.sh":
            yield REFUSALS, None, group, "nodeclaims", FOLLOW
            yield REFUSALS, "default", "", "events", FOLLOW
    if lease_namespace:
        yield LEAD, lease_namespace, "coordination.k8s.io", "leases", ("get", "list", "create", "patch")
    if catalogue_namespace:
        yield CATALOGUES, catalogue_namespace, "", "configmaps", FOLLOW
