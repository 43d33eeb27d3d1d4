"""Pure: a planning question in, an answer out; no clock but the deadline's, no randomness, no input or output.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. Read in this order:

* `exact`       the entry: `solve(question) -> answer`
* `instance`    numbers, orders and prunes the question (`prune` has the dominance rule and its proof)
* `constraints` the rows, one function per family (`packing` has the node-packing theorem and patterns)
* `objective`   the levels of "better"
* `levels`      optimises level after level
* `route`       who serves what when the copies are given
* `survive`     losses to survive, `change` when a move is worth it, `reasons` why there is no plan
* `report`      copies and nodes -> answer
* `milp`        the adapter to PuLP and HiGHS, the only importer of pulp
"""

from servingplan.solve.exact import METHODS, solve

__all__ = ["METHODS", "solve"]
