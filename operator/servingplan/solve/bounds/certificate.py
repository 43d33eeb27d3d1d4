"""Bounds the levels of a known plan without a search, by linear programs.

Every method that is not exact ends here. So each of them reports a true gap to the best plan of the whole question, not to the
best plan that this method can find.
"""

from collections.abc import Mapping

from servingplan.model.answer import Stopped
from servingplan.model.goal import DOLLARS, MOVES, Goal, Kind
from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.plan.plan import Found, Plan
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.objective import Objective
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import EQUAL, HELD, TOLD, reaches


def certified(
    instance: Instance, effort: Effort, plan: Plan | None, *, known: Mapping[Goal, float] | None = None
) -> Found:
    """The plan with a bound on every level, given the plan's values on the earlier levels.

    The bound of a level is the optimum of the linear relaxation in which the earlier levels are held at the plan's values.
    Every plan that is as good on those levels satisfies it, so no such plan has a better value. If `known` (by level; dollars
    for full service) is tighter, it is the bound. After the deadline the bound is `known` or a trivial one: every class
    served as if it were alone, and the dollars of the minimum nodes.
    """
    if plan is None:
        return Found(stopped=_ended(effort))
    if not effort.affords(instance):
        return _with_trivial_bounds(instance, plan, known or {})
    relaxation = Relaxation(instance)
    found = Found(plan)
    reached: dict[Goal, float] = {}
    for stage in relaxation.stages:
        value = reached[stage.goal] = plan.values[stage.goal]
        best = stage.best
        if not stage.redundant(reached) and not reaches(value, best):
            best = min(best, relaxation.bound(stage, effort))
        gap = min(effort.relative_gap, TOLD) if stage.goal.is_promise else effort.relative_gap
        found.record(stage.goal, best, value=value, unit=stage.unit, tolerance=gap)
        stage.hold(relaxation.plan.program, value / stage.unit if stage.unit else 0.0, slack=HELD)
    dollars, floor = plan.values[DOLLARS], instance.floor_dollars()
    stage = Objective(relaxation.plan).dollars(unit=dollars or 1.0)
    least = max(floor, relaxation.bound(stage, effort)) if dollars > floor * (1 + EQUAL) else dollars
    found.record(DOLLARS, least, value=dollars, unit=stage.unit, tolerance=effort.relative_gap)
    if instance.question.running:
        found.record(MOVES, 0.0, value=plan.values[MOVES], unit=1.0)
    found.tighten(known or {}, tolerance=effort.relative_gap)
    if not found.proved:
        found.stopped = _ended(effort)
    return found


def _ended(effort: Effort) -> Stopped:
    return "deadline" if effort.stop() else "work-limit"


def _with_trivial_bounds(instance: Instance, plan: Plan, known: Mapping[Goal, float]) -> Found:
    """The plan with bounds that need no solver, for the case that the time is up."""
    found = Found(plan)
    for goal, value in plan.values.items():
        bound = _trivial_bound(instance, goal)
        if goal in known and (plan.in_full or goal != DOLLARS):
            bound = goal.tighter(bound, known[goal])
        found.record(goal, bound, value=value, unit=max(value, bound), tolerance=TOLD)
    found.stopped = "proved" if found.proved else "deadline"
    return found


def _trivial_bound(instance: Instance, goal: Goal) -> float:
    """The best value that a level could have if every class had all GPUs to itself."""
    targets = instance.reachable_targets
    members = [k for k, cls in enumerate(instance.classes) if goal.priority in (None, cls.priority)]
    match goal.kind:
        case Kind.DOLLARS:
            return instance.floor_dollars()
        case Kind.MOVES:
            return 0.0
        case Kind.SERVED_TOTAL:
            return sum(targets[k] for k in members)
        case Kind.SCALE | Kind.SERVED_FRACTION:
            return min((targets[k] / instance.classes[k].requests_per_second for k in members), default=0.0)
