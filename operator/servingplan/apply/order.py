"""The order in which a decision is carried out, whoever does the writing."""

from __future__ import annotations

from collections.abc import Callable

from servingplan.model.actions import AnyAction
from servingplan.model.decision import Decision
from servingplan.model.outcome import Outcome


def carry_out(decision: Decision, write: Callable[[tuple[AnyAction, ...]], Outcome]) -> Outcome:
    """What became of all writes, in order.

    A plan that cannot be written down is not begun. What weights still point at stays: nothing shrinks unless the weights
    are written.
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
