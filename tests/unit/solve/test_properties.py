"""What must hold for every question: section 9 of the design, on random questions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.model.question import Question, Running
from servingplan.solve.problem.instance import instance_of
from servingplan.verify import verify
from tests.unit.solve.questions import random_question, solve

EXACT = 1e-9
always = settings(max_examples=25)
seeds = st.integers(min_value=0, max_value=10_000)


def update(question, **changes):
    return Question.model_validate({**dict(question), **changes})


def value(question):
    """What better means, as numbers of which larger is better; None where there is no plan."""
    answer = solve(question, relative_gap=EXACT)
    assert verify(question, answer) == ()
    if answer.status == "Infeasible":
        return None
    return [-level.value if level.name == "dollars" else level.value for level in answer.levels]


def never_worse(before, after):
    if before is None:
        return True
    if after is None:
        return False
    for old, new in zip(before, after, strict=True):
        if abs(old - new) > 3e-6 * max(1.0, abs(old)):
            return new > old
    return True


@always
@given(seeds)
def test_more_budget_is_never_worse(seed):
    question = random_question(seed)
    more = update(question, budget_dollars_per_hour=question.budget_dollars_per_hour * 1.5 + 1)
    assert never_worse(value(question), value(more))


@always
@given(seeds)
def test_more_stock_is_never_worse(seed):
    question = random_question(seed)
    pools = tuple(pool.model_copy(update={"max_nodes": pool.max_nodes + 1}) for pool in question.pools)
    assert never_worse(value(question), value(update(question, pools=pools)))


@always
@given(seeds)
def test_more_speed_is_never_worse(seed):
    question = random_question(seed)
    shapes = tuple(
        shape.model_copy(update={"requests_per_second": {k: 1.3 * h for k, h in shape.requests_per_second.items()}})
        for shape in question.shapes
    )
    assert never_worse(value(question), value(update(question, shapes=shapes)))


@always
@given(seeds)
def test_more_demand_served_in_full_is_never_cheaper(seed):
    question = random_question(seed, objective="MinimizeCost")
    classes = tuple(
        cls.model_copy(update={"requests_per_second": cls.requests_per_second * 1.4}) for cls in question.classes
    )
    before, after = solve(question, relative_gap=EXACT), solve(update(question, classes=classes), relative_gap=EXACT)
    if after.status == "Optimal" and not after.unserved:
        assert not before.unserved
        assert before.dollars_per_hour <= after.dollars_per_hour + 1e-9


@pytest.mark.slow
@always
@given(seeds, st.randoms(use_true_random=False))
def test_the_order_of_lists_changes_nothing(seed, shuffled):
    question = random_question(seed)
    lists = {name: list(getattr(question, name)) for name in ("pools", "classes", "shapes")}
    for items in lists.values():
        shuffled.shuffle(items)
    other = update(question, **{name: tuple(items) for name, items in lists.items()})
    assert solve(question).model_copy(update={"seconds": 0.0}) == solve(other).model_copy(update={"seconds": 0.0})


@pytest.mark.slow
@always
@given(seeds, st.randoms(use_true_random=False))
def test_renaming_changes_names_only(seed, shuffled):
    question = random_question(seed)
    new = {}
    for items in (question.pools, question.classes, question.shapes):
        names = [item.name for item in items]
        others = [f"renamed-{name}" for name in names]
        shuffled.shuffle(others)
        new |= dict(zip(names, others, strict=True))
    other = update(
        question,
        pools=tuple(pool.model_copy(update={"name": new[pool.name]}) for pool in question.pools),
        classes=tuple(cls.model_copy(update={"name": new[cls.name]}) for cls in question.classes),
        shapes=tuple(
            shape.model_copy(
                update={
                    "name": new[shape.name],
                    "gpus": {new[name]: count for name, count in shape.gpus.items()},
                    "requests_per_second": {new[name]: h for name, h in shape.requests_per_second.items()},
                    "quality_loss": {new[name]: loss for name, loss in shape.quality_loss.items()},
                }
            )
            for shape in question.shapes
        ),
    )
    first, second = solve(question), solve(other)
    assert first.levels == second.levels
    if all(len(set(map(repr, anonymous(items)))) == len(items) for items in (question.pools, question.shapes)):
        assert {new[name]: count for name, count in first.nodes.items()} == second.nodes
        assert {new[name]: count for name, count in first.replicas.items()} == second.replicas


def anonymous(items):
    return [item.model_copy(update={"name": "x"}) for item in items]


@pytest.mark.slow
@always
@given(seeds, st.booleans())
def test_a_plan_that_runs_proposes_no_moves(seed, survive):
    question = random_question(seed, survive=survive)
    answer = solve(question)
    if answer.status == "Infeasible":
        return
    again = update(question, running=Running(nodes=answer.nodes, replicas=answer.replicas))
    kept = solve(again)
    assert kept.replicas == answer.replicas
    assert kept.startup_dollars == 0
    assert verify(again, kept) == ()


@always
@given(seeds, st.sampled_from([0.5, 3.0, 1e6]))
def test_scaling_prices_and_budget_together_changes_nothing_else(seed, factor):
    question = random_question(seed)
    pools = tuple(
        pool.model_copy(update={"dollars_per_node_hour": pool.dollars_per_node_hour * factor})
        for pool in question.pools
    )
    other = update(question, pools=pools, budget_dollars_per_hour=question.budget_dollars_per_hour * factor)
    first, second = solve(question, relative_gap=EXACT), solve(other, relative_gap=EXACT)
    assert (first.status, first.replicas, first.nodes) == (second.status, second.replicas, second.nodes)
    if first.dollars_per_hour is not None:
        assert second.dollars_per_hour == pytest.approx(first.dollars_per_hour * factor)


@always
@given(seeds, st.booleans(), st.booleans())
def test_every_answer_is_verified_and_within_its_bound(seed, survive, running):
    question = random_question(seed, survive=survive, running=running)
    answer = solve(question)
    assert verify(question, answer) == ()
    if answer.status != "Infeasible" and question.objective == "MaximizeService":
        assert answer.objective <= answer.bound * (1 + 1e-9)


@always
@given(seeds)
def test_pruning_loses_nothing(seed):
    question = random_question(seed)
    kept = {shape.name for shape in instance_of(question).shapes}
    dropped = [shape for shape in question.shapes if shape.name not in kept]
    if dropped:
        everything = update(question, running=Running(replicas=dict.fromkeys((s.name for s in dropped), 1)))
        with_all, pruned = value(everything), value(question)
        assert never_worse(with_all and with_all[: len(pruned)], pruned)
