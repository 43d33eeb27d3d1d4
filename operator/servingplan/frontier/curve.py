"""The best plan at every value of a sweep.

Values are taken from the largest down. Where a larger budget or stock changes nothing, the plan of the larger value is the
proved answer at the smaller one as well, and no search is made; elsewhere the search begins with what is left of that plan.
Under demand each plan is a plan for less demand, and serves no smaller share of it: the search begins with it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping

from servingplan.frontier.sweep import Sweep
from servingplan.model.answer import Answer
from servingplan.model.goal import Goal, Kind
from servingplan.model.question import Question
from servingplan.solve.plan.plan import is_better
from servingplan.solve.solver.tolerance import gap_of

Ask = Callable[[Question, Mapping[str, int]], Answer]
"""Answers a question. The search begins with the given copies by shape."""


def answers_along(
    sweep: Sweep, base: Question, ask: Ask, *, sunk_dollars_per_hour: float = 0.0
) -> Iterator[tuple[float, Answer]]:
    """The values and their answers as they are found, from the largest value down."""
    before: Answer | None = None
    for value in reversed(sweep.values):
        question = sweep.question(base, value, sunk_dollars_per_hour=sunk_dollars_per_hour)
        if before is None or not sweep.still_best(before, question):
            before = ask(question, before.replicas if before is not None else {})
            yield value, before
        else:  # which limits hold it was told of the larger value
            yield value, before.model_copy(update={"binding": ()})


def never_falling(
    sweep: Sweep, base: Question, answers: Mapping[float, Answer], *, sunk_dollars_per_hour: float = 0.0
) -> dict[float, Answer]:
    """The answers by rising value, none worse than that at the value before.

    A search that was cut short may find less than one at a smaller budget or stock did. That plan is then the answer here
    too, with the bounds of this question. Under demand the answers stay as they are.
    """
    found = dict(sorted(answers.items()))
    if not sweep.nested:
        return found
    best: Answer | None = None
    for value, answer in found.items():
        if best is not None and _is_better(best, answer):
            question = sweep.question(base, value, sunk_dollars_per_hour=sunk_dollars_per_hour)
            best = found[value] = _bounded(best, answer, question)
        else:
            best = answer
    return found


def _is_better(smaller: Answer, larger: Answer) -> bool:
    if "Infeasible" in (smaller.status, larger.status):
        return smaller.status != "Infeasible"
    return is_better(_values(smaller), _values(larger))


def _bounded(smaller: Answer, larger: Answer, question: Question) -> Answer:
    """The plan of the answer at a smaller value, with the bounds of a larger one whose own plan is worse.

    A bound on a level holds if the earlier levels are unchanged. Later levels get the bounds of any plan.
    """
    known = {level.goal: level for level in larger.levels}
    levels, as_before = [], True
    for level in smaller.levels:
        bounded = known.get(level.goal)
        bound = bounded.bound if bounded is not None and as_before else _of_any_plan(level.goal, question)
        as_before = as_before and bounded is not None and level.value == bounded.value
        bound = level.goal.no_worse(bound, level.value)
        gap = gap_of(level.value, bound)
        levels.append(level.model_copy(update={"bound": bound, "gap": gap, "proved": gap == 0.0}))
    told = next((level for level in levels if not level.proved), levels[-1])
    return smaller.model_copy(
        update={
            "status": "Optimal" if told.proved else "Feasible",
            "stopped": "proved" if told.proved else larger.stopped if larger.stopped != "proved" else "work-limit",
            "gap": told.gap,
            "bound": told.bound,
            "levels": tuple(levels),
            "binding": (),
            "reasons": (),
        }
    )


def _of_any_plan(goal: Goal, question: Question) -> float:
    """The best value that any plan could have on a level: all of the service, the floors' dollars, any scale."""
    if goal.kind == Kind.DOLLARS:
        return math.fsum(pool.min_nodes * pool.dollars_per_node_hour for pool in question.pools)
    if goal.kind == Kind.SERVED_TOTAL:
        return math.fsum(cls.requests_per_second for cls in question.classes if cls.priority == goal.priority)
    return 1.0 if goal.kind == Kind.SERVED_FRACTION else sys.float_info.max


def _values(answer: Answer) -> dict[Goal, float]:
    return {level.goal: level.value for level in answer.levels}
