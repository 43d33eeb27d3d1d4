"""LPR: the linear relaxation rounded greedily, the baseline of Cheng and Nguyen (2026), version 2.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. Whole parts of the fractional copies first,
then the largest fractions while stock and budget allow; `rounding` has the rule. No search follows.
"""

from servingplan.solve.certify import certified
from servingplan.solve.incumbent import incumbent_of
from servingplan.solve.instance import Instance
from servingplan.solve.levels import Effort, Found
from servingplan.solve.relax import Relaxation, optimise
from servingplan.solve.rounding import fractional_copies, rounded


def lpr(instance: Instance, effort: Effort) -> Found:
    """The rounded relaxation."""
    relaxation = Relaxation(instance)
    optimise(relaxation, instance, effort)
    plan = incumbent_of(instance, rounded(instance, fractional_copies(relaxation)).copies)
    return certified(instance, effort, plan) if plan else Found()
