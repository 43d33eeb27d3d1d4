"""The entry of the solver: it answers a question by the method that is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from servingplan.model.answer import DEFAULT_GAP, Answer, Explanation
from servingplan.model.question import Question, QuestionError
from servingplan.solve.answer import answer_of, tidied
from servingplan.solve.conflicts.conflict import find_conflict
from servingplan.solve.conflicts.sentences import in_words
from servingplan.solve.methods import METHODS
from servingplan.solve.plan.judge import running_plan
from servingplan.solve.plan.plan import Found
from servingplan.solve.problem.instance import Instance, floors_fit, instance_of
from servingplan.solve.shortlist import thinned, widened
from servingplan.solve.solver.clock import Stopwatch
from servingplan.solve.solver.collector import collector_waits
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.program import load
from servingplan.solve.stay import reason_to_stay

NODE_LIMIT = 20_000
"""Default work limit of one level, in branch-and-bound nodes."""


def solve(
    question: Question,
    *,
    method: str = "exact",
    deadline_seconds: float | None = None,
    relative_gap: float = DEFAULT_GAP,
    node_limit: int = NODE_LIMIT,
    why_infeasible: bool = True,
    start: Mapping[str, int] | None = None,
) -> Answer:
    """The answer to a planning question, found by one of `METHODS`.

    `deadline_seconds` limits the time on the wall clock, `node_limit` the work of each level (deterministic), and
    `relative_gap` is the gap within which a level counts as proved. Equal questions give equal answers except for
    `seconds`, unless the clock stopped the search; then `stopped` of the answer is "deadline". With `why_infeasible`, the
    limits that exclude each other are searched if there is no plan; this takes longer than the proof that there is none.
    `start` gives the copies by shape of a plan to begin with, such as that of a similar question; as many of them are used as
    stock and budget allow. The answer of `anytime` is no worse than that plan.

    Raises `QuestionError` for an unknown method, for a wrong deadline, gap or node limit, for MaximizeService with no rate
    above 0, for losses in `survive` that cannot be guarded against, and for a method that cannot guard against any loss.
    """
    if method not in METHODS:
        raise QuestionError(f"method {method!r} is unknown; choose one of: {', '.join(METHODS)}")
    if deadline_seconds is not None and not 0.0 < deadline_seconds < float("inf"):
        raise QuestionError(f"deadline {deadline_seconds!r} is wrong; give a positive number of seconds")
    if not 0.0 <= relative_gap < 1.0:
        raise QuestionError(f"gap {relative_gap!r} is wrong; give a fraction from 0 up to 1, such as 0.0001")
    if node_limit < 0:
        raise QuestionError(f"node limit {node_limit!r} is wrong; give a number of nodes, 0 or more")
    chosen = METHODS[method]
    if question.survive and not chosen.guards_losses:
        able = ", ".join(name for name, known in METHODS.items() if known.guards_losses)
        raise QuestionError(f"method {method!r} cannot guard against losses; drop survive or choose one of: {able}")
    if question.objective == "MaximizeService" and not any(cls.requests_per_second for cls in question.classes):
        raise QuestionError(
            "classes: every requests_per_second is 0, so MaximizeService has no mix to multiply; give one class a rate"
        )
    load()
    stopwatch = Stopwatch(deadline_seconds)
    effort = Effort(relative_gap, node_limit, stopwatch, start=dict(start or {}))
    with collector_waits(deadline_seconds):
        answer = _answered(question, method, effort, why_infeasible=why_infeasible)
    return answer.model_copy(update={"seconds": stopwatch.elapsed_seconds()})


def _answered(question: Question, method: str, effort: Effort, *, why_infeasible: bool) -> Answer:
    """The answer to a question that was checked, by a method that exists."""
    chosen, stopwatch = METHODS[method], effort.stopwatch
    if not floors_fit(question):
        return _impossible(question, method, effort, why=why_infeasible)
    thin = thinned(question, stopwatch) if chosen.guards_losses else None
    asked, begun = thin.question if thin else question, stopwatch.elapsed_seconds()
    instance = instance_of(asked, prune=chosen.prunes)
    effort = effort.after_numbering(asked, stopwatch.elapsed_seconds() - begun)
    found = chosen.find(instance, effort)
    if found.infeasible and not thin:
        return _impossible(question, method, effort, why=why_infeasible)
    if found.plan is None:
        late = thin is not None or found.stopped == "deadline" or effort.stop()
        return _without_plan(method, late=late)
    if thin:
        found = widened(found, thin, relative_gap=effort.relative_gap)
    if chosen.starts_from_running:
        found.plan = tidied(instance, found)
    best = answer_of(instance, found, method=method, relative_gap=effort.relative_gap, whole=question)
    return _kept(question, instance, found, best, effort) if chosen.starts_from_running else best


def _impossible(question: Question, method: str, effort: Effort, *, why: bool) -> Answer:
    """The answer that there is no plan, with the limits that exclude each other if `why` asks and the time suffices."""
    if not why:
        return _infeasible(("the limits exclude each other",), method)
    conflict = find_conflict(question, effort.stopwatch)
    answer = _infeasible(in_words(question, conflict), method)
    return answer.model_copy(update={"explanation": Explanation(clash=conflict)})


def _infeasible(why: Sequence[str], method: str) -> Answer:
    return Answer(status="Infeasible", method=method, reasons=tuple(why))


def _without_plan(method: str, *, late: bool) -> Answer:
    """The answer if no plan was found although one may exist."""
    if late:
        slow = "no plan was found before the deadline, and none is proved not to exist; allow more seconds"
        return _infeasible((slow,), method).model_copy(update={"stopped": "deadline"})
    unlucky = f"method {method!r} found no plan, which does not prove that there is none; ask the method exact"
    return _infeasible((unlucky,), method).model_copy(update={"stopped": "work-limit"})


def _kept(question: Question, instance: Instance, found: Found, best: Answer, effort: Effort) -> Answer:
    """The best answer, or the running plan if the question's `change` rule prefers it."""
    rule = instance.question.change
    running = running_plan(instance, found.plan.targets) if rule and found.plan else None
    if rule is None or running is None:
        return best
    stay = answer_of(
        instance, replace(found, plan=running), method=best.method, relative_gap=effort.relative_gap, whole=question
    )
    why = reason_to_stay(rule, best=best, stay=stay)
    return best if why is None else stay.model_copy(update={"reasons": (why,)})
