"""Computes the admitted share of each class while fewer replicas are ready than its plan counts on.

The order is max-min fairness, as in the planner, within the published weights. A replica serves one model, so a shortage of one
model is never another's, whatever their priorities.
"""

from __future__ import annotations

from collections.abc import Mapping

from servingplan.model.fleet import ReplicaFacts

WHOLE = 1 - 1e-4
"""From this share a class counts as fully admitted, since weights are whole numbers that sum to 10,000."""

_SAME = 1 + 1e-9
"""Deployments that fill up within this ratio of each other count as full together, because of rounding."""


def admitted_parts(
    *,
    planned: Mapping[str, float],
    shares: Mapping[str, Mapping[str, float]],
    facts: Mapping[str, ReplicaFacts],
    ready: Mapping[str, int],
) -> dict[str, float]:
    """The admitted share, 0 to 1, of the planned rate of each class of a model.

    ``planned``: requests/s by class. ``shares``: by class and Deployment, proportional to the weights. A class without
    shares or without a planned rate stays as planned (1). The shares of all classes rise together until the ready replicas
    of a Deployment reach the utilisation up to which they keep their SLO. The classes that use this Deployment stay at that
    share; the others rise further, at most to 1.
    """
    rising = sorted(name for name, rate in planned.items() if rate > 0 and shares.get(name))
    brought: dict[str, dict[str, float]] = {}
    for name in rising:
        for deployment, load in loads(name, planned[name], shares[name], facts, ready).items():
            if load > 0:
                brought.setdefault(deployment, {})[name] = load
    parts = dict.fromkeys(planned, 1.0)
    part = 0.0
    while rising:
        full_at = {
            deployment: _full_at(utilization_limit(facts[deployment], ready[deployment]), load, rising, parts)
            for deployment, load in brought.items()
            if not load.keys().isdisjoint(rising)
        }
        part = max(part, min(full_at.values(), default=1.0))
        if part >= WHOLE:
            break
        full = {name for deployment, at in full_at.items() if at <= part * _SAME for name in brought[deployment]}
        parts.update((name, part) for name in rising if name in full)
        rising = [name for name in rising if name not in full]
    return parts


def loads(
    name: str,
    rate: float,
    shares: Mapping[str, float],
    facts: Mapping[str, ReplicaFacts],
    ready: Mapping[str, int],
) -> dict[str, float]:
    """The utilisation of each Deployment by a class if all of its planned rate arrives."""
    whole = sum(shares.values())
    return {
        deployment: rate * share / whole / (_capacity(facts[deployment], name) * ready[deployment])
        for deployment, share in shares.items()
    }


def _capacity(replica: ReplicaFacts, name: str) -> float:
    """The requests/s of one replica; if unknown, the rate that was planned for it."""
    return replica.capacity.get(name) or replica.planned[name]


def utilization_limit(replica: ReplicaFacts, copies: int) -> float:
    """The utilisation up to which this many copies keep their SLO."""
    table = replica.max_utilization or (1.0,)
    return table[min(copies, len(table)) - 1]


def _full_at(limit: float, load: Mapping[str, float], rising: list[str], parts: Mapping[str, float]) -> float:
    """The share of the rising classes at which a Deployment reaches its limit."""
    taken = sum(load[name] * parts[name] for name in load if name not in rising)
    return max(0.0, limit - taken) / sum(load[name] for name in load if name in rising)
