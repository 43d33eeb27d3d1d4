"""Two simple baselines: the cost order of autoscalers, and a fleet that is chosen before routing.

`greedy_cost` is the greedy rule of workload-variant autoscalers. Each class gets its own copies, highest priority first: copies
of the variant that is cheapest for it, then of the next one if stock or budget end. No copy is shared.

`dvr` follows the decoupled baseline of Cheng and Nguyen (2026), version 2, of which the paper gives little more than the name:
machines first, then routing. For each model it takes copies of the shape with the cheapest throughput on the model's mix until
the mix is served or the stock ends, then of the next shape. The routing is found afterwards, by the same linear program as for
every method.
"""

from collections.abc import Sequence
from functools import partial

from servingplan.solve.methods.baselines.covering import Covering
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.solver.tolerance import DUST, EQUAL, is_left


def _each_class_alone(instance: Instance, rates: Sequence[float]) -> Draft | None:
    draft = Draft(instance)
    order = sorted(range(len(rates)), key=lambda k: (-instance.classes[k].priority, -rates[k], k))
    for k in order:
        left = rates[k]
        for c in instance.cheapest_first(k) if left > 0 else ():
            if not is_left(left, rates[k]):
                break
            before = draft.room(c)
            count = draft.most(c, _copies(instance, draft, c, left / instance.rate(c, k)))
            if count:
                draft.add(c, count)
                left -= draft.serve(c, k, min(left, (draft.room(c) - before) * instance.rate(c, k)))
        if is_left(left, rates[k]):
            return None
    return draft


def _each_model_by_mix(instance: Instance, rates: Sequence[float]) -> Draft | None:
    draft = Draft(instance)
    for model in sorted({cls.model for cls in instance.classes}):
        mix = [k for k, cls in enumerate(instance.classes) if cls.model == model and rates[k] > 0]
        able = (
            [c for c in instance.cheapest_first(mix[0]) if all(c in instance.cheapest_first(k) for k in mix)]
            if mix
            else []
        )
        busy = {c: sum(rates[k] / instance.rate(c, k) for k in mix) for c in able}  # copies that serve the whole mix
        left = 1.0 if mix else 0.0
        for c in sorted(able, key=lambda c: (busy[c] * instance.share_price(c), c)):
            count = draft.most(c, _copies(instance, draft, c, left * busy[c])) if left > EQUAL else 0
            if count:
                draft.add(c, count)
                left -= instance.capacity(c, count) / busy[c]
        if left > EQUAL:
            return None
    return draft


def _copies(instance: Instance, draft: Draft, c: int, busy: float) -> int:
    """The fewest further copies of c that raise its capacity by `busy` copies, at most its limit."""
    limit = instance.copies_limit[c] - draft.copies[c]
    low, high = 0, limit
    have = instance.capacity(c, draft.copies[c])
    while low < high:
        middle = (low + high) // 2
        enough = instance.capacity(c, draft.copies[c] + middle) - have >= busy * (1 - DUST)
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


greedy_cost = Covering(rule=lambda instance, effort: partial(_each_class_alone, instance), steps=10)  # noqa: ARG005
"""Serves each class by itself on the cheapest variant that is left."""
dvr = Covering(rule=lambda instance, effort: partial(_each_model_by_mix, instance), steps=10)  # noqa: ARG005
"""Chooses machines by throughput on the mix of each model and routes afterwards."""
