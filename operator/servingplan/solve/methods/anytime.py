"""The anytime method: a plan at once, a better one with time, a true bound at every moment.

One of the methods that `entry` offers. Each step starts from the best plan so far and hands on a better one or the same, with
bounds at least as tight:

1. `greedy`: the running fleet, the empty plan, greedy covers; milliseconds.
2. `rounding`: whole copies from the linear relaxation, whose optimum is the first bound.
3. Where several models share many shapes, `gap_closing`: each model by itself at the prices of the relaxation, for far better
   bounds and for the shapes that are worth a search.
4. `kernel` (Angelelli, Mansini and Speranza 2010): the exact program over the few shapes that were chosen or that the
   relaxation nearly uses, with a small work limit.
5. `guarded`: the exact program over all shapes from there, which also tightens the bound.

Where any node may be lost and nodes can be filled in very many ways, `reserve` takes the place of 2 to 5; a question that is
too large for its whole program gets 3 and 4 alone. The clock only ends the chain early, which the answer admits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from servingplan.model.goal import DOLLARS, SCALE, Goal, tighter
from servingplan.solve.bounds.certificate import certified
from servingplan.solve.bounds.lagrangian import Prices
from servingplan.solve.bounds.price import price_bounds
from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.plan.judge import judge, running_plan
from servingplan.solve.plan.plan import Found, Plan, best_of
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.gap_closing import Closed, closed
from servingplan.solve.search.greedy import first_plan
from servingplan.solve.search.guarded import guarded_search
from servingplan.solve.search.kernel import Kernel
from servingplan.solve.search.reserve import with_reserve
from servingplan.solve.search.rounding import relaxed_plans
from servingplan.solve.solver.effort import Effort


def anytime(instance: Instance, effort: Effort) -> Found:
    """The steps of the module's docstring, as far as time and work limits allow."""
    plan = first_plan(instance, effort)
    known: Mapping[Goal, float] = price_bounds(instance)
    reserved = with_reserve(instance, effort, plan, known)
    if reserved is not None:
        plan, known, infeasible = reserved
        return Found(infeasible=True) if infeasible else _certified(instance, effort, plan, known)
    if plan is None and not effort.affords(instance):
        return Found(stopped="deadline")
    if plan is not None and effort.stop(plan.gap_in_all(known)):
        return _certified(instance, effort, plan, known)
    if plan is not None and not (effort.affords(instance) and effort.searches_whole(instance)):
        plan, known = _in_parts(instance, effort, plan, known)
        return _certified(instance, effort, plan, known)
    relaxation, plan, known = _relaxed(instance, effort, plan, known)
    apart = _apart(instance, effort, relaxation, plan, known)
    plan, known = apart.plan, apart.bounds
    settled = _settled_levels(plan, known, effort)
    plan = _kernel_searched(instance, effort, relaxation, apart, settled)
    if plan is None or (effort.affords(instance) and effort.searches_whole(instance)):
        found = _whole(instance, effort, plan, apart, settled)
        if found.infeasible or plan is None or not found.is_worse_than(plan):
            found.tighten(known, tolerance=effort.relative_gap)
            return found
    return _certified(instance, effort, plan, known)


def _in_parts(
    instance: Instance, effort: Effort, plan: Plan, known: Mapping[Goal, float]
) -> tuple[Plan, Mapping[Goal, float]]:
    """The plan, or a better one, where the program over all shapes is too large: models apart, then the cheapest shapes."""
    if not instance.question.survive:
        prices = Prices.of_nodes(instance)
        result = closed(instance, effort, prices=prices, bounds=known, plan=plan, search_among=lambda _, best: best)
        plan, known = result.plan or plan, result.bounds
    return _among_cheapest(instance, effort, plan), known


def _relaxed(
    instance: Instance, effort: Effort, plan: Plan | None, known: Mapping[Goal, float]
) -> tuple[Relaxation, Plan | None, Mapping[Goal, float]]:
    """The linear relaxation at its optimum; the plan, or a better one that is rounded from it; the bounds."""
    relaxation = Relaxation(instance)
    relaxation.optimise(effort)
    for draft in relaxed_plans(instance, relaxation) if relaxation.values else ():
        plan = best_of([plan, judge(instance, draft.copies)])
        if plan is not None and effort.stop():
            break
    return relaxation, plan, tighter(known, relaxation.bounds)


