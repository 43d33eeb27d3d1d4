"""The lexicographic search with guards against losses, which are added as plans turn out not to stand them.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""

from collections.abc import Mapping, Sequence

from servingplan.model.goal import Goal
from servingplan.solve.plan.found import Found
from servingplan.solve.plan.incumbent import Incumbent, is_better, running_plan
from servingplan.solve.plan.losses import (
    every_node_loss,
    node_losses,
    protected,
    protected_from,
    spot_losses,
    survivable_part,
)
from servingplan.solve.problem.constraints import Cut
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.lexicographic import search
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import HELD

GUARDED_AT_ONCE = 100
"""Kinds of node up to which all are guarded from the start; beyond, only those that a plan does not stand."""


def guarded_search(
    instance: Instance,
    effort: Effort,
    *,
    start: Incumbent | None = None,
    all_classes: bool = False,
    cuts: Sequence[Cut] = (),
    settled: Mapping[Goal, float] | None = None,
    scale_only: bool = False,
) -> Found:
    """Search, guarding against the loss of one more kind of node each time the plan does not stand it.

    Few kinds are guarded from the start. The end is exact either way: a plan that is best under fewer guards and stands
    every loss is best under all of them. `all_classes`: every class must be served in full.
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
            start=start,
            cuts=cuts,
            settled=settled,
            scale_only=scale_only,
        )
        if found.infeasible or not found.nodes or not guarded:
            return found
        rates = [found.scale * cls.requests_per_second for cls in instance.classes]
        known = {loss.name for loss in losses}
        broken = [
            loss
            for loss in node_losses(instance, found.copies, found.contents)
            if loss.name not in known and survivable_part(instance, [loss], found.copies, rates) < 1.0 - HELD
        ]
        if not broken:
            return found
        losses = losses + broken


def _running_values(instance: Instance, targets: Sequence[float]) -> Mapping[Goal, float] | None:
    """Level values of the running plan, or None where it breaks a promise."""
    running = running_plan(instance, targets)
    return None if running is None else running.values


def found_is_worse(found: Found, plan: Incumbent) -> bool:
    """Whether the known plan is better than what a search brought back, which only a search cut short can be."""
    if not found.nodes or found.stopped == "proved":
        return not found.nodes
    values = {level.goal: level.value for level in found.levels}
    return values.keys() == plan.values.keys() and is_better(plan.values, values)
