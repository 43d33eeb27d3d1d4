"""The verifier refuses what breaks a promise, and knows why."""

import random

import pytest

from servingplan.model.answer import Answer, Placement
from servingplan.model.question import Pool, Question, RequestClass, Shape, SurviveRule
from servingplan.solve import solve
from servingplan.verify import verify
from servingplan.verify.survival import can_serve
from tests.unit.solve.questions import random_question, worked_example

CORRUPTIONS = 500


def changed(mapping, key, value):
    return {**mapping, key: value}


def pick(r, mapping):
    return r.choice(sorted(mapping))


def one_node_more(r, question, answer):
    name = pick(r, answer.nodes)
    return {"nodes": changed(answer.nodes, name, answer.nodes[name] + 1)}


def one_pool_forgotten(r, question, answer):
    name = pick(r, answer.nodes)
    return {"nodes": {pool: count for pool, count in answer.nodes.items() if pool != name}}


def one_replica_more(r, question, answer):
    name = pick(r, {shape.name for shape in question.shapes})
    return {"replicas": changed(answer.replicas, name, answer.replicas.get(name, 0) + 1)}


def one_replica_less(r, question, answer):
    name = pick(r, answer.replicas)
    return {"replicas": changed(answer.replicas, name, answer.replicas[name] - 1)}


def dollars_told_wrong(r, question, answer):
    return {"dollars_per_hour": answer.dollars_per_hour * r.choice([0.5, 0.9999, 1.5]) + 1e-3}


def a_rate_raised(r, question, answer):
    k = pick(r, answer.rates)
    c = pick(r, answer.rates[k])
    return {"rates": changed(answer.rates, k, changed(answer.rates[k], c, answer.rates[k][c] * 1.001))}


def a_rate_dropped(r, question, answer):
    k = pick(r, answer.rates)
    return {"rates": {name: rates for name, rates in answer.rates.items() if name != k}}


def a_negative_rate(r, question, answer):
    k = pick(r, answer.rates)
    c = pick(r, answer.rates[k])
    return {"rates": changed(answer.rates, k, changed(answer.rates[k], c, -answer.rates[k][c]))}


def an_unknown_shape(r, question, answer):
    return {"replicas": changed(answer.replicas, "nobody", 1)}


def an_unknown_pool(r, question, answer):
    return {"nodes": changed(answer.nodes, "nowhere", 1)}


def an_unknown_class(r, question, answer):
    return {"rates": changed(answer.rates, "nothing", {})}


def not_a_number(r, question, answer):
    return {r.choice(["objective", "bound", "gap", "dollars_per_hour"]): r.choice([float("nan"), float("inf")])}


def objective_told_wrong(r, question, answer):
    return {"objective": answer.objective * 1.01 + 1e-3}


def bound_told_wrong(r, question, answer):
    return {"bound": answer.bound * r.choice([0.9, 1.1]) + 1e-3}


def gap_told_wrong(r, question, answer):
    return {"gap": answer.gap + 0.01}


def a_placement_forgotten(r, question, answer):
    left = list(answer.placements)
    left.pop(r.randrange(len(left)))
    return {"placements": tuple(left)}


def a_placement_twice(r, question, answer):
    return {"placements": (*answer.placements, r.choice(answer.placements))}


def a_replica_squeezed_in(r, question, answer):
    i = r.randrange(len(answer.placements))
    group = answer.placements[i]
    shape = pick(r, {s.name for s in question.shapes if group.pool in s.gpus} or {"nobody"})
    content = changed(group.replicas, shape, group.replicas.get(shape, 0) + 1)
    other = Placement(pool=group.pool, nodes=group.nodes, replicas=content)
    return {"placements": (*answer.placements[:i], other, *answer.placements[i + 1 :])}


def unserved_told_wrong(r, question, answer):
    name = r.choice(question.classes).name
    return {"unserved": changed(answer.unserved, name, answer.unserved.get(name, 0.0) + 0.1)}


