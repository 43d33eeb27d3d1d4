"""The order of the solver's tolerances, which keeps what one stage lets through below what the next one tells."""

from itertools import pairwise

from servingplan.solve.solver import tolerance
from servingplan.solve.solver.program import Limits, Program, load
from servingplan.verify.case import TOLERANCE


def test_each_tolerance_is_well_below_the_next():
    order = (tolerance.DUST, tolerance.EQUAL, tolerance.HELD, tolerance.TOLD)
    assert all(10 * fine <= coarse for fine, coarse in pairwise(order))


def test_what_is_told_is_what_the_verifier_allows():
    assert tolerance.TOLD == TOLERANCE


def test_the_solver_lets_no_row_slip_by_more_than_what_counts_as_equal():
    load()
    program = Program("least")
    columns = [program.add_column(f"x{i}", upper=1.0, integer=True) for i in range(12)]
    program.add_row("sum", [(column, 1.0 / 3.0) for column in columns], ">=", 2.5)
    price = [(column, 1.0 + i / 100) for i, column in enumerate(columns)]
    outcome = program.optimise(price, "min", Limits(relative_gap=0.0, nodes=1_000))
    row = sum(outcome.values[column] for column in columns) / 3.0
    assert row >= 2.5 - tolerance.EQUAL
    assert all(abs(value - round(value)) <= tolerance.EQUAL for value in outcome.values)
