"""What ready replicas carry of each class now: by the published weights, and by the rates at which replicas keep their SLO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from servingplan.api.v1alpha1 import Model, PlanSpec
from servingplan.model.fleet import ClassService, Fleet, ReplicaFacts
from servingplan.render.admission import admitted_parts
from servingplan.render.routing import shares_of, spilled_of


class Carried(NamedTuple):
    """Of one class."""

    model: str
    name: str
    asked_requests_per_second: float
    planned_requests_per_second: float
    """Under the plan in force."""
    requests_per_second: float
    """Of the ready replicas, at most the planned rate: gateways turn more away."""
    answered: bool
    """Some ready replica takes it; else the gateway answers 503."""
    in_time: bool
    """Within its limits; a class that spills is answered late."""

    @property
    def part(self) -> float:
        """Of what is asked for, 0 to 1, or more under a plan for more; 1 of a class that asks for nothing."""
        return self.requests_per_second / self.asked_requests_per_second if self.asked_requests_per_second > 0 else 1.0


def carried(
    *,
    spec: PlanSpec,
    fleet: Fleet,
    facts: Mapping[str, ReplicaFacts],
    ready: Mapping[str, int],
    contexts: Mapping[str, int] | None = None,
) -> tuple[Carried, ...]:
    """Every class of the plan in force. Arguments as of ``routing_document``, whose weights it goes by."""
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
    known = {item.name for item in model.effective_classes}
    services = [item for item in services if item.name in known]
    planned = {item.name: item.planned_requests_per_second for item in services}
    shares = {item.name: shares_of(model, item.name, facts, ready) for item in services}
    parts = admitted_parts(planned=planned, shares=shares, facts=facts, ready=ready)
    admitted = {name: rate * parts[name] for name, rate in planned.items()}
    spilled = spilled_of(model, planned, admitted, shares, facts, ready, contexts)
    out = []
    for item in services:
        late = spilled.get(item.name)
        rate = admitted[item.name] if shares[item.name] else 0.0
        out.append(
            Carried(
                model=model.name,
                name=item.name,
                asked_requests_per_second=item.requests_per_second,
                planned_requests_per_second=item.planned_requests_per_second,
                requests_per_second=rate if late is None else min(planned[item.name], late.requests_per_second),
                answered=bool(shares[item.name]) or late is not None,
                in_time=bool(shares[item.name]),
            )
        )
    return out
