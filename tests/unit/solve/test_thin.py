"""Deadlines too short to number all shapes: few of them are kept, and what is said still holds for all."""

import itertools

import pytest

from servingplan.model.question import Pool, Question, RequestClass, Running, Shape
from servingplan.solve import shortlist as thin
from servingplan.solve.bounds.price import price_bounds
from servingplan.solve.problem.instance import instance_of
from servingplan.solve.shortlist import LEAST_PER_CLASS, thinned
from servingplan.solve.solver import program as milp
from servingplan.verify import verify
from tests.unit.solve.brute_force import best_values
from tests.unit.solve.questions import random_question, solve
from tests.unit.solve.test_anytime import large
from tests.unit.solve.test_brute_force import bounds_hold, vectors_count


@pytest.fixture
def always_too_short(monkeypatch):
    """Every deadline is too short, and one shape is kept for each class."""
    monkeypatch.setattr(thin, "NUMBERING_SECONDS_PER_PAIR", 1e9)
    monkeypatch.setattr(thin, "LEAST_PER_CLASS", 1)


@pytest.mark.parametrize("options", [{}, {"survive": True}, {"running": True}], ids=str)
@pytest.mark.parametrize("method", ["anytime", "exact"])
def test_no_bound_is_beaten_by_a_plan_of_the_whole_question(always_too_short, method, options):
    drawn = (random_question(seed, most_nodes=3, most_shapes=4, **options) for seed in itertools.count(500_000))
    fewer = 0
    for question in itertools.islice((item for item in drawn if 1 < vectors_count(item) <= 60), 25):
        best = best_values(question)
        answer = solve(question, method=method, deadline_seconds=60.0)
        short = thinned(question, milp.Stopwatch(60.0))
        fewer += short is not None and len(short.question.shapes) < len(question.shapes)
        assert verify(question, answer) == ()
        if answer.status == "Infeasible":
            assert best is None or answer.stopped == "deadline", "few shapes prove nothing"
        else:
            assert bounds_hold(answer, best)
    assert fewer > 1


def test_what_can_be_numbered_in_time_is_left_whole():
    assert thinned(large(), milp.Stopwatch(None)) is None
    assert thinned(large(), milp.Stopwatch(10.0)) is None


@pytest.mark.parametrize("objective", ["MinimizeCost", "MaximizeService"])
def test_the_cheapest_shapes_and_what_runs_are_kept_with_the_bound_of_all(objective):
    whole = large(objective, budget=1000.0)
    instance = instance_of(whole)
    dearest = instance.shapes[instance.cheapest_first(0)[-1]].name
    running = Running(nodes={}, replicas={dearest: 1, "gone": 2})
    short = thinned(whole.model_copy(update={"running": running}), milp.Stopwatch(0.001))
    kept = {shape.name for shape in short.question.shapes}
    assert len(kept) < len(whole.shapes) / 2
    for k in range(len(instance.classes)):
        assert {instance.shapes[c].name for c in instance.cheapest_first(k)[:LEAST_PER_CLASS]} <= kept
    assert dearest in kept
    assert short.bounds == pytest.approx(price_bounds(instance))


def test_what_cannot_serve_takes_no_place_of_what_can(always_too_short):
    """After a loss the cheapest pool may be gone, and the cheapest variant may be too bad for the class."""
    classes = (RequestClass(name="k", model="m", requests_per_second=2.0, quality_loss_limit=0.01),)
    pools = tuple(
        Pool(name=name, gpus_per_node=8, dollars_per_node_hour=price, max_nodes=nodes)
        for name, price, nodes in (("gone", 1.0, 0), ("there", 8.0, 4))
    )
    shapes = tuple(
        Shape(name=name, model="m", gpus={pool: 1}, requests_per_second={"k": rate}, quality_loss={"k": loss})
        for name, pool, rate, loss in (
            ("lost", "gone", 1.0, 0.0),
            ("bad", "there", 9.0, 0.5),
            ("good", "there", 1.0, 0.0),
        )
    )
    question = Question(
        objective="MinimizeCost", budget_dollars_per_hour=100.0, pools=pools, classes=classes, shapes=shapes
    )
    assert [shape.name for shape in thinned(question, milp.Stopwatch(1.0)).question.shapes] == ["good"]
    answer = solve(question, deadline_seconds=60.0)
    assert verify(question, answer) == ()
    assert not answer.unserved


def test_the_order_of_the_question_does_not_matter(always_too_short):
    whole = large("MinimizeCost")
    turned = whole.model_copy(update={"shapes": whole.shapes[::-1]})
    first, second = (thinned(question, milp.Stopwatch(1.0)) for question in (whole, turned))
    assert {shape.name for shape in first.question.shapes} == {shape.name for shape in second.question.shapes}
    assert first.bounds == second.bounds


def test_free_nodes_are_not_thinned_where_prices_bound_nothing(always_too_short):
    question = large("MaximizeService")
    free = tuple(pool.model_copy(update={"dollars_per_node_hour": 0.0}) for pool in question.pools)
    assert thinned(question.model_copy(update={"pools": free}), milp.Stopwatch(1.0)) is None
