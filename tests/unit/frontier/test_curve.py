"""The best plan at every value: the same as asked alone, never worse with more, and with an honest gap."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servingplan.frontier.curve import answers_along, never_falling
from servingplan.frontier.sweep import Sweep
from servingplan.solve.plan.plan import is_better
from servingplan.solve.solver.tolerance import gap_of
from servingplan.verify import verify
from tests.unit.solve.questions import random_question, solve, worked_example

EXACT = 1e-9
seeds = st.integers(min_value=0, max_value=10_000)
always = settings(max_examples=20)


def sweep_of(question, kind):
    if kind == "budget":
        return Sweep("budget", (0.0, 2.0, 5.0, 9.0, 20.0))
    if kind == "demand":
        return Sweep("demand", (0.25, 1.0, 2.0, 5.0))
    pool = question.pools[0]
    return Sweep("stock", tuple(float(count) for count in range(pool.min_nodes, pool.min_nodes + 4)), pool.name)


def ask(question, start):
    return solve(question, method="anytime", relative_gap=EXACT, start=start)


def values(answer):
    return {level.goal: level.value for level in answer.levels}


def broken(question, answer):
    """What an answer promises and does not keep; which limits hold it is told only where a search was made."""
    return [found for found in verify(question, answer) if found.promise != "binding"]


def better(left, right):
    """Whether one answer is better than another by more than the solver's own rounding."""
    if right.status == "Infeasible" or left.status == "Infeasible":
        return left.status != "Infeasible" and right.status == "Infeasible"
    return is_better(values(left), values(right), tolerance=3e-6)


@always
@given(seeds, st.sampled_from(["budget", "demand", "stock"]))
def test_every_point_is_the_answer_to_its_own_question(seed, kind):
    base = random_question(seed)
    sweep = sweep_of(base, kind)
    for value, answer in answers_along(sweep, base, ask):
        question = sweep.question(base, value)
        assert broken(question, answer) == []
        alone = ask(question, {})
        assert not better(alone, answer)
        assert not better(answer, alone)


@always
@given(seeds, st.sampled_from(["budget", "stock"]))
@example(
    seed=9, kind="budget"
)  # here, and under one seed in fifteen, a cut search finds less than one at a smaller budget
def test_more_never_serves_less_even_where_searches_are_cut_short(seed, kind):
    base = random_question(seed)
    sweep = sweep_of(base, kind)

    def lazy(question, start):
        """At the two largest values nothing is searched."""
        short = question in [sweep.question(base, value) for value in sweep.values[-2:]]
        if short:
            return solve(question, method="anytime", node_limit=0, relative_gap=0.9)
        return ask(question, start)

    found = never_falling(sweep, base, dict(answers_along(sweep, base, lazy)))
    assert list(found) == sorted(sweep.values)
    assert not any(better(less, more) for less, more in pairwise(found.values()))
    for value, answer in found.items():
        question = sweep.question(base, value)
        assert broken(question, answer) == []
        best = ask(question, {})
        for level, true in zip(answer.levels, best.levels, strict=True):
            assert level.gap >= gap_of(level.value, level.goal.no_worse(true.value, level.value)) - 1e-6
            if abs(level.value - true.value) > 1e-6 * max(1.0, abs(true.value)):
                break  # later bounds are given this level


def test_a_search_is_made_only_where_more_money_changes_something():
    asked = []

    def counted(question, start):
        asked.append(question.budget_dollars_per_hour)
        return ask(question, start)

    sweep = Sweep("budget", tuple(float(dollars) for dollars in range(2, 21)))
    answers = dict(answers_along(sweep, worked_example(), counted))
    assert asked[0] == 20.0
    assert len(asked) == len({answer.dollars_per_hour for answer in answers.values()}) < len(answers)
    assert answers[8.0].scale == pytest.approx(0.03517241, rel=1e-6)


@always
@given(seeds)
def test_more_demand_never_has_a_larger_share_served(seed):
    base = random_question(seed, objective="MinimizeCost")
    sweep = sweep_of(base, "demand")
    tops = [
        next((level.value for level in answer.levels if level.name.startswith("served-fraction")), None)
        for _, answer in sorted(answers_along(sweep, base, ask))
        if answer.status != "Infeasible"
    ]
    shares = [top for top in tops if top is not None]
    assert all(more <= less + 1e-6 for less, more in pairwise(shares))


@always
@given(seeds)
def test_the_plan_to_begin_with_is_never_made_worse(seed):
    question = random_question(seed)
    known = ask(question, {})
    again = solve(question, method="anytime", node_limit=0, start=known.replicas)
    assert not better(known, again)
