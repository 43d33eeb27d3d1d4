"""Bounds that need no solver: the cheapest price of each request."""

import math

from servingplan.model.goal import DOLLARS, SCALE, Goal
from servingplan.solve.problem.instance import Instance, most_utilization
from servingplan.solve.solver.tolerance import EQUAL


def price_bounds(instance: Instance) -> dict[Goal, float]:
    """Bounds on the scale, or on the dollars/hour of full service, from the cheapest price of each request.

    Let v[k] be the least over shapes of share price / (h[c,k] rho[c]). The GPUs of a copy cost at least the sum over its
    classes of rate x v[k], and nodes cost at least the GPUs used in them. So rates z cost at least sum z[k] v[k]. The bound
    ignores stock and whole copies: it is a dual solution of the relaxation in which only budget and loads have prices.
    """
    prices = [instance.share_price(c) / most_utilization(shape) for c, shape in enumerate(instance.shapes)]
    dollars = 0.0
    for k, cls in enumerate(instance.classes):
        cheapest = min((prices[c] / instance.rate(c, k) for c in instance.serving[k]), default=0.0)
        dollars += cls.requests_per_second * cheapest
    dollars *= 1 - EQUAL
    if instance.question.objective == "MinimizeCost":
        return {DOLLARS: dollars}
    budget = instance.question.budget_dollars_per_hour
    return {SCALE: budget / dollars} if dollars > 0 and math.isfinite(budget / dollars) else {}
