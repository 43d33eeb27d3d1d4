"""Who serves what, when the copies are given: the linear program inside every plan.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. `levels` routes the plan that it chose and the
plan that runs; survival of a loss is a routing question too.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from servingplan.solve import constraints
from servingplan.solve.constraints import PlanProgram
from servingplan.solve.instance import Instance, capacity, utilization
from servingplan.solve.milp import Limits, Program
from servingplan.solve.objective import hold, service_stages

LP = Limits(relative_gap=0.0, nodes=1)
FULL = 1e-9
"""A class counts as served in full within this fraction."""


@dataclass(frozen=True, slots=True)
class Routing:
    """The best routing for given copies."""

    values: dict[str, float]
    """Value of every service level, by its name, in its own unit."""
    rates: dict[tuple[int, int], float]
    """Requests/s that all copies of shape c serve of class k; positive entries only."""


def route(instance: Instance, copies: Sequence[int], targets: Sequence[float]) -> Routing:
    """Best routing of the service levels in their order, then with the least load, for `copies` of each shape.

    Found once: a plan that was weighed in the search is routed when it is tidied and reported.
    """
    asked = tuple((c, count) for c, count in enumerate(copies) if count), tuple(targets)
    if asked not in instance.routings:
        instance.routings[asked] = _routed(instance, copies, targets)
    return instance.routings[asked]


def _routed(instance: Instance, copies: Sequence[int], targets: Sequence[float]) -> Routing:
    used = [c for c, count in enumerate(copies) if count]
    plan = _program(instance, used, copies, targets)
    values: dict[str, float] = {}
    for stage in service_stages(plan):
        if stage.redundant(values):
            values[stage.name] = stage.best
            continue
        outcome = plan.program.optimise(stage.terms, stage.sense, LP, relaxed=True)
        assert outcome.value is not None, "no traffic at all is always a routing"
        values[stage.name] = outcome.value * stage.unit
        hold(plan.program, stage, outcome.value, slack=0.0)
    load = [(column, plan.load(c, k)) for (c, k), column in plan.shares.items()]
    outcome = plan.program.optimise(load, "min", LP, relaxed=True)
    shares = plan.shares.items() if outcome.values else ()
    found = {(used[c], k): outcome.values[column] for (c, k), column in shares}
    return Routing(values, _repaired(instance, copies, targets, found))


def kept_part(
    instance: Instance,
    copies: Sequence[int],
    rates: Sequence[float],
    *,
    lost: Mapping[int, int],
    protected: Collection[int],
) -> float:
    """Largest part, at most 1, of `rates` (requests/s by class) at which the copies left serve the protected classes."""
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
    assert outcome.value is not None, "no traffic at all is always a routing"
    return outcome.value


def _program(instance: Instance, used: Sequence[int], copies: Sequence[int], targets: Sequence[float]) -> PlanProgram:
    """The rows of the planning problem for the shapes used, copies fixed, so that nodes and binaries fall away."""
    shapes = tuple(
        instance.shapes[c].model_copy(update={"max_utilization": utilization(instance.shapes[c], copies[c])})
        for c in used
    )
    fixed = replace(instance, shapes=shapes, copies_limit=tuple(copies[c] for c in used))
    plan = PlanProgram(fixed, tuple(targets), Program("routing"))
    constraints.define_copies(plan)
    for column, c in zip(plan.copies, used, strict=True):
        plan.program.set_bounds(column, lower=copies[c], upper=copies[c])
    constraints.define_shares(plan)
    constraints.define_demand(plan)
    constraints.define_load(plan)
    constraints.define_quality(plan)
    return plan


def _repaired(
    instance: Instance, copies: Sequence[int], targets: Sequence[float], shares: Mapping[tuple[int, int], float]
) -> dict[tuple[int, int], float]:
    """Rates without the solver's rounding: nothing negative, no copy over its limit, no class over its target."""
    rates = {(c, k): share * targets[k] for (c, k), share in shares.items() if share > FULL}
    for c in sorted({c for c, _ in rates}):
        busy = sum(rate / instance.rate(c, k) for (d, k), rate in rates.items() if d == c)
        room = capacity(instance.shapes[c], copies[c])
        if busy > room > 0:
            for pair in [pair for pair in rates if pair[0] == c]:
                rates[pair] *= room / busy
    sums = [sum(rate for (_, k), rate in rates.items() if k == index) for index in range(len(targets))]
    reached = [served / target if target else 0.0 for served, target in zip(sums, targets, strict=True)]
    if instance.question.objective == "MaximizeService":
        wanted = [min(reached, default=0.0)] * len(targets)
    else:
        wanted = [1.0 if part > 1.0 - 1e-7 else part for part in reached]
    return {(c, k): rate * wanted[k] / reached[k] for (c, k), rate in rates.items() if reached[k] > 0 and wanted[k] > 0}
