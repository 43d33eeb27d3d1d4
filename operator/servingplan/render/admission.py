"""What of each class is admitted while fewer replicas are ready than its plan counts on.

The planner's own order, largest smallest served part first, within the weights that are published. Replicas serve one
model, so one model's shortage is never another's, whatever their priorities.
"""

from __future__ import annotations

from collections.abc import Mapping

from servingplan.model.fleet import ReplicaFacts

WHOLE = 1 - 1e-4
"""From this part on a class counts as admitted whole: weights are whole numbers that sum to 10,000."""

_SAME = 1 + 1e-9
"""Deployments that fill up within rounding of each other are full together."""


def admitted_parts(
    *,
    planned: Mapping[str, float],
    shares: Mapping[str, Mapping[str, float]],
    facts: Mapping[str, ReplicaFacts],
    ready: Mapping[str, int],
) -> dict[str, float]:
    """Part of its planned rate, 0 to 1, that each class of a model is admitted at.

    ``planned``: requests/s by class. ``shares``: by class and Deployment, what its weights are in proportion to; a class
    that has none, or no planned rate, is left as planned (1). The parts of all classes rise together until the ready
    replicas of a Deployment are at the utilisation up to which they keep their SLO; the classes that go there stay at that
    part, the others rise on, at most to 1.
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
    """Utilisation that a class brings to each Deployment when all of its planned rate comes."""
    whole = sum(shares.values())
    return {
        deployment: rate * share / whole / (_capacity(facts[deployment], name) * ready[deployment])
        for deployment, share in shares.items()
    }


def _capacity(replica: ReplicaFacts, name: str) -> float:
    """Requests/s of one replica; one of which it is not known can do what was planned for it."""
    return replica.capacity.get(name) or replica.planned[name]


def utilization_limit(replica: ReplicaFacts, copies: int) -> float:
    """Utilisation up to which so many copies keep their SLO."""
    table = replica.max_utilization or (1.0,)
    return table[min(copies, len(table)) - 1]


def _full_at(limit: float, load: Mapping[str, float], rising: list[str], parts: Mapping[str, float]) -> float:
    """Part of the classes that still rise at which a Deployment reaches its limit."""
    taken = sum(load[name] * parts[name] for name in load if name not in rising)
    return max(0.0, limit - taken) / sum(load[name] for name in load if name in rising)
