"""The changes of a plan that waits, or is only shown, for the status."""

from __future__ import annotations

from pydantic import ValidationError

from servingplan.api.status_v1alpha1 import (
    BeforeAfter,
    NamesStatus,
    ObjectsStatus,
    ProposedClassStatus,
    ProposedStatus,
)
from servingplan.decide.proposal import proposal
from servingplan.decide.transition import MOST_WORK
from servingplan.model.decision import Decision
from servingplan.planning.situation import Situation
from servingplan.status.steps import LONGEST_LINE, step_lines, unread

MOST_NAMES, MOST_CLASSES, MOST_LINES = 16, 256, 20


def proposed(situation: Situation, decision: Decision) -> ProposedStatus | None:
    """What the waiting plan would change; None if none waits, or while another one is searched."""
    if situation.acting is None or decision.waiting is None or decision.searching:
        return None
    if unread(decision):
        return _as_before(situation, decision.waiting.hash)
    found = proposal(situation, decision, decision.fleet, decision.waiting, MOST_WORK)
    lines = step_lines(found.transition)
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"and {len(lines) - MOST_LINES + 1} steps more"]
    return ProposedStatus(
        hash=found.hash,
        objects=ObjectsStatus(
            created=_names(found.created), changed=_names(found.changed), removed=_names(found.removed)
        ),
        dollars_per_hour=BeforeAfter(
            before=f"{found.dollars_per_hour_before:.2f}", after=f"{found.dollars_per_hour_after:.2f}"
        ),
        classes=tuple(
            ProposedClassStatus(
                model=item.model, name=item.name, before=f"{item.before:.4g}", after=f"{item.after:.4g}"
            )
            for item in found.classes[:MOST_CLASSES]
        ),
        steps=tuple(line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 4] + " ..." for line in lines),
    )


def _as_before(situation: Situation, waiting: str) -> ProposedStatus | None:
    """What the status says of the waiting plan; None if it is about another one."""
    try:
        before = ProposedStatus.model_validate(situation.world.plan.status.get("proposed"))
    except ValidationError:
        return None
    return before if before.hash == waiting else None


def _names(found: tuple[str, ...]) -> NamesStatus:
    return NamesStatus(count=len(found), names=found[:MOST_NAMES])
