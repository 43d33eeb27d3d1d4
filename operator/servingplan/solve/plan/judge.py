"""The judge: every plan, whatever found it, is made here.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. `judge` holds copies and nodes against every row
over them and against the losses to survive, so that a heuristic which does not know a constraint can lose a candidate but not
break a promise.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from servingplan.model.goal import DOLLARS, MOVES, SCALE
from servingplan.solve.plan.losses import protected, protected_from, survivable_targets
from servingplan.solve.plan.placement import nodes_taken, packed, spread
from servingplan.solve.plan.plan import Contents, Plan
from servingplan.solve.plan.routing import route, service_values
from servingplan.solve.problem import constraints
from servingplan.solve.problem.constraints import PlanProgram
from servingplan.solve.problem.instance import Instance
from servingplan.solve.solver.program import RowBook
from servingplan.solve.solver.tolerance import reaches


def judge(
    instance: Instance,
    copies: Sequence[int],
    targets: Sequence[float] | None = None,
    *,
    nodes: Sequence[int] | None = None,
    contents: Contents | None = None,
) -> Plan | None:
    """These copies as a plan; None where they break a promise.

    They stand on no fewer than `nodes` of each pool, by default on the fewest that we can pack them on, and there as
    `contents` says; by default packed tightly or, where any node may be lost, spread evenly if that keeps more. `targets` are
    the rates (requests/s by class) at which service is measured, by default what could be reached.
    """
    copies, tight = tuple(copies), contents or packed(instance, copies)
    taken = nodes_taken(instance, copies, tight)
    nodes = taken if nodes is None else tuple(map(max, taken, nodes))
    if not _keeps_counts(instance, copies, nodes):
        return None
    targets = tuple(instance.reachable_targets if targets is None else targets)
    packings: list[Contents | None] = [tight]
    if contents is None and protected_from(instance, "AnyNode"):
        packings = [spread(instance, copies, nodes), tight]
    kept = [(survivable_targets(instance, copies, it, targets), it) for it in packings if it is not None]
    survivable, contents = max(kept, key=lambda one: sum(one[0] or ()))
    if survivable is None:
        return None
    plan = replace(weighed(instance, copies, survivable, nodes=nodes, contents=contents), targets=targets)
    if SCALE in plan.values:
        return plan if plan.values[SCALE] else None
    guarded = protected(instance)
    served = {k: math.fsum(rate for (_, j), rate in plan.rates.items() if j == k) for k in guarded}
    return plan if all(reaches(served[k], instance.classes[k].requests_per_second) for k in guarded) else None


def weighed(
    instance: Instance, copies: Sequence[int], targets: Sequence[float], *, nodes: Sequence[int], contents: Contents
) -> Plan:
    """Copies on nodes with their best routing and the value of every level; whether they break a promise is not asked."""
    rates = route(instance, copies, targets)
    prices = [pool.dollars_per_node_hour for pool in instance.pools]
    values = service_values(instance, rates)
    values[DOLLARS] = math.fsum(price * count for price, count in zip(prices, nodes, strict=True))
    if instance.question.running:
        values[MOVES] = float(sum(abs(y - now) for y, now in zip(copies, instance.running_copies(), strict=True)))
    return Plan(
        copies=tuple(copies), nodes=tuple(nodes), contents=contents, targets=tuple(targets), rates=rates, values=values
    )


def running_plan(instance: Instance, targets: Sequence[float] | None = None) -> Plan | None:
    """The running fleet as a plan; None where nothing runs, or it is not allowed any more."""
    running = instance.question.running
    if running is None:
        return None
    known = {shape.name for shape in instance.shapes}
    if any(count and name not in known for name, count in running.replicas.items()):
        return None
    return judge(instance, instance.running_copies(), targets)


def empty_plan(instance: Instance) -> Plan | None:
    """No copy at all: a plan under MinimizeCost unless something must be served; none under MaximizeService."""
    return None if instance.question.objective == "MaximizeService" else judge(instance, (0,) * len(instance.shapes))


def _keeps_counts(instance: Instance, copies: Sequence[int], nodes: Sequence[int]) -> bool:
    """Whether the limits of nodes and copies hold, and every row of the families marked `on_counts`."""
    book: RowBook = instance.noted(_book)
    return book.holds([*nodes, *copies])


def _book(instance: Instance) -> RowBook:
    """The rows over nodes and copies, columns in this order."""
    book = RowBook()
    plan = PlanProgram(instance, (), book)
    constraints.define_nodes(plan)
    constraints.define_copies(plan)
    for family in constraints.FAMILIES:
        if family.on_counts:
            family.define(plan)
    return book
