"""What the doctor knows of a cluster, as values, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, override

from servingplan.model.names import words
from servingplan.model.readings import SeenCatalogue
from servingplan.model.world import Node


class Severity(StrEnum):
    """How much a finding matters."""

    ok = "ok"
    """It is as it should be."""
    note = "note"
    """Good to know; nothing has to be done."""
    problem = "problem"
    """Plans will not work, or not fully, before somebody acts."""


@dataclass(frozen=True)
class Finding:
    """One sentence about the cluster."""

    check: str
    """What was looked at: namespace, crd, operator, plans, permissions, gpus, pools, gateway, prometheus, multi-node, dra,
    kueue."""
    severity: Severity
    message: str
    fix: str | None = None
    """What to do: a command where there is one; None: nothing."""


@dataclass(frozen=True)
class Right:
    """One verb that the operator uses on one resource."""

    group: str
    resource: str
    """The plural name, with ``/subresource`` where it is one."""
    verb: str
    namespace: str | None
    """None: in the whole cluster."""
    purpose: str

    @override
    def __str__(self) -> str:
        name = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {name}" + (f" in {self.namespace}" if self.namespace else "")


@dataclass(frozen=True)
class Unread:
    """A source that could not be read."""

    why: str


@dataclass(frozen=True)
class Operator:
    """A Deployment of the operator."""

    namespace: str
    name: str
    release: str
    """The name of the Helm release; empty where the Deployment does not say it."""
    account: str
    """The name of its ServiceAccount."""
    replicas: int
    ready: int
    settings: Mapping[str, str]
    """The values of its environment variables ``SERVINGPLAN_...``, by name."""

    def has(self, namespace: str) -> bool:
        """Whether it manages the plans of a namespace."""
        listed = words(self.settings.get("SERVINGPLAN_NAMESPACES", ""))
        return not listed or namespace in listed

    @property
    def user(self) -> str:
        """The user name of its ServiceAccount."""
        return f"system:serviceaccount:{self.namespace}:{self.account}"


@dataclass(frozen=True)
class Leader:
    """Who holds a Lease of operators."""

    lease: str
    """``namespace/name`` of the Lease."""
    holder: str
    seconds_ago: float
    """Since it was renewed."""


@dataclass(frozen=True)
class SizedObject:
    """An object that sizes a pool of nodes."""

    key: str
    """``Kind.group``."""
    resource: str
    """The plural name with the group, as kubectl takes it."""
    namespace: str | None
    name: str
    item: Mapping[str, Any]
    """The object as the API server has it."""
    scalable: bool
    size_owners: tuple[str, ...]
    """The managers other than the operator that own the field of the size, by ``managedFields``, in order of name."""


@dataclass(frozen=True)
class PlanFacts:
    """A plan, as far as the doctor reads it."""

    namespace: str
    name: str
    routing: str
    """The name of its routing ConfigMap."""
    has_routes: bool
    """Whether it asks for HTTPRoutes."""
    deleted_at: str | None = None
    """Since when it is being deleted, RFC 3339."""


@dataclass(frozen=True)
class PrometheusFacts:
    """The Service that the URL of the installation's Prometheus names."""

    url: str
    service: str | None
    """``namespace/name``; None: the URL names no Service of the cluster."""
    ready: int = 0
    """Addresses of the Service that are ready."""


@dataclass(frozen=True)
class Facts:
    """Everything that was read. A source that could not be read is an ``Unread``."""

    namespace: str
    """The namespace of plans that is asked about."""
    account: str | None
    """The account whose rights were asked for; None: the caller's own."""
    groups: Mapping[str, tuple[str, ...]]
    """The served versions of each API group, the preferred one first."""
    namespace_exists: bool | Unread = True
    rights: int = 0
    """How many rights were asked for."""
    refused: tuple[Right, ...] | Unread = ()
    operators: tuple[Operator, ...] | Unread = ()
    leader: Leader | Unread | None = None
    """The operator that acts in the namespace; None: nobody holds its Lease, as far as it is told by one."""
    definition: Mapping[str, Any] | Unread | None = None
    """The CustomResourceDefinition of plans; None: there is none."""
    nodes: tuple[Node, ...] | Unread = ()
    pools: tuple[SizedObject, ...] = ()
    unread_pools: Mapping[str, str] = field(default_factory=dict)
    """Why objects of a kind (``Kind.group``) could not be listed."""
    plans: tuple[PlanFacts, ...] | Unread = ()
    """The plans of all namespaces."""
    routing_readers: Mapping[str, tuple[str, ...]] | Unread = field(default_factory=dict)
    """The pods of the namespace that read a ConfigMap, by the name of the ConfigMap."""
    gateways: tuple[str, ...] | Unread = ()
    """``namespace/name`` of the Gateways."""
    prometheus: PrometheusFacts | Unread | None = None
    devices: Mapping[str, int] | Unread = field(default_factory=dict)
    """Devices in ResourceSlices, by driver."""
    device_classes: tuple[str, ...] | Unread = ()
    """Names of the DeviceClasses."""
    queues: tuple[str, ...] | Unread = ()
    """Kueue's LocalQueues of the namespace."""
    catalogues: tuple[SeenCatalogue, ...] | Unread = ()
    """What the installation adds to the catalogue of GPUs and models."""
