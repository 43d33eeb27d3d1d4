"""The packing theorem, patterns and node groups against enumeration."""

import itertools
import random
from collections import Counter

import pytest

from servingplan.model.goal import DOLLARS, SCALE
from servingplan.model.question import Pool, Question, QuestionError, RequestClass, Shape, SurviveRule
from servingplan.solve import solve
from servingplan.solve.problem.instance import instance_of
from servingplan.solve.problem.packing import (
    all_contents,
    arcs_of,
    contents_count,
    fill,
    fill_patterns,
    group,
    is_chain,
    patterns_of,
)
from servingplan.solve.problem.placement import Packing
from servingplan.solve.search.lexicographic import search
from servingplan.solve.solver.clock import Stopwatch
from servingplan.solve.solver.effort import Effort
from servingplan.verify import verify
from tests.unit.solve.questions import random_question


@pytest.mark.parametrize(
    ("sizes", "chain"), [((1, 2, 4, 8), True), ((2, 3), False), ((3, 6), True), ((4, 6), False), ((5,), True)]
)
def test_a_chain_is_sizes_that_divide_each_other(sizes, chain):
    assert is_chain(sizes) is chain


@pytest.mark.parametrize("gpus", [6, 7, 8])
@pytest.mark.parametrize("sizes", [(1, 2, 4), (2, 4), (3, 6), (1, 5)])
def test_the_rows_for_chains_say_exactly_what_first_fit_decreasing_needs(sizes, gpus):
    for counts in itertools.product(range(6), repeat=len(sizes)):
        packed = fill(dict(zip("abc", counts, strict=False)), dict(zip("abc", sizes, strict=False)), gpus)
        nodes = sum(count for _, count in packed)
        rows = max(
            -(-sum(e * n for e, n in zip(sizes, counts, strict=True) if e >= d) // (d * (gpus // d))) for d in sizes
        )
        assert nodes == rows


def test_all_contents_are_every_way_to_fill_a_node():
    assert len(all_contents({0: 1, 1: 2}, 4, pool="p")) == 8
    with pytest.raises(QuestionError, match="too many to guard"):
        all_contents(dict.fromkeys(range(12), 1), 8, pool="p")


def test_patterns_are_filled_with_what_there_is():
    nodes = fill_patterns({"a": 3, "b": 2}, {"a": 2, "b": 3}, [(((2, 1), (3, 2)), 1), (((2, 4),), 1)])
    assert nodes == [(Counter({"b": 2, "a": 1}), 1), (Counter({"a": 2}), 1)]


def test_other_copies_are_packed_without_a_look_at_shapes_that_are_not_placed():
    """With hundreds of pools and ten thousands of shapes, a pass over all shapes for each pool took seconds."""
    instance = instance_of(random_question(25_004))
    packing = Packing.tight(instance, [min(1, limit) for limit in instance.copies_limit])
    object.__setattr__(instance, "shapes", None)  # what it needs of them is in `sizes_on`
    assert packing.of(packing.copies) == packing


def test_like_nodes_are_one_group_and_idle_nodes_another():
    pool = Pool(name="p", gpus_per_node=4, dollars_per_node_hour=1.0, max_nodes=9)
    groups = group(pool, [({"a": 2}, 2), ({"a": 1}, 1)], {"w": (2, 4)}, total_nodes=8)
    assert [(g.nodes, dict(g.replicas)) for g in groups] == [(2, {"a": 4}), (4, {"w": 2}), (1, {"a": 1}), (1, {})]


def test_shapes_of_three_and_two_gpus_share_nodes_of_eight():
    """Aggregated GPUs would claim that 7 x 3 + 5 x 2 = 31 of 32 fit on 4 nodes; patterns know how."""
    question = Question(
        objective="MinimizeCost",
        budget_dollars_per_hour=100.0,
        pools=(Pool(name="p", gpus_per_node=8, dollars_per_node_hour=1.0, max_nodes=9),),
        classes=(
            RequestClass(name="a", model="a", requests_per_second=5.0),
            RequestClass(name="b", model="b", requests_per_second=7.0),
        ),
        shapes=(
            Shape(name="two", model="a", gpus={"p": 2}, requests_per_second={"a": 1.0}),
            Shape(name="three", model="b", gpus={"p": 3}, requests_per_second={"b": 1.0}),
        ),
    )
    answer = solve(question)
    assert answer.nodes == {"p": 4}
    assert verify(question, answer) == ()
    threes_only = question.model_copy(update={"classes": question.classes[1:], "shapes": (question.shapes[0],)})
    assert solve(threes_only).nodes == {"p": 4}


def test_replicas_over_several_nodes_take_them_whole():
    question = Question(
        objective="MinimizeCost",
        budget_dollars_per_hour=100.0,
        pools=(Pool(name="p", gpus_per_node=4, dollars_per_node_hour=1.0, max_nodes=9),),
        classes=(RequestClass(name="a", model="a", requests_per_second=4.2),),
        shapes=(
            Shape(name="wide", model="a", gpus={"p": 8}, requests_per_second={"a": 2.0}),
            Shape(name="one", model="a", gpus={"p": 1}, requests_per_second={"a": 0.2}),
        ),
    )
    answer = solve(question)
    assert answer.replicas == {"wide": 2, "one": 1}
    assert answer.nodes["p"] == 5
    assert verify(question, answer) == ()
    guarded = question.model_copy(update={"survive": (SurviveRule(event="AnyNode"),)})
    answer = solve(guarded)
    assert verify(guarded, answer) == ()
    assert answer.dollars_per_hour > 5


def test_millions_of_patterns_are_not_listed():
    assert contents_count(range(1, 13), 64) > 10**6
    assert len(arcs_of(range(1, 13), 64)) <= 13 * 64


def test_a_flow_over_arcs_is_nodes_that_fit():
    arcs = arcs_of((2, 3), 8)
    assert (3, 3) in arcs
    flow = dict.fromkeys(arcs, 0) | {(0, 3): 5, (3, 3): 5, (6, 2): 4, (6, 0): 1}
    assert patterns_of(flow, 8) == [(((2, 1), (3, 2)), 4), (((3, 2),), 1)]


@pytest.mark.parametrize("objective", ["MinimizeCost", "MaximizeService"])
def test_arcs_and_contents_are_the_same_constraint(objective):
    shapes = tuple(
        Shape(name=f"g{size}", model="m", gpus={"p": size}, requests_per_second={"k": size**1.1})
        for size in (2, 3, 5, 7)
    )
    question = Question(
        objective=objective,
        budget_dollars_per_hour=30.0,
        pools=(Pool(name="p", gpus_per_node=16, dollars_per_node_hour=6.0, max_nodes=9),),
        classes=(RequestClass(name="k", model="m", requests_per_second=67.0),),
        shapes=shapes,
    )
    effort = Effort(1e-4, 20_000, Stopwatch(None))
    by_contents = search(instance_of(question), effort, exact_contents=True)
    by_arcs = solve(question)
    assert verify(question, by_arcs) == ()
    assert by_arcs.status == "Optimal"
    goal = next(goal for goal in (SCALE, DOLLARS) if goal in by_contents.bounds)
    assert by_contents.bounds[goal].proved
    assert by_arcs.objective == pytest.approx(by_contents.plan.values[goal], rel=1e-4)


def test_first_fit_decreasing_by_counts_is_that_by_pieces():
    r = random.Random(1)
    for _ in range(200):
        gpus = r.choice([4, 7, 8, 16])
        sizes = {name: r.randint(1, gpus) for name in "abcd"[: r.randint(1, 4)]}
        copies = {name: r.randint(0, 9) for name in sizes}
        nodes = []
        for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
            for _ in range(copies[name]):
                fitting = [
                    n for n in nodes if sum(sizes[one] * count for one, count in n.items()) + sizes[name] <= gpus
                ]
                if not fitting:
                    fitting = [Counter()]
                    nodes += fitting
                fitting[0][name] += 1
        assert [node for node, count in fill(copies, sizes, gpus) for _ in range(count)] == nodes


def test_a_million_pieces_are_packed_like_a_thousand():
    packed = fill({"a": 10**6, "b": 10**6 + 1}, {"a": 3, "b": 2}, 8)
    assert sum(count for _, count in packed) == 500_000 + 125_001
    assert len(packed) <= 4
