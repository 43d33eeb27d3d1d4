"""An integer program in the manner of Melange (Griggs et al., 2024): it assigns slices of buckets to shapes.

Melange cuts each bucket of request lengths into slices and assigns every slice to one GPU type. The sum of slice loads on a
type is at most the number of its GPUs, and the price is minimised. Here a request class is a bucket, and a shape replaces a GPU
type, so that deployments can be chosen too. Stock and a budget are added, which Melange does not have. Nodes are not packed:
GPUs are priced as shares of a node, and a solution that cannot be packed within stock and budget counts as none.
"""

from collections.abc import Sequence
from functools import partial

from servingplan.solve.methods.baselines.covering import Covering
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.program import Column, Program, Term

SLICES = 8
"""Slices per bucket; this is Melange's default."""
SLICE_NODES = 200
"""Work limit of one integer program, in branch-and-bound nodes."""
GAP = 0.01
"""The gap at which one integer program ends."""


def _assigned(instance: Instance, effort: Effort, rates: Sequence[float]) -> Draft | None:
    """min sum_c price[c] y[c];  sum_c a[c,k] = SLICES;  sum_k (D[k] / SLICES) / h[c,k] a[c,k] <= rho[c] y[c]; stock; budget.

    a[c,k] counts slices of class k on shape c. The utilisation is that of one copy, so that the rows are linear.
    """
    program = Program("melange")
    copies = [
        program.add_column(f"copies({shape.name})", upper=limit, integer=True)
        for shape, limit in zip(instance.shapes, instance.copies_limit, strict=True)
    ]
    load: list[list[Term]] = [[] for _ in instance.shapes]
    for k, rate in enumerate(rates):
        slices: list[tuple[Column, float]] = []
        for c in instance.cheapest_first(k) if rate > 0 else ():
            column = program.add_column(f"slices({c}.{k})", upper=SLICES, integer=True)
            slices.append((column, 1.0))
            load[c].append((column, rate / SLICES / instance.rate(c, k)))
        if rate > 0:
            program.add_row(f"bucket({k})", slices, "==", SLICES)
    for c, terms in enumerate(load):
        if terms:
            rho = instance.utilization(c, 1)
            program.add_row(f"load({c})", [*terms, (copies[c], -rho)], "<=", 0.0)
    for p, pool in enumerate(instance.pools):
        taken = [(copies[c], instance.shapes[c].gpus[pool.name] / pool.gpus_per_node) for c in instance.on_pool[p]]
        if taken:
            program.add_row(f"stock({p})", taken, "<=", float(instance.nodes_limit[p]))
    unit = instance.question.budget_dollars_per_hour or 1.0
    price = [(column, instance.share_price(c) / unit) for c, column in enumerate(copies)]
    program.add_row("budget", price, "<=", instance.question.budget_dollars_per_hour / unit)
    outcome = program.optimise(price, "min", effort.limits(gap=GAP, nodes=SLICE_NODES))
    if not outcome.values:
        return None
    wanted = [round(outcome.values[column]) for column in copies]
    draft = Draft.of(instance, wanted)
    return draft if draft.copies == wanted else None


melange = Covering(rule=lambda instance, effort: partial(_assigned, instance, effort), steps=8, below_relaxation=True)
"""Finds the most service for which the slices can be assigned."""
