"""The exact method: every level of the objective to proof, within the work limit.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. One of the methods that `entry` offers; the
guards against losses are here, the optimisation of the levels is in `levels`.
"""

from collections.abc import Mapping, Sequence

from servingplan.solve.certify import certified
from servingplan.solve.constraints import Cut
from servingplan.solve.first import first_plan
from servingplan.solve.incumbent import Incumbent, is_better, running_plan
from servingplan.solve.instance import Instance
from servingplan.solve.levels import Effort, Found, search
from servingplan.solve.relax import price_bounds
from servingplan.solve.survive import (
    SURVIVED,
    every_node_loss,
    node_losses,
    protected,
    protected_from,
    spot_losses,
    survivable_part,
)

GUARDED_AT_ONCE = 100
"""Kinds of node up to which all are guarded from the start; beyond, only those that a plan does not stand."""


def exact(instance: Instance, effort: Effort) -> Found:
    """Optimise every level. With a deadline the search starts from a constructed plan, so that one is always at hand."""
    start = first_plan(instance, effort) if effort.stopwatch.limited() else None
    found = guarded_search(instance, effort, start=start)
    if found.infeasible or found.nodes:
        return found
    start = start or first_plan(instance, effort)
    return certified(instance, effort, start, known=price_bounds(instance)) if start else found


def guarded_search(
    instance: Instance,
    effort: Effort,
    *,
    start: Incumbent | None = None,
    all_classes: bool = False,
    cuts: Sequence[Cut] = (),
    settled: Mapping[str, float] | None = None,
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
            if loss.name not in known and survivable_part(instance, [loss], found.copies, rates) < 1.0 - SURVIVED
        ]
        if not broken:
            return found
        losses = losses + broken


def _running_values(instance: Instance, targets: Sequence[float]) -> Mapping[str, float] | None:
    """Level values of the running plan, or None where it breaks a promise."""
    running = running_plan(instance, targets)
    return None if running is None else running.values


def found_is_worse(found: Found, plan: Incumbent) -> bool:
    """Whether the known plan is better than what a search brought back, which only a search cut short can be."""
    if not found.nodes or found.stopped == "proved":
        return not found.nodes
    values = {level.name: level.value for level in found.levels}
    return values.keys() == plan.values.keys() and is_better(plan.values, values)
