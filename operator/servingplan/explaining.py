"""Explanations of plans at rest, found beside the turns.

A turn that has nothing to write asks for the explanation of its question and ends. A later turn shows it in the status. The
operator has it computed in a process of its own (``solvers``). Nothing is lost when the operator ends, since finished
explanations are in the status.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from servingplan.api.status_v1alpha1 import ExplanationStatus
from servingplan.decide.turn import never
from servingplan.errors import Outdated
from servingplan.model.decision import Decision
from servingplan.model.world import Observation
from servingplan.planning.situation import Situation
from servingplan.status.explained import explain, explained_as

log = logging.getLogger("servingplan")

LOOK_SECONDS = 0.2
"""The time between two checks whether the explanation is still wanted."""


class Explain(Protocol):
    """Explains the question that an observation poses."""

    def __call__(
        self, world: Observation, asked: str, deadline_seconds: float, unwanted: Callable[[], bool] = never
    ) -> ExplanationStatus | None:
        """The explanation of the question with the digest ``asked``; None where there is nothing to explain. Raises
        ``Outdated`` once it is ``unwanted``."""
        ...


class Explainer:
    """Explains the questions of one plan."""

    def __init__(self, explain: Explain | None = None, *, after_seconds: float = 0.0) -> None:
        """Without ``explain`` it is computed in this process. ``after_seconds``: how long a question must stand before it is
        explained, so that no process is started for a question of the moment."""
        self._explain = explain or _explain_here
        self._after_seconds = after_seconds
        self._wanted: str | None = None
        self._found: dict[str, ExplanationStatus | None] = {}

    def of(self, decision: Decision) -> ExplanationStatus | None:
        """The explanation of a turn's question; None if it is not known yet."""
        return self._found.get(decision.asked) if decision.asked else None

    def begin(self, situation: Situation, decision: Decision) -> bool:
        """Start to explain the question of this turn, unless it is explained. Whether an explanation is being computed."""
        asked = decision.asked
        if asked is None or asked in self._found:
            return False
        plan = situation.world.plan
        if (plan.status.get("explanation") or {}).get("of") == explained_as(asked):
            return False
        if self._wanted != asked:
            self._wanted = asked
            threading.Thread(
                target=self._work, args=(situation, asked), name=f"explain {plan.key}", daemon=True
            ).start()
        return True

    def stop(self) -> None:
        """Give up the explanation that is being computed."""
        self._wanted = None

    def _work(self, situation: Situation, asked: str) -> None:
        found, seconds = None, float(situation.spec.solver.deadline_seconds)
        end = time.monotonic() + self._after_seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_SECONDS))
            if self._wanted != asked:
                return
        try:
            found = self._explain(situation.world, asked, seconds, lambda: self._wanted != asked)
        except Outdated:
            return
        except Exception:
            log.exception("%s: the plan could not be explained", situation.world.plan.key)
        if self._wanted == asked:
            self._found = {asked: found}


def _explain_here(
    world: Observation, asked: str, deadline_seconds: float, unwanted: Callable[[], bool] = never
) -> ExplanationStatus | None:
    del unwanted  # it cannot be stopped
    return explain(world, asked, deadline_seconds)
