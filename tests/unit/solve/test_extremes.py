"""Numbers that are not numbers, empty lists, ratios of a billion inside one question: a clear error or a right answer."""

import math
import random

import pytest
from pydantic import ValidationError

from servingplan.model.question import Change, Pool, Question, QuestionError, RequestClass, Running, Shape
from servingplan.solve import METHODS, solve
from servingplan.solve.problem.instance import instance_of
from servingplan.solve.solver.program import Limits, Program
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


def two_nodes_are_cheaper_than_three():
    """The running fleet, with one replica too many, is the start of the search; HiGHS 1.15 proved its 16 $/h best."""
    shapes = (
        Shape(
            name="s0",
            model="m",
            gpus={"q": 1},
            requests_per_second={"k": 26.305817120834465},
            max_utilization=(0.9, 0.4),
        ),
        Shape(name="s1", model="m", gpus={"q": 1}, requests_per_second={"l": 3.135232278781506}, max_copies=2),
        Shape(
            name="s2",
            model="m",
            gpus={"q": 1},
            requests_per_second={"k": 19.395944323947774, "l": 0.4825849660514882},
            quality_loss={"l": 0.02},
        ),
        Shape(
            name="s3",
            model="m",
            gpus={"p": 4},
            requests_per_second={"l": 6.266630664384691},
            quality_loss={"l": 0.02},
            max_utilization=(0.9, 0.4),
        ),
    )
    return Question(
        objective="MinimizeCost",
        budget_dollars_per_hour=20.0,
        pools=(
            Pool(name="p", gpus_per_node=6, dollars_per_node_hour=2.0, max_nodes=3),
            Pool(name="q", gpus_per_node=1, dollars_per_node_hour=5.0, min_nodes=1, max_nodes=2),
        ),
        classes=(
            RequestClass(name="k", model="m", requests_per_second=4.403095614601145, quality_loss_limit=0.01),
            RequestClass(name="l", model="m", requests_per_second=1.8231498157527486, quality_loss_limit=0.01),
            RequestClass(name="n", model="n", requests_per_second=2.859079099029917, priority=10),
        ),
        shapes=shapes,
        running=Running(replicas={"s1": 1, "s2": 1, "s3": 1}),
    )


@pytest.mark.parametrize("method", ["exact", "anytime"])
def test_a_start_is_not_proved_best_where_another_plan_is_cheaper(method):
    asked = two_nodes_are_cheaper_than_three()
    answer = solve(asked, method=method)
    assert verify(asked, answer) == ()
    assert (answer.status, answer.dollars_per_hour) == ("Optimal", 10.0)


def test_a_point_that_does_not_have_the_objective_that_is_told_is_not_believed():
    """Seed of a question where HiGHS 1.16 gave the start and told the optimum."""
    asked = random_question(5002)
    answer = solve(asked)
    assert verify(asked, answer) == ()
    assert (answer.status, answer.dollars_per_hour) == ("Optimal", 1.0)


def far_apart(objective, low, high):
    """Two classes of one model at rates so far apart, and shapes that are quick at one or at the other."""
    classes = (
        {**CLASS, "name": "few", "requests_per_second": low},
        {**CLASS, "name": "many", "requests_per_second": high},
    )
    shapes = (
        {**SHAPE, "name": "a", "requests_per_second": {"few": 3 * low, "many": high / 5}},
        {**SHAPE, "name": "b", "gpus": {"p": 2}, "requests_per_second": {"few": high, "many": low}},
        {**SHAPE, "name": "c", "gpus": {"p": 4}, "requests_per_second": {"few": 7 * low, "many": high / 2}},
    )
    return question(objective, classes=classes, shapes=shapes, pools=({**POOL, "gpus_per_node": 8, "max_nodes": 4},))


@pytest.mark.parametrize("method", ["exact", "anytime"])
@pytest.mark.parametrize("objective", ["MinimizeCost", "MaximizeService"])
@pytest.mark.parametrize("exponent", [3, 6, 9])
def test_shapes_whose_rates_for_two_classes_are_far_apart(method, objective, exponent):
    asked = far_apart(objective, 10.0**-exponent, 10.0**exponent)
    answer = solve(asked, method=method)
    assert verify(asked, answer) == ()
    assert answer.status == "Optimal"
    assert answer.rates
    assert answer.unserved == {}


