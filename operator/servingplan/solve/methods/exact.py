"""The exact method: it optimises every level of the objective until it is proved, within the work limit.

`guarded` adds the rows for losses, and `lexicographic` optimises the levels.
"""

from servingplan.solve.bounds.certificate import certified
from servingplan.solve.bounds.price import price_bounds
from servingplan.solve.plan.plan import Found
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.greedy import first_plan
from servingplan.solve.search.guarded import guarded_search
from servingplan.solve.solver.effort import Effort


def exact(instance: Instance, effort: Effort) -> Found:
    """The plan with all levels optimised. With a deadline the search starts from a greedy plan, which is the result if the
    search ends before it finds one."""
    start = first_plan(instance, effort) if effort.stopwatch.limited() else None
    found = guarded_search(instance, effort, start=start)
    if found.infeasible or found.plan:
        return found
    start = start or first_plan(instance, effort)
    if start is None:
        return found
    answer = certified(instance, effort, start, known=price_bounds(instance))
    if answer.stopped != "proved":
        answer.stopped = found.stopped  # the reason that ended the search, not the one of the certificate
    return answer
