"""Numbers that are not numbers, empty lists, ratios of a billion inside one question: a clear error or a right answer."""

import math

import pytest
from pydantic import ValidationError

from servingplan.model.question import Change, Pool, Question, QuestionError, RequestClass, Shape
from servingplan.solve import METHODS, solve
from servingplan.solve.milp import Limits, Program
from servingplan.verify import verify
from tests.unit.solve.questions import random_question, worked_example

POOL = {"name": "p", "gpus_per_node": 1, "dollars_per_node_hour": 1.0, "max_nodes": 2}
CLASS = {"name": "k", "model": "m", "requests_per_second": 1.0}
SHAPE = {"name": "s", "model": "m", "gpus": {"p": 1}, "requests_per_second": {"k": 1.0}}
NUMBERS = [
    (Pool, POOL, "gpus_per_node"), (Pool, POOL, "dollars_per_node_hour"), (Pool, POOL, "max_nodes"),
    (RequestClass, CLASS, "requests_per_second"), (RequestClass, CLASS, "quality_loss_limit"),
    (Shape, SHAPE, "startup_seconds"), (Shape, SHAPE, "max_copies"), (Shape, SHAPE, "max_utilization"),
    (Change, {}, "min_gain"), (Change, {}, "life_seconds"),
]  # fmt: skip
INSIDE = {"gpus": "p", "requests_per_second": "k", "quality_loss": "k"}
NOT_A_SIZE = [math.nan, math.inf, -math.inf, -1.0]


def question(objective="MinimizeCost", *, pools=(POOL,), classes=(CLASS,), shapes=(SHAPE,), budget=10.0):
    return Question(
        objective=objective,
        budget_dollars_per_hour=budget,
        pools=tuple(Pool(**pool) for pool in pools),
        classes=tuple(RequestClass(**cls) for cls in classes),
        shapes=tuple(Shape(**shape) for shape in shapes),
    )


@pytest.mark.parametrize("number", NOT_A_SIZE)
@pytest.mark.parametrize(("noun", "fields", "name"), NUMBERS)
def test_every_number_of_a_question_is_finite_and_not_below_zero(noun, fields, name, number):
    assert noun(**fields)
    with pytest.raises(ValidationError) as caught:
        noun(**{**fields, name: number})
    assert caught.value.errors()[0]["loc"][0] == name


@pytest.mark.parametrize("number", NOT_A_SIZE)
@pytest.mark.parametrize("name", INSIDE)
def test_so_are_those_inside_a_mapping_or_a_table(name, number):
    for changes in ({name: {INSIDE[name]: number}}, {"max_utilization": (0.5, number)}):
        with pytest.raises(ValidationError):
            Shape(**{**SHAPE, **changes})


@pytest.mark.parametrize("limits", [
    {"deadline_seconds": math.nan}, {"deadline_seconds": math.inf}, {"deadline_seconds": 0.0}, {"deadline_seconds": -1.0},
    {"relative_gap": math.nan}, {"relative_gap": math.inf}, {"relative_gap": 1.0}, {"relative_gap": -0.1},
    {"node_limit": -1}, {"method": "fastest"},
], ids=str)  # fmt: skip
def test_a_limit_that_makes_no_sense_is_refused(limits):
    with pytest.raises(QuestionError, match=r"is wrong|is unknown"):
        solve(worked_example(), **limits)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lists", [
    {"shapes": ()},
    {"classes": ({**CLASS, "requests_per_second": 0.0},)},
    {"pools": ({**POOL, "max_nodes": 0},)},
    {"budget": 0.0},
], ids=["no shapes", "nothing asked", "no nodes", "no money"])  # fmt: skip
def test_nothing_to_plan_is_the_empty_plan(method, lists):
    """Cheapest is to rent nothing; a heuristic may say that it found no plan."""
    asked = question(**lists)
    answer = solve(asked, method=method)
    assert verify(asked, answer) == ()
    assert answer.replicas == {}
    if method in ("exact", "anytime"):
        assert (answer.status, answer.dollars_per_hour) == ("Optimal", 0.0)


