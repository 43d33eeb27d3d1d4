"""LPR: the linear relaxation rounded greedily, the baseline of Cheng and Nguyen (2026), version 2.

It takes the whole parts of the fractional copies, then the largest fractions while stock and budget allow; `rounding` has the
exact rule. No search follows.
"""

from servingplan.solve.bounds.certificate import certified
from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.plan.judge import judge
from servingplan.solve.plan.plan import Found
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.rounding import rounded
from servingplan.solve.solver.effort import Effort


def lpr(instance: Instance, effort: Effort) -> Found:
    """The plan of the rounded relaxation, with its bounds."""
    relaxation = Relaxation(instance)
    relaxation.optimise(effort)
    return certified(instance, effort, judge(instance, rounded(instance, relaxation.copies).copies))
