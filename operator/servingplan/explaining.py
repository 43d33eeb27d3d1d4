"""Computes explanations beside the turns, in a thread of their own, when a plan is at rest and never while a turn runs.

A turn that has nothing to write asks for the explanation of its question and ends; a later turn shows it in the status. The
thread asks the planner one question at a time, each within a work limit, and before each one it waits until no turn of the
plan runs. A process computes one explanation at a time. Nothing is lost when the process ends, since finished explanations are
in the status.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from servingplan.api.status_v1alpha1 import AlternativeStatus, ExplanationStatus, WorthStatus
from servingplan.model.decision import Decision
from servingplan.planning import words
from servingplan.planning.situation import Situation
from servingplan.status.conclude import explained_as

log = logging.getLogger("servingplan")

LONGEST_LINE = 300
"""The most characters of a line of the status."""
MOST_WORTH = 16
_ONE_AT_A_TIME = threading.Lock()

Explain = Callable[[Situation, str, Callable[[], None]], ExplanationStatus | None]
"""Explains the question (its digest is given) that a situation poses; calls back before each question that it asks."""


class _Superseded(Exception):  # noqa: N818 (not an error: nobody wants to know any more)
    """The plan has another question by now."""


class Explainer:
    """Explains the questions of one plan."""

    def __init__(self, explain: Explain | None = None) -> None:
        self._explain = explain or explain_situation
        self._no_turn = threading.Event()
        self._no_turn.set()
        self._wanted: str | None = None
        self._found: dict[str, ExplanationStatus | None] = {}

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While the context is open, no question is begun."""
        self._no_turn.clear()
        try:
            yield
        finally:
            self._no_turn.set()

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

    def _work(self, situation: Situation, asked: str) -> None:
        def wait() -> None:
            self._no_turn.wait()
            if self._wanted != asked:
                raise _Superseded

        found = None
        try:
            with _ONE_AT_A_TIME:
                wait()
                found = self._explain(situation, asked, wait)
        except _Superseded:
            return
        except Exception:
            log.exception("%s: the plan could not be explained", situation.world.plan.key)
        self._found = {asked: found}


def explain_situation(situation: Situation, asked: str, before_each: Callable[[], None]) -> ExplanationStatus | None:
    """What the status says of the question that a situation poses; None where it poses none."""
    from servingplan.planning.explain import explain_plan  # loads the solver

    if situation.acting is None:
        return None
    seconds = float(situation.spec.solver.deadline_seconds)
    found = explain_plan(situation, deadline_seconds=seconds, before_each=before_each)
    answer, explanation = found.answer, found.explanation
    if answer is None or found.question is None:
        return None
    clash: tuple[str, ...] = ()
    if explanation.clash is not None:
        clash = (words.clash_title(explanation.clash), *words.clash_lines(explanation.clash))
    return ExplanationStatus(
        of=explained_as(asked),
        best=words.outcome(answer),
        worth=tuple(
            WorthStatus(one_more=_cut(words.one_more(item)), brings=_cut(words.gain(item, answer)))
            for item in explanation.worth[:MOST_WORTH]
        ),
        alternatives=tuple(
            AlternativeStatus(name=_cut(item.name), outcome=_cut(words.outcome(item.answer)))
            for item in explanation.alternatives
        ),
        clash=tuple(map(_cut, clash)),
        pruned=_cut(words.pruned(explanation.pruned, len(found.question.shapes))),
        not_asked=explanation.not_asked,
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 4] + " ..."
