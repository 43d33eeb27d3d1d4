"""The anytime method: a plan at once, a better one with time, a true bound at every moment.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. One of the methods that `entry` offers. Each
step starts from the best plan so far and hands on a better one or the same:

1. `greedy`: the running fleet, the empty plan, greedy covers; milliseconds.
2. `rounding`: whole copies from the linear relaxation, whose optimum is the first bound.
3. Where several models share many shapes, `gap_closing`: each model by itself at the prices of the relaxation, for far better
   bounds and for the shapes that are worth a search.
4. A kernel search (Angelelli, Mansini and Speranza 2010): the exact program over the few shapes that were chosen or that the
   relaxation nearly uses, with a small work limit.
5. The exact program over all shapes from there, which also tightens the bound.

Where any node may be lost and nodes can be filled in very many ways, `reserve` takes the place of 2 to 5.

The work limits are numbers of branch-and-bound nodes, so that the plan does not depend on the machine; the clock only ends
the chain early, which the answer admits.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from servingplan.model.goal import DOLLARS, MOVES, SCALE, Goal
from servingplan.solve.bounds.certificate import certified, tightened
from servingplan.solve.bounds.lagrangian import node_prices, prices_of
from servingplan.solve.bounds.price import price_bounds
from servingplan.solve.bounds.relaxation import Relaxation, optimise
from servingplan.solve.plan.found import Found
from servingplan.solve.plan.incumbent import Incumbent, best_of, incumbent_of, is_better, running_plan, serves_in_full
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.gap_closing import FEW_BRANCHINGS, Closed, closed
from servingplan.solve.search.greedy import first_plan
from servingplan.solve.search.guarded import found_is_worse, guarded_search
from servingplan.solve.search.kernel import as_whole, kernel_of, restricted_to, searched_among
from servingplan.solve.search.reserve import constructed, needs_reserve, on_average, searched, thinned_out
from servingplan.solve.search.rounding import relaxed_plans
from servingplan.solve.solver.effort import Effort

KERNEL_NODES = 200
"""Work limit of each level of the kernel search, in branch-and-bound nodes."""
POLISH_NODES = 1_000
"""Work limit of each level of the last step, in branch-and-bound nodes."""
SEARCHED_PAIRS = 20_000
"""Most pairs of shape and class for which the program over all shapes is searched: beyond, one node takes seconds."""
JOINT_PAIRS = 200
"""Pairs of shape and class up to which one program over all models is quick enough by itself."""
MODELS = 3
COARSE_GAP = 5e-3
"""Models and tolerance from which prices by model pay: they tell little below half a per cent."""
CONSTRUCTION_SHARE, AVERAGE_SHARE, SEARCH_SHARE = 0.2, 0.5, 0.7
"""Parts of the time that is left for plans with a reserve: for constructed plans, for each program with mean losses, for the
guarded search."""
RESERVES = (1.0, 1.02, 1.05, 1.1, 1.2, 1.4)
"""How much of what is protected the mean loss must leave, tried until a plan stands every single loss."""
CHEAPEST = 8
"""Shapes per class of the kernel of a question that is too large for that."""


def anytime(instance: Instance, effort: Effort) -> Found:
    """The steps of the module's docstring, as far as time and work limits allow."""
    clock = effort.stopwatch
    if needs_reserve(instance):
        return _with_reserve(instance, effort)
    plan = first_plan(instance, effort)
    known = price_bounds(instance)
    large = instance.pairs_count > SEARCHED_PAIRS
    in_parts = large or not effort.affords(instance)
    if plan is None and not effort.affords(instance):
        return Found(stopped="deadline")
    if plan is not None and (clock.expired() or _settled(plan, known, effort)):
        return certified(instance, effort, _steady(instance, effort, plan), known=known)
    if plan is not None and in_parts:
        if not instance.question.survive:
            result = closed(
                instance,
                effort,
                prices=node_prices(instance),
                bounds=known,
                plan=plan,
                search_among=lambda _, best: best,
            )
            plan, known = result.plan or plan, result.bounds
        plan = _among_cheapest(instance, effort, plan)
        return certified(instance, effort, _steady(instance, effort, plan), known=known)
    relaxation = Relaxation(instance)
    optimise(relaxation, instance, effort)
    known = _tighter(known, relaxation.bounds)
    for draft in relaxed_plans(instance, relaxation) if relaxation.values else ():
        plan = best_of([plan, incumbent_of(instance, draft.copies)])
        if plan is not None and clock.expired():
            break
    result = Closed(plan, known)
    apart = _worth_taking_apart(instance, effort)
    if apart:
        prices = prices_of(instance, relaxation) or node_prices(instance)
        search_among = partial(searched_among, instance, effort=replace(effort, node_limit=KERNEL_NODES))
        result = closed(instance, effort, prices=prices, bounds=known, plan=plan, search_among=search_among)
        plan, known = result.plan, result.bounds
    kernel = kernel_of(instance, relaxation, plan, result.shapes)
    settled = _settled_levels(plan, known, effort)
    if len(kernel) < len(instance.shapes) and SCALE not in settled and not clock.expired():
        plan = best_of(
            [plan, searched_among(instance, kernel, plan, replace(effort, node_limit=KERNEL_NODES), settled)]
        )
    if plan is None or (effort.affords(instance) and not large):
        limited = replace(
            effort,
            node_limit=min(effort.node_limit, POLISH_NODES),
            trial_branchings=FEW_BRANCHINGS,
            bound_first=plan is not None and not apart,
        )
        cuts = result.cuts if SCALE in settled else ()
        found = guarded_search(instance, limited, start=plan, cuts=cuts, settled=settled)
        if found.infeasible or plan is None or not found_is_worse(found, plan):
            return tightened(found, known, effort)
    return certified(instance, effort, _steady(instance, effort, plan), known=known)


