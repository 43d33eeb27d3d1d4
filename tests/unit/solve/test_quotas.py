"""Pools that share a quota: every method keeps to it, the verifier checks it, and explanations name it."""

import pytest

from servingplan.model.question import Pool, Question, QuestionError, Quota, RequestClass, Shape, question_from_json
from servingplan.solve import METHODS, explain
from servingplan.verify import verify
from tests.unit.solve.questions import random_question, solve

QUESTIONS = 12


def two_pools(max_gpus=8, rate=20.0):
    """Two pools of two nodes of four GPUs, of which a quota lets us hold fewer GPUs than there are."""
    return Question(
        objective="MinimizeCost",
        budget_dollars_per_hour=100.0,
        pools=tuple(Pool(name=name, gpus_per_node=4, dollars_per_node_hour=4.0, max_nodes=2) for name in "ab"),
        classes=(RequestClass(name="chat", model="m", requests_per_second=rate),),
        shapes=tuple(Shape(name=name, model="m", gpus={name: 2}, requests_per_second={"chat": 2.0}) for name in "ab"),
        quotas=(Quota(name="team", pools=("b", "a"), max_gpus=max_gpus),),
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_to_a_quota(method):
    planned = 0
    for seed in range(700_000, 700_000 + QUESTIONS):
        question = random_question(seed, quotas=True)
        answer = solve(question, method=method)
        assert verify(question, answer) == (), seed
        planned += bool(answer.replicas)
    assert planned or method in ("greedy-cost", "uniform-composition")


def test_two_pools_hold_no_more_together_than_their_quota():
    answer = solve(two_pools())
    assert sum(answer.replicas.values()) == 4
    assert "quota:team" in answer.binding


def test_a_larger_quota_is_worth_what_it_lets_serve():
    answer = solve(two_pools(max_gpus=15))
    assert sum(answer.replicas.values()) == 7
    assert sum(solve(two_pools(max_gpus=16)).replicas.values()) == 8


def test_the_verifier_finds_a_plan_that_breaks_a_quota():
    wide = two_pools(max_gpus=16)
    broken = verify(two_pools(max_gpus=12), solve(wide))
    assert [item.promise for item in broken if item.promise != "binding"] == ["quotas"]
    assert "hold 16 GPUs, above max_gpus 12 of quota 'team'" in broken[0].message


def test_a_quota_that_keeps_a_class_from_service_is_named_with_the_smallest_that_does():
    question = two_pools(rate=10.0)
    explanation = explain(question, solve(question))
    found = {ease.limit: (ease.now, ease.needed) for ease in explanation.clash.limits}
    assert set(found) == {"class:chat", "quota:team"}
    assert found["quota:team"] == (8.0, 10.0)
    gains = {item.name: item.gain for item in explanation.worth}
    assert gains["quota:team"] == 0, "one GPU more is not yet a copy"


def test_a_quota_of_an_unknown_pool_is_refused():
    text = two_pools().model_dump_json().replace('"pools":["a","b"]', '"pools":["a","c"]')
    with pytest.raises(QuestionError, match="quota 'team': pools names pool 'c'"):
        question_from_json(text)
