"""Where a class goes whose planned replicas are all away: to ready replicas of its model, late rather than not at all.

Such replicas do not meet the class's limits, or the plan would know a rate for it. They take it only into what the classes
that are planned there leave unused; the gateway turns the rest away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from servingplan.api.v1alpha1 import RequestClass
from servingplan.model.fleet import ReplicaFacts
from servingplan.render.admission import loads, utilization_limit


@dataclass(frozen=True)
class Spill:
    """Of one class."""

    shares: Mapping[str, float]
    """By Deployment, what its weights are in proportion to."""
    requests_per_second: float
    """Admitted in all."""


def spills(
    *,
    classes: Mapping[str, RequestClass],
    away: frozenset[str],
    planned: Mapping[str, float],
    shares: Mapping[str, Mapping[str, float]],
    facts: Mapping[str, ReplicaFacts],
    ready: Mapping[str, int],
    contexts: Mapping[str, int],
) -> dict[str, Spill]:
    """By class of one model, those in ``away`` that ready replicas can take.

    ``classes``: all of the model by name. ``planned``: requests/s that are admitted of the others; ``shares``: by class
    and Deployment, as their weights are. ``facts``, ``ready``: of the model's Deployments. ``contexts``: the longest
    sequence that a Deployment's replicas admit, tokens; absent where it is not known.
    """
    if not away:
        return {}
    busy = dict.fromkeys(facts, 0.0)
    for name, parts in shares.items():
        if name in away or planned.get(name, 0.0) <= 0 or not parts:
            continue
        for deployment, load in loads(name, planned[name], parts, facts, ready).items():
            busy[deployment] += load
    out = {}
    for name in sorted(away):
        item, rooms = classes[name], {}
        for deployment in sorted(facts):
            copies = ready.get(deployment, 0)
            fits = item.input_tokens + item.output_tokens <= contexts.get(
                deployment, item.input_tokens + item.output_tokens
            )
            rate = rate_of(item, classes, facts[deployment])
            if copies and fits and rate > 0:
                unused = max(0.0, utilization_limit(facts[deployment], copies) - busy[deployment]) / len(away)
                rooms[deployment] = (unused * rate * copies, rate * copies)
        if rooms:
            total = sum(room for room, _ in rooms.values())
            by = {key: room if total > 0 else able for key, (room, able) in rooms.items()}
            out[name] = Spill({key: share for key, share in by.items() if share > 0}, total)
    return out


def rate_of(item: RequestClass, classes: Mapping[str, RequestClass], replica: ReplicaFacts) -> float:
    """Requests/s of a class on a replica of which only the rates of other classes are known; 0 where none is.

    From below: work per token grows with the context, and so does memory per request. So a known rate is divided by how
    many times longer prompt or answer are, whichever is more, and again by how many times longer the whole sequence is.
    """
    known = []
    for name, rate in replica.capacity.items():
        other = classes.get(name)
        if other is None:
            continue
        longer = max(1.0, item.input_tokens / other.input_tokens, item.output_tokens / other.output_tokens)
        whole = (item.input_tokens + item.output_tokens) / (other.input_tokens + other.output_tokens)
        known.append(rate / (longer * max(1.0, whole)))
    return max(known, default=0.0)
