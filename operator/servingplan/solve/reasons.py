"""Why there is no plan, and the smallest change that would make one.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. The smallest change is found by asking the
solver an easier question: the same needs with an endless budget, then with more nodes.
"""

import math
from collections.abc import Callable, Iterable

from servingplan.model.question import Pool, Question

Cheapest = Callable[[Question], dict[str, int] | None]
"""Nodes by pool of the cheapest plan that serves every class of a MinimizeCost question in full; None where there is none."""

HARDLY_ANY = 1e-6
"""Part of the mix that counts as "served at all" under MaximizeService."""


def floors_over_budget(question: Question) -> str | None:
    """The reason when the floors alone cost more than the budget; None when they fit."""
    floors = math.fsum(pool.min_nodes * pool.dollars_per_node_hour for pool in question.pools)
    if floors <= question.budget_dollars_per_hour * (1 + 1e-9) + 1e-12:
        return None
    names = ", ".join(repr(pool.name) for pool in question.pools if pool.min_nodes and pool.dollars_per_node_hour)
    return (
        f"budget: min_nodes of {names} cost {floors:.10g} $/h, above budget_dollars_per_hour "
        f"{question.budget_dollars_per_hour:.10g}; raise the budget to {floors:.10g} or lower min_nodes"
    )


def why_infeasible(question: Question, cheapest: Cheapest) -> tuple[str, ...]:
    """One reason per limit that has to move, each with the smallest change; limits are tried budget first, then stock."""
    needed = _needs(question)
    what = _what(question)
    missing = [cls.name for cls in needed.classes if not any(cls.name in s.requests_per_second for s in needed.shapes)]
    if missing:
        return tuple(f"class {name!r}: no shape serves it; add a shape with a rate for it" for name in missing)
    dollars = {pool.name: pool.dollars_per_node_hour for pool in question.pools}
    nodes = cheapest(_with_budget(needed, needed.pools))
    if nodes is not None:
        price = math.fsum(dollars[name] * count for name, count in nodes.items())
        return (
            f"budget: budget_dollars_per_hour {question.budget_dollars_per_hour:.10g} is too small; the cheapest plan "
            f"that {what} costs {price:.10g} $/h; raise the budget to {price:.10g}",
        )
    nodes = cheapest(_with_more_nodes(needed))
    if nodes is None:
        unlimited = tuple(shape.model_copy(update={"max_copies": None}) for shape in needed.shapes)
        if cheapest(_with_more_nodes(needed.model_copy(update={"shapes": unlimited}))) is not None:
            limited = ", ".join(repr(shape.name) for shape in needed.shapes if shape.max_copies is not None)
            return (f"max_copies of {limited} is too small for a plan that {what}; raise it",)
        return tuple(_structural(needed, what))
    reasons = []
    for pool in question.pools:
        if nodes[pool.name] > pool.max_nodes:
            reasons.append(
                f"pool:{pool.name}: max_nodes {pool.max_nodes} is too small for a plan that {what}; raise it to "
                f"{nodes[pool.name]}"
            )
    return tuple(reasons)


def _what(question: Question) -> str:
    if not question.survive:
        return "serves every class at all"
    events = " and ".join(sorted({rule.event for rule in question.survive}))
    return f"survives {events}" if question.objective == "MinimizeCost" else f"serves every class and survives {events}"


def _needs(question: Question) -> Question:
    """What has to be served, as a MinimizeCost question without running plan: all its classes are needed in full."""
    classes = [cls for cls in question.classes if cls.requests_per_second > 0]
    if question.objective == "MaximizeService":
        slowest = min(
            rate / cls.requests_per_second
            for cls in classes
            for shape in question.shapes
            for name, rate in shape.requests_per_second.items()
            if name == cls.name
        )
        factor = HARDLY_ANY * slowest
        classes = [cls.model_copy(update={"requests_per_second": factor * cls.requests_per_second}) for cls in classes]
    else:
        floor = min((rule.min_priority for rule in question.survive), default=0)
        classes = [cls for cls in classes if cls.priority >= floor]
    kept = {cls.name for cls in classes}
    shapes = []
    for shape in question.shapes:
        rates = {name: rate for name, rate in shape.requests_per_second.items() if name in kept}
        losses = {name: loss for name, loss in shape.quality_loss.items() if name in kept}
        if rates:
            shapes.append(shape.model_copy(update={"requests_per_second": rates, "quality_loss": losses}))
    update = {
        "objective": "MinimizeCost",
        "classes": tuple(classes),
        "shapes": tuple(shapes),
        "running": None,
        "change": None,
    }
    return question.model_copy(update=update)


def _with_budget(question: Question, pools: Iterable[Pool]) -> Question:
    """The question with these pools and a budget that pays for all their nodes."""
    pools = tuple(pools)
    enough = 1.0 + math.fsum(pool.max_nodes * pool.dollars_per_node_hour for pool in pools)
    return question.model_copy(update={"pools": pools, "budget_dollars_per_hour": enough})


def _with_more_nodes(question: Question) -> Question:
    """The question in which the known nodes are floors and each further node costs one: the cheapest plan adds fewest."""
    copies = 2.0 + math.fsum(
        max(
            (cls.requests_per_second / s.requests_per_second[cls.name] for s in question.shapes
             if cls.name in s.requests_per_second),
            default=0.0,
        )
        for cls in question.classes
    )  # fmt: skip
    largest = max((gpus for shape in question.shapes for gpus in shape.gpus.values()), default=1)
    more = min(10_000, math.ceil(2 * copies * largest))
    return _with_budget(
        question,
        [
            pool.model_copy(
                update={"min_nodes": pool.max_nodes, "max_nodes": pool.max_nodes + more, "dollars_per_node_hour": 1.0}
            )
            for pool in question.pools
        ],
    )


def _structural(question: Question, what: str) -> Iterable[str]:
    """Reasons that no number of nodes removes."""
    spot = {pool.name for pool in question.pools if pool.capacity_type == "Spot"}
    found = False
    for cls in question.classes:
        serving = [shape for shape in question.shapes if cls.name in shape.requests_per_second]
        limit = cls.quality_loss_limit
        if limit is not None and all(shape.quality_loss.get(cls.name, 0.0) > limit for shape in serving):
            found = True
            best = min(shape.quality_loss.get(cls.name, 0.0) for shape in serving)
            yield f"quality:{cls.name}: quality_loss_limit {limit:g} is below every shape's loss; raise it to {best:g}"
        guarded = any(rule.event == "SpotPools" for rule in question.survive)
        if guarded and all(spot & shape.gpus.keys() for shape in serving):
            found = True
            yield f"class {cls.name!r}: every shape that serves it needs a Spot pool; add one on another pool"
    if not found:
        yield f"no plan {what}, whatever the budget and the number of nodes; add shapes or drop a survive rule"