@pytest.mark.parametrize("method", ["exact", "anytime"])
@pytest.mark.parametrize("seed", [1321, 1532, 1615, 1769])
def test_the_slack_of_one_level_is_no_gap_of_the_next(method, seed):
    """Without the slack nothing is left for the lower priority; with it, a class that takes hardly any of a copy got in."""
    asked = spread(random_question(seed, most_nodes=3, most_shapes=4), seed + 1)
    answer = solve(asked, method=method, relative_gap=0.0, why_infeasible=False)
    assert verify(asked, answer) == ()
    assert (answer.status, answer.stopped) == ("Optimal", "proved")


def spread(asked, seed):
    """The question with rates that differ by up to 10^10."""
    r = random.Random(seed)
    factor = {cls.name: 10 ** r.uniform(-5, 5) for cls in asked.classes}
    classes = tuple(
        cls.model_copy(update={"requests_per_second": cls.requests_per_second * factor[cls.name]})
        for cls in asked.classes
    )
    shapes = []
    for shape in asked.shapes:
        rates = {
            name: rate * (factor[name] if r.random() < 0.7 else 10 ** r.uniform(-5, 5))
            for name, rate in shape.requests_per_second.items()
        }
        shapes.append(shape.model_copy(update={"requests_per_second": rates}))
    return asked.model_copy(update={"classes": classes, "shapes": tuple(shapes)})


@pytest.mark.parametrize("method", ["exact", "anytime"])
def test_moves_from_an_empty_fleet_count(method):
    """Two small replicas cost what one large one does, and take one move more."""
    shapes = (
        {**SHAPE, "name": "small", "requests_per_second": {"k": 2.0}},
        {**SHAPE, "name": "large", "gpus": {"p": 4}, "requests_per_second": {"k": 7.0}},
    )
    asked = question(
        classes=({**CLASS, "requests_per_second": 4.0},), shapes=shapes, pools=({**POOL, "gpus_per_node": 8},)
    ).model_copy(update={"running": Running()})
    answer = solve(asked, method=method)
    assert (answer.status, answer.replicas) == ("Optimal", {"large": 1})


@pytest.mark.parametrize("method", METHODS)
def test_a_mix_of_nothing_is_refused_by_name(method):
    asked = question("MaximizeService")
    nothing = asked.model_copy(
        update={"classes": tuple(cls.model_copy(update={"requests_per_second": 0.0}) for cls in asked.classes)}
    )
    with pytest.raises(QuestionError, match="requests_per_second"):
        solve(nothing, method=method)


@pytest.mark.parametrize("objective", ["MinimizeCost", "MaximizeService"])
@pytest.mark.parametrize("method", ["anytime", "exact"])
def test_no_answer_has_more_copies_than_it_can_count(objective, method):
    pool = {**POOL, "gpus_per_node": 64, "dollars_per_node_hour": 0.0, "max_nodes": 1_000_000}
    asked = question(objective, pools=[pool], classes=[{**CLASS, "requests_per_second": 3e6}])
    answer = solve(asked, method=method)
    assert verify(asked, answer) == ()
    assert answer.status == "Optimal"
    assert answer.replicas == {"s": 1_000_000}


@pytest.mark.parametrize("rho", [1.0, 0.7, (0.5, 0.7, 0.9), (0.9, 0.4), (0.6, 0.6)])
def test_the_fewest_copies_are_found_without_counting_to_them(rho, monkeypatch):
    looked = []
    pool = {**POOL, "dollars_per_node_hour": 0.0, "max_nodes": 1_000_000}
    instance = instance_of(question(pools=[pool], shapes=[{**SHAPE, "max_utilization": rho}]))
    for busy in (0.0, 0.3, 0.5, 1.0, 1.4, 2.7, 3.0, 7.5, 40.0):
        plain = next(y for y in range(1000) if instance.capacity(0, y) >= busy)
        assert instance.fewest_copies(0, busy, 1000) == plain
        assert instance.fewest_copies(0, busy, 1) == min(plain, 1)
    real = type(instance).capacity
    monkeypatch.setattr(type(instance), "capacity", lambda *of: looked.append(of) or real(*of))
    assert instance.fewest_copies(0, 300_000.0, 1_000_000) >= 300_000
    assert len(looked) < 10
