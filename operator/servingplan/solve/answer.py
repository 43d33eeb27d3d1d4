"""From what a search found to the answer: rates, node groups, dollars, what binds.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. Last step of `solve`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from servingplan.model.answer import Answer, Level
from servingplan.model.goal import DOLLARS, MOVES, SCALE, Goal, Kind
from servingplan.model.question import Question
from servingplan.solve.plan.found import Found, level_of
from servingplan.solve.plan.judge import keeps_counts
from servingplan.solve.plan.losses import survivable_targets
from servingplan.solve.plan.placement import needed_nodes, place
from servingplan.solve.plan.routing import Routing, route
from servingplan.solve.problem.instance import Instance, capacity
from servingplan.solve.solver.tolerance import HELD, TOLD, is_within


def answer_of(
    instance: Instance, found: Found, *, method: str, relative_gap: float, whole: Question | None = None
) -> Answer:
    """The answer for a plan that was found; every number is computed from the integers, not read from the solver.

    `whole` is the question that was asked where the instance has some of its shapes only.
    """
    question = whole or instance.question
    if found.rates is None:
        routing = route(instance, found.copies, survivable_targets(instance, found) or found.targets)
    else:
        routing = Routing({level.goal: level.value for level in found.levels}, dict(found.rates))
    placements = [
        placement
        for p in range(len(instance.pools))
        for placement in place(instance, p, found.copies, found.nodes[p], found.patterns.get(p), found.contents.get(p))
    ]
    placements.sort(key=lambda placement: placement.pool)
    nodes = {pool.name: count for pool, count in zip(instance.pools, found.nodes, strict=True)}
    dollars = math.fsum(pool.dollars_per_node_hour * nodes[pool.name] for pool in question.pools)
    moves = sum(abs(now - y) for now, y in zip(instance.running_copies(), found.copies, strict=True))
    values = {**routing.values, DOLLARS: dollars, MOVES: float(moves)}
    served = _served(instance, routing)
    scale = None
    if question.objective == "MaximizeService":
        scale = values[SCALE] = min(served[cls.name] / cls.requests_per_second for cls in instance.classes)
    levels = [
        _level(level, values[level.goal], _telling(instance, found, level.goal), relative_gap) for level in found.levels
    ]
    objective = scale if scale is not None else dollars
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
        startup_dollars=startup_dollars(instance, found.copies) if question.running else None,
        nodes=nodes,
        replicas={shape.name: y for shape, y in zip(instance.shapes, found.copies, strict=True) if y},
        placements=tuple(placements),
        rates=_rates(instance, routing),
        unserved=_unserved(instance, served) if scale is None else {},
        binding=_binding(instance, question, found, routing, dollars),
        levels=tuple(levels),
    )


def tidied(instance: Instance, found: Found) -> Found:
    """The plan without what a search that was cut short left behind: idle copies and nodes that nothing needs.

    Complete searches have none of it, by their dollars level and tie-break. Plans that start from a running fleet, where
    idle copies may save moves, and plans that must survive losses, where they may be reserve, are left alone.
    """
    if found.stopped == "proved" or instance.question.running or instance.question.survive:
        return found
    rates = route(instance, found.copies, found.targets).rates
    copies, busy = list(found.copies), [0.0] * len(found.copies)
    for (c, k), rate in rates.items():
        busy[c] += rate / instance.rate(c, k)
    for c, count in enumerate(copies):
        copies[c] = next((y for y in range(count) if capacity(instance.shapes[c], y) >= busy[c]), count)
    nodes = tuple(map(min, needed_nodes(instance, copies, found.patterns), found.nodes))
    return replace(found, copies=tuple(copies), nodes=nodes) if keeps_counts(instance, copies, nodes) else found


def startup_dollars(instance: Instance, copies: Sequence[int]) -> float:
    """Start-up hours of every added replica x the price share of its GPUs (GPUs / GPUs per node x node price)."""
    pools = {pool.name: pool for pool in instance.pools}
    total = []
    for shape, now, then in zip(instance.shapes, instance.running_copies(), copies, strict=True):
        share = math.fsum(
            gpus / pools[name].gpus_per_node * pools[name].dollars_per_node_hour for name, gpus in shape.gpus.items()
        )
        total.append(max(0, then - now) * shape.startup_seconds / 3600.0 * share)
    return math.fsum(total)


def _served(instance: Instance, routing: Routing) -> dict[str, float]:
    return {
        cls.name: math.fsum(rate for (_, index), rate in routing.rates.items() if index == k)
        for k, cls in enumerate(instance.classes)
    }


def _rates(instance: Instance, routing: Routing) -> dict[str, dict[str, float]]:
    rates: dict[str, dict[str, float]] = {}
    for (c, k), rate in sorted(routing.rates.items()):
        rates.setdefault(instance.classes[k].name, {})[instance.shapes[c].name] = rate
    return rates


def _unserved(instance: Instance, served: Mapping[str, float]) -> dict[str, float]:
    missing = {cls.name: cls.requests_per_second - served[cls.name] for cls in instance.classes}
    asked = {cls.name: cls.requests_per_second for cls in instance.classes}
    return {name: rate for name, rate in missing.items() if rate > HELD * asked[name]}


def _telling(instance: Instance, found: Found, goal: Goal) -> float:
    """Difference of a level below which a bound and a value tell nothing apart, in the level's unit.

    The solver's rounding; and for service, as much of a class as that part of all copies of its quickest shape could serve.
    With that slack the levels before were held: where a copy serves a class at such a rate that its load hardly shows, the
    slack alone lets it in.
    """
    rounding = TOLD * found.units[goal]
    if not goal.is_promise:
        return rounding
    let_through = {
        k: TOLD * max((instance.most_rate(c, k) for c in instance.serving(k)), default=0.0)
        for k, cls in enumerate(instance.classes)
        if cls.priority == goal.priority
    }
    if goal.kind == Kind.SERVED_TOTAL:
        return max(rounding, sum(let_through.values()))
    return max(rounding, *(rate / instance.classes[k].requests_per_second for k, rate in let_through.items()))


def _level(level: Level, value: float, telling: float, relative_gap: float) -> Level:
    """The level with its exact value; a bound that is no telling distance from it is the value."""
    bound = level.goal.no_worse(level.bound, value)
    exact = level_of(level.goal, value, value if abs(bound - value) <= telling else bound)
    return exact.model_copy(update={"proved": level.proved and exact.gap <= max(relative_gap, TOLD)})


def _binding(instance: Instance, question: Question, found: Found, routing: Routing, dollars: float) -> tuple[str, ...]:
    """What stops one more node or copy, where something is not served as fully as could be wished.

    `budget` when the next node of some pool with room cannot be paid; `pool:NAME` when a pool is at its cap although the
    budget would pay one more of its nodes; `max_copies:SHAPE`; `quality:CLASS` when the mean loss is at its limit.
    """
    if question.objective == "MinimizeCost" and not _unserved(instance, _served(instance, routing)):
        return ()
    names: list[str] = []
    spare = question.budget_dollars_per_hour - dollars
    used = {name for shape in question.shapes for name in shape.gpus}
    afford = {pool.name: is_within(pool.dollars_per_node_hour, spare) for pool in instance.pools}
    if any(not afford[name] for name in used):
        names.append("budget")
    for pool, count in zip(instance.pools, found.nodes, strict=True):
        if pool.name in used and count >= pool.max_nodes and afford[pool.name]:
            names.append(f"pool:{pool.name}")
    for shape, count in zip(instance.shapes, found.copies, strict=True):
        if shape.max_copies is not None and count >= shape.max_copies:
            names.append(f"max_copies:{shape.name}")
    for k, cls in enumerate(instance.classes):
        rates = {c: rate for (c, served), rate in routing.rates.items() if served == k}
        lost = math.fsum(rate * instance.loss(c, k) for c, rate in rates.items())
        limit = cls.quality_loss_limit
        if limit is not None and lost > 0 and lost >= limit * math.fsum(rates.values()) * (1 - TOLD):
            names.append(f"quality:{cls.name}")
    return tuple(sorted(names, key=lambda name: (name != "budget", name)))
