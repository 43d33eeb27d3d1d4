"""The deadline is kept on slow machines too, told by a clock that counts work: the real one has no say here."""

import importlib
import math
import time
from types import SimpleNamespace

import highspy
import pulp
import pytest

from servingplan.solve import entry, solve
from servingplan.solve.solver import clock
from servingplan.solve.solver import program as milp
from servingplan.verify import verify
from tests.unit.solve.test_anytime import large

SECONDS_PER_PAIR_NUMBERED = 1e-5
SECONDS_PER_COLUMN_OR_ROW = 8e-6
SECONDS_PER_COLUMN_PASSED_ON = 4e-6
SECONDS_PER_COLUMN_READ = 2e-6
SECONDS_PER_COLUMN_RELAXED = 2e-5
SECONDS_PER_COLUMN_BEYOND_ITS_LIMIT = 5e-5
"""Of a search whose time ends at the root, where HiGHS does not look at its clock."""


class Machine:
    """A machine so many times slower than the one of the measured costs, whose solver takes all the time that it may."""

    def __init__(self, monkeypatch, *, slower):
        self.now, self.slower = 0.0, slower
        monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: self.now))
        self._costs(monkeypatch, milp.Program, "add_column", lambda *_: SECONDS_PER_COLUMN_OR_ROW)
        self._costs(monkeypatch, milp.Program, "add_row", lambda *_: SECONDS_PER_COLUMN_OR_ROW)
        self._costs(monkeypatch, milp.Program, "_outcome", lambda p, *_: p.columns_count() * SECONDS_PER_COLUMN_READ)
        self._costs(
            monkeypatch,
            pulp.HiGHS,
            "buildSolverModel",
            lambda _, problem: len(problem.exported_variables()) * SECONDS_PER_COLUMN_PASSED_ON,
        )
        self._costs(
            monkeypatch,
            entry,
            "instance_of",
            lambda question: SECONDS_PER_PAIR_NUMBERED * sum(len(s.requests_per_second) for s in question.shapes),
        )
        run = highspy.Highs.run

        def taking_its_time(highs):
            limit = highs.getOptionValue("time_limit")[1]
            searched = highspy.HighsVarType.kInteger in highs.getLp().integrality_
            needs = math.inf if searched else self.slower * highs.getNumCol() * SECONDS_PER_COLUMN_RELAXED
            if limit < math.inf:  # small programs, such as routings, have none
                late = SECONDS_PER_COLUMN_BEYOND_ITS_LIMIT * highs.getNumCol() if searched else 0.0
                self.now += min(limit, needs) + self.slower * late
                highs.setOptionValue("time_limit", math.inf if needs < limit else 0.0)
            return run(highs)

        monkeypatch.setattr(highspy.Highs, "run", taking_its_time)

    def _costs(self, monkeypatch, owner, name, seconds):
        real = getattr(owner, name)

        def costing(*args, **options):
            self.now += self.slower * seconds(*args)
            return real(*args, **options)

        monkeypatch.setattr(owner, name, costing)


@pytest.mark.parametrize("objective", ["MinimizeCost", "MaximizeService"])
@pytest.mark.parametrize("method", ["anytime", "exact"])
@pytest.mark.parametrize(("slower", "deadline"), [(1, 0.1), (10, 0.3), (30, 1.0), (100, 1.0), (100, 4.0)])
def test_the_deadline_is_kept_to_a_tenth_and_50_ms(monkeypatch, method, objective, slower, deadline):
    question = large(objective)
    machine = Machine(monkeypatch, slower=slower)
    answer = solve(question, method=method, deadline_seconds=deadline, node_limit=1, relative_gap=0.0)
    assert machine.now <= 1.1 * deadline + 0.05
    assert answer.seconds == pytest.approx(machine.now)
    assert verify(question, answer) == ()
    assert answer.status == "Feasible"


def test_time_left_is_used_where_the_whole_program_does_not_fit_into_it(monkeypatch):
    """Too slow for a program over all shapes, the models are still served apart, which gives a better bound."""
    question = large("MinimizeCost")
    machine = Machine(monkeypatch, slower=100)
    taken_apart = []
    anytime = importlib.import_module("servingplan.solve.methods.anytime")  # the package gives the function that name
    real = anytime.closed
    monkeypatch.setattr(anytime, "closed", lambda *args, **options: taken_apart.append(1) or real(*args, **options))
    solve(question, method="anytime", deadline_seconds=4.0, node_limit=1)
    assert taken_apart
    assert machine.now > 2.0


def test_a_stopwatch_reads_the_real_clock_otherwise():
    assert clock.time is time


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["MinimizeCost", "MaximizeService"])
@pytest.mark.parametrize("method", ["anytime", "exact"])
def test_the_clock_may_stop_a_search_at_any_moment(monkeypatch, method, objective):
    question = large(objective, budget=1000.0)
    machine = Machine(monkeypatch, slower=30)
    for step in range(30):
        machine.now = 0.0
        deadline = 0.3 * 1.1**step
        answer = solve(question, method=method, deadline_seconds=deadline, node_limit=1, relative_gap=0.0)
        assert verify(question, answer) == (), deadline
        assert machine.now <= 1.1 * deadline + 0.05