def _with_reserve(instance: Instance, effort: Effort) -> Found:
    """A plan that stands the loss of any node, where nodes can be filled in very many ways; see `reserve`."""
    plan = best_of([first_plan(instance, effort), constructed(instance, effort.share(CONSTRUCTION_SHARE))])
    known = price_bounds(instance)
    shapes = [c for c, count in enumerate(plan.copies) if count] if plan else []
    for reserve in RESERVES:
        if plan is not None and (effort.stopwatch.expired() or not effort.affords(instance)):
            break
        found, better = on_average(instance, effort.share(AVERAGE_SHARE), reserve=reserve, start=plan)
        if found.infeasible and reserve == RESERVES[0]:
            return found
        if reserve == RESERVES[0]:
            holding = (SCALE, DOLLARS) if found.in_full else (SCALE,)
            known = _tighter(known, {it.goal: it.bound for it in found.levels if it.goal in holding})
        shapes += [c for c, count in enumerate(found.copies) if count and c not in shapes]
        plan = best_of([plan, thinned_out(instance, effort, better)])
        if better is not None:
            break
    if shapes and not (plan and _settled(plan, known, effort)):
        plan = searched(instance, effort.share(SEARCH_SHARE), plan, shapes)
    if plan is None:
        return Found(stopped="deadline" if effort.stopwatch.expired() else "work-limit")
    return tightened(certified(instance, effort, _steady(instance, effort, plan), known=known), known, effort)


def _worth_taking_apart(instance: Instance, effort: Effort) -> bool:
    """Whether prices by model are likely to tell more than one program over all models."""
    models = {cls.model for cls in instance.classes}
    many = len(models) >= MODELS or (len(models) > 1 and effort.relative_gap >= COARSE_GAP)
    small = instance.pairs_count <= JOINT_PAIRS
    return many and not (small or instance.question.survive or effort.stopwatch.expired())


def _among_cheapest(instance: Instance, effort: Effort, plan: Incumbent) -> Incumbent:
    """The plan, or a better one of all steps over few shapes: for large questions, whose program would take too long."""
    kernel = {c for c, count in enumerate(plan.copies) if count}
    kernel |= {c for c, count in enumerate(instance.running_copies()) if count}
    for k in range(len(instance.classes)):
        kernel.update(instance.cheapest_first(k)[:CHEAPEST])
    small, order = restricted_to(instance, sorted(kernel)), sorted(kernel)
    if len(order) == len(instance.shapes) or small.pairs_count > SEARCHED_PAIRS or not effort.affords(small):
        return plan
    return best_of([plan, as_whole(instance, order, anytime(small, effort.share(0.7)))]) or plan


def _tighter(known: Mapping[Goal, float], bounds: Mapping[Goal, float]) -> dict[Goal, float]:
    """What is known, with these bounds where they are tighter."""
    return {**known, **{goal: goal.tighter(bound, known.get(goal, bound)) for goal, bound in bounds.items()}}


def _settled(plan: Incumbent, known: Mapping[Goal, float], effort: Effort) -> bool:
    """Whether the first plan is known to be best within the tolerance, the moves to it included."""
    if SCALE in plan.values or plan.values.get(MOVES):
        return False
    return serves_in_full(plan) and plan.values[DOLLARS] <= known[DOLLARS] * (1 + effort.relative_gap)


def _settled_levels(plan: Incumbent | None, known: Mapping[Goal, float], effort: Effort) -> dict[Goal, float]:
    """Bounds that save a search: of the dollars in full service, and of the scale where the plan is within the tolerance."""
    if SCALE in known and (plan is None or known[SCALE] > plan.values[SCALE] * (1 + effort.relative_gap)):
        return {}
    return {goal: known[goal] for goal in (SCALE, DOLLARS) if goal in known}


def _steady(instance: Instance, effort: Effort, plan: Incumbent) -> Incumbent:
    """The running fleet where the plan is better by no more than the tolerance, so that nothing moves for less."""
    running = running_plan(instance)
    if running is None or is_better(plan.values, running.values, tolerance=effort.relative_gap):
        return plan
    return running
