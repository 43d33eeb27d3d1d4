"""Makes whole copies from the fractional ones of the linear relaxation.

`anytime` uses it for its early plans, and so does the method `lpr`.
"""

from collections.abc import Iterator, Sequence

from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.plan.routing import route
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.cover import by_class, dearest_first
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.solver.tolerance import HELD, TOLD


def rounded(instance: Instance, fractional: Sequence[float]) -> Draft:
    """A draft with the whole parts, then a copy for each class that nothing serves, then the largest fractions that fit."""
    draft = Draft(instance)
    for c, amount in enumerate(fractional):
        whole = draft.most(c, int(amount + TOLD))
        if whole:
            draft.add(c, whole)
    for k in dearest_first(instance):
        serving = instance.serving[k]
        if not any(draft.copies[c] for c in serving):
            ranked = [c for c in serving if fractional[c] > TOLD]
            ranked.sort(key=lambda c: (-fractional[c], c))
            chosen = next((c for c in (*ranked, *instance.cheapest_first(k)) if draft.most(c, 1)), None)
            if chosen is not None:
                draft.add(chosen)
    left = [(amount - draft.copies[c], c) for c, amount in enumerate(fractional) if amount - draft.copies[c] > TOLD]
    for _, c in sorted(left, key=lambda pair: (-pair[0], pair[1])):
        if draft.most(c, 1):
            draft.add(c)
    return draft


def rounded_and_completed(instance: Instance, fractional: Sequence[float], rates: Sequence[float]) -> Draft | None:
    """A draft with the whole parts in their best routing; the rest of `rates` (requests/s by class) is covered class by class,
    dearest first. None if it cannot be covered."""
    draft = Draft(instance)
    for c, amount in enumerate(fractional):
        whole = draft.most(c, int(amount + TOLD))
        if whole:
            draft.add(c, whole)
    for (c, k), rate in sorted(route(instance, draft.copies, rates).items()):
        draft.serve(c, k, rate)
    served = [0.0] * len(rates)
    for (_, k), rate in draft.rates.items():
        served[k] += rate
    missing = [max(0.0, rate - have) for rate, have in zip(rates, served, strict=True)]
    missing = [rate if rate > HELD * whole else 0.0 for rate, whole in zip(missing, rates, strict=True)]
    return by_class(instance, missing, order=dearest_first(instance), whole_price=True, draft=draft)


def relaxed_plans(instance: Instance, relaxation: Relaxation) -> Iterator[Draft]:
    """Drafts from the relaxation that was optimised last, the most promising first."""
    fractional = relaxation.copies
    if instance.question.objective == "MinimizeCost":
        asked = [cls.requests_per_second for cls in instance.classes]
        draft = rounded_and_completed(instance, fractional, asked)
        if draft is not None:
            yield draft.without_idle()
    yield rounded(instance, fractional)
