"""Prices by model: true bounds, and plans that are no worse for having been sought apart."""

import math
from dataclasses import replace

import pytest

from benchmarks.planner import coral, near_tied
from servingplan.model.goal import SCALE
from servingplan.model.question import Pool, Question, RequestClass, Shape
from servingplan.solve.bounds.lagrangian import ByModel, Prices
from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.plan.judge import judge
from servingplan.solve.plan.plan import best_of
from servingplan.solve.plan.routing import route, service_values
from servingplan.solve.problem.constraints import build
from servingplan.solve.problem.instance import instance_of
from servingplan.solve.problem.objective import Objective
from servingplan.solve.search.gap_closing import Closed, _Closing, _next_scale
from servingplan.solve.search.kernel import Kernel
from servingplan.solve.search.rounding import relaxed_plans
from servingplan.solve.solver import params
from servingplan.solve.solver.clock import Stopwatch
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.program import Limits, load
from servingplan.verify import verify
from tests.unit.solve.questions import random_question, solve
from tests.unit.solve.test_anytime import large
from tests.unit.solve.test_methods import assert_consistent

TOLERANCE = 1e-6


def effort(gap=1e-3):
    load()
    return Effort(gap, 1_000, Stopwatch(None))


@pytest.fixture
def always_apart(monkeypatch):
    """Take every question apart, however small."""
    monkeypatch.setattr(params, "ANYTIME", replace(params.ANYTIME, joint_pairs=0, apart_models=1))


@pytest.mark.slow
@pytest.mark.parametrize("gap", [1e-4, 0.03])
def test_taking_apart_gives_the_plan_and_the_proof_of_the_exact_method(always_apart, gap):
    for seed in range(31_000, 31_030):
        question = random_question(seed, running=seed % 3 == 0)
        best = solve(question)
        answer = solve(question, method="anytime", relative_gap=gap)
        assert verify(question, answer) == (), seed
        assert_consistent(question, answer, best)
        if answer.status == "Optimal" and question.change is None:
            first, other = answer.levels[0], best.levels[0]
            assert abs(first.value - other.value) <= (gap + TOLERANCE) * max(abs(first.value), abs(other.value)), seed


@pytest.mark.parametrize("seed", [31_015, 31_026])
def test_where_price_excludes_every_scale_no_smaller_one_is_tried(always_apart, seed):
    question = random_question(seed, running=seed % 3 == 0)
    answer = solve(question, method="anytime", relative_gap=1e-4)
    assert verify(question, answer) == ()
    assert answer.status == "Infeasible"


def test_of_equal_shapes_on_several_pools_only_the_cheapest_is_priced_if_no_stock_is_scarce():
    instance = instance_of(coral(3, 4, 5, stock=20))
    rates = [cls.requests_per_second for cls in instance.classes]
    by_model = ByModel(instance, Prices.of_nodes(instance), rates)
    apart = by_model.serve(1.0, effort())
    assert sum(len(part.shapes) for part in apart.parts) <= len(instance.shapes) / 5
    scarce = ByModel(instance, replace(Prices.of_nodes(instance), scarce=True), rates).serve(1.0, effort())
    assert apart.least == pytest.approx(scarce.least, rel=2e-3)  # each is proved to a thousandth
    assert all(len(cut.terms) > len(part.shapes) for cut, part in zip(by_model.cuts(apart), apart.parts, strict=True))


