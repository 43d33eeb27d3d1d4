"""The verifier refuses what breaks a promise, and knows why."""

import os
import random
from collections import Counter

import pytest

from servingplan.model.answer import Answer, Level, Placement
from servingplan.model.question import Pool, Question, RequestClass, Shape, SurviveRule
from servingplan.solve import solve
from servingplan.verify import verify
from servingplan.verify.survival import can_serve
from tests.unit.solve.questions import random_question, worked_example

CORRUPTIONS = 6_000 if os.environ.get("EXHAUSTIVE") else 600


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
    return {"dollars_per_hour": answer.dollars_per_hour * r.choice([0.5, 0.999, 1.5]) + 1e-4}


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


def with_level(answer, i, **update):
    return {"levels": (*answer.levels[:i], answer.levels[i].model_copy(update=update), *answer.levels[i + 1 :])}


def a_level_dropped(r, question, answer):
    i = r.randrange(len(answer.levels))
    return {"levels": (*answer.levels[:i], *answer.levels[i + 1 :])}


def no_levels(r, question, answer):
    return {"levels": ()}


def levels_in_another_order(r, question, answer):
    return {"levels": tuple(reversed(answer.levels))}


def a_level_twice(r, question, answer):
    return {"levels": (*answer.levels, r.choice(answer.levels))}


def a_level_renamed(r, question, answer):
    return with_level(
        answer, r.randrange(len(answer.levels)), name=r.choice(["", "fairness", "served-total/priority=77"])
    )


def a_level_that_is_not_better_for_a_bound(r, question, answer):
    i = r.randrange(len(answer.levels))
    level = answer.levels[i]
    worse = level.value + (1.0 if level.name in ("dollars", "moves") else -1.0)
    return with_level(answer, i, bound=worse, gap=abs(worse - level.value) / max(abs(worse), abs(level.value)))


def the_gap_of_a_level_told_wrong(r, question, answer):
    i = r.randrange(len(answer.levels))
    return with_level(answer, i, gap=answer.levels[i].gap + 0.01)


def proved_with_a_gap_of_99_percent(r, question, answer):
    """Bound and gap agree with each other everywhere; only nobody asked for such a gap."""
    i = next(i for i, level in enumerate(answer.levels) if level.name in ("dollars", "scale"))
    level = answer.levels[i]
    if not (level.proved and level.value):
        return None
    bound = level.value * (0.01 if level.name == "dollars" else 100.0)
    return {"bound": bound, "gap": 0.99, **with_level(answer, i, bound=bound, gap=0.99)}


def feasible_although_all_is_proved(r, question, answer):
    return {"status": "Feasible"} if answer.status == "Optimal" else None


def an_unknown_method(r, question, answer):
    return {"method": r.choice(["", "by hand", "EXACT"])}


def binding_told_wrong(r, question, answer):
    """An entry that does not bind: a pool with room, or anything at all where everything is served."""
    free = [pool.name for pool in question.pools if answer.nodes[pool.name] < pool.max_nodes]
    if question.objective == "MinimizeCost" and not answer.unserved:
        return {"binding": ("budget",)}
    return {"binding": (*answer.binding, f"pool:{r.choice(free)}")} if free else None


def binding_forgotten(r, question, answer):
    told = [name for name in answer.binding if name == "budget" or name.startswith("pool:")]
    spare = question.budget_dollars_per_hour - answer.dollars_per_hour
    near = any(abs(pool.dollars_per_node_hour - spare) < 1e-3 for pool in question.pools)
    return {"binding": tuple(name for name in answer.binding if name != told[0])} if told and not near else None


def binding_names_nothing(r, question, answer):
    return {"binding": (*answer.binding, r.choice(["pool:nowhere", "quality:nothing", "luck"]))}


def a_group_of_no_nodes(r, question, answer):
    group = r.choice(answer.placements)
    return {"placements": (*answer.placements, Placement(pool=group.pool, nodes=0, replicas=group.replicas))}


def a_group_without_its_nodes(r, question, answer):
    i = r.randrange(len(answer.placements))
    other = answer.placements[i].model_copy(update={"nodes": 0})
    return {"placements": (*answer.placements[:i], other, *answer.placements[i + 1 :])}


def a_replica_on_a_foreign_pool(r, question, answer):
    wrong = [
        (shape.name, pool.name) for shape in question.shapes for pool in question.pools if pool.name not in shape.gpus
    ]
    if not wrong:
        return None
    shape, pool = r.choice(wrong)
    return {"placements": (*answer.placements, Placement(pool=pool, nodes=1, replicas={shape: 1}))}


