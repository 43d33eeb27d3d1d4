"""Nothing but the answer goes to standard output, whatever the version of HiGHS says when it starts."""

import os
import subprocess
import sys

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


def test_readers_of_the_logs_of_other_solvers_are_loaded_when_they_are_used_and_not_before():
    script = (
        "from servingplan.solve.solver import program\n"
        "import sys\n"
        "program.load()\n"
        "assert 'pulp' in sys.modules and 'orloge.base' not in sys.modules\n"
        "import orloge\n"
        "assert callable(orloge.get_info_solver)\n"
        "assert 'orloge.base' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_command_line_loads_no_event_loop_before_a_command_needs_one():
    script = "import servingplan.cli, sys; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
