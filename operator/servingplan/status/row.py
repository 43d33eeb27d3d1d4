"""What every condition is made of, and the two ways in which any of them fails."""

from __future__ import annotations

from typing import Literal, NamedTuple

from servingplan.model.actions import ClaimPool, ResizePool
from servingplan.model.decision import Decision
from servingplan.model.outcome import Refused


class Row(NamedTuple):
    """A condition without its dates."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def failure(decision: Decision, condition: str) -> Row | None:
    """What the turn found against the condition: the first reason, every message."""
    found = [item for item in decision.findings if item.condition == condition and not item.holds]
    return Row(condition, "False", found[0].reason, "; ".join(item.message for item in found)) if found else None


def refusal(condition: str, item: Refused) -> Row:
    """The condition fails since the API server did not take a write."""
    advice = (
        "; grant the verb to the operator's account (the chart's roles list all it needs)"
        if item.reason == "Forbidden"
        else ""
    )
    return Row(condition, "False", _reason(item), f"{item.action.why}: {item.message}{advice}")


def _reason(item: Refused) -> str:
    if item.reason == "Forbidden":
        return "WriteForbidden"
    if item.reason in ("NameTaken", "ClaimedByOther"):
        return item.reason
    if isinstance(item.action, ResizePool | ClaimPool) and item.reason in ("Conflict", "Changed"):
        return "Scaling"  # somebody was faster: the next turn looks again
    return "WriteFailed"
