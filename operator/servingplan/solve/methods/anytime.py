"""The anytime method: it finds a plan at once and betters it while there is time; its bound is true at every moment.

Each step starts from the best plan so far and returns it or a better one, with bounds at least as tight:

1. `greedy` takes the best of the running fleet, the empty plan and greedy covers, in milliseconds; for larger questions `ruin`
   makes it cheaper.
2. `rounding` makes whole copies from the linear relaxation, whose optimum is the first bound.
3. If several models share many shapes, `gap_closing` serves each model by itself at the prices of the relaxation. This gives
   much better bounds, and the shapes for a search.
4. `kernel` (Angelelli, Mansini and Speranza 2010) searches the exact program over the few shapes that were chosen or that the
   relaxation nearly uses, with a small work limit.
5. `guarded` searches the exact program over all shapes with that plan as its warm start, which also tightens the bound.

If the loss of any node must be survived and nodes can be filled in very many ways, `reserve` replaces steps 2 to 5. A question
that is too large for its whole program gets a search over the cheapest shapes and step 3. The clock can only end the steps
early; then the answer says so.
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
from servingplan.solve.search.ruin import recreated
from servingplan.solve.solver.effort import Effort


def anytime(instance: Instance, effort: Effort) -> Found:
    """The plan and the bounds of the steps above, as far as time and work limits allow."""
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
    if plan is not None and instance.pairs_count >= effort.params.ruin_pairs:
        plan = recreated(instance, effort, plan)
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
    """The plan or a better one, and bounds, if the program over all shapes is too large: first a search over the cheapest
    shapes, then each model by itself."""
    plan = _among_cheapest(instance, effort, plan)
    if instance.question.survive:
        return plan, known
    prices = Prices.of_nodes(instance)
    result = closed(
        instance, effort, prices=prices, bounds=known, plan=plan, search_among=lambda _, best: best, pricing_share=1.0
    )
    return result.plan or plan, result.bounds


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
    """What the decomposition by model gives, if it is worthwhile; otherwise the plan and the bounds as they are."""
    if not _worth_taking_apart(instance, effort):
        return Closed(plan, dict(known), tried=False)
    prices = Prices.of(instance, relaxation) or Prices.of_nodes(instance)
    params = effort.params

    def search_among(shapes: Sequence[int], plan: Plan | None) -> Plan | None:
        return Kernel(instance, shapes).search(plan, effort.with_nodes(params.kernel_nodes).share(params.kernel_share))

    return closed(
        instance,
        effort,
        prices=prices,
        bounds=known,
        plan=plan,
        search_among=search_among,
        pricing_share=params.apart_share,
    )


def _kernel_searched(
    instance: Instance, effort: Effort, relaxation: Relaxation, apart: Closed, settled: Mapping[Goal, float]
) -> Plan | None:
    """The plan or a better one over the shapes of the kernel. It is not searched if the kernel has all shapes, if the scale is
    settled, or if the time is up."""
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
    """What the program over all shapes finds with the plan as its warm start; most often this improves only the bound."""
    limited = replace(
        effort.with_nodes(effort.params.whole_nodes),
        trial_branchings=effort.params.few_branchings,
        bound_first=plan is not None and not apart.tried,
    )
    cuts = apart.cuts if SCALE in settled else ()
    return guarded_search(instance, limited, start=plan, cuts=cuts, settled=settled)


def _worth_taking_apart(instance: Instance, effort: Effort) -> bool:
    """Whether the decomposition by model will probably give more than one program over all models."""
    models = {cls.model for cls in instance.classes}
    params = effort.params
    many = len(models) >= params.apart_models or (len(models) > 1 and effort.relative_gap >= params.apart_gap)
    small = instance.pairs_count <= params.joint_pairs
    return many and not (small or instance.question.survive or effort.stop())


def _among_cheapest(instance: Instance, effort: Effort, plan: Plan) -> Plan:
    """The plan or a better one that all steps find over the cheapest shapes, for questions whose program is too large."""
    kernel = Kernel.cheap(instance, plan, size=effort.params.cheapest_shapes)
    if kernel.is_whole or not (effort.searches_whole(kernel.instance) and effort.affords(kernel.instance)):
        return plan
    start = {shape.name: plan.copies[c] for c, shape in zip(kernel.shapes, kernel.instance.shapes, strict=True)}
    found = anytime(kernel.instance, replace(effort.share(effort.params.small_share), start=start)).plan
    return best_of([plan, kernel.whole(found.copies) if found else None]) or plan


def _settled_levels(plan: Plan | None, known: Mapping[Goal, float], effort: Effort) -> dict[Goal, float]:
    """Known bounds that save work: on the dollars in full service, and on the scale if the plan is within the gap of it."""
    if SCALE in known and (plan is None or known[SCALE] > plan.values[SCALE] * (1 + effort.relative_gap)):
        return {}
    return {goal: known[goal] for goal in (SCALE, DOLLARS) if goal in known}


def _certified(instance: Instance, effort: Effort, plan: Plan | None, known: Mapping[Goal, float]) -> Found:
    """The plan with its bounds. It is replaced by the running fleet if it is better by no more than the gap, so that nothing
    moves for less."""
    running = running_plan(instance)
    if plan and running and not plan.is_better(running, tolerance=effort.relative_gap):
        plan = running
    return certified(instance, effort, plan, known=known)
