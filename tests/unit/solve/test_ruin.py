"""Ruin and recreate: plans of full service become cheaper, and no promise is broken."""

import pytest

from benchmarks.planner import coral
from servingplan.model.goal import DOLLARS
from servingplan.solve.plan.judge import judge
from servingplan.solve.problem.instance import instance_of
from servingplan.solve.search.greedy import first_plan
from servingplan.solve.search.ruin import recreated
from servingplan.solve.solver.clock import Stopwatch
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.program import load
from tests.unit.solve.questions import random_question

load()
UNLIMITED = Effort(1e-3, 1_000, Stopwatch(None))


def first(question):
    instance = instance_of(question)
    return instance, first_plan(instance, UNLIMITED)


def test_a_random_plan_keeps_its_service_and_its_promises_and_becomes_no_dearer():
    compared = 0
    for seed in range(37_000, 37_150):
        question = random_question(seed, objective="MinimizeCost", quotas=seed % 3 == 0, running=seed % 4 == 0)
        instance, plan = first(question)
        if plan is None or not plan.in_full:
            continue
        found = recreated(instance, UNLIMITED, plan)
        assert found.in_full, seed
        assert not plan.is_better(found), seed
        assert judge(instance, found.packing, nodes=found.nodes) is not None, seed
        compared += 1
    assert compared > 20


@pytest.mark.parametrize("seed", range(2))
def test_with_many_models_a_greedy_plan_becomes_three_per_cent_cheaper_and_always_the_same(seed):
    instance, plan = first(coral(12, 20, 5, stock=20, seed=seed))
    assert plan is not None
    found = recreated(instance, UNLIMITED, plan)
    assert found.in_full
    assert found.values[DOLLARS] < 0.97 * plan.values[DOLLARS]
    assert recreated(instance, UNLIMITED, plan) == found


def test_plans_of_the_largest_scale_stay():
    instance, plan = first(random_question(5, objective="MaximizeService"))
    assert plan is not None
    assert recreated(instance, UNLIMITED, plan) is plan


def test_when_the_time_is_up_the_plan_stays():
    instance, plan = first(coral(8, 12, 4, stock=9))
    assert plan is not None
    late = Effort(1e-3, 1_000, Stopwatch(0.0))
    assert recreated(instance, late, plan).values == plan.values
