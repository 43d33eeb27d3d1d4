"""Kernel search (Angelelli, Mansini and Speranza 2010): the exact program over few shapes.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from servingplan.model.goal import Goal
from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.plan.judge import judge
from servingplan.solve.plan.plan import Plan
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.guarded import guarded_search
from servingplan.solve.search.rounding import fractional_copies
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import TOLD


def restricted_to(instance: Instance, kernel: Sequence[int]) -> Instance:
    """The instance with these shapes only."""
    shapes, limits = instance.shapes, instance.copies_limit
    return replace(instance, shapes=tuple(shapes[c] for c in kernel), copies_limit=tuple(limits[c] for c in kernel))


def as_whole(instance: Instance, kernel: Sequence[int], plan: Plan | None) -> Plan | None:
    """A plan of these shapes as one of the whole instance."""
    if plan is None:
        return None
    copies = [0] * len(instance.shapes)
    for c, count in zip(kernel, plan.copies, strict=True):
        copies[c] = count
    return judge(instance, copies)


def kernel_of(
    instance: Instance, relaxation: Relaxation, plan: Plan | None, chosen: Collection[int] = (), *, size: int
) -> list[int]:
    """So many shapes, or more where more are in use: those chosen before, those that the relaxation, the plan or the running
    fleet use, and those nearest to use."""
    fractional = fractional_copies(relaxation)
    used = set(chosen) | {c for c, amount in enumerate(fractional) if amount > TOLD}
    used |= {c for c, count in enumerate(instance.running_copies()) if count}
    used |= set(plan.used) if plan else set()
    costs = relaxation.reduced_costs
    if not costs:
        return sorted(used)
    columns = relaxation.plan

    def distance(c: int) -> float:
        """What a busy copy of c would cost the objective: its own reduced cost and that of its best traffic."""
        classes = [k for k in instance.served_by(c) if columns.targets[k]]
        busy = {k: columns.part(c, k) * columns.load(c, k) for k in classes}
        traffic = min((abs(costs[columns.shares[c, k]]) / busy[k] for k in classes), default=math.inf)
        return abs(costs[columns.copies[c]]) + traffic

    others = sorted((c for c in range(len(instance.shapes)) if c not in used), key=lambda c: (distance(c), c))
    return sorted([*used, *others[: max(0, size - len(used), len(used) // 2)]])


def searched_among(
    instance: Instance,
    kernel: Sequence[int],
    plan: Plan | None,
    effort: Effort,
    settled: Mapping[Goal, float] | None = None,
) -> Plan | None:
    """The best plan that the exact program over these shapes finds."""
    small = restricted_to(instance, kernel)
    start = judge(small, [plan.copies[c] for c in kernel]) if plan else None
    # Fewest dollars are for the search over all shapes. Should time end before it, `report.tidied` takes what lies idle, but
    # not from plans beside a running fleet or that must survive losses.
    question = instance.question
    scale_only = question.objective == "MaximizeService" and not (question.running or question.survive)
    found = guarded_search(
        small, effort.share(effort.params.kernel_share), start=start, settled=settled, scale_only=scale_only
    )
    return as_whole(instance, kernel, found.plan)
