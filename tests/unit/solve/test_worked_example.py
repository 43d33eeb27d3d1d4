"""The worked example of Jiang et al. (ICML 2025), section 4.2: makespan 1450/51 seconds."""

import pytest

from servingplan.model.answer import answer_from_json, answer_json
from servingplan.solve import solve
from servingplan.verify import verify
from tests.unit.solve.questions import worked_example


def test_the_optimum_of_the_paper_is_found():
    answer = solve(worked_example())
    assert answer.status == "Optimal"
    assert answer.scale == pytest.approx(51 / 1450, rel=1e-9)
    assert answer.replicas == {"t1x1": 1, "t2tp2": 1}
    assert answer.nodes == {"t1": 1, "t2": 2, "t3": 0}
    assert answer.dollars_per_hour == 8
    assert answer.binding == ("budget",)
    assert [(group.pool, group.nodes, dict(group.replicas)) for group in answer.placements] == [
        ("t1", 1, {"t1x1": 1}),
        ("t2", 2, {"t2tp2": 1}),
    ]
    assert answer.rates["w1"] == pytest.approx({"t1x1": 0.4137931, "t2tp2": 2.4}, rel=1e-6)
    assert answer.rates["w2"] == pytest.approx({"t1x1": 0.7034483}, rel=1e-6)
    assert verify(worked_example(), answer) == ()


def test_an_answer_survives_its_json():
    answer = solve(worked_example())
    assert answer_from_json(answer_json(answer)) == answer


def test_the_same_question_has_the_same_answer_every_time():
    first, second = (solve(worked_example()).model_copy(update={"seconds": 0.0}) for _ in range(2))
    assert answer_json(first) == answer_json(second)
