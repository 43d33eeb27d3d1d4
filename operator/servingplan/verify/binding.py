"""Checks that the limits in the answer's `binding` do bind, and that pools, quotas and budget that bind are named."""

import math
from collections.abc import Iterator

from servingplan.verify.case import TOLERANCE, Case

NEAR = 1e-5
"""A quality loss within this relative distance of its limit counts as equal to it, because rates carry rounding errors."""


def binding(case: Case) -> Iterator[str]:
    """The faults of `binding`: entries that do not stop one more node or copy, and a budget, a quota or a pool that does but
    is missing.

    Entries for `max_copies` and quality may be missing.
    """
    told = set(case.answer.binding)
    if len(told) < len(case.answer.binding):
        yield f"binding names an entry twice: {list(case.answer.binding)}"
    if case.question.objective == "MinimizeCost" and not case.answer.unserved:
        if told:
            yield f"binding is {sorted(told)}, but everything is served"
        return
    surely, perhaps = _reached(case)
    for entry in sorted(told - surely - perhaps):
        yield f"binding names {entry!r}, which leaves room for more"
    for entry in sorted(surely - told):
        yield f"binding leaves out {entry!r}, which leaves no room for more"


def _reached(case: Case) -> tuple[set[str], set[str]]:
    """The limits that are surely reached, and those that may be reached within rounding or need not be named."""
    surely: set[str] = set()
    perhaps: set[str] = set()
    spare = case.question.budget_dollars_per_hour - case.dollars
    slack = TOLERANCE * max(1.0, case.question.budget_dollars_per_hour)
    for name in {name for shape in case.shapes.values() for name in shape.gpus}:
        pool, full = case.pools[name], case.answer.nodes.get(name, 0) >= case.pools[name].max_nodes
        if pool.dollars_per_node_hour > spare + slack:
            surely.add("budget")
        elif pool.dollars_per_node_hour >= spare - slack:
            perhaps |= {"budget"} | ({f"pool:{name}"} if full else set())
        elif full:
            surely.add(f"pool:{name}")
    for name, shape in case.shapes.items():
        if shape.max_copies is not None and case.answer.replicas.get(name, 0) >= shape.max_copies:
            perhaps.add(f"max_copies:{name}")  # the solver drops dominated shapes, so it does not name these
    for quota in case.question.quotas:
        sizes = [sum(shape.gpus.get(pool, 0) for pool in quota.pools) for shape in case.shapes.values()]
        smallest = min((size for size in sizes if size), default=0)
        left = quota.max_gpus - case.gpus_on(quota.pools)
        if smallest and left < smallest:
            surely.add(f"quota:{quota.name}")
        elif left < max(sizes, default=0):
            perhaps.add(f"quota:{quota.name}")  # the solver drops dominated shapes, the smallest perhaps among them
    for name, cls in case.classes.items():
        rates = case.answer.rates.get(name, {})
        lost = math.fsum(rate * case.shapes[c].quality_loss.get(name, 0.0) for c, rate in rates.items())
        limit = cls.quality_loss_limit
        if limit is not None and lost > 0 and lost >= limit * case.served[name] * (1 - NEAR):
            perhaps.add(f"quality:{name}")
    return surely, perhaps
