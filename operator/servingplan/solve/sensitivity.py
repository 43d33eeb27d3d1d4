"""Explains a plan: what one more unit of each limit would gain, the answers to other questions, how many shapes were dropped.

A gain is the difference of two answers, never a dual value: plans have whole nodes and whole copies, so a dual value of the
relaxation can promise what no plan reaches. Both answers carry bounds, so the difference has bounds too. If the bounds cannot
distinguish a gain from 0, the explanation says so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from servingplan.model.answer import Answer, Explanation, WhatIf
from servingplan.model.goal import MOVES
from servingplan.model.question import Question, QuestionError
from servingplan.solve.conflicts.conflict import find_conflict
from servingplan.solve.conflicts.limits import changed, one_more
from servingplan.solve.entry import solve
from servingplan.solve.problem.instance import instance_of
from servingplan.solve.solver.clock import Stopwatch
from servingplan.solve.solver.tolerance import DUST, TOLD

NODES = 1_000
"""Work limit of each level of each question that is asked, in branch-and-bound nodes."""
GAP = 1e-6
"""Gap of those answers: as small as the solver's own rounding."""
MOST_UNITS = 12
"""The most limits that are raised by one unit."""
MORE_BUDGET = 1.1
"""Factor of the alternative `budget+10%`."""


@dataclass(frozen=True)
class Asker:
    """Answers changed questions until the time is up."""

    stopwatch: Stopwatch

    def answer(self, question: Question) -> Answer | None:
        """The answer, found without the running fleet; None if the time is up or a loss cannot be guarded against."""
        left = self.stopwatch.remaining_seconds()
        if left is not None and left <= 0.0:
            return None
        fresh = question.model_copy(update={"running": None, "change": None})
        try:
            return solve(
                fresh, method="anytime", deadline_seconds=left, relative_gap=GAP, node_limit=NODES, why_infeasible=False
            )
        except QuestionError:
            return None


def explain(question: Question, answer: Answer, *, deadline_seconds: float | None = None) -> Explanation:
    """The explanation of an answer. It is deterministic unless `deadline_seconds` ends it early."""
    if answer.status == "Infeasible":
        return answer.explanation or Explanation()
    asker = Asker(Stopwatch(deadline_seconds))
    units = list(one_more(question, answer))
    worth = [found for name, value in units[:MOST_UNITS] if (found := _worth(asker, question, answer, name, value))]
    wishes = list(_alternatives(question, answer))
    others = [
        WhatIf(name=name, change=change, answer=other)
        for name, change in wishes
        if (other := asker.answer(changed(question, change))) is not None
    ]
    conflict = find_conflict(question, asker.stopwatch, full_service=True) if answer.unserved else None
    return Explanation(
        worth=tuple(worth),
        alternatives=tuple(others),
        not_asked=len(units) + len(wishes) - len(worth) - len(others),
        pruned={"Dominated": len(question.shapes) - len(instance_of(question).shapes)},
        clash=conflict,
    )


def _worth(asker: Asker, question: Question, answer: Answer, name: str, value: float) -> WhatIf | None:
    change = {name: value}
    found = asker.answer(changed(question, change))
    return None if found is None else gained(WhatIf(name=name, change=change, answer=found), answer)


def gained(what_if: WhatIf, before: Answer) -> WhatIf:
    """The what-if with its gain over `before`, the answer to the question with the tighter limits.

    On each level, the true gain lies between the value of the what-if less the bound of `before` and the bound of the what-if
    less the value of `before`. The first level on which the answers may differ decides, because later levels compare only
    plans that are equal on it. A search that was cut short may return a plan that is worse on an earlier level; then no later
    gain is certain.
    """
    after = {level.name: level for level in what_if.answer.levels}
    comparable = True
    for level in before.levels:
        other = after.get(level.name)
        if other is None or level.goal == MOVES:
            continue
        sign = 1.0 if level.goal.rises else -1.0
        certain = TOLD * max(abs(level.value), abs(other.value)) + DUST
        if sign * (other.bound - level.value) > certain:
            surely = comparable and sign * (other.value - level.bound) > certain
            return what_if.model_copy(
                update={
                    "level": level.name,
                    "gain": max(0.0, sign * (other.value - level.value)) if comparable else 0.0,
                    "at_most": sign * (other.bound - level.value),
                    "distinguishable": surely,
                }
            )
        comparable = comparable and sign * (level.value - other.value) <= certain
    return what_if


def _alternatives(question: Question, answer: Answer) -> Iterable[tuple[str, Mapping[str, float]]]:
    """The name and the changes of each of one to three other questions."""
    yield "budget+10%", {"budget": round(MORE_BUDGET * question.budget_dollars_per_hour, 6)}
    used = [pool for pool in question.pools if answer.nodes.get(pool.name)]
    if used:
        scarcest = max(
            used,
            key=lambda pool: (
                answer.nodes[pool.name] / pool.max_nodes,
                answer.nodes[pool.name] * pool.dollars_per_node_hour,
                pool.name,
            ),
        )
        yield f"without pool:{scarcest.name}", {f"pool:{scarcest.name}": 0.0}
    asked = [cls for cls in question.classes if cls.requests_per_second > 0]
    top = max((cls.priority for cls in asked), default=0)
    lower = {f"class:{cls.name}": 0.0 for cls in asked if cls.priority < top}
    if question.objective == "MinimizeCost" and lower:
        yield "top priority only", lower
