"""Finds a first plan in milliseconds; only its routing needs the solver.

`exact` and `anytime` start from it.
"""

from collections.abc import Sequence

from servingplan.solve.plan.judge import empty_plan, judge, running_plan
from servingplan.solve.plan.plan import Plan, best_of
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.cover import by_class, dearest_first, most_served
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.solver.effort import Effort


def first_plan(instance: Instance, effort: Effort) -> Plan | None:
    """The best plan that is found at once: of nothing, of what is still allowed of the running fleet or of the plan to begin
    with, or one of two greedy covers. None if none of them keeps every promise."""
    targets = instance.reachable_targets
    begun = [effort.start.get(shape.name, 0) for shape in instance.shapes]
    running = running_plan(instance, targets) or _left_of(instance, instance.running_copies(), targets)
    best = best_of([empty_plan(instance), running, _left_of(instance, begun, targets)])
    for whole_price in (False, True):
        if best is not None and effort.stop():
            break
        draft = _covered(instance, effort, targets, whole_price=whole_price, anyhow=best is None)
        best = best_of([best, judge(instance, draft.copies, targets) if draft else None])
    return best


def _covered(
    instance: Instance, effort: Effort, targets: Sequence[float], *, whole_price: bool, anyhow: bool
) -> Draft | None:
    """The greedy cover with the most service. It stops when the time is up, unless a plan must be found `anyhow`; then it stops
    with the first one."""
    order = dearest_first(instance)
    needed = anyhow

    def cover(rates: Sequence[float]) -> Draft | None:
        nonlocal needed
        if effort.stop() and not needed:
            return None
        draft = by_class(instance, rates, order=order, whole_price=whole_price)
        needed = needed and not (draft and any(draft.copies))
        return draft

    return most_served(instance, cover, steps=effort.params.cover_steps, targets=targets)


def _left_of(instance: Instance, copies: Sequence[int], targets: Sequence[float]) -> Plan | None:
    """The plan of as many of these copies as stock and budget allow. After a loss, of the running ones, these are the
    copies that still serve."""
    return judge(instance, Draft.of(instance, copies).copies, targets) if any(copies) else None
