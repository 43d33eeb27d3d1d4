"""Plans with a reserve against the loss of any node, for nodes that can be filled in very many ways.

This is a step of `anytime`. A program that guards against the loss of every node content needs an integer and a routing for
each content; with dozens of shapes these are thousands. Rows for the mean loss replace them. Every plan that survives the loss
of each node keeps these rows (`problem.constraints`), so the bound of the program holds. Its copies, spread evenly over its
nodes, survive each loss or nearly do; with a little more reserve they do. The guarded search then looks at the few shapes of
these plans.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from servingplan.model.goal import DOLLARS, SCALE, Goal, tighter
from servingplan.solve.plan.judge import judge
from servingplan.solve.plan.losses import Survival
from servingplan.solve.plan.plan import Found, Plan, best_of
from servingplan.solve.problem.constraints import AverageLoss
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.placement import Packing
from servingplan.solve.search.cover import covers_with_spare
from servingplan.solve.search.kernel import Kernel
from servingplan.solve.search.lexicographic import search
from servingplan.solve.solver.effort import Effort


class Reserved(NamedTuple):
    """A plan that survives the loss of any node, and bounds that hold for all such plans."""

    plan: Plan | None
    known: Mapping[Goal, float]
    infeasible: bool = False


def with_reserve(instance: Instance, effort: Effort, plan: Plan | None, known: Mapping[Goal, float]) -> Reserved | None:
    """The plan, or a better one by construction, by the program with mean losses or by a guarded search over their shapes.

    None if no loss of a node must be survived, or if node contents are few enough for the whole program.
    """
    params = effort.params
    if not Survival(instance).protected("AnyNode") or Packing.contents_count(instance) <= params.many_contents:
        return None
    plan = best_of([plan, constructed(instance, effort.share(params.construction_share))])
    shapes = plan.used if plan else []
    for reserve in params.reserves:
        if effort.stop() or (plan is not None and not effort.affords(instance)):
            break
        # The first search starts from the plan, for the bound; the others do not, so that they find other copies.
        start = plan if reserve == 1.0 else None
        found, better = on_average(instance, effort.share(params.mean_share), reserve=reserve, start=start)
        if reserve == 1.0:
            if found.infeasible:
                return Reserved(plan, known, infeasible=True)
            holding = (SCALE, DOLLARS) if found.plan and found.plan.in_full else (SCALE,)
            known = tighter(known, {goal: bound.value for goal, bound in found.bounds.items() if goal in holding})
        shapes += [c for c in found.plan.used if c not in shapes] if found.plan else []
        plan = best_of([plan, thinned_out(instance, effort, better)])
        if better is not None:
            break
    if shapes and not effort.stop(plan.gap_in_all(known) if plan else math.inf):
        plan = searched(instance, effort.share(params.guarded_share), plan, shapes)
    return Reserved(plan, known)


def constructed(instance: Instance, effort: Effort) -> Plan | None:
    """The best plan of greedy covers that carry more than the asked rates of protected classes; only under MinimizeCost."""
    best: Plan | None = None
    if instance.question.objective == "MinimizeCost":
        for draft in covers_with_spare(instance, effort.params.spare, Survival(instance).protected(), effort.stop):
            best = best_of([best, thinned_out(instance, effort, judge(instance, draft.copies))])
    return best


def thinned_out(instance: Instance, effort: Effort, plan: Plan | None) -> Plan | None:
    """The plan without the copies that it does not need, dearest first; every promise is kept."""
    if plan is None:
        return None
    for c in sorted(plan.used, key=lambda c: (-instance.share_price(c), c)):
        while plan.copies[c] and not effort.stop():
            fewer = [y - (d == c) for d, y in enumerate(plan.copies)]
            better = best_of([plan, judge(instance, fewer)])
            if better is None or better is plan:
                break
            plan = better
    return plan


def on_average(
    instance: Instance, effort: Effort, *, reserve: float = 1.0, start: Plan | None = None
) -> tuple[Found, Plan | None]:
    """What the program with the mean loss of a node of each pool finds, and the plan of its copies, spread over its nodes.

    The bounds hold for all plans if `reserve` is 1. The plan is None if it does not survive each loss.
    """
    survival = Survival(instance)
    classes = survival.protected("AnyNode")
    limited = effort.with_nodes(effort.params.mean_nodes)
    found = search(
        instance,
        limited,
        losses=survival.spot_losses(),
        average_losses=[AverageLoss(p, classes, reserve) for p in range(len(instance.pools))],
        must_serve=survival.protected(),
        start=start,
    )
    return found, judge(instance, found.plan.copies, nodes=found.plan.nodes) if found.plan else None


def searched(instance: Instance, effort: Effort, plan: Plan | None, shapes: Sequence[int]) -> Plan | None:
    """The plan, or a better one from the guarded search over its shapes and `shapes`. These are taken in their order as long as
    the contents of a node are few enough."""
    kernel = Kernel(instance, plan.used if plan else [])
    for c in shapes:
        more = Kernel(instance, {*kernel.shapes, c})
        if Packing.contents_count(more.instance) <= effort.params.kernel_contents:
            kernel = more
    return best_of([plan, kernel.search(plan, effort.with_nodes(effort.params.guarded_nodes))])
