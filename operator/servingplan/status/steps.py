"""The steps of a transition for people, and the one that is under way as the status counts it."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from servingplan.api.status_v1alpha1 import TransitionStatus
from servingplan.decide.transition import (
    MOST_WORK,
    step_in_force,
    transition_in_force,
    transition_proposed,
)
from servingplan.model.decision import Decision
from servingplan.model.outcome import Outcome
from servingplan.model.transition import Transition, TransitionStep
from servingplan.planning.situation import Situation

LONGEST_LINE = 300
"""The most characters of a line of the status."""


def step_after(situation: Situation, decision: Decision, outcome: Outcome) -> TransitionStatus | None:
    """The step that is under way after a turn, counted on from the status before it; None at rest.

    The number of a step never falls: if something comes in between, the number of all steps grows. Steps are counted only when
    the operator waits, because after a turn with writes the next one follows at once and must not be delayed. The number
    changes only when something else is waited for than before.
    """
    if decision.fleet is None:
        return None
    status, now = situation.world.plan.status, situation.world.now
    before = _read(status) if status.get("planHash") == decision.fleet.hash else None
    if outcome.done or unread(decision):
        return before
    first = step_in_force(situation, decision)
    if first is None:
        return None
    waits = waiting_for(first)
    goes_on = before is not None and _kinds(before.waiting_for) == _kinds(waits)
    step, of = (before.step, before.of) if before is not None and goes_on else _counted(situation, decision, before)
    return TransitionStatus(
        step=step,
        of=of,
        waiting_for=waits,
        since=before.since if before is not None and goes_on else now,
        dollars_per_hour=dollars(first),
        seconds=None if first.seconds is None else round(first.seconds),
    )


def unread(decision: Decision) -> bool:
    """Whether the turn could not read everything that it needs. A prediction of the next turns would then be wrong."""
    return any(item.condition == "InventoryAvailable" and not item.holds for item in decision.findings)


def _counted(situation: Situation, decision: Decision, before: TransitionStatus | None) -> tuple[int, int]:
    """The number of the step that is under way, and that of all steps."""
    found = transition_in_force(situation, decision, MOST_WORK)
    left = 1 if found is None else len(found.steps)
    if before is None:
        return 1, left
    if found is not None and found.more:
        # How many are left is not known. Where nothing of before is waited for any more, the next step has begun.
        step = before.step + _kinds(before.waiting_for).isdisjoint(_kinds(waiting_for(found.steps[0])))
        return step, max(before.of, step + left - 1)
    left_before = before.of - before.step + 1
    return before.step + max(0, left_before - left), before.of + max(0, left - left_before)


def steps_of(situation: Situation, decision: Decision) -> Transition | None:
    """The steps to the plan in force, or, if there is none, to the one that waits; None at rest."""
    if decision.fleet is None and decision.waiting is not None:
        return transition_proposed(situation, decision, decision.waiting)
    return transition_in_force(situation, decision)


def waiting_for(step: TransitionStep) -> str:
    """What a step waits for, such as ``nodes of l40s: 2; replicas of chat-a to start: 3``."""
    parts = [f"nodes of {item.pool}: {item.nodes - item.before}" for item in step.grow]
    parts += [f"replicas of {name} to start: {count}" for name, count in step.come.items()]
    parts += [f"replicas of {name} to drain: {count}" for name, count in step.drain.items()]
    parts += [f"replicas of {name} to stop: {count}" for name, count in step.go.items()]
    parts += [f"nodes of {item.pool} to be given back: {item.before - item.nodes}" for item in step.shrink]
    parts += [f"replicas behind another scheduling gate: {step.held}"] if step.held else []
    text = "; ".join(parts)
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 4] + " ..."


def step_lines(found: Transition) -> list[str]:
    """One line for each step: what is added and removed, the dollars per hour after it, and how long it is expected to
    take."""
    lines = []
    for number, step in enumerate(found.steps, 1):
        parts = [f"{item.pool} grows from {item.before} to {item.nodes} nodes" for item in step.grow]
        parts += [f"{_replicas(count, name)} start" for name, count in step.come.items()]
        parts += [f"{_replicas(count, name)} drain" for name, count in step.drain.items()]
        parts += [f"{_replicas(count, name)} stop" for name, count in step.go.items()]
        parts += [f"{item.pool} shrinks from {item.before} to {item.nodes} nodes" for item in step.shrink]
        parts += [f"another scheduling gate lets {step.held} replicas go"] if step.held else []
        takes = "" if step.seconds is None else f", about {step.seconds:.0f} s"
        lines.append(f"{number}. {', '.join(parts)}: then {dollars(step)} $/h{takes}")
    if found.more:
        lines.append("and more steps, which were not looked at")
    elif not found.reaches:
        lines.append("after these steps the plan is not there yet: the conditions say what keeps it from coming")
    return lines


def dollars(step: TransitionStep) -> str:
    """The spend after a step, $/h."""
    return "unknown" if step.dollars_per_hour is None else f"{step.dollars_per_hour:.2f}"


def _replicas(count: int, name: str) -> str:
    return f"{count} of {name}"


def _kinds(text: str) -> set[str]:
    """What is waited for, without the numbers, some of which may have been reached meanwhile."""
    return set(re.sub(r": \d+", "", text).split("; "))


def _read(status: dict[str, Any]) -> TransitionStatus | None:
    try:
        return TransitionStatus.model_validate(status.get("transition"))
    except ValidationError:
        return None
