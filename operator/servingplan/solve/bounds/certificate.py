"""How good a known plan can be proved to be without a search: its levels with bounds from linear programs.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. Every method that is not exact ends here, so
that each of them tells a true gap to the best plan of the whole question, not to the best of its kind.
"""

from collections.abc import Mapping

from servingplan.model.answer import Level
from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.plan.found import Found
from servingplan.solve.plan.incumbent import Incumbent, serves_in_full
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.objective import Stage, dollars_stage, hold
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import HELD_SLACK, PROVED, gap_of


def certified(
    instance: Instance,
    effort: Effort,
    plan: Incumbent,
    *,
    known: Mapping[str, float] | None = None,
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
    reached: dict[str, float] = {}
    for stage in relaxation.stages:
        value = reached[stage.name] = plan.values[stage.name]
        best = stage.best
        if not stage.redundant(reached) and value < best * (1 - 1e-9):
            best = min(best, relaxation.bound(stage, effort))
        service_gap = effort.relative_gap if stage.name == "scale" else min(effort.relative_gap, PROVED)
        _record(found, stage, value, max(best, value), tolerance=service_gap)
        hold(relaxation.plan.program, stage, value / stage.unit if stage.unit else 0.0, slack=HELD_SLACK)
    dollars, floor = plan.values["dollars"], instance.floor_dollars()
    stage = dollars_stage(relaxation.plan, unit=dollars or 1.0)
    least = max(floor, relaxation.bound(stage, effort)) if dollars > floor * (1 + 1e-9) else dollars
    _record(found, stage, dollars, min(least, dollars), tolerance=effort.relative_gap)
    if instance.question.running:
        moves = plan.values["moves"]
        found.levels.append(Level(name="moves", value=moves, bound=0.0, gap=float(moves > 0), proved=not moves))
        found.units["moves"] = 1.0
    if not all(level.proved for level in found.levels):
        found.stopped = "deadline" if effort.stopwatch.expired() else "work-limit"
    return found


def tightened(found: Found, known: Mapping[str, float], effort: Effort) -> Found:
    """What a search found, its bounds no worse than what is `known` (by level; dollars for full service)."""
    in_full = all(level.value >= 1.0 for level in found.levels if level.name.startswith("served-fraction"))
    for position, level in enumerate(found.levels):
        least = level.name == "dollars"
        if level.name in known and (in_full or not least):
            bound = max(level.bound, known[level.name]) if least else min(level.bound, known[level.name])
            bound = min(bound, level.value) if least else max(bound, level.value)
            gap = gap_of(level.value, bound)
            proved = level.proved or gap <= effort.relative_gap
            found.levels[position] = level.model_copy(update={"bound": bound, "gap": gap, "proved": proved})
    if found.levels and all(level.proved for level in found.levels):
        found.stopped = "proved"
    return found


def _imagined(
    instance: Instance,
    plan: Incumbent,
    known: Mapping[str, float],
    rates: Mapping[tuple[int, int], float] | None,
) -> Found:
    """The plan with bounds that need no solver, when time is up."""
    targets = instance.reachable_targets
    found = Found(plan.copies, plan.nodes, contents=plan.contents, targets=targets, stopped="deadline")
    found.rates = rates
    in_full = serves_in_full(plan)
    for name, value in plan.values.items():
        kind, _, priority = name.partition("/priority=")
        members = [k for k, cls in enumerate(instance.classes) if kind == "scale" or str(cls.priority) == priority]
        parts = [targets[k] / instance.classes[k].requests_per_second for k in members]
        imagined = {
            "dollars": instance.floor_dollars(),
            "moves": 0.0,
            "served-total": sum(targets[k] for k in members),
        }
        bound = imagined.get(kind, min(parts, default=0.0))
        if name in known and (in_full or kind != "dollars"):
            bound = max(bound, known[name]) if kind == "dollars" else min(bound, known[name])
        bound = min(bound, value) if kind in ("dollars", "moves") else max(bound, value)
        gap = gap_of(value, bound)
        found.levels.append(Level(name=name, value=value, bound=bound, gap=gap, proved=gap <= PROVED))
        found.units[name] = max(value, bound)
    if all(level.proved for level in found.levels):
        found.stopped = "proved"
    return found


def _record(found: Found, stage: Stage, value: float, bound: float, *, tolerance: float) -> None:
    gap = gap_of(value, bound)
    found.levels.append(Level(name=stage.name, value=value, bound=bound, gap=gap, proved=gap <= tolerance))
    found.units[stage.name] = stage.unit
