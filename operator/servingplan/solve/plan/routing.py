"""Routing: which shapes serve which classes if the copies are given, by a linear program.

`judge` routes every plan with it. Whether a plan survives a loss is a routing question too.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from servingplan.model.goal import SCALE, Goal, Kind
from servingplan.solve.problem.constraints import PlanProgram, build
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.objective import Objective
from servingplan.solve.solver.program import Limits
from servingplan.solve.solver.tolerance import DUST, EQUAL, HELD

LP = Limits(relative_gap=0.0, nodes=1)
Rates = Mapping[tuple[int, int], float]
"""Requests/s that all copies of shape c serve of class k; positive entries only."""
SLACKS = (0.0, 1e-9)
"""Relative slack of a level while later ones are routed. The first try has none, since these programs have no whole numbers."""


def route(instance: Instance, copies: Sequence[int], targets: Sequence[float]) -> Rates:
    """The best routing for `copies` of each shape: best on the service levels in their order, then with the least load.

    Each routing is found once and kept in the instance's notes, because the search and the answer ask for the same plans.
    """
    asked = tuple((c, count) for c, count in enumerate(copies) if count), tuple(targets)
    if asked not in instance.notes:
        instance.notes[asked] = _routed(instance, copies, targets)
    found: Rates = instance.notes[asked]
    return found


def _routed(instance: Instance, copies: Sequence[int], targets: Sequence[float]) -> Rates:
    used = [c for c, count in enumerate(copies) if count]
    targets = _within_reach(instance, used, copies, targets)
    shares: dict[tuple[int, int], float] = {}
    for slack in SLACKS:
        plan = _program(instance, used, copies, targets)
        point, complete = _point(plan, slack=slack)
        shares = {(used[c], k): point[column] * plan.part(c, k) for (c, k), column in plan.shares.items() if point}
        if complete:
            break
    return _repaired(instance, copies, targets, shares)


def _point(plan: PlanProgram, *, slack: float) -> tuple[tuple[float, ...], bool]:
    """The optimum of the levels in their order and then of the least load, and whether it was reached. With little slack,
    rounding may make the rows of the levels that are held infeasible."""
    reached: dict[Goal, float] = {}
    point: tuple[float, ...] = ()
    for stage in Objective(plan).service():
        if stage.redundant(reached):
            reached[stage.goal] = stage.best
            continue
        outcome = plan.program.optimise(stage.terms, stage.sense, LP, relaxed=True)
        if outcome.value is None:
            return point, False
        point = outcome.values
        reached[stage.goal] = outcome.value * stage.unit
        stage.hold(plan.program, outcome.value, slack=slack)
    load = [(column, plan.part(c, k) * plan.load(c, k)) for (c, k), column in plan.shares.items()]
    least = plan.program.optimise(load, "min", LP, relaxed=True).values
    return least or point, bool(least) or not load


def service_values(instance: Instance, rates: Rates) -> dict[Goal, float]:
    """The value of every service level for these rates."""
    asked = [cls.requests_per_second for cls in instance.classes]
    served = [math.fsum(rate for (_, j), rate in rates.items() if j == k) for k in range(len(asked))]
    parts = [rate / want for rate, want in zip(served, asked, strict=True)]
    if instance.question.objective == "MaximizeService":
        return {SCALE: min(parts)} if parts else {}
    parts = [1.0 if part > 1.0 - EQUAL else part for part in parts]
    values: dict[Goal, float] = {}
    for priority in sorted({cls.priority for cls in instance.classes}, reverse=True):
        members = [k for k, cls in enumerate(instance.classes) if cls.priority == priority]
        values[Goal(Kind.SERVED_FRACTION, priority)] = min(parts[k] for k in members)
        values[Goal(Kind.SERVED_TOTAL, priority)] = math.fsum(parts[k] * asked[k] for k in members)
    return values


def _within_reach(
    instance: Instance, used: Sequence[int], copies: Sequence[int], targets: Sequence[float]
) -> tuple[float, ...]:
    """The targets, each lowered to what these copies could serve of its class alone. So no target is out of proportion to the
    copies, which would harm the solver's accuracy. Under MaximizeService all targets are lowered by one factor."""
    room = {c: instance.capacity(c, copies[c]) for c in used}
    alone = [sum(room[c] * instance.rate(c, k) for c in used) for k in range(len(targets))]
    if instance.question.objective == "MaximizeService":
        part = min((most / want for most, want in zip(alone, targets, strict=True) if want), default=1.0)
        return tuple(min(1.0, part) * want for want in targets) if part else tuple(targets)
    return tuple(min(most, want) if most else want for most, want in zip(alone, targets, strict=True))


def kept_part(
    instance: Instance,
    copies: Sequence[int],
    rates: Sequence[float],
    *,
    lost: Mapping[int, int],
    protected: Collection[int],
) -> float:
    """The largest part, at most 1, of the protected classes' `rates` (requests/s by class) that the remaining copies serve."""
    left = [max(0, count - lost.get(c, 0)) for c, count in enumerate(copies)]
    kept = sorted(k for k in protected if rates[k] > 0)
    if not kept:
        return 1.0
    few = replace(instance, classes=tuple(instance.classes[k] for k in kept))
    plan = _program(few, [c for c, count in enumerate(left) if count], left, [rates[k] for k in kept])
    part = plan.program.add_column("part", upper=1.0)
    for k, served in enumerate(plan.served):
        plan.program.add_row(f"part({few.classes[k].name})", [(part, 1.0), (served, -1.0)], "<=", 0.0)
    outcome = plan.program.optimise([(part, 1.0)], "max", LP, relaxed=True)
    return outcome.value or 0.0  # no traffic at all is always a routing


def _program(instance: Instance, used: Sequence[int], copies: Sequence[int], targets: Sequence[float]) -> PlanProgram:
    """The rows of the planning problem for the used shapes with fixed copies, so that it has no nodes and no binaries."""
    shapes = tuple(
        instance.shapes[c].model_copy(update={"max_utilization": instance.utilization(c, copies[c])}) for c in used
    )
    fixed = replace(instance, shapes=shapes, copies_limit=tuple(copies[c] for c in used))
    plan = build(fixed, targets, where=lambda family: family.copies_fixed)
    for column, c in zip(plan.copies, used, strict=True):
        plan.program.set_bounds(column, lower=copies[c], upper=copies[c])
    return plan


def _repaired(
    instance: Instance, copies: Sequence[int], targets: Sequence[float], shares: Mapping[tuple[int, int], float]
) -> Rates:
    """The rates without the solver's rounding: none is negative, no copy exceeds its limit, no class exceeds its target."""
    rates = {(c, k): share * targets[k] for (c, k), share in shares.items() if share > DUST}
    for c in sorted({c for c, _ in rates}):
        busy = sum(rate / instance.rate(c, k) for (d, k), rate in rates.items() if d == c)
        room = instance.capacity(c, copies[c])
        if busy > room > 0:
            for pair in [pair for pair in rates if pair[0] == c]:
                rates[pair] *= room / busy
    sums = [sum(rate for (_, k), rate in rates.items() if k == index) for index in range(len(targets))]
    reached = [served / target if target else 0.0 for served, target in zip(sums, targets, strict=True)]
    if instance.question.objective == "MaximizeService":
        wanted = [min(reached, default=0.0)] * len(targets)
    else:
        wanted = [1.0 if part > 1.0 - HELD else part for part in reached]
    return {(c, k): rate * wanted[k] / reached[k] for (c, k), rate in rates.items() if reached[k] > 0 and wanted[k] > 0}