@pytest.mark.parametrize("method", ["exact", "anytime"])
@pytest.mark.parametrize(
    "lists", [{"pools": ({**POOL, "max_nodes": 0},)}, {"budget": 0.0}], ids=["no nodes", "no money"]
)
def test_no_multiple_of_the_mix_is_infeasible(method, lists):
    answer = solve(question("MaximizeService", **lists), method=method)
    assert answer.status == "Infeasible"
    assert answer.reasons


def two_speeds(slow, fast, *, dear=1.0, most=1000):
    """Two pools of one GPU; `dear` is the price of the fast one."""
    return {
        "pools": (
            {**POOL, "name": "slow", "max_nodes": most},
            {**POOL, "name": "fast", "max_nodes": most, "dollars_per_node_hour": dear},
        ),
        "shapes": (
            {**SHAPE, "name": "slow", "gpus": {"slow": 1}, "requests_per_second": {"k": slow}},
            {**SHAPE, "name": "fast", "gpus": {"fast": 1}, "requests_per_second": {"k": fast}},
        ),
    }


@pytest.mark.parametrize("method", METHODS)
def test_one_shape_a_billion_times_as_fast(method):
    asked = question("MaximizeService", **two_speeds(1e-6, 1e3), budget=3.0)
    answer = solve(asked, method=method)
    assert verify(asked, answer) == ()
    if method in ("exact", "anytime"):
        assert answer.scale == pytest.approx(3e3, rel=1e-4)
    assert answer.scale is None or answer.scale <= 3e3 * (1 + 1e-5)
    assert answer.bound is None or answer.bound >= 3e3 * (1 - 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_node_a_billion_times_as_dear(method):
    asked = question(**two_speeds(0.5, 1.0, dear=1e9), budget=1e12)
    answer = solve(asked, method=method)
    assert verify(asked, answer) == ()
    if method in ("exact", "anytime"):
        assert (answer.dollars_per_hour, answer.unserved) == (2.0, {})
    if answer.status == "Optimal" or answer.stopped == "proved":
        assert answer.levels[-1].bound <= 2.0 * (1 + 1e-5)


@pytest.mark.parametrize("method", ["exact", "anytime"])
@pytest.mark.parametrize("objective", ["MinimizeCost", "MaximizeService"])
def test_two_classes_a_billion_apart(method, objective):
    classes = (
        {**CLASS, "name": "few", "requests_per_second": 1e-6},
        {**CLASS, "name": "many", "requests_per_second": 1e3},
    )
    shapes = ({**SHAPE, "requests_per_second": {"few": 1e-3, "many": 1e3}},)
    asked = question(objective, classes=classes, shapes=shapes, pools=({**POOL, "max_nodes": 2},))
    answer = solve(asked, method=method)
    assert verify(asked, answer) == ()
    if objective == "MinimizeCost":
        assert (answer.dollars_per_hour, answer.unserved) == (2.0, {})
    else:
        assert answer.scale == pytest.approx(2 / 1.001, rel=1e-4)


@pytest.mark.parametrize("method", ["exact", "anytime"])
def test_a_hundred_thousand_nodes(method):
    asked = question(
        classes=({**CLASS, "requests_per_second": 1e5},), pools=({**POOL, "max_nodes": 100_000},), budget=1e7
    )
    answer = solve(asked, method=method)
    assert verify(asked, answer) == ()
    assert answer.dollars_per_hour == pytest.approx(1e5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("objective", ["MinimizeCost", "MaximizeService"])
def test_another_order_and_a_second_run_change_nothing(objective, method, seed):
    asked = random_question(600_000 + seed, objective=objective, survive=METHODS[method].guards_losses and seed == 1)
    turned = {name: tuple(reversed(getattr(asked, name))) for name in ("pools", "classes", "shapes")}
    other = Question.model_validate({**dict(asked), **turned})
    answers = [solve(one, method=method).model_copy(update={"seconds": 0.0}) for one in (asked, asked, other)]
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("relaxed", [False, True])
def test_a_program_in_which_nothing_uses_a_column_has_its_columns_at_their_bounds(relaxed):
    program = Program("empty")
    program.add_column("idle", lower=2.0, upper=5.0, integer=True)
    outcome = program.optimise([], "max", Limits(relative_gap=0.0, nodes=1), relaxed=relaxed)
    assert (outcome.stopped, outcome.value, outcome.bound, outcome.values) == ("proved", 0.0, 0.0, (2.0,))
