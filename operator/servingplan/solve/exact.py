"""The entry of the solver: a question in, an answer out.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from servingplan.model.answer import Answer
from servingplan.model.question import Question, QuestionError
from servingplan.solve import change, reasons
from servingplan.solve.instance import Instance, instance_of
from servingplan.solve.levels import Effort, Found, search
from servingplan.solve.milp import Stopwatch
from servingplan.solve.report import answer_of, needed_nodes, node_contents, tidied
from servingplan.solve.route import route
from servingplan.solve.survive import (
    SURVIVED,
    every_node_loss,
    node_losses,
    protected,
    protected_from,
    spot_losses,
    survivable_part,
    survivable_targets,
)

METHODS = ("exact",)
NODE_LIMIT = 20_000
"""Default work limit of one level, in branch-and-bound nodes."""
GUARDED_AT_ONCE = 100
"""Kinds of node up to which all are guarded from the start; beyond, only those that a plan does not stand."""
REASON_NODE_LIMIT = 2_000
"""Work limit of the search for the smallest change that would make a plan possible."""


def solve(
    question: Question,
    *,
    method: str = "exact",
    deadline_seconds: float | None = None,
    relative_gap: float = 1e-4,
    node_limit: int = NODE_LIMIT,
) -> Answer:
    """Answer a planning question.

    `deadline_seconds` is a backstop on the wall clock, `node_limit` the deterministic work limit of each level,
    `relative_gap` the tolerance within which a level counts as proved. Equal questions give equal answers, but for
    `seconds`, unless the clock stopped the search, which the answer admits.

    Raises `QuestionError` for an unknown method, for limits that make no sense and where `survive` cannot be guarded.
    """
    if method not in METHODS:
        raise QuestionError(f"method {method!r} is unknown; choose one of: {', '.join(METHODS)}")
    if deadline_seconds is not None and not 0.0 < deadline_seconds < float("inf"):
        raise QuestionError(f"deadline {deadline_seconds!r} is wrong; give a positive number of seconds")
    if not 0.0 <= relative_gap < 1.0:
        raise QuestionError(f"gap {relative_gap!r} is wrong; give a fraction from 0 up to 1, such as 0.0001")
    stopwatch = Stopwatch(deadline_seconds)
    floors = reasons.floors_over_budget(question)
    if floors is not None:
        return _infeasible((floors,), method, stopwatch)
    effort = Effort(relative_gap, node_limit, stopwatch)
    instance = instance_of(question)
    found = _find(instance, effort)
    if found.infeasible:
        why = reasons.why_infeasible(question, lambda easier: _cheapest_nodes(easier, effort))
        return _infeasible(why, method, stopwatch)
    if not found.nodes:
        late = "no plan was found before the deadline, and none is proved not to exist; allow more seconds"
        return _infeasible((late,), method, stopwatch).model_copy(update={"stopped": "deadline"})
    best = answer_of(instance, tidied(instance, found), relative_gap=relative_gap, seconds=stopwatch.elapsed_seconds())
    return _kept(instance, found, best, effort)


def _infeasible(why: Sequence[str], method: str, stopwatch: Stopwatch) -> Answer:
    return Answer(status="Infeasible", method=method, reasons=tuple(why), seconds=stopwatch.elapsed_seconds())


def _find(instance: Instance, effort: Effort, *, all_classes: bool = False) -> Found:
    """Search, guarding against the loss of one more kind of node each time the plan does not stand it.

    Few kinds are guarded from the start. The end is exact either way: a plan that is best under fewer guards and stands
    every loss is best under all of them.
    """
    must_serve = tuple(range(len(instance.classes))) if all_classes else protected(instance)
    guarded = bool(protected_from(instance, "AnyNode"))
    losses = spot_losses(instance) + (every_node_loss(instance, most=GUARDED_AT_ONCE) if guarded else [])
    while True:
        found = search(
            instance,
            effort,
            losses=losses,
            exact_contents=guarded,
            must_serve=must_serve,
            incumbent=lambda targets: _running_values(instance, targets),
        )
        if found.infeasible or not found.nodes or not guarded:
            return found
        rates = [found.scale * cls.requests_per_second for cls in instance.classes]
        known = {loss.name for loss in losses}
        broken = [
            loss
            for loss in node_losses(instance, found.copies, found.contents)
            if loss.name not in known and survivable_part(instance, [loss], found.copies, rates) < 1.0 - SURVIVED
        ]
        if not broken:
            return found
        losses = losses + broken


def _cheapest_nodes(question: Question, effort: Effort) -> dict[str, int] | None:
    """Nodes by pool of the cheapest plan that serves every class in full; None where none is found."""
    if reasons.floors_over_budget(question) is not None:
        return None
    instance = instance_of(question)
    found = _find(instance, replace(effort, node_limit=REASON_NODE_LIMIT), all_classes=True)
    if found.infeasible or not found.nodes:
        return None
    return {pool.name: count for pool, count in zip(instance.pools, found.nodes, strict=True)}


def _running(instance: Instance) -> Found | None:
    """The running fleet as a plan, on the fewest nodes that we can pack it on; None where it is not allowed any more."""
    running = instance.question.running
    if running is None:
        return None
    known = {shape.name for shape in instance.shapes}
    copies = instance.running_copies()
    if any(count and name not in known for name, count in running.replicas.items()):
        return None
    if any(count > limit for count, limit in zip(copies, instance.copies_limit, strict=True)):
        return None
    nodes = needed_nodes(instance, copies)
    dollars = sum(pool.dollars_per_node_hour * count for pool, count in zip(instance.pools, nodes, strict=True))
    within = all(count <= pool.max_nodes for pool, count in zip(instance.pools, nodes, strict=True))
    if not within or dollars > instance.question.budget_dollars_per_hour * (1 + 1e-9):
        return None
    contents = node_contents(instance, copies) if protected_from(instance, "AnyNode") else {}
    return Found(copies=copies, nodes=nodes, contents=contents)


def _running_values(instance: Instance, targets: Sequence[float]) -> Mapping[str, float] | None:
    """Level values of the running plan, or None where it breaks a promise."""
    running = _running(instance)
    if running is None:
        return None
    running.targets = tuple(targets)
    survivable = survivable_targets(instance, running)
    if survivable is None:
        return None
    values = route(instance, running.copies, survivable).values
    prices = [pool.dollars_per_node_hour for pool in instance.pools]
    return {**values, "dollars": sum(n * price for n, price in zip(running.nodes, prices, strict=True))}


def _kept(instance: Instance, found: Found, best: Answer, effort: Effort) -> Answer:
    """The answer, or the running plan where the question's `change` rule prefers it."""
    rule = instance.question.change
    running = _running(instance)
    if rule is None or running is None or _running_values(instance, found.targets) is None:
        return best
    stay_found = replace(found, copies=running.copies, nodes=running.nodes, patterns={}, contents=running.contents)
    seconds = effort.stopwatch.elapsed_seconds()
    stay = answer_of(instance, stay_found, relative_gap=effort.relative_gap, seconds=seconds)
    why = change.reason_to_stay(rule, best=best, stay=stay)
    return best if why is None else stay.model_copy(update={"reasons": (why,)})
