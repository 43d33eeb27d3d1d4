"""Bounds and values against a second formulation and a second copy of HiGHS, where enumeration would take too long."""

import pytest

from papers.p1.instance import Cell, question_of
from papers.p1.second import contradictions, second_optimum
from servingplan.solve import METHODS
from servingplan.verify import verify
from tests.unit.solve.questions import random_question, solve

COMPARATORS = [name for name in METHODS if name not in ("exact", "anytime")]
BLOCKS = 6
QUESTIONS = 96
CUT_SHORT = {
    "deadline": {"deadline_seconds": 0.03},
    "one node": {"node_limit": 1},
    "no gap asked": {"relative_gap": 0.5},
}


@pytest.mark.slow
@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_value_passes_the_others_bound(block):
    for seed in range(500_000 + block, 500_000 + QUESTIONS, BLOCKS):
        question = random_question(seed)
        second = second_optimum(question, relative_gap=1e-6)
        for method in ("exact", "anytime", COMPARATORS[seed % len(COMPARATORS)]):
            answer = solve(question, method=method)
            assert verify(question, answer) == (), (seed, method)
            assert second is None or answer.status != "Infeasible" or method in COMPARATORS, (seed, method)
            if second is None:
                assert answer.status == "Infeasible", (seed, method)
            elif answer.status != "Infeasible":
                assert contradictions(answer.levels, second) == [], (seed, method)
                if method not in COMPARATORS:
                    assert answer.levels[0].value == pytest.approx(second[0].value, rel=2e-4, abs=1e-6), (seed, method)


@pytest.mark.slow
@pytest.mark.parametrize("limits", CUT_SHORT.values(), ids=CUT_SHORT)
@pytest.mark.parametrize("cell", [Cell("8B", "T3", 30.0, 3), Cell("70B", "T2", 15.0, 2)], ids=lambda cell: cell.name)
def test_the_bound_of_a_search_cut_short_is_true(cell, limits):
    question = question_of(cell)
    second = second_optimum(question, relative_gap=1e-3, first_level_only=True)
    for method in ("exact", "anytime"):
        answer = solve(question, method=method, **limits)
        assert verify(question, answer) == (), method
        if answer.status != "Infeasible":
            assert contradictions(answer.levels[:1], second, tolerance=1e-6) == [], method
            if answer.stopped == "deadline":
                assert answer.status == "Feasible", method
