"""Writes the answer from what a search found: rates, node groups, dollars, and the limits that bind.

This is the last step of `solve`.
"""

import math
from collections.abc import Sequence

from servingplan.model.answer import Answer, Level
from servingplan.model.goal import DOLLARS, SCALE, Goal, Kind
from servingplan.model.question import Question
from servingplan.solve.plan.judge import judge
from servingplan.solve.plan.plan import Bound, Found, Plan
from servingplan.solve.problem.instance import Instance
from servingplan.solve.solver.tolerance import HELD, TOLD, gap_of, is_within


def answer_of(
    instance: Instance, found: Found, *, method: str, relative_gap: float, whole: Question | None = None
) -> Answer:
    """The answer for a plan that was found. Every number is computed from the plan's integers, not read from the solver.

    `whole` is the question that was asked, if the instance has only some of its shapes.
    """
    question, plan = whole or instance.question, found.plan
    assert plan is not None, "callers ask first"
    served = _served(instance, plan)
    levels = [
        _level(goal, plan.values[goal], bound, _negligible(instance, bound, goal), relative_gap)
        for goal, bound in found.bounds.items()
    ]
    scale, dollars = plan.values.get(SCALE), plan.values[DOLLARS]
    objective = dollars if scale is None else scale
    told = next((level for level in levels if not level.proved), None)
    own = next((level for level in levels if level.goal == (DOLLARS if scale is None else SCALE)), None)
    shown = told or own
    return Answer(
        status="Optimal" if told is None else "Feasible",
        method=method,
        objective=objective,
        bound=shown.bound if shown else objective,
        gap=shown.gap if shown else 0.0,
        relative_gap=relative_gap,
        stopped="proved" if told is None else found.stopped,
        scale=scale,
        dollars_per_hour=dollars,
        startup_dollars=startup_dollars(instance, plan.copies) if question.running else None,
        nodes={pool.name: count for pool, count in zip(instance.pools, plan.nodes, strict=True)},
        replicas={instance.shapes[c].name: plan.copies[c] for c in plan.used},
        placements=plan.packing.placements(plan.nodes),
        rates=_rates(instance, plan),
        unserved=_unserved(instance, served) if scale is None else {},
        binding=_binding(instance, question, plan, served),
        levels=tuple(levels),
    )


def tidied(instance: Instance, found: Found) -> Plan | None:
    """The plan without the idle copies and the unused nodes that a search leaves if it is cut short.

    A complete search leaves none, because of its dollars level and its tie-break. Two kinds of plans are not changed: plans
    that start from a running fleet, where idle copies may save moves, and plans that must survive losses, where idle copies
    may be the reserve.
    """
    plan = found.plan
    if plan is None or found.stopped == "proved" or instance.question.running or instance.question.survive:
        return plan
    copies, busy = list(plan.copies), [0.0] * len(plan.copies)
    for (c, k), rate in plan.rates.items():
        busy[c] += rate / instance.rate(c, k)
    for c, count in enumerate(copies):
        copies[c] = instance.fewest_copies(c, busy[c], count)
    tidy = judge(instance, plan.packing.of(copies), plan.targets)
    return tidy if tidy is not None and not plan.is_better(tidy) else plan


def startup_dollars(instance: Instance, copies: Sequence[int]) -> float:
    """Dollars: start-up hours of every added replica x the price share of its GPUs (GPUs / GPUs per node x node price)."""
    added = [max(0, then - now) for now, then in zip(instance.running_copies(), copies, strict=True)]
    hours = [shape.startup_seconds / 3600.0 for shape in instance.shapes]
    return math.fsum(count * hours[c] * instance.share_price(c) for c, count in enumerate(added))


def _served(instance: Instance, plan: Plan) -> list[float]:
    """Requests/s that are served, by class."""
    return [math.fsum(rate for (_, j), rate in plan.rates.items() if j == k) for k in range(len(instance.classes))]


