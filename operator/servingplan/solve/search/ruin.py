"""Ruin and recreate (Schrimpf et al. 2000): it makes a plan of full service cheaper without a solver.

The copies of one node, or all copies of one model, are removed. What they served goes first to idle copies, and then to new
copies at the price of the nodes that they add. The change is kept if all nodes together then cost less. For questions whose
program over all shapes is too large, a change takes milliseconds, and a relaxation takes seconds.
"""

import math
from collections.abc import Iterator, Sequence

from servingplan.solve.plan.plan import Plan, best_of
from servingplan.solve.problem.instance import Instance
from servingplan.solve.problem.placement import Packing
from servingplan.solve.search.cover import by_class, dearest_first
from servingplan.solve.search.kernel import Kernel
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import TOLD

Ruin = Sequence[tuple[int, int]]
"""Copies that are removed together, as (shape, copies) pairs."""


def recreated(instance: Instance, effort: Effort, plan: Plan) -> Plan:
    """The plan, or a cheaper one that serves every class in full too, with its shapes and the cheapest ones of each class.

    Plans with less service, plans of MaximizeService, and plans that must survive losses stay as they are.
    """
    question, params = instance.question, effort.params
    if question.objective == "MaximizeService" or question.survive or not plan.in_full:
        return plan
    kernel = Kernel.cheap(instance, plan, size=params.cheapest_shapes)
    draft = Draft.of(kernel.instance, [plan.copies[c] for c in kernel.shapes])
    place = {c: position for position, c in enumerate(kernel.shapes)}
    for (c, k), rate in sorted(plan.rates.items()):
        draft.serve(place[c], k, rate)
    order, before = dearest_first(kernel.instance), math.inf
    stop = effort.stop_after(params.ruin_rounds)
    while not stop(math.inf) and draft.dollars < before * (1 - TOLD):
        before = draft.dollars
        for ruin in _ruins(draft):
            if effort.stop():
                break
            if all(draft.copies[c] >= count for c, count in ruin):  # an earlier change may have removed some
                draft = _changed(draft, ruin, order) or draft
    return best_of([plan, kernel.whole(draft.copies)]) or plan


def _changed(draft: Draft, ruin: Ruin, order: list[int]) -> Draft | None:
    """The draft without these copies, and with the cheapest ones in their place; None if it is not cheaper than before."""
    new, missing = draft.duplicate(), [0.0] * len(draft.instance.classes)
    for c, count in ruin:
        for k in draft.instance.served_by[c]:
            missing[k] += new.release(c, k)
        new.add(c, -count)
    covered = by_class(draft.instance, missing, order=order, whole_price=True, draft=new)
    if covered is None:
        return None
    covered.without_idle()
    return covered if covered.dollars < draft.dollars * (1 - TOLD) else None


def _ruins(draft: Draft) -> Iterator[Ruin]:
    """Sets of copies: those of each kind of node, the node with the dearest idle GPUs first; then those of each model."""
    instance, nodes = draft.instance, list[tuple[float, int, tuple[tuple[int, int], ...]]]()
    for p, contents in enumerate(Packing.tight(instance, draft.copies).contents):
        pool, sizes = instance.pools[p], instance.sizes_on[p][0]
        for content, _ in contents:
            idle = pool.gpus_per_node - sum(sizes[c] * count for c, count in content)
            nodes.append((-idle / pool.gpus_per_node * pool.dollars_per_node_hour, p, content))
    yield from (content for *_, content in sorted(nodes))
    models: dict[str, list[tuple[int, int]]] = {}
    for c, count in enumerate(draft.copies):
        if count:
            models.setdefault(instance.shapes[c].model, []).append((c, count))
    yield from map(tuple, models.values())
