"""The limits of a question that a person set and may change: their names, their values, the question with others.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. `conflict` drops and eases them, `explain` asks
what one more unit of each is worth. Names: `budget`, `pool:NAME` (max_nodes), `floor:NAME` (min_nodes),
`max_copies:SHAPE`, `quality:CLASS`, `survive:EVENT` (min_priority), `class:NAME` (requests_per_second).
"""

import math
from collections.abc import Callable, Iterable, Mapping

from servingplan.model.question import Question, Shape

MOST_NODES = 1_000_000
"""Most nodes that a pool of a question may have."""


def limits_of(question: Question) -> dict[str, float]:
    """Every limit that restricts something, with its value, in a fixed order of kinds."""
    shaped = {name for shape in question.shapes for name in shape.gpus}
    lossy = {name for shape in question.shapes for name, loss in shape.quality_loss.items() if loss > 0}
    found: dict[str, float] = {"budget": question.budget_dollars_per_hour}
    found |= {f"pool:{pool.name}": pool.max_nodes for pool in question.pools if pool.name in shaped}
    found |= {f"floor:{pool.name}": pool.min_nodes for pool in question.pools if pool.min_nodes}
    found |= {f"max_copies:{s.name}": s.max_copies for s in question.shapes if s.max_copies is not None}
    found |= {
        f"quality:{cls.name}": cls.quality_loss_limit
        for cls in question.classes
        if cls.quality_loss_limit is not None and cls.name in lossy
    }
    for event in sorted({rule.event for rule in question.survive}):
        found[f"survive:{event}"] = min(rule.min_priority for rule in question.survive if rule.event == event)
    found |= {f"class:{cls.name}": cls.requests_per_second for cls in question.classes if cls.requests_per_second > 0}
    return {name: float(value) for name, value in found.items()}


def changed(question: Question, change: Mapping[str, float]) -> Question:
    """The question with these limits at other values; a cap below the floor takes the floor down with it."""
    caps, floors, copies, losses, rates = (
        {name.partition(":")[2]: value for name, value in change.items() if name.startswith(f"{kind}:")}
        for kind in ("pool", "floor", "max_copies", "quality", "class")
    )
    pools = []
    for pool in question.pools:
        cap = int(caps.get(pool.name, pool.max_nodes))
        floor = min(cap, int(floors.get(pool.name, pool.min_nodes)))
        pools.append(pool.model_copy(update={"max_nodes": cap, "min_nodes": floor}))
    return question.model_copy(
        update={
            "budget_dollars_per_hour": change.get("budget", question.budget_dollars_per_hour),
            "pools": tuple(pools),
            "shapes": tuple(
                shape.model_copy(update={"max_copies": int(copies[shape.name])}) if shape.name in copies else shape
                for shape in question.shapes
            ),
            "classes": tuple(
                cls.model_copy(
                    update={
                        "quality_loss_limit": losses.get(cls.name, cls.quality_loss_limit),
                        "requests_per_second": rates.get(cls.name, cls.requests_per_second),
                    }
                )
                for cls in question.classes
            ),
            "survive": tuple(
                rule.model_copy(
                    update={"min_priority": max(rule.min_priority, int(change.get(f"survive:{rule.event}", -math.inf)))}
                )
                if f"survive:{rule.event}" in change
                else rule
                for rule in question.survive
            ),
        }
    )


def without(question: Question, names: Iterable[str], *, enough: int) -> Question:
    """The question with these limits dropped: set to values at which they restrict nothing; `enough` nodes of a pool."""
    dropped = set(names)
    change = {
        name: value
        for name in sorted(dropped - {"budget"})
        for value in [_harmless(question, name, enough)]
        if value is not None
    }
    shapes = tuple(
        shape.model_copy(update={"max_copies": None}) if f"max_copies:{shape.name}" in dropped else shape
        for shape in question.shapes
    )
    classes = tuple(
        cls.model_copy(update={"quality_loss_limit": None}) if f"quality:{cls.name}" in dropped else cls
        for cls in question.classes
    )
    survive = tuple(rule for rule in question.survive if f"survive:{rule.event}" not in dropped)
    eased = changed(question.model_copy(update={"shapes": shapes, "classes": classes, "survive": survive}), change)
    if "budget" not in dropped:
        return eased
    price = 1.0 + math.fsum(pool.max_nodes * pool.dollars_per_node_hour for pool in eased.pools)
    return changed(eased, {"budget": max(price, eased.budget_dollars_per_hour)})


def _harmless(question: Question, name: str, enough: int) -> float | None:
    kind, _, item = name.partition(":")
    if kind == "pool":
        return min(MOST_NODES, enough + next(pool.max_nodes for pool in question.pools if pool.name == item))
    return 0.0 if kind in ("floor", "class") else None


def enough_nodes(question: Question) -> int:
    """Nodes of any pool beyond which more of them can help nobody.

    If some plan serves every class in full, there is one that serves each class alone, each copy on its own nodes. Two
    shapes without `max_copies` do for a class, since it has two rows to keep (its rate and its quality), with
    rate / (h rho) copies each, rounded up, one more against the loss of a node and one for the dips of a table of rho;
    shapes with `max_copies` come on top, all of them at worst.
    """
    per_node = {pool.name: pool.gpus_per_node for pool in question.pools}
    total = 1
    for cls in question.classes:
        needs = [(shape, _alone(shape, cls.name, cls.requests_per_second, per_node)) for shape in question.shapes]
        total += 2 * max((need for shape, need in needs if shape.max_copies is None), default=0)
        total += sum(need for shape, need in needs if shape.max_copies is not None)
    return min(MOST_NODES, total)


def _alone(shape: Shape, name: str, rate: float, per_node: Mapping[str, int]) -> int:
    if name not in shape.requests_per_second or rate <= 0:
        return 0
    table = shape.max_utilization
    last, length = (table, 1) if isinstance(table, float) else (table[-1], len(table))
    copies = min(float(MOST_NODES), max(length, rate / shape.requests_per_second[name] / last) + 2)
    copies = copies if shape.max_copies is None else min(copies, shape.max_copies)
    nodes = max(-(-gpus // per_node[pool]) for pool, gpus in shape.gpus.items())
    return math.ceil(copies) * nodes


def least_integer(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """The least number above `low`, up to `high`, that holds; None where none does. Steps double, then halve."""
    if high <= low or not holds(high):
        return None
    step = 1
    while low + step < high and not holds(low + step):
        low, step = low + step, 2 * step
    high = min(high, low + step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
