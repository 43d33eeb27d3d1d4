"""Builds the status of a turn without a decision: the turn failed, or the plan is being deleted. All but Ready stays as it
was."""

from __future__ import annotations

from typing import Any, Literal

from servingplan.api.reasons import LONGEST_MESSAGE
from servingplan.api.status_v1alpha1 import Condition
from servingplan.decide.retirement import Retirement, retirement_status
from servingplan.model.world import PlanObject

MOST_TOLD = 5

Json = dict[str, Any]


def turn_failed(plan: PlanObject, error: BaseException, now: str) -> Json:
    """The status with Ready=False, reason ``TurnFailed``, since the turn could not be finished."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    message = (
        f"the operator could not finish this turn of the plan, and tries again: {text}. The rest of the status is from an "
        "earlier turn"
    )
    return _with_ready(plan, "TurnFailed", message, now)


def retiring(plan: PlanObject, step: Retirement, now: str) -> Json:
    """The status with Ready=False, reason ``Retiring``; ``retirement`` says what is left."""
    told = ", ".join(step.left[:MOST_TOLD]) + (
        f" and {len(step.left) - MOST_TOLD} more" if step.left[MOST_TOLD:] else ""
    )
    message = (
        f"the plan is being deleted; left: {told or 'nothing'}; its finalizer is removed at {step.until} at the latest"
    )
    return {**_with_ready(plan, "Retiring", message, now), "retirement": retirement_status(step)}


def _with_ready(plan: PlanObject, reason: str, message: str, now: str, state: Literal["False"] = "False") -> Json:
    before = {item.get("type"): item for item in plan.status.get("conditions") or ()}
    old = before.get("Ready") or {}
    since = old.get("lastTransitionTime") if old.get("status") == state else None
    ready = Condition(
        type="Ready",
        status=state,
        reason=reason,
        message=message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 4] + " ...",
        observed_generation=plan.generation,
        last_transition_time=since or now,
    )
    others = [item for kind, item in before.items() if kind not in ("Ready", "Stalled")]
    told = ready.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {**plan.status, "conditions": [*others, told]}
