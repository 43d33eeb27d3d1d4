"""Prices by model: true bounds, and plans that are no worse for having been sought apart."""

import pytest

from servingplan.solve import anytime
from servingplan.solve.by_model import ByModel, node_prices, prices_of
from servingplan.solve.instance import instance_of
from servingplan.solve.levels import Effort
from servingplan.solve.milp import Stopwatch, load
from servingplan.solve.relax import Relaxation, optimise
from servingplan.verify import verify
from tests.unit.solve.questions import random_question, solve
from tests.unit.solve.test_anytime import large
from tests.unit.solve.test_methods import assert_consistent

TOLERANCE = 1e-6


def effort(gap=1e-3):
    load()
    return Effort(gap, 1_000, Stopwatch(None))


@pytest.fixture
def always_apart(monkeypatch):
    """Take every question apart, however small."""
    monkeypatch.setattr(anytime, "JOINT_PAIRS", 0)
    monkeypatch.setattr(anytime, "MODELS", 1)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [1e-4, 0.03])
def test_taking_apart_gives_the_plan_and_the_proof_of_the_exact_method(always_apart, gap):
    for seed in range(31_000, 31_030):
        question = random_question(seed, running=seed % 3 == 0)
        best = solve(question)
        answer = solve(question, method="anytime", relative_gap=gap)
        assert verify(question, answer) == (), seed
        assert_consistent(question, answer, best)
        if answer.status == "Optimal" and question.change is None:
            first, other = answer.levels[0], best.levels[0]
            assert abs(first.value - other.value) <= (gap + TOLERANCE) * max(abs(first.value), abs(other.value)), seed


@pytest.mark.slow
def test_no_plan_is_cheaper_than_the_sum_over_models():
    told = 0
    for seed in range(32_000, 32_090):
        question = random_question(seed)
        if question.objective != "MinimizeCost":
            continue
        best = solve(question)
        if best.unserved or best.status != "Optimal":
            continue
        instance = instance_of(question)
        relaxation = Relaxation(instance)
        optimise(relaxation, instance, effort())
        for prices in (node_prices(instance), prices_of(instance, relaxation)):
            if prices is None:
                continue
            by_model = ByModel(instance, prices, [cls.requests_per_second for cls in instance.classes])
            apart = by_model.serve(1.0, effort())
            assert (apart.least - prices.rent) / prices.dollar <= best.dollars_per_hour * (1 + TOLERANCE), seed
            told += 1
    assert told > 20


@pytest.mark.slow
def test_no_plan_reaches_a_scale_whose_price_is_above_what_there_is():
    told = 0
    for seed in range(33_000, 33_120):
        question = random_question(seed)
        best = solve(question)
        if question.objective != "MaximizeService" or best.status != "Optimal":
            continue
        instance = instance_of(question)
        relaxation = Relaxation(instance)
        optimise(relaxation, instance, effort())
        prices = prices_of(instance, relaxation)
        assert prices is not None
        by_model = ByModel(instance, prices, [cls.requests_per_second for cls in instance.classes])
        supply = prices.supply(question.budget_dollars_per_hour)
        assert by_model.serve(best.scale * (1 - TOLERANCE), effort()).least <= supply * (1 + TOLERANCE), seed
        told += 1
    assert told > 20


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["MinimizeCost", "MaximizeService"])
def test_larger_questions_are_certified_to_a_per_cent(objective):
    question = large(objective, budget=30.0)
    answer = solve(question, method="anytime", relative_gap=0.01)
    assert verify(question, answer) == ()
    assert answer.levels[0].gap <= 0.01
    assert answer.status == "Optimal"