def _rates(instance: Instance, plan: Plan) -> dict[str, dict[str, float]]:
    rates: dict[str, dict[str, float]] = {}
    for (c, k), rate in sorted(plan.rates.items()):
        rates.setdefault(instance.classes[k].name, {})[instance.shapes[c].name] = rate
    return rates


def _unserved(instance: Instance, served: Sequence[float]) -> dict[str, float]:
    missing = {}
    for cls, rate in zip(instance.classes, served, strict=True):
        if cls.requests_per_second - rate > HELD * cls.requests_per_second:
            missing[cls.name] = cls.requests_per_second - rate
    return missing


def _negligible(instance: Instance, bound: Bound, goal: Goal) -> float:
    """The difference between a bound and a value that means nothing, in the level's unit.

    It is the solver's rounding. For service it is also what the same small part of all copies of the quickest shape could
    serve of a class. The earlier levels were held with that slack: if a copy serves a class so quickly that its load hardly
    counts, the slack alone admits such a rate.
    """
    rounding = TOLD * bound.unit
    if not goal.is_promise:
        return rounding
    let_through = {
        k: TOLD * max((instance.most_rate(c, k) for c in instance.serving[k]), default=0.0)
        for k, cls in enumerate(instance.classes)
        if cls.priority == goal.priority
    }
    if goal.kind == Kind.SERVED_TOTAL:
        return max(rounding, sum(let_through.values()))
    return max(rounding, *(rate / instance.classes[k].requests_per_second for k, rate in let_through.items()))


def _level(goal: Goal, value: float, bound: Bound, negligible: float, relative_gap: float) -> Level:
    """The level with its gap. A bound within `negligible` of the value counts as the value."""
    beyond = goal.no_worse(bound.value, value)
    beyond = value if abs(beyond - value) <= negligible else beyond
    gap = gap_of(value, beyond)
    proved = bound.proved and gap <= max(relative_gap, TOLD)
    return Level(name=goal.name, value=value, bound=beyond, gap=gap, proved=proved)


def _binding(instance: Instance, question: Question, plan: Plan, served: Sequence[float]) -> tuple[str, ...]:
    """The limits that stop one more node or copy; none if the question is MinimizeCost and every class is served in full.

    `budget`: the budget cannot pay one more node of some pool that the shapes use. `pool:NAME`: the pool is at its cap,
    although the budget would pay one more of its nodes. `quota:NAME`: it has no room for one more copy. `max_copies:SHAPE`:
    the shape is at its cap. `quality:CLASS`: the mean quality loss of the class is at its limit.
    """
    if question.objective == "MinimizeCost" and not _unserved(instance, served):
        return ()
    names: list[str] = []
    spare = question.budget_dollars_per_hour - plan.values[DOLLARS]
    used = {name for shape in question.shapes for name in shape.gpus}
    afford = {pool.name: is_within(pool.dollars_per_node_hour, spare) for pool in instance.pools}
    if any(not afford[name] for name in used):
        names.append("budget")
    for pool, count in zip(instance.pools, plan.nodes, strict=True):
        if pool.name in used and count >= pool.max_nodes and afford[pool.name]:
            names.append(f"pool:{pool.name}")
    for quota, gpus in instance.quota_gpus:
        left = quota.max_gpus - sum(held * plan.copies[c] for c, held in gpus.items())
        if gpus and left < min(gpus.values()):
            names.append(f"quota:{quota.name}")
    for shape, count in zip(instance.shapes, plan.copies, strict=True):
        if shape.max_copies is not None and count >= shape.max_copies:
            names.append(f"max_copies:{shape.name}")
    for k, cls in enumerate(instance.classes):
        lost = math.fsum(rate * instance.loss(c, k) for (c, j), rate in plan.rates.items() if j == k)
        limit = cls.quality_loss_limit
        if limit is not None and lost > 0 and lost >= limit * served[k] * (1 - TOLD):
            names.append(f"quality:{cls.name}")
    return tuple(sorted(names, key=lambda name: (name != "budget", name)))