def a_level_told_wrong(r, question, answer):
    i = r.randrange(len(answer.levels))
    level = answer.levels[i]
    other = level.model_copy(update={"value": level.value + 0.1 + 0.1 * abs(level.value)})
    return {"levels": (*answer.levels[:i], other, *answer.levels[i + 1 :])}


def a_level_open_yet_optimal(r, question, answer):
    i = r.randrange(len(answer.levels))
    return {"status": "Optimal", "levels": (*answer.levels[:i], answer.levels[i].model_copy(update={"proved": False}))}


def optimal_after_the_deadline(r, question, answer):
    return {"status": "Optimal", "stopped": "deadline"}


def infeasible_with_a_plan(r, question, answer):
    return {"status": "Infeasible", "reasons": ("because",)}


CORRUPT = [
    one_node_more, one_pool_forgotten, one_replica_more, one_replica_less, dollars_told_wrong, a_rate_raised, a_rate_dropped,
    a_negative_rate, an_unknown_shape, an_unknown_pool, an_unknown_class, not_a_number, objective_told_wrong,
    bound_told_wrong, gap_told_wrong, a_placement_forgotten, a_placement_twice, a_replica_squeezed_in, unserved_told_wrong,
    a_level_told_wrong, a_level_open_yet_optimal, optimal_after_the_deadline, infeasible_with_a_plan,
]  # fmt: skip


def answered(count):
    """The first so many random questions whose answer places and serves something."""
    seed = -1
    while count:
        seed += 1
        question = random_question(seed, survive=seed % 4 == 0, running=seed % 5 == 0)
        answer = solve(question)
        assert verify(question, answer) == ()
        if answer.status != "Infeasible" and answer.rates and answer.objective:
            count -= 1
            yield seed, question, answer