def test_cheap_copies_that_replace_dear_ones_without_regard_to_stock_need_not_fit(monkeypatch):
    """A hundred copies of one dear GPU each; the cheap ones that replace them in the bound would need four GPUs each."""
    classes = [RequestClass(name="chat", model="m", requests_per_second=100)]
    pools = [
        Pool(name="cheap", gpus_per_node=8, max_nodes=2, dollars_per_node_hour=9.6),
        Pool(name="dear", gpus_per_node=8, max_nodes=13, dollars_per_node_hour=80),
    ]
    shapes = [
        Shape(name="a", model="m", gpus={"dear": 1}, requests_per_second={"chat": 1}),
        Shape(name="b", model="m", gpus={"cheap": 4}, requests_per_second={"chat": 1}),
        Shape(name="c", model="m", gpus={"dear": 8}, requests_per_second={"chat": 5}),
    ]
    question = Question(
        objective="MinimizeCost", budget_dollars_per_hour=2000, pools=pools, classes=classes, shapes=shapes
    )
    best = solve(question, method="exact")
    instance = instance_of(question)
    apart = ByModel(instance, Prices.of_nodes(instance), [100.0]).serve(1.0, effort())
    assert apart.least <= best.dollars_per_hour * (1 + TOLERANCE)
    monkeypatch.setattr(params, "ANYTIME", replace(params.ANYTIME, searched_pairs=1))
    answer = solve(question, method="anytime", relative_gap=1e-3)
    assert verify(question, answer) == ()
    assert answer.status != "Optimal" or answer.dollars_per_hour <= best.dollars_per_hour * 1.002


@pytest.mark.slow
def test_no_plan_is_cheaper_than_the_sum_over_models():
    told = 0
    for seed in range(32_000, 32_200):
        question = random_question(seed, quotas=seed % 3 == 0)
        if question.objective != "MinimizeCost":
            continue
        best = solve(question)
        if best.unserved or best.status != "Optimal":
            continue
        instance = instance_of(question)
        relaxation = Relaxation(instance)
        relaxation.optimise(effort())
        for prices in (Prices.of_nodes(instance), Prices.of(instance, relaxation)):
            if prices is None:
                continue
            by_model = ByModel(instance, prices, [cls.requests_per_second for cls in instance.classes])
            apart = by_model.serve(1.0, effort())
            assert (apart.least - prices.rent) / prices.dollar <= best.dollars_per_hour * (1 + TOLERANCE), seed
            copies = [best.replicas.get(shape.name, 0) for shape in instance.shapes]
            for cut in by_model.cuts(apart):
                assert sum(factor * copies[c] for c, factor in cut.terms) >= cut.least * (1 - TOLERANCE), seed
            told += 1
    assert told > 20


@pytest.mark.slow
def test_no_plan_reaches_a_scale_whose_price_is_above_what_there_is():
    told = 0
    for seed in range(33_000, 33_120):
        question = random_question(seed)
        best = solve(question)
        if question.objective != "MaximizeService" or best.status != "Optimal":
            continue
        instance = instance_of(question)
        relaxation = Relaxation(instance)
        relaxation.optimise(effort())
        prices = Prices.of(instance, relaxation)
        assert prices is not None
        by_model = ByModel(instance, prices, [cls.requests_per_second for cls in instance.classes])
        supply = prices.supply(question.budget_dollars_per_hour)
        assert by_model.serve(best.scale * (1 - TOLERANCE), effort()).least <= supply * (1 + TOLERANCE), seed
        told += 1
    assert told > 20


def test_a_program_that_was_used_at_other_scales_says_the_same_as_a_new_one():
    compared = 0
    for seed in range(34_000, 34_040):
        instance = instance_of(random_question(seed))
        if not instance.classes or not all(instance.reachable_targets):
            continue
        rates = [cls.requests_per_second for cls in instance.classes]
        used = ByModel(instance, Prices.of_nodes(instance), rates)
        for scale in (0.2, 0.35, 0.1, 0.3):
            ours = used.serve(scale, effort(0.0)).least
            new = ByModel(instance, Prices.of_nodes(instance), rates).serve(scale, effort(0.0)).least
            assert ours == pytest.approx(new, rel=2e-3), (seed, scale)  # each is proved to a thousandth
            compared += 0.0 < new < math.inf
    assert compared > 20