def traffic_to_a_shape_without_copies(r, question, answer):
    idle = [
        (k, shape.name)
        for k in answer.rates
        for shape in question.shapes
        if answer.rates[k] and k in shape.requests_per_second and not answer.replicas.get(shape.name)
    ]
    if not idle:
        return None
    k, shape = r.choice(idle)
    return {"rates": changed(answer.rates, k, {shape: sum(answer.rates[k].values())})}


def scale_told_wrong(r, question, answer):
    return {"scale": 1.0 if answer.scale is None else answer.scale * 1.01 + 1e-3}


def startup_told_wrong(r, question, answer):
    return {"startup_dollars": (answer.startup_dollars or 0.0) + 0.5}


def a_negative_count(r, question, answer):
    name = pick(r, answer.replicas)
    return {"replicas": changed(answer.replicas, name, -answer.replicas[name])}


def something_missing(r, question, answer):
    return {r.choice(["objective", "bound", "gap", "dollars_per_hour"]): None}


def an_asked_gap_that_is_none(r, question, answer):
    return {"relative_gap": r.choice([float("nan"), -1.0, float("inf")])}


def infeasible_without_reasons(r, question, answer):
    fields = ("objective", "bound", "gap", "scale", "dollars_per_hour", "startup_dollars")
    lists = ("nodes", "replicas", "rates", "unserved")
    empty = dict.fromkeys(fields) | {name: {} for name in lists}
    return {"status": "Infeasible", "placements": (), "levels": (), "binding": (), "reasons": (), **empty}


CORRUPT = [
    one_node_more, one_pool_forgotten, one_replica_more, one_replica_less, dollars_told_wrong, a_rate_raised, a_rate_dropped,
    a_negative_rate, an_unknown_shape, an_unknown_pool, an_unknown_class, not_a_number, objective_told_wrong,
    bound_told_wrong, gap_told_wrong, a_placement_forgotten, a_placement_twice, a_replica_squeezed_in, unserved_told_wrong,
    a_level_told_wrong, a_level_open_yet_optimal, optimal_after_the_deadline, infeasible_with_a_plan, a_level_dropped,
    no_levels, levels_in_another_order, a_level_twice, a_level_renamed, a_level_that_is_not_better_for_a_bound,
    the_gap_of_a_level_told_wrong, proved_with_a_gap_of_99_percent, feasible_although_all_is_proved, an_unknown_method,
    binding_told_wrong, binding_forgotten, binding_names_nothing, a_group_of_no_nodes, a_group_without_its_nodes,
    a_replica_on_a_foreign_pool, traffic_to_a_shape_without_copies, scale_told_wrong, startup_told_wrong, a_negative_count,
    something_missing, an_asked_gap_that_is_none, infeasible_without_reasons,
]  # fmt: skip
"""Each returns the fields that it changes, or None where it would change nothing that matters."""


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


def test_corrupted_answers_are_refused_whatever_is_wrong():
    """5,000 exhaustively, over more than 45 kinds; none crashes the verifier."""
    refused: Counter[str] = Counter()
    for seed, question, answer in answered(-(-CORRUPTIONS // len(CORRUPT))):
        for corrupt in CORRUPT:
            update = corrupt(random.Random(seed), question, answer)
            if update is not None:
                assert verify(question, answer.model_copy(update=update)), (seed, corrupt.__name__)
                refused[corrupt.__name__] += 1
    assert len(refused) == len(CORRUPT) >= 45
    assert refused.total() >= 0.8 * CORRUPTIONS


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
        "status": "Optimal", "method": "exact", "levels": levels_of(dollars, update),
        "objective": dollars, "bound": dollars, "gap": 0.0,
        "dollars_per_hour": dollars, "nodes": nodes, "replicas": replicas, "placements": groups, "rates": {"k": rates},
    }  # fmt: skip
    return Answer(**(fields | update))


def levels_of(dollars, update):
    served = 4.0 - sum(update.get("unserved", {}).values())
    values = {"served-fraction/priority=0": served / 4.0, "served-total/priority=0": served, "dollars": dollars}
    return tuple(Level(name=name, value=value, bound=value, gap=0.0, proved=True) for name, value in values.items())


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
    assert broken(small(), Answer(status="Infeasible", method="exact")) == {"reasons"}
    assert broken(small(), Answer(status="Infeasible", method="exact", reasons=("budget",))) == set()
