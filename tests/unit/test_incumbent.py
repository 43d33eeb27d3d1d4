"""When a plan that runs makes way for another: service by priority first, then dollars."""

import pytest

from servingplan.decide.keep_or_move import _gain, _missing_made_up_for
from servingplan.model.answer import Answer
from servingplan.model.question import Pool, Question, RequestClass, Shape

QUESTION = Question(
    objective="MinimizeCost",
    budget_dollars_per_hour=100.0,
    pools=(Pool(name="p", gpus_per_node=8, dollars_per_node_hour=10.0, max_nodes=10),),
    classes=(
        RequestClass(name="chat", model="m", requests_per_second=4.0, priority=100),
        RequestClass(name="search", model="m", requests_per_second=2.0, priority=100),
        RequestClass(name="batch", model="n", requests_per_second=50.0),
    ),
    shapes=(Shape(name="s", model="m", gpus={"p": 8}, requests_per_second={"chat": 1.0}),),
)


def answer(dollars=50.0, **unserved):
    return Answer(status="Optimal", method="exact", dollars_per_hour=dollars, unserved=unserved)


@pytest.mark.parametrize(
    ("running", "new", "gain"),
    [
        ({"chat": 3.0}, {"batch": 20.0}, 1.0),  # a high priority gains all, a lower one loses more requests than that
        ({"chat": 2.0, "batch": 30.0}, {"chat": 1.0, "batch": 40.0}, 0.5),
        ({"batch": 20.0}, {"chat": 3.0}, -1.0),  # fewer requests are turned away, but those that matter
        ({"chat": 2.0, "search": 1.0}, {"chat": 2.0}, 1 / 3),  # the smallest part is the same; in total less is missing
        ({"batch": 10.0}, {"batch": 5.0}, 0.5),
        ({"batch": 10.0}, {"batch": 10.0}, 0.0),
    ],
)
def test_service_is_compared_by_priority_from_the_top(running, new, gain):
    before, after = answer(**running), answer(**new)
    assert _missing_made_up_for(QUESTION, before, after) == pytest.approx(gain)
    assert _gain(QUESTION, before, after) == pytest.approx(gain)


def test_dollars_count_where_service_is_the_same():
    assert _gain(QUESTION, answer(50.0, batch=1.0), answer(40.0, batch=1.0)) == pytest.approx(0.2)
