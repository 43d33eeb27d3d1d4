"""The anytime method: never worse than its start, a true bound at every moment, the deadline kept."""

import time

import pytest

from servingplan.model.question import Pool, Question, RequestClass, Running, Shape
from servingplan.solve.plan.judge import running_plan
from servingplan.solve.plan.plan import is_better
from servingplan.solve.problem.instance import instance_of
from servingplan.verify import verify
from tests.unit.solve.questions import random_question, solve
from tests.unit.solve.test_methods import assert_consistent, without_seconds


def large(objective="MaximizeService", *, budget=40.0):
    """Three models, twelve pools, 144 shapes: too large to be proved in the time of a test."""
    pools = [Pool(name=f"p{i}", gpus_per_node=8, dollars_per_node_hour=5.0 + 0.7 * i, max_nodes=6) for i in range(12)]
    classes = [
        RequestClass(name=f"m{m}k{k}", model=f"m{m}", requests_per_second=1.0 + (m + k) % 3)
        for m in range(3)
        for k in range(3)
    ]
    shapes = [
        Shape(
            name=f"m{m}p{i}g{gpus}",
            model=f"m{m}",
            gpus={f"p{i}": gpus},
            requests_per_second={
                f"m{m}k{k}": gpus * (0.3 + (7 * i + 5 * m + 3 * k + gpus) % 11 / 40) for k in range(3)
            },
        )
        for m in range(3)
        for i in range(12)
        for gpus in (1, 2, 4, 8)
    ]
    return Question(
        objective=objective,
        budget_dollars_per_hour=budget,
        pools=tuple(pools),
        classes=tuple(classes),
        shapes=tuple(shapes),
    )


@pytest.mark.parametrize("survive", [False, True])
def test_the_plan_is_as_good_as_the_exact_one_on_small_questions(survive):
    for seed in range(24_000, 24_010):
        question = random_question(seed, survive=survive)
        answer, best = solve(question, method="anytime"), solve(question)
        assert_consistent(question, answer, best)
        assert answer.status == best.status


@pytest.mark.parametrize("method", ["anytime", "exact"])
@pytest.mark.parametrize("seconds", [1e-6, 0.01])
def test_the_bound_is_true_whenever_the_clock_stops_the_search(method, seconds):
    for seed in range(21_000, 21_015):
        question = random_question(seed, survive=seed % 3 == 0)
        best = solve(question)
        answer = solve(question, method=method, deadline_seconds=seconds)
        if answer.status == "Infeasible":
            assert verify(question, answer) == ()
            assert answer.stopped == "deadline" or best.status == "Infeasible"
        else:
            assert_consistent(question, answer, best)


@pytest.mark.parametrize("seconds", [1e-6, None])
def test_the_plan_is_never_worse_than_the_running_fleet(seconds):
    for seed in range(22_000, 22_025):
        question = random_question(seed, running=True).model_copy(update={"change": None})
        running = running_plan(instance_of(question))
        if running is None:
            continue
        answer = solve(question, method="anytime", deadline_seconds=seconds)
        assert verify(question, answer) == ()
        values = {level.goal: level.value for level in answer.levels}
        assert not is_better(running.values, values, tolerance=2e-4), seed


@pytest.mark.slow
def test_what_it_planned_is_kept_when_it_runs():
    for seed in range(23_000, 23_015):
        question = random_question(seed)
        answer = solve(question, method="anytime")
        if answer.status != "Infeasible":
            running = Running(nodes=answer.nodes, replicas=answer.replicas)
            again = question.model_copy(update={"running": running})
            assert solve(again, method="anytime").replicas == answer.replicas, seed


@pytest.mark.parametrize("method", ["anytime", "exact"])
def test_a_tiny_deadline_leaves_the_empty_plan_under_minimize_cost(method):
    question = large("MinimizeCost")
    answer = solve(question, method=method, deadline_seconds=1e-6)
    assert (answer.status, answer.stopped) == ("Feasible", "deadline")
    assert verify(question, answer) == ()


@pytest.mark.parametrize("method", ["anytime", "exact"])
def test_after_a_loss_a_tiny_deadline_leaves_what_still_runs(method):
    question = large("MinimizeCost", budget=1000.0)
    before = solve(question, method="anytime", relative_gap=0.05)
    lost = max(before.nodes, key=lambda name: before.nodes[name])
    left = before.nodes[lost] - 1
    pools = tuple(pool.model_copy(update={"max_nodes": left}) if pool.name == lost else pool for pool in question.pools)
    running = Running(nodes={**before.nodes, lost: left}, replicas=before.replicas)
    after = question.model_copy(update={"pools": pools, "running": running})
    answer = solve(after, method=method, deadline_seconds=1e-6)
    assert verify(after, answer) == ()
    kept = sum(min(before.replicas[name], count) for name, count in answer.replicas.items() if name in before.replicas)
    assert kept >= sum(before.replicas.values()) / 2
    assert sum(answer.unserved.values()) < sum(cls.requests_per_second for cls in question.classes) / 2


@pytest.mark.parametrize("objective", ["MinimizeCost", "MaximizeService"])
def test_the_deadline_is_kept(objective):
    question = large(objective)
    solve(question, method="anytime", deadline_seconds=0.01)
    begun = time.monotonic()
    answer = solve(question, method="anytime", deadline_seconds=1.0)
    assert time.monotonic() - begun < 60.0  # without its deadline it goes on for much longer; the machine may be busy
    assert answer.status != "Infeasible"
    assert answer.gap < 0.5


@pytest.mark.slow
def test_work_limits_give_the_same_plan_every_time():
    question = large(budget=10.0)
    first, second = (without_seconds(solve(question, method="anytime", node_limit=1)) for _ in range(2))
    assert first == second
    assert first.stopped == "work-limit"