def _apart(
    instance: Instance, effort: Effort, relaxation: Relaxation, plan: Plan | None, known: Mapping[Goal, float]
) -> Closed:
    """What serving each model by itself gives, where that is likely to tell more than one program over all models."""
    if not _worth_taking_apart(instance, effort):
        return Closed(plan, dict(known), tried=False)
    prices = Prices.of(instance, relaxation) or Prices.of_nodes(instance)
    params = effort.params

    def search_among(shapes: Sequence[int], plan: Plan | None) -> Plan | None:
        return Kernel(instance, shapes).search(plan, effort.with_nodes(params.kernel_nodes).share(params.kernel_share))

    return closed(instance, effort, prices=prices, bounds=known, plan=plan, search_among=search_among)


def _kernel_searched(
    instance: Instance, effort: Effort, relaxation: Relaxation, apart: Closed, settled: Mapping[Goal, float]
) -> Plan | None:
    """The plan, or a better one over the shapes of the kernel, unless these are all shapes or the scale is settled."""
    plan = apart.plan
    params = effort.params
    kernel = Kernel.near(instance, relaxation, plan, apart.shapes, size=params.kernel_shapes)
    if kernel.is_whole or SCALE in settled or effort.stop():
        return plan
    limited = effort.with_nodes(params.kernel_nodes).share(params.kernel_share)
    return best_of([plan, kernel.search(plan, limited, settled)])


def _whole(
    instance: Instance, effort: Effort, plan: Plan | None, apart: Closed, settled: Mapping[Goal, float]
) -> Found:
    """What the program over all shapes finds from the plan; mostly for its bound."""
    limited = replace(
        effort.with_nodes(effort.params.whole_nodes),
        trial_branchings=effort.params.few_branchings,
        bound_first=plan is not None and not apart.tried,
    )
    cuts = apart.cuts if SCALE in settled else ()
    return guarded_search(instance, limited, start=plan, cuts=cuts, settled=settled)


def _worth_taking_apart(instance: Instance, effort: Effort) -> bool:
    """Whether prices by model are likely to tell more than one program over all models."""
    models = {cls.model for cls in instance.classes}
    params = effort.params
    many = len(models) >= params.apart_models or (len(models) > 1 and effort.relative_gap >= params.apart_gap)
    small = instance.pairs_count <= params.joint_pairs
    return many and not (small or instance.question.survive or effort.stop())


def _among_cheapest(instance: Instance, effort: Effort, plan: Plan) -> Plan:
    """The plan, or a better one of all steps over few shapes: for large questions, whose program would take too long."""
    shapes = set(plan.used) | {c for c, count in enumerate(instance.running_copies()) if count}
    for k in range(len(instance.classes)):
        shapes.update(instance.cheapest_first(k)[: effort.params.cheapest_shapes])
    kernel = Kernel(instance, shapes)
    if kernel.is_whole or not (effort.searches_whole(kernel.instance) and effort.affords(kernel.instance)):
        return plan
    found = anytime(kernel.instance, effort.share(effort.params.small_share)).plan
    return best_of([plan, kernel.whole(found.copies) if found else None]) or plan


def _settled_levels(plan: Plan | None, known: Mapping[Goal, float], effort: Effort) -> dict[Goal, float]:
    """Bounds that save a search: of the dollars in full service, and of the scale where the plan is within the tolerance."""
    if SCALE in known and (plan is None or known[SCALE] > plan.values[SCALE] * (1 + effort.relative_gap)):
        return {}
    return {goal: known[goal] for goal in (SCALE, DOLLARS) if goal in known}


def _certified(instance: Instance, effort: Effort, plan: Plan | None, known: Mapping[Goal, float]) -> Found:
    """The plan with its bounds; the running fleet where the plan is better by no more than the tolerance, so that nothing
    moves for less."""
    running = running_plan(instance)
    if plan and running and not plan.is_better(running, tolerance=effort.relative_gap):
        plan = running
    return certified(instance, effort, plan, known=known)
