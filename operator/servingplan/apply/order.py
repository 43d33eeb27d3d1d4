"""The order in which a decision is carried out, for any writer."""

from __future__ import annotations

from collections.abc import Callable

from servingplan.model.actions import AnyAction
from servingplan.model.decision import Decision
from servingplan.model.outcome import Outcome


def carry_out(decision: Decision, write: Callable[[tuple[AnyAction, ...]], Outcome]) -> Outcome:
    """Carry out all writes in order and return their outcome.

    If the plan's record cannot be written, nothing of the plan begins. Nothing shrinks unless the weights are written, since
    old weights may still point at it.
    """
    parts = [write(decision.first)]
    if parts[0].refused:
        return parts[0]
    parts += [write(decision.grow), write(decision.routing)]
    if not parts[-1].refused:
        parts.append(write(decision.shrink))
    return Outcome(
        done=tuple(action for part in parts for action in part.done),
        refused=tuple(item for part in parts for item in part.refused),
    )
