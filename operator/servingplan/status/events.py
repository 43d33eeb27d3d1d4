"""Events to post on a plan."""

from __future__ import annotations

from typing import Literal

from servingplan.api.status_v1alpha1 import PlanStatus
from servingplan.model.actions import DrainPod, ResizePool
from servingplan.model.decision import Decision
from servingplan.model.fleet import Part
from servingplan.model.outcome import Outcome
from servingplan.model.world import Observation
from servingplan.status.summary import gpus_of, served_of

_QUIET = ("Scaling", "RollingOut", "Transitional", "NotAcknowledged", "NoReadyBackend", "NotPlanned", "PreviewOnly")
"""What every change passes through is no news."""


class Event(Part):
    """An Event to post on the plan."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def events(world: Observation, decision: Decision, outcome: Outcome, status: PlanStatus) -> tuple[Event, ...]:
    """What happened in this turn that a person would want to know."""
    out: list[Event] = []
    before = {item.get("type"): item for item in world.plan.status.get("conditions") or ()}
    if decision.fleet is not None and decision.fleet.hash != world.plan.status.get("planHash"):
        fleet = decision.fleet
        bought = f"{gpus_of(fleet) or 'no GPUs'} for {fleet.dollars_per_hour:.2f} $/h"
        text = f"plan {fleet.hash}: {bought}, {served_of(fleet)} served"
        out.append(Event(type="Normal", reason="PlanSolved", message=text))
    for action in outcome.done:
        if isinstance(action, ResizePool):
            out.append(Event(type="Normal", reason="PoolResized", message=action.why))
        elif isinstance(action, DrainPod):
            out.append(Event(type="Normal", reason="ReplicaDraining", message=action.why))
    for condition in status.conditions:
        old = before.get(condition.type) or {}
        if (old.get("status"), old.get("reason")) == (condition.status, condition.reason):
            continue
        if condition.status == "False" and condition.reason not in _QUIET:
            out.append(Event(type="Warning", reason=condition.reason, message=f"{condition.type}: {condition.message}"))
        elif condition.status == "True" and old.get("status") == "False" and condition.type == "Ready":
            out.append(Event(type="Normal", reason="Ready", message=condition.message))
    return tuple(out)
