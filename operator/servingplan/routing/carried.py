"""Computes the rate of each class that ready replicas carry, by published weights and rates at which they keep their SLO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from servingplan.api.models_v1alpha1 import Model
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.fleet import ClassService, Fleet, ReplicaFacts
from servingplan.routing.weights import spread


class Carried(NamedTuple):
    """The carried rate of one class."""

    model: str
    name: str
    asked_requests_per_second: float
    planned_requests_per_second: float
    """The planned rate of the plan in force."""
    requests_per_second: float
    """The rate of the ready replicas, at most the planned rate, since gateways turn more away."""
    answered: bool
    """Whether some ready replica takes the class; else the gateway answers 503."""
    in_time: bool
    """Whether it is answered within its limits; a class that spills over is answered late."""

    @property
    def part(self) -> float:
        """The carried share of the demand, 0 to 1, or more if the plan serves more; 1 for a class without demand."""
        return self.requests_per_second / self.asked_requests_per_second if self.asked_requests_per_second > 0 else 1.0


def carried(
    *,
    spec: PlanSpec,
    fleet: Fleet,
    facts: Mapping[str, ReplicaFacts],
    ready: Mapping[str, int],
    contexts: Mapping[str, int] | None = None,
) -> tuple[Carried, ...]:
    """The carried rate of every class of the plan in force. The arguments are those of ``routing_document``."""
    return tuple(
        item
        for model in spec.models
        for item in _of_model(
            model, [found for found in fleet.classes if found.model == model.name], facts, ready, contexts or {}
        )
    )


def _of_model(
    model: Model,
    services: list[ClassService],
    facts: Mapping[str, ReplicaFacts],
    ready: Mapping[str, int],
    contexts: Mapping[str, int],
) -> list[Carried]:
    over = spread(model, services, facts, ready, contexts)
    out = []
    for item in services:
        if item.name not in over.shares:
            continue
        planned, late = item.planned_requests_per_second, over.spilled.get(item.name)
        in_time = bool(over.shares[item.name])
        rate = planned * over.parts[item.name] if in_time else 0.0
        out.append(
            Carried(
                model=model.name,
                name=item.name,
                asked_requests_per_second=item.requests_per_second,
                planned_requests_per_second=planned,
                requests_per_second=rate if late is None else min(planned, late.requests_per_second),
                answered=in_time or late is not None,
                in_time=in_time,
            )
        )
    return out
