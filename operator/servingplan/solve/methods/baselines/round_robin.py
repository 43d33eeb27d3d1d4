"""Round-robin routing, the ablation of Jiang et al. (ICML 2025), figure 8: the exact plan with equal traffic for every copy.

Each copy that can serve a class within its quality limit gets the same requests/s of it. So the slowest copy of a class limits
all of them.
"""

from dataclasses import replace
from itertools import groupby

from servingplan.model.goal import SCALE, Goal, Kind
from servingplan.solve.bounds.certificate import certified
from servingplan.solve.methods.exact import exact
from servingplan.solve.plan.judge import judge
from servingplan.solve.plan.plan import Found
from servingplan.solve.problem.instance import Instance
from servingplan.solve.solver.effort import Effort


def round_robin(instance: Instance, effort: Effort) -> Found:
    """The copies and nodes of the exact plan with equal shares of traffic, with bounds."""
    found = exact(instance, effort)
    plan = judge(instance, found.plan.copies) if found.plan else None
    if plan is None:
        return found
    served, values = _served(instance, plan.copies)
    if instance.question.objective == "MaximizeService" and values[SCALE] <= 0:
        return Found()
    rates = {
        (c, k): share * served[k] * cls.requests_per_second
        for k, cls in enumerate(instance.classes)
        for c, share in _shares(instance, plan.copies, k).items()
        if served[k] > 0
    }
    return certified(instance, effort, replace(plan, values={**plan.values, **values}, rates=rates))


def _shares(instance: Instance, copies: tuple[int, ...], k: int) -> dict[int, float]:
    """The part of class k that all copies of each shape get, by shape: its copies / all copies that serve the class."""
    serving = {c: copies[c] for c in instance.cheapest_first(k) if copies[c]}
    total = sum(serving.values())
    return {c: count / total for c, count in sorted(serving.items())}


def _served(instance: Instance, copies: tuple[int, ...]) -> tuple[list[float], dict[Goal, float]]:
    """The served part of each class (under MaximizeService one multiple), and the values of the service levels."""
    room = [instance.capacity(c, count) for c, count in enumerate(copies)]
    shares = [_shares(instance, copies, k) for k in range(len(instance.classes))]
    asked = [cls.requests_per_second for cls in instance.classes]
    served = [0.0] * len(asked)

    def raise_all(members: list[int], most: float) -> None:
        """Raise the served part of all members by the same amount, up to `most`, until the first shape is full."""
        load: dict[int, float] = {}
        for k in members:
            for c, share in shares[k].items():
                load[c] = load.get(c, 0.0) + asked[k] * share / instance.rate(c, k)
        part = min((room[c] / busy for c, busy in load.items()), default=0.0)
        part = max(0.0, min(part, most)) if all(shares[k] for k in members) else 0.0
        for k in members:
            served[k] += part
        for c, busy in load.items():
            room[c] = max(0.0, room[c] - part * busy)

    classes = list(range(len(asked)))
    if instance.question.objective == "MaximizeService":
        raise_all(classes, float("inf"))
        return served, {SCALE: min(served, default=0.0)}
    values: dict[Goal, float] = {}
    classes.sort(key=lambda k: (-instance.classes[k].priority, k))
    for priority, group in groupby(classes, key=lambda k: instance.classes[k].priority):
        members = list(group)
        raise_all(members, 1.0)
        for k in members:
            raise_all([k], 1.0 - served[k])
        values[Goal(Kind.SERVED_FRACTION, priority)] = min(served[k] for k in members)
        values[Goal(Kind.SERVED_TOTAL, priority)] = sum(served[k] * asked[k] for k in members)
    return served, values
