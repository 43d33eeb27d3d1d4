"""How good a known plan can be proved to be without a search: its levels with bounds from linear programs.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. Every method that is not exact ends here, so
that each of them tells a true gap to the best plan of the whole question, not to the best of its kind.
"""

from collections.abc import Mapping

from servingplan.model.goal import DOLLARS, MOVES, Goal, Kind
from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.plan.found import Found, level_of
from servingplan.solve.plan.incumbent import Incumbent, serves_in_full
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.objective import dollars_stage, hold
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import EQUAL, HELD, TOLD, reaches


def certified(
    instance: Instance,
    effort: Effort,
    plan: Incumbent,
    *,
    known: Mapping[Goal, float] | None = None,
    rates: Mapping[tuple[int, int], float] | None = None,
) -> Found:
    """The plan with the bound of every level, given its values on the levels before.

    The bound of a level is the best of the linear relaxation in which the levels before are held at the plan's values:
    every plan that is as good on those levels satisfies it, so no such plan has a better value. Where the deadline has
    passed, the bound is what is `known` (by level; dollars for full service), or else what can be imagined: all classes
    served as if alone, and nodes for the floors only.
    """
    if not effort.affords(instance):
        return _imagined(instance, plan, known or {}, rates)
    relaxation = Relaxation(instance)
    found = Found(copies=plan.copies, nodes=plan.nodes, contents=plan.contents, targets=relaxation.plan.targets)
    found.rates = rates
    reached: dict[Goal, float] = {}
    for stage in relaxation.stages:
        value = reached[stage.goal] = plan.values[stage.goal]
        best = stage.best
        if not stage.redundant(reached) and not reaches(value, best):
            best = min(best, relaxation.bound(stage, effort))
        service_gap = min(effort.relative_gap, TOLD) if stage.goal.is_promise else effort.relative_gap
        found.record(stage.goal, value, best, unit=stage.unit, tolerance=service_gap)
        hold(relaxation.plan.program, stage, value / stage.unit if stage.unit else 0.0, slack=HELD)
    dollars, floor = plan.values[DOLLARS], instance.floor_dollars()
    stage = dollars_stage(relaxation.plan, unit=dollars or 1.0)
    least = max(floor, relaxation.bound(stage, effort)) if dollars > floor * (1 + EQUAL) else dollars
    found.record(DOLLARS, dollars, least, unit=stage.unit, tolerance=effort.relative_gap)
    if instance.question.running:
        moves = plan.values[MOVES]
        found.record(MOVES, moves, 0.0, unit=1.0)
    if not all(level.proved for level in found.levels):
        found.stopped = "deadline" if effort.stopwatch.expired() else "work-limit"
    return found


def tightened(found: Found, known: Mapping[Goal, float], effort: Effort) -> Found:
    """What a search found, its bounds no worse than what is `known` (by level; dollars for full service)."""
    in_full = found.in_full
    for position, level in enumerate(found.levels):
        goal = level.goal
        if goal in known and (in_full or goal != DOLLARS):
            bound = goal.tighter(level.bound, known[goal])
            found.levels[position] = level_of(
                goal, level.value, bound, tolerance=effort.relative_gap, proved=level.proved
            )
    if found.levels and all(level.proved for level in found.levels):
        found.stopped = "proved"
    return found


def _imagined(
    instance: Instance,
    plan: Incumbent,
    known: Mapping[Goal, float],
    rates: Mapping[tuple[int, int], float] | None,
) -> Found:
    """The plan with bounds that need no solver, when time is up."""
    targets = instance.reachable_targets
    found = Found(plan.copies, plan.nodes, contents=plan.contents, targets=targets, stopped="deadline")
    found.rates = rates
    in_full = serves_in_full(plan)
    for goal, value in plan.values.items():
        bound = _imaginable(instance, goal)
        if goal in known and (in_full or goal != DOLLARS):
            bound = goal.tighter(bound, known[goal])
        bound = goal.no_worse(bound, value)
        found.record(goal, value, bound, unit=max(value, bound), tolerance=TOLD)
    if all(level.proved for level in found.levels):
        found.stopped = "proved"
    return found


def _imaginable(instance: Instance, goal: Goal) -> float:
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
