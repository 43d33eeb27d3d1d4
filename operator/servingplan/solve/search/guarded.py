"""The lexicographic search with rows for losses; rows for a loss are added if a plan turns out not to survive it."""

from collections.abc import Mapping, Sequence

from servingplan.model.goal import SCALE, Goal
from servingplan.solve.plan.judge import judge
from servingplan.solve.plan.losses import Survival
from servingplan.solve.plan.plan import Found, Plan
from servingplan.solve.problem.constraints import Cut
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.lexicographic import search
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import HELD

GUARDED_AT_ONCE = 100
"""Up to this number of node contents, all get rows from the start; with more, only those whose loss a plan does not survive."""


def guarded_search(
    instance: Instance,
    effort: Effort,
    *,
    start: Plan | None = None,
    all_classes: bool = False,
    cuts: Sequence[Cut] = (),
    settled: Mapping[Goal, float] | None = None,
    scale_only: bool = False,
) -> Found:
    """What the lexicographic search finds among plans that survive the losses.

    If the plan does not survive the loss of a node with some content, rows for that loss are added and the search is repeated.
    If there are few contents, all have rows from the start. The result is exact either way: a plan that is best under some of
    the rows and survives every loss is best under all of them. With `all_classes` every class must be served in full.
    """
    survival = Survival(instance)
    must_serve = tuple(range(len(instance.classes))) if all_classes else survival.protected()
    guarded = bool(survival.protected("AnyNode"))
    losses = survival.spot_losses() + (survival.every_node_loss(most=GUARDED_AT_ONCE) if guarded else [])
    while True:
        found = search(
            instance,
            effort,
            losses=losses,
            exact_contents=guarded,
            must_serve=must_serve,
            start=start,
            cuts=cuts,
            settled=settled,
            scale_only=scale_only,
        )
        plan = found.plan
        if plan is None:
            return found
        if not guarded:
            break
        rates = [plan.values.get(SCALE, 1.0) * cls.requests_per_second for cls in instance.classes]
        known = {loss.name for loss in losses}
        broken = [
            loss
            for loss in survival.node_losses(plan.packing)
            if loss.name not in known and survival.kept([loss], plan.copies, rates) < 1.0 - HELD
        ]
        if not broken:
            break
        losses = losses + broken
    found.plan = judge(instance, plan.packing, plan.targets, nodes=plan.nodes)
    return found
