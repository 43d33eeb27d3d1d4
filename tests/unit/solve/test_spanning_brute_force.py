"""Replicas over whole nodes and over two pools, with and without the loss of any node, against every plan there is.

All classes are protected, so a plan is as good as the largest multiple of the mix that it serves before and after every
loss. Every vector of copies, every number of nodes, every way to put pieces on nodes is tried; traffic is routed by SciPy.
"""

import functools
import itertools
import random

import numpy as np
import pytest
from scipy.optimize import linprog

from servingplan.model.question import Pool, Question, RequestClass, Shape, SurviveRule
from servingplan.verify import verify
from tests.unit.solve.questions import solve

BLOCKS = 4
EACH = 6


def spanning_question(seed):
    r = random.Random(seed)
    pools = (
        Pool(name="a", gpus_per_node=2, dollars_per_node_hour=r.choice([2.0, 3.0]), max_nodes=r.randint(2, 4)),
        Pool(name="b", gpus_per_node=r.choice([1, 2]), dollars_per_node_hour=r.choice([1.0, 2.5]), max_nodes=r.randint(1, 3)),
    )  # fmt: skip
    other = pools[1].gpus_per_node
    spanning = [{"a": 4}, {"a": r.choice([1, 2, 4]), "b": r.choice([1, other, 2 * other])}]
    inside = [{"a": r.choice([1, 2])}, {"b": 1}]
    chosen = [r.choice(spanning), r.choice(inside), r.choice(spanning + inside)]
    classes = tuple(RequestClass(name=f"k{i}", model="m", requests_per_second=r.choice([0.5, 1.0])) for i in range(2))
    shapes = tuple(
        Shape(
            name=f"s{i}",
            model="m",
            gpus=gpus,
            requests_per_second={cls.name: r.uniform(0.4, 1.2) * sum(gpus.values()) for cls in classes},
            max_utilization=r.choice([1.0, (0.5, 0.7, 0.9)]),
        )
        for i, gpus in enumerate(chosen)
    )
    return Question(
        objective=r.choice(["MinimizeCost", "MaximizeService"]),
        budget_dollars_per_hour=r.choice([6.0, 9.0, 12.0]),
        pools=pools,
        classes=classes,
        shapes=shapes,
        survive=(SurviveRule(event="AnyNode"),) if r.random() < 0.7 else (),
    )


@pytest.mark.slow
@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_plan_is_better(block):
    for seed in range(block * EACH, block * EACH + EACH):
        question = spanning_question(seed)
        plans = list(every_plan(question))
        for method in ("exact", "anytime"):
            answer = solve(question, method=method, relative_gap=0.0)
            assert verify(question, answer) == (), (seed, method)
            if question.objective == "MaximizeService":
                best = max((scale for scale, _ in plans), default=0.0)
                found = answer.scale or 0.0
            else:
                if not question.survive:
                    continue  # what is served in part is for test_brute_force
                best = min((dollars for scale, dollars in plans if scale >= 1 - 1e-7), default=None)
                found = None if answer.status == "Infeasible" else answer.dollars_per_hour
            assert found == (None if best is None else pytest.approx(best, rel=1e-5, abs=1e-7)), (seed, method)


def test_the_questions_are_not_all_easy():
    questions = [spanning_question(seed) for seed in range(BLOCKS * EACH)]
    answers = [solve(question, method="exact") for question in questions]
    spans = [
        any(
            len(shape.gpus) > 1 or any(gpus > pools[name].gpus_per_node for name, gpus in shape.gpus.items())
            for shape in question.shapes
            if answer.replicas.get(shape.name)
        )
        for question, answer in zip(questions, answers, strict=True)
        for pools in [{pool.name: pool for pool in question.pools}]
    ]
    assert sum(spans) >= 5
    assert sum(bool(question.survive) and on for question, on in zip(questions, spans, strict=True)) >= 3
    assert {"Optimal", "Infeasible"} == {answer.status for answer in answers}


def every_plan(question):
    """(largest multiple of the mix before and after every loss, dollars) of every packing of every fleet."""
    scale = functools.cache(lambda copies: largest_scale(question, copies))
    ranges = [range(most + 1) for most in (most_copies(question, shape) for shape in question.shapes)]
    for copies in itertools.product(*ranges):
        for nodes in itertools.product(*(range(pool.min_nodes, pool.max_nodes + 1) for pool in question.pools)):
            dollars = sum(pool.dollars_per_node_hour * n for pool, n in zip(question.pools, nodes, strict=True))
            if dollars > question.budget_dollars_per_hour:
                continue
            seen = [packings(question, pool, copies, n) for pool, n in zip(question.pools, nodes, strict=True)]
            for packing in itertools.product(*seen):
                losses = set().union(*packing) if question.survive else set()
                left = [tuple(y - content.count(c) for c, y in enumerate(copies)) for content in losses]
                yield min([scale(copies), *map(scale, left)]), dollars


def most_copies(question, shape):
    pools = {pool.name: pool for pool in question.pools}
    return min(pools[name].max_nodes * pools[name].gpus_per_node // gpus for name, gpus in shape.gpus.items())


def packings(question, pool, copies, nodes):
    """Every set of node contents (a tuple of shapes by number) with which these copies fit on so many nodes."""
    sizes = [shape.gpus.get(pool.name, 0) for shape in question.shapes]
    whole = {c for c, size in enumerate(sizes) if size > pool.gpus_per_node and copies[c]}
    free = nodes - sum(copies[c] * sizes[c] // pool.gpus_per_node for c in whole)
    pieces = [c for c, size in enumerate(sizes) if 0 < size <= pool.gpus_per_node for _ in range(copies[c])]
    if free < 0:
        return set()
    found = set()

    def place(rest, filled):
        if not rest:
            found.add(frozenset({(c,) for c in whole} | {tuple(content) for content in filled if content}))
            return
        for number, content in enumerate(filled):
            if sum(sizes[c] for c in content) + sizes[rest[0]] <= pool.gpus_per_node:
                place(rest[1:], [*filled[:number], (*content, rest[0]), *filled[number + 1 :]])
            if not content:
                break  # empty nodes are alike

    place(pieces, [()] * free)
    return found


def largest_scale(question, copies):
    """Largest multiple of the whole mix that these copies serve."""
    pairs = [(c, k) for c in range(len(question.shapes)) if copies[c] for k in range(len(question.classes))]
    if not pairs:
        return 0.0
    load = np.zeros((len(question.shapes), len(pairs) + 1))
    serve = np.zeros((len(question.classes), len(pairs) + 1))
    for i, (c, k) in enumerate(pairs):
        load[c, i] = 1 / question.shapes[c].requests_per_second[question.classes[k].name]
        serve[k, i] = 1.0
    serve[:, -1] = [-cls.requests_per_second for cls in question.classes]
    tables = [shape.max_utilization for shape in question.shapes]
    limits = [
        y * (table if isinstance(table, float) else table[min(max(y, 1), len(table)) - 1])
        for y, table in zip(copies, tables, strict=True)
    ]
    gain = np.zeros(len(pairs) + 1)
    gain[-1] = -1.0
    result = linprog(gain, A_ub=load, b_ub=limits, A_eq=serve, b_eq=np.zeros(len(question.classes)))
    assert result.status == 0
    return -result.fun
