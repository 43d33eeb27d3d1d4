"""The judge makes every plan, whichever method found its copies.

`judge` checks copies and nodes against every row over them and against the losses to survive. So a heuristic that does not know
a constraint can lose a candidate, but it cannot break a promise.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from servingplan.model.goal import DOLLARS, MOVES, SCALE
from servingplan.solve.plan.losses import Survival
from servingplan.solve.plan.plan import Plan
from servingplan.solve.plan.routing import route, service_values
from servingplan.solve.problem.constraints import build
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.placement import Packing
from servingplan.solve.solver.program import RowBook
from servingplan.solve.solver.tolerance import reaches


def judge(
    instance: Instance,
    copies: Sequence[int] | Packing,
    targets: Sequence[float] | None = None,
    *,
    nodes: Sequence[int] | None = None,
) -> Plan | None:
    """The plan of these copies; None if they break a promise.

    Copies that are not packed yet are packed tightly; if the plan must survive the loss of any node, they are spread evenly
    where that keeps more. The plan has at least `nodes` of each pool, by default only the nodes that the copies need.
    `targets` are the rates (requests/s by class) at which service is measured, by default the reachable ones.
    """
    survival = Survival(instance)
    given = isinstance(copies, Packing)
    tight = copies if isinstance(copies, Packing) else Packing.tight(instance, copies)
    nodes = tight.nodes() if nodes is None else tuple(map(max, tight.nodes(), nodes))
    if not _keeps_counts(instance, tight.copies, nodes):
        return None
    targets = tuple(instance.reachable_targets if targets is None else targets)
    packings: list[Packing | None] = [tight]
    if not given and survival.protected("AnyNode"):
        packings = [Packing.spread(instance, tight.copies, nodes), tight]
    kept = [(survival.targets(packing, targets), packing) for packing in packings if packing is not None]
    survivable, packing = max(kept, key=lambda one: sum(one[0] or ()))
    if survivable is None:
        return None
    plan = replace(weighed(packing, nodes, survivable), targets=targets)
    if SCALE in plan.values:
        return plan if plan.values[SCALE] else None
    for k in survival.protected():
        served = math.fsum(rate for (_, j), rate in plan.rates.items() if j == k)
        if not reaches(served, instance.classes[k].requests_per_second):
            return None
    return plan


def weighed(packing: Packing, nodes: Sequence[int], targets: Sequence[float]) -> Plan:
    """The plan of copies on nodes, with their best routing and the value of every level. Promises are not checked."""
    instance, copies = packing.instance, packing.copies
    rates = route(instance, copies, targets)
    prices = [pool.dollars_per_node_hour for pool in instance.pools]
    values = service_values(instance, rates)
    values[DOLLARS] = math.fsum(price * count for price, count in zip(prices, nodes, strict=True))
    if instance.question.running:
        values[MOVES] = float(sum(abs(y - now) for y, now in zip(copies, instance.running_copies(), strict=True)))
    return Plan(packing=packing, nodes=tuple(nodes), targets=tuple(targets), rates=rates, values=values)


def running_plan(instance: Instance, targets: Sequence[float] | None = None) -> Plan | None:
    """The running fleet as a plan; None if the question has none, or if it is not allowed any more."""
    running = instance.question.running
    if running is None:
        return None
    known = {shape.name for shape in instance.shapes}
    if any(count and name not in known for name, count in running.replicas.items()):
        return None
    return judge(instance, instance.running_copies(), targets)


def empty_plan(instance: Instance) -> Plan | None:
    """The plan without any copy; None under MaximizeService, or if something must be served."""
    return None if instance.question.objective == "MaximizeService" else judge(instance, (0,) * len(instance.shapes))


def _keeps_counts(instance: Instance, copies: Sequence[int], nodes: Sequence[int]) -> bool:
    """Whether the rows over nodes and copies hold."""
    if "counts" not in instance.notes:
        book = RowBook()
        build(instance, (), program=book, where=lambda family: family.on_counts)
        instance.notes["counts"] = book
    known: RowBook = instance.notes["counts"]
    return known.holds([*nodes, *copies])
