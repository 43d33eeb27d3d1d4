"""The recipe for a constraint (CONTRIBUTING.md): one function and one line of the table, and every method keeps it."""

import pytest

from servingplan.solve import METHODS
from servingplan.solve.problem import constraints
from servingplan.solve.problem.constraints import Family
from servingplan.verify import verify
from tests.unit.solve.questions import random_question, solve
from tests.unit.solve.test_golden_lp import FAMILIES as GOLDEN

MOST_NODES = 2
QUESTIONS = 12


def define_most_nodes(plan):
    """sum_p n[p] <= MOST_NODES."""
    plan.program.add_row("most_nodes", [(column, 1.0) for column in plan.nodes], "<=", MOST_NODES)


@pytest.fixture
def most_nodes(monkeypatch):
    family = Family(define=define_most_nodes, per_model=False, copies_fixed=False, on_counts=True)
    monkeypatch.setattr(constraints, "FAMILIES", (*constraints.FAMILIES, family))


@pytest.mark.parametrize("method", METHODS)
def test_a_constraint_of_one_function_and_one_line_is_kept_by_every_method(most_nodes, method):
    planned = 0
    for seed in range(800_000, 800_000 + QUESTIONS):
        question = random_question(seed, survive=METHODS[method].guards_losses and seed % 3 == 0)
        if sum(pool.min_nodes for pool in question.pools) > MOST_NODES:
            continue
        answer = solve(question, method=method)
        assert verify(question, answer) == (), seed
        assert sum(answer.nodes.values()) <= MOST_NODES, seed
        planned += answer.status != "Infeasible" and bool(answer.replicas)
    assert planned or method in ("greedy-cost", "uniform-composition")


@pytest.mark.parametrize("seed", range(800_100, 800_112))
def test_it_is_optimised_under_and_its_bound_holds(most_nodes, seed):
    question = random_question(seed)
    exact, anytime = (solve(question, method=method, relative_gap=0.0) for method in ("exact", "anytime"))
    assert exact.status == anytime.status
    for ours, theirs in zip(exact.levels, anytime.levels, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-5, abs=1e-6)


def test_every_family_of_the_table_has_a_golden_program():
    told = {
        "nodes": "nodes-and-copies",
        "copies": "nodes-and-copies",
        "shares": "nodes-and-copies",
        "placement": "packing-chain",
    }
    for family in constraints.FAMILIES:
        name = family.define.__name__.removeprefix("define_").replace("_", "-")
        assert told.get(name, name) in GOLDEN
