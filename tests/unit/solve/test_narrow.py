"""Whole columns with more values than there is time for: true bounds, kept promises, against a second formulation."""

import random

import pytest

from papers.p1.second import contradictions, second_optimum
from servingplan.model.question import Pool, Question, RequestClass, Shape
from servingplan.solve.solver import program as milp
from servingplan.verify import verify
from tests.unit.solve.questions import random_question, solve


@pytest.mark.parametrize("seed", range(620_000, 620_048))
@pytest.mark.parametrize("method", ["exact", "anytime"])
def test_bounds_are_true_where_only_few_values_are_looked_at(monkeypatch, seed, method):
    """A column of four values would take longer than the deadline, one of two would not."""
    monkeypatch.setattr(milp, "WIDE_SECONDS", 50.0)
    monkeypatch.setattr(milp, "NEAR", seed % 2)
    question = random_question(seed)
    second = second_optimum(question, relative_gap=1e-6)
    answer = solve(question, method=method, deadline_seconds=600.0)
    assert verify(question, answer) == ()
    if answer.status != "Infeasible":
        assert contradictions(answer.levels, second) == []
    elif answer.stopped == "proved":
        assert second is None


def program_of(seed):
    """A knapsack with several rows: whole columns up to 40, and a continuous one."""
    r, program = random.Random(seed), milp.Program("knapsack")
    columns = [
        program.add_column(f"x{n}", upper=r.choice([3.0, 12.0, 40.0]), integer=True) for n in range(r.randint(2, 6))
    ]
    columns.append(program.add_column("y", upper=5.0))
    sense = r.choice(["max", "min"])
    for n in range(r.randint(1, 4)):
        terms = [(column, float(r.choice([1, 2, 3, 5, 7, 7.5]))) for column in columns if r.random() < 0.8]
        program.add_row(f"row{n}", terms, "<=" if sense == "max" else ">=", float(r.randint(20, 60)))
    return program, [(column, round(r.uniform(1, 9), 2)) for column in columns], sense


@pytest.mark.parametrize("gap", [0.0, 0.02])
def test_a_narrow_search_is_never_better_than_the_whole_one_and_its_bound_is_never_worse(monkeypatch, gap):
    kinds = set()
    for seed in range(150):
        program, terms, sense = program_of(seed)
        whole = program.optimise(terms, sense, milp.Limits(relative_gap=0.0, nodes=10**6))
        again, terms, sense = program_of(seed)
        with monkeypatch.context() as patched:
            patched.setattr(milp, "WIDE_SECONDS", 1.0)
            patched.setattr(milp, "NEAR", seed % 3)
            limits = milp.Limits(relative_gap=gap, nodes=10**6, seconds=seed % 7 * 40.0 + 20.0)
            found = again.optimise(terms, sense, limits)
        kinds.add((found.stopped, found.value is None, found.infeasible))
        sign = 1 if sense == "max" else -1
        if whole.value is None:
            assert found.value is None, seed
            continue
        assert not found.infeasible, seed
        if found.bound is not None:
            assert sign * (found.bound - whole.value) >= -1e-6, seed
        if found.value is not None:
            assert sign * (whole.value - found.value) >= -1e-6, seed
            if found.stopped == "proved":
                assert found.value == pytest.approx(whole.value, rel=gap + 1e-6), seed
    assert {("proved", False, False), ("deadline", False, False)} <= kinds


def test_a_million_copies_are_planned_near_the_relaxation(monkeypatch):
    """The bound of the relaxation proves what is found near it, and HiGHS need not look at a million values."""
    monkeypatch.setattr(milp, "WIDE_SECONDS", 0.02)
    chance = random.Random(3)
    question = Question(
        objective="MinimizeCost",
        budget_dollars_per_hour=1e7,
        pools=tuple(Pool(name=f"p{i}", gpus_per_node=8, dollars_per_node_hour=9.0 + i, max_nodes=10**6) for i in range(3)),
        classes=(RequestClass(name="k", model="m", requests_per_second=1e5),),
        shapes=tuple(
            Shape(name=f"s{n}", model="m", gpus={f"p{n % 3}": 1 + n % 4}, requests_per_second={"k": chance.uniform(0.5, 3)})
            for n in range(12)
        ),
    )  # fmt: skip
    answer = solve(question, method="exact", deadline_seconds=600.0)
    assert verify(question, answer) == ()
    assert (answer.status, answer.stopped) == ("Optimal", "proved")
    monkeypatch.undo()
    whole = solve(question, method="exact")
    assert answer.dollars_per_hour == pytest.approx(whole.dollars_per_hour, rel=2e-4)
