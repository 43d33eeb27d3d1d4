"""The explanation of a plan as the status shows it."""

from __future__ import annotations

from servingplan.api.status_v1alpha1 import AlternativeStatus, ExplanationStatus, WorthStatus
from servingplan.model.world import Observation
from servingplan.planning import words
from servingplan.planning.situation import Situation

LONGEST_LINE = 300
"""The most characters of a line of the status."""
MOST_WORTH = 16


def explained_as(asked: str) -> str:
    """The name of a question in the status: the first digits of its digest."""
    return asked[:8]


def explain(world: Observation, asked: str, deadline_seconds: float) -> ExplanationStatus | None:
    """The explanation of the question that an observation poses, ``asked`` is its digest; None where it poses none. It is
    searched for at most ``deadline_seconds``."""
    from servingplan.planning.explain import explain_plan  # loads the solver

    situation = Situation(world)
    if situation.acting is None:
        return None
    found = explain_plan(situation, deadline_seconds=deadline_seconds)
    answer, explanation = found.answer, found.explanation
    if answer is None or found.question is None:
        return None
    clash: tuple[str, ...] = ()
    if explanation.clash is not None:
        clash = (words.conflict_title(explanation.clash), *words.conflict_lines(explanation.clash))
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
