"""Events to post on a plan."""

from __future__ import annotations

from typing import Literal

from servingplan.api.status_v1alpha1 import PlanStatus
from servingplan.decide.retirement import Retirement
from servingplan.model.actions import ClaimPool, DrainPod, ResizePool
from servingplan.model.decision import Decision
from servingplan.model.fleet import Part
from servingplan.model.outcome import Outcome
from servingplan.model.world import Observation
from servingplan.planning.availability import until
from servingplan.status.summary import gpus_of, served_of

_QUIET = (
    "Scaling",
    "NoGPUsVisible",
    "RollingOut",
    "Transitional",
    "NotAcknowledged",
    "NoReadyBackend",
    "NotPlanned",
    "PreviewOnly",
    "Searching",
)
"""Reasons that every change passes through; they make no Event."""


class Event(Part):
    """An Event to post on the plan."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    about: Literal["plan", "namespace"] = "plan"
    """The object that it is posted on: the namespace if the plan will soon be gone."""


def events(world: Observation, decision: Decision, outcome: Outcome, status: PlanStatus) -> tuple[Event, ...]:
    """Events about what happened in this turn."""
    out: list[Event] = []
    before = {item.get("type"): item for item in world.plan.status.get("conditions") or ()}
    if decision.fleet is not None and decision.fleet.hash != world.plan.status.get("planHash"):
        fleet = decision.fleet
        bought = f"{gpus_of(fleet) or 'no GPUs'} for {fleet.dollars_per_hour:.2f} $/h"
        text = f"plan {fleet.hash}: {bought}, {served_of(fleet)} served"
        out.append(Event(type="Normal", reason="PlanSolved", message=text))
    out += _of_actions(outcome)
    out += _of_caps(world, status)
    out += _of_failed_shapes(world, status)
    for condition in status.conditions:
        old = before.get(condition.type) or {}
        if (old.get("status"), old.get("reason")) == (condition.status, condition.reason):
            continue
        if condition.type == "Ready" and condition.status == "False":
            continue  # the cause has its own condition and its own Event
        if condition.status == "False" and condition.reason not in _QUIET:
            out.append(Event(type="Warning", reason=condition.reason, message=f"{condition.type}: {condition.message}"))
        elif condition.status == "True" and old.get("status") == "False" and condition.type == "Ready":
            out.append(Event(type="Normal", reason="Ready", message=condition.message))
    return tuple(out)


def _of_caps(world: Observation, status: PlanStatus) -> list[Event]:
    """Events about pools that newly give fewer nodes than asked for."""
    before = {item.get("name"): item.get("learnedCap") or {} for item in world.plan.status.get("nodePools") or ()}
    out = []
    for pool in status.node_pools:
        cap = pool.learned_cap
        if cap is not None and before.get(pool.name, {}).get("since") != cap.since:
            text = f"{pool.name} gives at most {cap.nodes} nodes{until(cap.until)}: {cap.message}"
            kind = "Normal" if cap.reason in ("Reserved", "NotReservedYet") else "Warning"
            out.append(Event(type=kind, reason=cap.reason, message=text))
    return out


def _of_failed_shapes(world: Observation, status: PlanStatus) -> list[Event]:
    """Events about shapes that failed to start and are newly left out."""
    before = {item.get("name"): item.get("since") for item in world.plan.status.get("failedShapes") or ()}
    return [
        Event(
            type="Warning",
            reason="ShapeFailed",
            message=f"{item.name} on {item.pool} did not start and is left out until {item.until}: {item.message}",
        )
        for item in status.failed_shapes
        if before.get(item.name) != item.since
    ]


def retirement_events(world: Observation, step: Retirement, outcome: Outcome) -> tuple[Event, ...]:
    """Events about the retirement of a plan."""
    key = world.plan.key
    out: list[Event] = []
    if not world.plan.status.get("retirement"):
        text = f"the plan is being deleted; its finalizer is removed by {step.until} at the latest"
        out.append(Event(type="Normal", reason="Retiring", message=text))
    out += _of_actions(outcome)
    refused = [f"{item.action.why}: {item.message}" for item in outcome.refused]
    left = (*step.left, *refused) if step.late else ()
    if step.done and left:
        text = f"plan {key} was deleted and could not give everything back: {'; '.join(left)}"
        out.append(Event(type="Warning", reason="LeftBehind", message=text, about="namespace"))
    elif step.done and not refused:
        out.append(Event(type="Normal", reason="Retired", message=f"plan {key} has given everything back"))
    return tuple(out)


def _of_actions(outcome: Outcome) -> list[Event]:
    out = []
    for action in outcome.done:
        if isinstance(action, ResizePool):
            out.append(Event(type="Normal", reason="PoolResized", message=action.why))
        elif isinstance(action, DrainPod):
            out.append(Event(type="Normal", reason="ReplicaDraining", message=action.why))
        elif isinstance(action, ClaimPool) and not action.claimed_by:
            out.append(Event(type="Normal", reason="PoolReleased", message=action.why))
    return out
