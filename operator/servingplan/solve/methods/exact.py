"""The exact method: every level of the objective to proof, within the work limit.

One of the methods that `entry` offers; the guards against losses are here, the optimisation of the levels is in
`lexicographic`.
"""

from servingplan.solve.bounds.certificate import certified
from servingplan.solve.bounds.price import price_bounds
from servingplan.solve.plan.plan import Found
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.greedy import first_plan
from servingplan.solve.search.guarded import guarded_search
from servingplan.solve.solver.effort import Effort


def exact(instance: Instance, effort: Effort) -> Found:
    """Optimise every level. With a deadline the search starts from a constructed plan, so that one is always at hand."""
    start = first_plan(instance, effort) if effort.stopwatch.limited() else None
    found = guarded_search(instance, effort, start=start)
    if found.infeasible or found.plan:
        return found
    start = start or first_plan(instance, effort)
    if start is None:
        return found
    answer = certified(instance, effort, start, known=price_bounds(instance))
    if answer.stopped != "proved":
        answer.stopped = found.stopped  # what ended the search; the certificate itself may have had time left
    return answer
