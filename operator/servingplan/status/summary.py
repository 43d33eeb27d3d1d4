"""A fleet in a word or two."""

from __future__ import annotations

from collections import Counter

from servingplan.model.fleet import Fleet


def gpus_of(fleet: Fleet) -> str:
    """Its GPUs by name, such as `2xA100-80GB,8xL4`; empty where it has none."""
    counts: Counter[str] = Counter()
    for item in fleet.replica_sets:
        counts[item.gpu] += item.replicas * item.gpus
    return ",".join(f"{counts[gpu]}x{gpu}" for gpu in sorted(counts))


def served_of(fleet: Fleet) -> str:
    """The part of the demand that it serves, or under MaximizeService the multiple of the mix."""
    if fleet.scale is not None:
        return f"{fleet.scale:.3g}x"
    asked = sum(item.requests_per_second for item in fleet.classes)
    planned = sum(item.planned_requests_per_second for item in fleet.classes)
    return "100%" if asked <= 0 or planned >= asked * (1 - 1e-6) else f"{min(0.999, planned / asked):.1%}"
