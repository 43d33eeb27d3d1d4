"""Pure: a planning question in, an answer out; no clock but the deadline's, no randomness, no input or output.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. Read in this order:

* `entry`       `solve(question) -> answer`; `methods` is the table of methods
* `exact`       every level to proof; `anytime` a plan at once and a better one with time
* `instance`    numbers, orders and prunes the question (`prune` has the dominance rule and its proof)
* `constraints` the rows, one function per family (`packing` has the node-packing theorem and patterns)
* `objective`   the levels of "better"
* `levels`      optimises level after level
* `route`       who serves what when the copies are given
* `incumbent`   plans that are known, `first` the first ones, `rounding` those from the relaxation, `certify` their bounds
* `relax`       the linear relaxation; `improve` local search, by the routing that `quick` keeps in the solver
* `draft`       a plan under construction, `cover` the rules that construct one for given rates
* `survive`     losses to survive, `change` when a move is worth it
* `limits`      what a person set and may change; `feasible` whether there is a plan; `clash` which limits exclude each other
                and what would end that, `reasons` the same in words; `explain` what one more unit is worth, and alternatives
* `report`      copies and nodes -> answer
* `milp`        the adapter to PuLP and HiGHS, the only importer of pulp
"""

from servingplan.solve.entry import solve
from servingplan.solve.explain import explain
from servingplan.solve.methods import METHODS

__all__ = ["METHODS", "explain", "solve"]
