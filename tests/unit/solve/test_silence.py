"""Nothing but the answer goes to standard output, whatever the version of HiGHS says when it starts."""

import os

import highspy
import pytest

from servingplan.solve.solver import program as milp


@pytest.fixture
def talkative(monkeypatch):
    """A HiGHS that prints when its first object is made, as version 1.16 does: past Python, to the file descriptor."""
    real, spoken = highspy.Highs, []

    class Talkative(real):
        def __init__(self):
            super().__init__()
            if not spoken:
                spoken.append(True)
                os.write(1, b"Running HiGHS\n")

    monkeypatch.setattr(highspy, "Highs", Talkative)
    milp.load.cache_clear()


def test_the_banner_of_the_solver_is_not_printed(talkative, capfd):
    program = milp.Program("any")
    column = program.add_column("x", upper=1.0)
    assert program.optimise([(column, 1.0)], "max", milp.Limits(relative_gap=0.0, nodes=1)).value == 1.0
    os.write(1, b"the answer\n")
    assert capfd.readouterr().out == "the answer\n"
