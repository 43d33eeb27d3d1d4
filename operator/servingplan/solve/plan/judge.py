"""Whether copies on nodes keep every constraint on counts, whichever method found them.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. `incumbent` asks it of every plan, so that a
heuristic which does not know a constraint can lose a candidate but not break a promise.
"""

from collections.abc import Sequence

from servingplan.solve.problem import constraints
from servingplan.solve.problem.constraints import PlanProgram
from servingplan.solve.problem.instance import Instance
from servingplan.solve.solver.program import RowBook


def keeps_counts(instance: Instance, copies: Sequence[int], nodes: Sequence[int]) -> bool:
    """Whether the limits of nodes and copies hold, and every row of the families marked `on_counts`."""
    book: RowBook = instance.noted(_book)
    return book.holds([*nodes, *copies])


def _book(instance: Instance) -> RowBook:
    """The rows over nodes and copies, columns in this order."""
    book = RowBook()
    plan = PlanProgram(instance, (), book)
    constraints.define_nodes(plan)
    constraints.define_copies(plan)
    for family in constraints.FAMILIES:
        if family.on_counts:
            family.define(plan)
    return book
