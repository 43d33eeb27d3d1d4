"""The evaluator refuses every kind of broken plan, and names the equation."""

from dataclasses import replace

import pytest

from papers.p2.arrays import arrays_of
from papers.p2.evaluate import evaluate
from papers.p2.heuristics import Search
from papers.p2.instance import Plan, generate
from papers.p2.stress import fill, reroute, scenarios, solve_routing, stress
from tests.unit.papers.instances import kind, tier, tiny

INSTANCE = tiny(kind(stored_kb_per_token=100.0), tiers=(tier("cheap", 1.0), tier("other", 1.0)))
HERE, THERE = (0, 0, 0), (0, 0, 1)
PLAN = Plan({(0, 0): (2, 1)}, {HERE: 1.0}, (0.0,), frozenset({HERE}))


def test_a_sound_plan():
    result = evaluate(INSTANCE, PLAN)
    assert result.feasible
    assert (result.cost.rental, result.cost.delay, result.cost.unmet) == pytest.approx((2.0, 0.5, 0.0))


@pytest.mark.parametrize(
    ("plan", "equation"),
    [
        (replace(PLAN, shapes={(0, 0): (4, 1)}), "(5d)"),
        (replace(PLAN, shapes={}), "(5k) z <= q"),
        (replace(PLAN, placed=frozenset()), "(5k) x <= z"),
        (replace(PLAN, placed=frozenset({HERE, THERE})), "(5k) z <= q"),
        (replace(PLAN, shapes={(0, 0): (1, 1)}), "(5g)"),
        (replace(PLAN, routes={HERE: 0.9}), "(5b)"),
        (replace(PLAN, routes={HERE: 1.1}, unserved=(-0.1,)), "u >= 0"),
        (replace(PLAN, routes={HERE: float("nan")}), "(5b)"),
        (replace(PLAN, routes={HERE: 1.5, THERE: -0.5}), "(5k) x >= 0"),
    ],
)
def test_a_broken_plan(plan, equation):
    assert any(line.startswith(equation) for line in evaluate(INSTANCE, plan).violations)


@pytest.mark.parametrize(
    ("instance", "equation"),
    [
        (replace(INSTANCE, budget=1.9), "(5c)"),
        (replace(INSTANCE, storage_cap_gb=10.9), "(5h)"),
        (replace(INSTANCE, models=(replace(INSTANCE.models[0], weights_gb=50.0),)), "(5f)"),
        (replace(INSTANCE, query_types=(replace(INSTANCE.query_types[0], delay_slo_seconds=0.4),)), "(5i)"),
        (replace(INSTANCE, query_types=(replace(INSTANCE.query_types[0], error_slo=0.05),)), "(5j)"),
        (replace(INSTANCE, utilisation=0.9), "(5g)"),
    ],
)
def test_a_limit_that_the_plan_passes(instance, equation):
    lines = evaluate(instance, PLAN).violations
    assert len(lines) == 1
    assert lines[0].startswith(equation)


def test_unserved_beyond_its_cap():
    capped = replace(INSTANCE, query_types=(replace(INSTANCE.query_types[0], unserved_cap=0.1),))
    plan = replace(PLAN, routes={HERE: 0.5}, unserved=(0.5,))
    assert [line[:9] for line in evaluate(capped, plan).violations] == ["u <= zeta"]


def test_rerouting_drops_what_a_scenario_does_not_let_through():
    slower = replace(INSTANCE, compute_seconds_per_token=(((0.1, 0.1),),), query_types=(kind(delay_slo_seconds=0.25),))
    plan = reroute(slower, PLAN)
    assert plan.routes[HERE] == pytest.approx(0.5)
    assert plan.unserved == pytest.approx((0.5,))


def test_stress_counts_types_with_more_than_one_percent_unserved():
    calm = stress(PLAN, [INSTANCE])
    assert (calm.mean_cost, calm.violated) == (pytest.approx(evaluate(INSTANCE, PLAN).cost.total), 0.0)
    busy = scenarios(INSTANCE, 10, seed=1)
    overloaded = sum(case.query_types[0].arrivals_per_hour > 1000.0 / 0.99 for case in busy)
    assert 0 < overloaded < 10
    assert stress(PLAN, busy).violated == overloaded / 10


@pytest.mark.parametrize("seed", range(3))
def test_rerouting_by_knapsack_is_as_good_as_by_the_program(seed):
    """GH's plans give every type one pair; half the scenarios bind the compute, most an error or a delay."""
    instance = generate((6, 6, 10), seed)
    plan = Search(arrays_of(instance)).greedy().plan()
    plan = replace(plan, placed=frozenset({key[0]: key for key in sorted(plan.placed)}.values()))
    for case in scenarios(instance, 8, seed, inflation=1.3):
        heavy = replace(case, utilisation=case.utilisation / 3.0)
        for each in (case, heavy):
            filled, solved = (evaluate(each, found) for found in (fill(each, plan), solve_routing(each, plan)))
            penalties = [result.cost.delay + result.cost.unmet for result in (filled, solved)]
            assert penalties[0] == pytest.approx(penalties[1], rel=1e-6)
            assert not [line for line in filled.violations if not line.startswith(("(5c)", "(5h)"))]
