"""The parts of a condition, and the two ways in which every condition can fail."""

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
    """The condition as False if the turn found problems, with the first reason and all messages; else None."""
    found = [item for item in decision.findings if item.condition == condition and not item.holds]
    return Row(condition, "False", found[0].reason, "; ".join(item.message for item in found)) if found else None


def refusal(condition: str, item: Refused) -> Row:
    """The condition as False, since the API server did not accept a write."""
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
        return "Scaling"  # somebody else wrote first: the next turn reads again
    return "WriteFailed"