def test_five_hundred_corrupted_answers_are_refused():
    refused = 0
    for seed, question, answer in answered(-(-CORRUPTIONS // len(CORRUPT))):
        for corrupt in CORRUPT:
            other = answer.model_copy(update=corrupt(random.Random(seed), question, answer))
            assert verify(question, other), (seed, corrupt.__name__)
            refused += 1
    assert refused >= CORRUPTIONS


def small(**update):
    fields = {
        "objective": "MinimizeCost",
        "budget_dollars_per_hour": 10.0,
        "pools": (
            Pool(name="p", gpus_per_node=4, dollars_per_node_hour=2.0, max_nodes=3),
            Pool(name="s", gpus_per_node=4, dollars_per_node_hour=1.0, max_nodes=3, capacity_type="Spot"),
        ),
        "classes": (RequestClass(name="k", model="m", requests_per_second=4.0, quality_loss_limit=0.01),),
        "shapes": (
            Shape(name="a", model="m", gpus={"p": 2}, requests_per_second={"k": 2.0}, quality_loss={"k": 0.02}),
            Shape(name="b", model="m", gpus={"p": 4}, requests_per_second={"k": 4.0}, max_copies=2),
            Shape(name="w", model="m", gpus={"p": 8}, requests_per_second={"k": 9.0}, max_utilization=(0.5, 0.6)),
            Shape(name="t", model="m", gpus={"s": 4}, requests_per_second={"k": 4.0}),
        ),
    }
    return Question(**(fields | update))


def plan(question, nodes, replicas, placements, rates, **update):
    prices = {pool.name: pool.dollars_per_node_hour for pool in question.pools}
    dollars = sum(prices[name] * count for name, count in nodes.items())
    groups = tuple(Placement(pool=pool, nodes=count, replicas=content) for pool, count, content in placements)
    fields = {
        "status": "Optimal", "method": "by hand", "objective": dollars, "bound": dollars, "gap": 0.0,
        "dollars_per_hour": dollars, "nodes": nodes, "replicas": replicas, "placements": groups, "rates": {"k": rates},
    }  # fmt: skip
    return Answer(**(fields | update))


def broken(question, answer):
    return {violation.promise for violation in verify(question, answer)}


def test_a_plan_by_hand_is_accepted():
    question = small()
    answer = plan(question, {"p": 1, "s": 0}, {"b": 1}, [("p", 1, {"b": 1})], {"b": 4.0})
    assert verify(question, answer) == ()


@pytest.mark.parametrize(
    ("promise", "nodes", "replicas", "placements", "rates"),
    [
        ("quality", {"p": 1, "s": 0}, {"a": 2}, [("p", 1, {"a": 2})], {"a": 4.0}),
        ("load", {"p": 2, "s": 0}, {"w": 1}, [("p", 2, {"w": 1})], {"w": 4.6}),
        ("placements", {"p": 2, "s": 0}, {"w": 1, "a": 1}, [("p", 2, {"w": 1, "a": 1})], {"w": 4.0}),
        ("placements", {"p": 1, "s": 0}, {"w": 1}, [("p", 1, {"w": 1})], {"w": 4.0}),
        ("placements", {"p": 2, "s": 0}, {"b": 1, "a": 1}, [("p", 2, {"b": 1, "a": 1})], {"b": 4.0}),
        ("placements", {"p": 1, "s": 0}, {"b": 1, "a": 1}, [("p", 1, {"b": 1, "a": 1})], {"b": 4.0}),
        ("placements", {"p": 0, "s": 1}, {"b": 1}, [("s", 1, {"b": 1})], {"b": 4.0}),
        ("max_copies", {"p": 3, "s": 0}, {"b": 3}, [("p", 3, {"b": 3})], {"b": 4.0}),
        ("nodes", {"p": 4, "s": 0}, {"b": 1}, [("p", 1, {"b": 1}), ("p", 3, {})], {"b": 4.0}),
        ("budget", {"p": 3, "s": 3}, {"b": 1}, [("p", 1, {"b": 1}), ("p", 2, {}), ("s", 3, {})], {"b": 4.0}),
        ("service", {"p": 1, "s": 0}, {"b": 1}, [("p", 1, {"b": 1})], {"b": 3.0}),
    ],
)
def test_each_promise_is_checked(promise, nodes, replicas, placements, rates):
    question = small(budget_dollars_per_hour=8.5)
    assert promise in broken(question, plan(question, nodes, replicas, placements, rates))


def test_the_loss_of_a_node_is_tried():
    question = small(survive=(SurviveRule(event="AnyNode"),))
    alone = plan(question, {"p": 1, "s": 0}, {"b": 1}, [("p", 1, {"b": 1})], {"b": 4.0})
    assert broken(question, alone) == {"survive"}
    twice = plan(question, {"p": 2, "s": 0}, {"b": 2}, [("p", 2, {"b": 2})], {"b": 4.0})
    assert broken(question, twice) == set()


def test_the_loss_of_spot_pools_is_tried():
    question = small(survive=(SurviveRule(event="SpotPools"),))
    spot = plan(question, {"p": 0, "s": 1}, {"t": 1}, [("s", 1, {"t": 1})], {"t": 4.0})
    assert broken(question, spot) == {"survive"}
    firm = plan(question, {"p": 1, "s": 0}, {"b": 1}, [("p", 1, {"b": 1})], {"b": 4.0})
    assert broken(question, firm) == set()


def test_protected_classes_must_not_be_unserved():
    question = small(survive=(SurviveRule(event="SpotPools"),))
    nothing = plan(question, {"p": 0, "s": 0}, {}, [], {}, unserved={"k": 4.0})
    assert "survive" in broken(question, nothing)


def test_whether_copies_can_serve_is_exact():
    question = worked_example()
    rates = {"w1": 80 * 51 / 1450, "w2": 20 * 51 / 1450}
    copies = {"t1x1": 1, "t2tp2": 1}
    assert can_serve(question, copies, rates)
    assert not can_serve(question, copies, {name: 1.0001 * rate for name, rate in rates.items()})
    assert not can_serve(question, {}, rates)


def test_infeasible_needs_a_reason():
    assert broken(small(), Answer(status="Infeasible", method="x")) == {"reasons"}
    assert broken(small(), Answer(status="Infeasible", method="x", reasons=("budget",))) == set()
