"""What an installation decides, read once at the start and passed down as a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Of one operator process."""

    namespaces: tuple[str, ...] = ()
    """Namespaces whose plans are looked after; none means all."""
    pool_kinds: frozenset[str] | None = frozenset({"NodePool.karpenter.sh"})
    """Kinds of objects that may be sized, as ``Kind.group``; None allows every kind."""
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
    metrics_address: str = "0.0.0.0:8081"
    """Where Prometheus finds the operator's metrics; empty: nowhere."""
