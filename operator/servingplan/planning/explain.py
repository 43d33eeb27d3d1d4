"""Explains the plan: the explanation of its question, and the worth of changes that only the spec can express.

Latency limits are part of the rates of the question's shapes. So looser limits are another question, which is posed anew.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal

from servingplan.api.models_v1alpha1 import Slo
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import InputError
from servingplan.model.answer import Answer, Explanation, WhatIf
from servingplan.model.question import Question, QuestionError
from servingplan.planning.question import Posed, pose
from servingplan.planning.situation import Situation
from servingplan.solve import explain, solve
from servingplan.solve.sensitivity import Asker, gained
from servingplan.solve.solver.clock import Stopwatch

LOOSER = Decimal("1.01")
"""The factor of every latency limit in that what-if: one per cent more."""
SLO = "slo"
"""The name of that what-if."""
SHARE_OF_BASE = 0.5
"""The part of the time that finding the plan itself may take."""
LEAST_SECONDS = 0.1
"""The least time that it gets, in seconds."""


@dataclass(frozen=True)
class Explained:
    """The best plan for the present, found without a running fleet, and its explanation."""

    question: Question | None
    """The answer; None if nothing can be asked, for the reasons in `problems`."""
    answer: Answer | None
    problems: tuple[str, ...] = ()
    """Why there is no question: the errors of the spec, and the classes that nothing can serve."""

    @property
    def explanation(self) -> Explanation:
        """The explanation; empty if there is no answer."""
        return (self.answer.explanation if self.answer else None) or Explanation()


def explain_plan(situation: Situation, *, deadline_seconds: float | None = None) -> Explained:
    """The best plan for the spec and the present pools, whatever runs now, with its explanation. It is deterministic unless
    the deadline ends it early."""
    stopwatch = Stopwatch(deadline_seconds)
    posed, errors = _posed(situation, situation.spec)
    problems = (*map(str, errors), *posed.unfit)
    if posed.question is None or errors:
        no_room = tuple(f"{name}: no node of the pools can take a replica for it" for name in posed.no_room)
        return Explained(None, None, problems + no_room)
    question = posed.question
    left = stopwatch.remaining_seconds()
    try:
        share = None if left is None else max(LEAST_SECONDS, left * SHARE_OF_BASE)
        answer = solve(question, method="anytime", deadline_seconds=share)
    except QuestionError as error:
        return Explained(None, None, (*problems, str(error)))
    asker = Asker(stopwatch)
    looser = _with_looser_slo(situation, answer, asker) if answer.status != "Infeasible" else None
    found = explain(question, answer, deadline_seconds=stopwatch.remaining_seconds())
    found = found.model_copy(
        update={
            "worth": (*found.worth, *((looser,) if looser else ())),
            "pruned": dict(Counter(posed.pruned) + Counter(found.pruned)),
        }
    )
    return Explained(question, answer.model_copy(update={"explanation": found}), problems)


def _posed(situation: Situation, spec: PlanSpec) -> tuple[Posed, tuple[InputError, ...]]:
    return pose(
        spec=spec,
        pools=situation.pools,
        incumbent=None,
        rows=situation.rows,
        lessons=situation.lessons,
        catalogue=situation.known.catalogue,
    )


def _with_looser_slo(situation: Situation, answer: Answer, asker: Asker) -> WhatIf | None:
    """What latency limits that are one per cent looser are worth; None if there are none, or if the time is up."""
    spec = situation.spec
    models = tuple(
        model.model_copy(
            update={
                "slo": _looser(model.slo),
                "classes": tuple(
                    item.model_copy(update={"slo": item.slo and _looser(item.slo)}) for item in model.classes
                ),
            }
        )
        for model in spec.models
    )
    if models == spec.models:
        return None
    posed, _ = _posed(situation, spec.model_copy(update={"models": models}))
    found = asker.answer(posed.question) if posed.question is not None else None
    return None if found is None else gained(WhatIf(name=SLO, change={"slo-percent": 1.0}, answer=found), answer)


def _looser(slo: Slo) -> Slo:
    return slo.model_copy(
        update={
            field: value * LOOSER
            for field in ("ttft_seconds", "tpot_seconds")
            if (value := getattr(slo, field)) is not None
        }
    )