def test_models_in_turn_share_the_stock_and_reach_the_scale():
    reached = 0
    for seed in range(36_000, 36_040):
        question = random_question(seed, objective="MaximizeService")
        best = solve(question)
        instance = instance_of(question)
        if best.scale is None or not all(instance.reachable_targets):
            continue
        rates = [cls.requests_per_second for cls in instance.classes]
        by_model = ByModel(instance, Prices.of_nodes(instance), rates)
        for dearest_last in (False, True):
            copies = by_model.in_turn(best.scale / 2, effort(), dearest_last=dearest_last)
            if copies is None:
                continue
            for pool, limit in zip(instance.pools, instance.nodes_limit, strict=True):
                gpus = sum(n * shape.gpus.get(pool.name, 0) for n, shape in zip(copies, instance.shapes, strict=True))
                assert gpus <= limit * pool.gpus_per_node, seed
            served = service_values(instance, route(instance, copies, [best.scale / 2 * rate for rate in rates]))
            assert served[SCALE] == pytest.approx(best.scale / 2, rel=1e-6), seed
            reached += 1
    assert reached > 20


@pytest.mark.parametrize("seed", [40])
def test_models_in_turn_give_a_better_first_plan_than_rounding(seed):
    instance = instance_of(near_tied(seed, 30.0))
    relaxation = Relaxation(instance)
    relaxation.optimise(effort())
    rounded = best_of(judge(instance, draft.copies) for draft in relaxed_plans(instance, relaxation))
    prices = Prices.of(instance, relaxation)
    assert rounded is not None
    assert prices is not None

    def search_among(shapes, plan):
        return Kernel(instance, shapes).search(plan, effort().with_nodes(30))

    work = _Closing(instance, prices, effort(), Closed(rounded, dict(relaxation.bounds)), search_among)
    work.serve_in_turn()
    assert work.result.plan is not None
    assert work.result.plan.values[SCALE] > 1.1 * rounded.values[SCALE]


def test_columns_for_totals_change_no_optimum():
    for seed in range(35_000, 35_030):
        instance = instance_of(random_question(seed))
        values = []
        for totals in (False, True):
            plan = build(instance, instance.reachable_targets, totals=totals)
            outcome = plan.program.optimise(
                Objective(plan).service()[0].terms, "max", Limits(relative_gap=0.0, nodes=1_000_000)
            )
            values.append(math.nan if outcome.infeasible else outcome.value)
        assert values[0] == pytest.approx(values[1], rel=1e-6, abs=1e-7, nan_ok=True), seed


@pytest.mark.parametrize(
    ("low", "high", "wanted", "crossing", "tried"),
    [
        (1.0, 2.0, 1.01, 0.0, 1.5),  # nothing is known: the middle
        (1.0, 2.0, 1.01, 1.4, 1.4),  # where price is likely to meet supply
        (1.0, 2.0, 1.01, 1.9, 1.75),  # but not too near what is excluded already
        (1.5, 2.0, 1.52, 1.51, 1.52),  # that is near: the proof
        (1.0, 1.02, 1.01, 1.1, 1.01),  # price excluded more than was thought: the proof, where it is not far
        (1.0, 2.0, 1.01, 2.1, 1.5),
        (1.2, 2.0, 1.01, 1.28, 1.37),  # the proof is out of reach of prices: a lower bound
    ],
)
def test_scales_are_tried_where_they_tell_most(low, high, wanted, crossing, tried):
    assert _next_scale(low, high, wanted=wanted, crossing=crossing) == pytest.approx(tried)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["MinimizeCost", "MaximizeService"])
def test_larger_questions_are_certified_to_a_per_cent(objective):
    question = large(objective, budget=30.0)
    answer = solve(question, method="anytime", relative_gap=0.01)
    assert verify(question, answer) == ()
    assert answer.levels[0].gap <= 0.01
    assert answer.status == "Optimal"


def test_a_relaxation_that_was_stopped_before_its_dollars_has_no_prices():
    instance = instance_of(large("MinimizeCost", budget=1000.0))
    relaxation = Relaxation(instance)
    relaxation.bound(relaxation.stages[0], effort())
    assert relaxation.values
    assert Prices.of(instance, relaxation) is None
