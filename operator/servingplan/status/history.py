"""The plans that were in force, newest first.

They are only shown, and nothing is decided by them. So they are kept in the status and not in the plan record: a record of a
newer form stops an older operator, and a list for people must not prevent a rollback. If the operator ended between the two
writes, the next turn adds what the record has and the status lacks.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from servingplan.api.status_v1alpha1 import PastDecision
from servingplan.model.decision import Decision
from servingplan.status.summary import served_of

LONGEST = 10


def history_after(status: dict[str, Any], decision: Decision, now: str) -> tuple[PastDecision, ...]:
    """The history after a turn, from the status before it, with the plan in force if that is not the newest."""
    before = _read(status)
    fleet = decision.fleet
    if fleet is None or (before and before[0].hash == fleet.hash):
        return before
    newest = PastDecision(
        time=now if decision.moved is not None else decision.in_force_since or now,
        hash=fleet.hash,
        reason=decision.moved or _reason_found(status, decision),
        dollars_per_hour=f"{fleet.dollars_per_hour:.2f}",
        served=served_of(fleet),
    )
    return (newest, *before)[:LONGEST]


def _reason_found(status: dict[str, Any], decision: Decision) -> str:
    """Why a plan of an earlier turn came into force, if the status says nothing about it."""
    if status.get("planHash") is None:
        return "FirstPlan"
    return "SpecChanged" if decision.in_force_generation > (status.get("observedGeneration") or 0) else "Unknown"


def _read(status: dict[str, Any]) -> tuple[PastDecision, ...]:
    """The history in the status; empty if somebody has written something else there."""
    try:
        return tuple(PastDecision.model_validate(item) for item in status.get("history") or ())[:LONGEST]
    except (ValidationError, TypeError):
        return ()
