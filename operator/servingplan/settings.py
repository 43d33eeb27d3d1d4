"""What an installation decides, read once at the start and passed down as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class SharedPrometheus:
    """The installation's Prometheus, for plans that name none of their own."""

    url: str = ""
    """Base of its API; empty: there is none."""
    token_file: str = ""
    """Holds the bearer token that is sent to this URL alone; empty: none."""
    ca_file: str = ""
    """Holds the certificates that its own is checked by; empty: the system's."""
    namespace_label: str = "namespace"
    """Label of its time series that names the namespace of the pod that was scraped."""
    plan_queries: bool = False
    """Whether plans may ask PromQL of their own here and at listed hosts. It can read what other namespaces measure."""


@dataclass(frozen=True)
class Settings:
    """Of one operator process."""

    namespaces: tuple[str, ...] = ()
    """Namespaces whose plans are looked after; none means all."""
    pool_kinds: frozenset[str] | None = frozenset({"NodePool.karpenter.sh"})
    """Kinds of objects that may be sized, as ``Kind.group``; None allows every kind."""
    namespace_budgets: Mapping[str, float] = MappingProxyType({})
    """$/h that all plans of a namespace may spend together; ``*`` stands for the namespaces that are not listed."""
    pod_access: frozenset[str] | None = frozenset()
    """What podTemplates may ask for, as ``render.pod_access`` names it; None allows everything."""
    allowed_hosts: frozenset[str] | None = frozenset()
    """Hosts that plans may name in URLs beside the Services of their own namespace, as ``HOST`` or ``HOST:PORT``; None
    allows every host."""
    prometheus: SharedPrometheus = SharedPrometheus()
    catalogue_namespace: str = ""
    """Namespace whose ConfigMaps may add models, GPUs and prices: the operator's own; empty: none."""
    period_seconds: float = 15.0
    """Longest time between two turns of a plan."""
    solver_processes: int | None = None
    """For searches that are not in a hurry; None: as many as there are cores, less one, at least one."""
    most_solver_seconds: float = 600.0
    """Of any plan's solver, whatever its spec says."""
    liveness_address: str = "0.0.0.0:8080"
    """Where ``/healthz`` and ``/readyz`` are answered; empty: nowhere."""
    lease_namespace: str = ""
    """Where the Leases are that let one operator act at a time; empty: this one acts without."""
    identity: str = "servingplan"
    """Of this process among the candidates for a Lease."""
    metrics_address: str = "127.0.0.1:8081"
    """Where Prometheus finds the operator's metrics, which ask nobody who he is; empty: nowhere."""
