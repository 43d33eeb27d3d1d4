"""The methods that `solve` offers, by the name that users give.

A method finds copies for an instance. The same code routes them, packs them, bounds them and makes the answer for every
method, so that methods can be compared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from servingplan.solve.methods.anytime import anytime
from servingplan.solve.methods.baselines.binary_search import binary_search
from servingplan.solve.methods.baselines.gh import agh, gh
from servingplan.solve.methods.baselines.greedy import dvr, greedy_cost
from servingplan.solve.methods.baselines.knapsack import knapsack
from servingplan.solve.methods.baselines.lpr import lpr
from servingplan.solve.methods.baselines.melange import melange
from servingplan.solve.methods.baselines.restricted import homogeneous, uniform_composition, uniform_deployment
from servingplan.solve.methods.baselines.round_robin import round_robin
from servingplan.solve.methods.exact import exact
from servingplan.solve.plan.plan import Found
from servingplan.solve.problem.instance import Instance
from servingplan.solve.solver.effort import Effort


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method and its abilities."""

    find: Callable[[Instance, Effort], Found]
    guards_losses: bool = False
    """Whether it keeps `survive` rules."""
    starts_from_running: bool = False
    """Whether it takes the running fleet into account: its plan is never worse and makes few moves, and `change` is obeyed."""
    prunes: bool = True
    """Whether dominated shapes are dropped first."""


METHODS: Mapping[str, Method] = {
    "anytime": Method(find=anytime, guards_losses=True, starts_from_running=True),
    "exact": Method(find=exact, guards_losses=True, starts_from_running=True),
    "binary-search": Method(find=binary_search),
    "knapsack": Method(find=knapsack),
    "gh": Method(find=gh),
    "agh": Method(find=agh),
    "homogeneous": Method(find=homogeneous),
    "uniform-composition": Method(find=uniform_composition),
    "uniform-deployment": Method(find=uniform_deployment, prunes=False),
    "round-robin": Method(find=round_robin),
    "melange": Method(find=melange),
    "lpr": Method(find=lpr),
    "dvr": Method(find=dvr),
    "greedy-cost": Method(find=greedy_cost),
}
"""All methods, in the order in which they are listed."""
