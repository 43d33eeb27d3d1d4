"""Every method on random questions: verified, never better than the exact one, its bound never beaten."""

import itertools
import math

import pytest

from servingplan.model.question import QuestionError
from servingplan.solve import METHODS
from servingplan.verify import verify
from tests.unit.solve.questions import random_question, solve, worked_example

COMPARATORS = [name for name in METHODS if name not in ("anytime", "exact")]
QUESTIONS = 60
SAME = 2e-4


def without_seconds(answer):
    return answer.model_copy(update={"seconds": 0.0})


def signed(level, field):
    """The field so that larger is better."""
    value = getattr(level, field)
    return value if level.goal.rises else -value


def assert_consistent(question, answer, best):
    """The answer is verified, is no better than `best` and does not deny it."""
    assert verify(question, answer) == ()
    if best.status == "Infeasible":
        assert answer.status == "Infeasible"
    if "Infeasible" in (answer.status, best.status):
        return
    for ours, theirs in zip(answer.levels, best.levels, strict=True):
        assert ours.name == theirs.name
        reach = SAME * max(1.0, abs(theirs.value))
        assert signed(ours, "bound") >= signed(theirs, "value") - reach, ours
        if abs(ours.value - theirs.value) > reach:
            assert signed(ours, "value") < signed(theirs, "value"), ours
            return


@pytest.mark.parametrize("method", COMPARATORS)
def test_a_comparator_is_verified_and_no_better_than_exact(method):
    first = 1000 * COMPARATORS.index(method)
    for seed in range(first, first + QUESTIONS // 4):
        question = random_question(seed, running=seed % 4 == 0)
        question = question.model_copy(update={"change": None})
        assert_consistent(question, solve(question, method=method), solve(question))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_gives_the_same_answer_again_and_for_another_order(method):
    question = random_question(7, objective="MinimizeCost")
    other = question.model_validate(
        {**dict(question)} | {name: tuple(reversed(getattr(question, name))) for name in ("pools", "classes", "shapes")}
    )
    first = without_seconds(solve(question, method=method))
    assert first == without_seconds(solve(question, method=method))
    assert first == without_seconds(solve(other, method=method))
    assert first.method == method


@pytest.mark.parametrize("method", METHODS)
def test_the_worked_example_has_a_verified_plan_by_every_method(method):
    answer = solve(worked_example(), method=method)
    assert verify(worked_example(), answer) == ()
    if answer.status != "Infeasible":
        assert answer.scale <= 51 / 1450 * (1 + 1e-6)
        assert answer.bound >= 51 / 1450 * (1 - 1e-6)


@pytest.mark.parametrize("method", ["exact", "anytime", "binary-search"])
def test_the_worked_example_is_solved_by_the_methods_that_search(method):
    assert solve(worked_example(), method=method).scale == pytest.approx(51 / 1450, rel=2e-3)


def test_only_methods_that_guard_losses_take_a_survive_rule():
    question = next(q for seed in itertools.count() if (q := random_question(seed, survive=True)).survive)
    for name, method in METHODS.items():
        if not method.guards_losses:
            with pytest.raises(QuestionError, match=r"cannot guard.*anytime, exact"):
                solve(question, method=name)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_ratios_of_a_billion_lead_to_a_right_answer(method, factor):
    question = worked_example()
    classes = tuple(
        cls.model_copy(update={"requests_per_second": cls.requests_per_second * factor}) for cls in question.classes
    )
    question = worked_example(classes=classes)
    answer = solve(question, method=method)
    assert verify(question, answer) == ()
    if answer.status != "Infeasible":
        assert answer.scale * factor <= 51 / 1450 * (1 + 1e-5)
        assert math.isfinite(answer.bound)
    if method in ("exact", "anytime"):
        assert answer.scale * factor == pytest.approx(51 / 1450, rel=1e-5)
