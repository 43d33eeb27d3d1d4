"""Wraps the solver for ``decide``: it keeps the deadline of the spec and answers the same question once."""

from __future__ import annotations

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.decide.turn import Solve
from servingplan.model.answer import Answer
from servingplan.model.question import Question, canonical_json


class RememberedSolve:
    """A solver that remembers its answer; else a plan that is only shown would be solved again in every turn."""

    def __init__(self, solve: Solve) -> None:
        self._solve = solve
        self._known: dict[tuple[str, str], Answer] = {}

    def __call__(
        self, question: Question, spec: PlanSpec, at_most_seconds: float | None = None, *, first: bool = False
    ) -> Answer:
        """The answer to the question. Only an answer that the clock cut short is searched again."""
        key = (canonical_json(question), spec.solver.model_dump_json())
        if key not in self._known:
            answer = self._solve(question, spec, at_most_seconds, first=first)
            if answer.stopped == "deadline":
                return answer
            while len(self._known) > 3:
                self._known.pop(next(iter(self._known)))
            self._known[key] = answer
        return self._known[key]


def solve_with(default_deadline_seconds: float | None = None) -> Solve:
    """The project's solver for ``decide``. It is imported late, since it loads slowly."""

    def answer(
        question: Question, spec: PlanSpec, at_most_seconds: float | None = None, *, first: bool = False
    ) -> Answer:
        from servingplan.solve import solve

        del first  # nobody else asks
        deadline = default_deadline_seconds or float(spec.solver.deadline_seconds)
        deadline = min(deadline, at_most_seconds or deadline)
        method = "anytime" if spec.solver.method == "Auto" else spec.solver.method
        return solve(question, method=method, deadline_seconds=deadline)

    return answer
