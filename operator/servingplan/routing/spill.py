"""Sends a class whose planned replicas are all away to ready replicas of its model: late rather than not at all.

Such replicas do not meet the class's limits, else the plan would know a rate for it. They take it only into the rate that the
classes planned there leave unused; the gateway turns the rest away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from servingplan.api.models_v1alpha1 import RequestClass
from servingplan.model.fleet import ReplicaFacts
from servingplan.routing.admission import loads, utilization_limit


@dataclass(frozen=True)
class Spill:
    """The spill of one class."""

    shares: Mapping[str, float]
    """Numbers by Deployment that its weights are proportional to."""
    requests_per_second: float
    """The admitted rate in total."""


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
    """The spills of one model by class: those classes in ``away`` that ready replicas can take.

    ``classes``: all classes of the model by name. ``planned``: the admitted requests/s of the other classes. ``shares``: by
    class and Deployment, proportional to their weights. ``facts``, ``ready``: of the model's Deployments. ``contexts``: the
    longest sequence that a Deployment's replicas admit, tokens; absent if it is not known.
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
    """The requests/s of a class on a replica with known rates only of other classes; 0 if it has none.

    It is a lower estimate, since work per token and memory per request grow with the context. A known rate is divided by the
    larger ratio of the prompt lengths or answer lengths, and again by the ratio of the whole sequences.
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
