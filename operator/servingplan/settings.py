"""The settings of an installation, read once at the start and passed down as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class SharedPrometheus:
    """The installation's Prometheus, for plans without their own."""

    url: str = ""
    """The base URL of its API; empty: there is none."""
    token_file: str = ""
    """The file of the bearer token, which is sent to this URL alone; empty: none."""
    ca_file: str = ""
    """The file of the certificates that verify the server; empty: the system's."""
    namespace_label: str = "namespace"
    """The label of its time series with the namespace of the scraped pod."""
    plan_queries: bool = False
    """Whether plans may send their own PromQL here and to allowed hosts. It can read what other namespaces measure."""


@dataclass(frozen=True)
class Settings:
    """The settings of one operator process."""

    namespaces: tuple[str, ...] = ()
    """The watched namespaces of plans; empty means all."""
    pool_kinds: frozenset[str] | None = frozenset({"NodePool.karpenter.sh"})
    """The kinds of objects that may be sized, as ``Kind.group``; None allows every kind."""
    namespace_budgets: Mapping[str, float] = MappingProxyType({})
    """The $/h that all plans of a namespace may spend together; ``*`` means the namespaces that are not listed."""
    pod_access: frozenset[str] | None = frozenset()
    """The accesses that podTemplates may ask for, by the names of ``render.pod_access``; None allows all."""
    marks_machines: bool = False
    """Whether Machines of Cluster API are marked whose nodes a pool is to give back."""
    allowed_hosts: frozenset[str] | None = frozenset()
    """The hosts that plans may use in URLs beside the Services of their own namespace, as ``HOST`` or ``HOST:PORT``; None
    allows every host."""
    prometheus: SharedPrometheus = SharedPrometheus()
    catalogue_namespace: str = ""
    """The namespace whose ConfigMaps may add models, GPUs and prices, which is the operator's own; empty: none."""
    period_seconds: float = 15.0
    """The longest time between two turns of a plan."""
    solver_processes: int | None = None
    """The processes for searches that are not urgent; None: the number of cores, less one, at least one."""
    most_solver_seconds: float = 600.0
    """The upper bound of every plan's solver deadline."""
    liveness_address: str = "0.0.0.0:8080"
    """The ``HOST:PORT`` of ``/healthz`` and ``/readyz``; empty: none."""
    lease_namespace: str = ""
    """The namespace of the Leases that let one operator act at a time; empty: this process acts without a Lease."""
    identity: str = "servingplan"
    """The name of this process among the candidates for a Lease."""
    metrics_address: str = "127.0.0.1:8081"
    """The ``HOST:PORT`` of the operator's metrics, which have no authentication; empty: none."""
