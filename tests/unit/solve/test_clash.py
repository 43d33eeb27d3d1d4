"""Why there is no plan, against enumeration of every way to fill every node.

Each shape serves one class here, so that who serves what is arithmetic and needs no solver.
"""

import itertools
import random
from collections import Counter

import pytest

from servingplan.model.question import Pool, Question, RequestClass, Shape, SurviveRule
from servingplan.solve import solve
from servingplan.solve.conflicts.nearest import least_integer
from servingplan.solve.conflicts.sentences import MOST_LINES
from servingplan.verify import verify

MORE = 5
"""Nodes beyond its cap that a pool has when its cap is dropped: the questions here never need more."""


def random_impossible(r):
    """A small question in which something often clashes."""
    pools = tuple(
        Pool(name=f"p{i}", gpus_per_node=r.choice([1, 2]), dollars_per_node_hour=float(r.choice([1, 3])),
             min_nodes=(floor := r.choice([0, 0, 1])), max_nodes=r.randint(floor, 2),
             capacity_type=r.choice(["OnDemand", "Spot"]))
        for i in range(r.randint(1, 2))
    )  # fmt: skip
    classes = tuple(
        RequestClass(name=f"k{j}", model=f"m{j}", requests_per_second=r.choice([1.0, 2.0]), priority=r.choice([0, 10]),
                     quality_loss_limit=r.choice([None, 0.01]))
        for j in range(r.randint(1, 2))
    )  # fmt: skip
    shapes = []
    for i in range(r.randint(1, 3)):
        cls = classes[i % len(classes)] if i < len(classes) else r.choice(classes)
        pool = r.choice(pools)
        shapes.append(
            Shape(name=f"s{i}", model=cls.model, gpus={pool.name: r.randint(1, pool.gpus_per_node)},
                  requests_per_second={cls.name: r.choice([1.0, 2.0])}, quality_loss={cls.name: r.choice([0.0, 0.02])},
                  max_copies=r.choice([None, None, 1]))
        )  # fmt: skip
    objective = r.choice(["MinimizeCost", "MinimizeCost", "MaximizeService"])
    served = {name for shape in shapes for name in shape.requests_per_second}
    if objective == "MaximizeService" and len(served) < len(classes):
        objective = "MinimizeCost"
    events = r.sample(["AnyNode", "SpotPools"], r.choice([0, 1, 1, 2]))
    return Question(
        objective=objective,
        budget_dollars_per_hour=float(r.choice([1, 3, 6])),
        pools=pools,
        classes=classes,
        shapes=tuple(shapes),
        survive=tuple(SurviveRule(event=event, min_priority=r.choice([0, 10])) for event in events),
    )


def feasible(question):
    """Whether any way to fill the nodes keeps every promise."""
    floors = sum(pool.min_nodes * pool.dollars_per_node_hour for pool in question.pools)
    if floors > question.budget_dollars_per_hour + 1e-9:
        return False
    mix = question.objective == "MaximizeService"
    asked = [cls for cls in question.classes if cls.requests_per_second > 0]
    floor = min((rule.min_priority for rule in question.survive), default=99)
    needed = [cls for cls in asked if mix or cls.priority >= floor]
    if not needed:
        return True
    for filled in itertools.product(*(fillings(question, pool) for pool in question.pools)):
        price = sum(
            max(pool.min_nodes, len(nodes)) * pool.dollars_per_node_hour
            for pool, nodes in zip(question.pools, filled, strict=True)
        )
        if price <= question.budget_dollars_per_hour + 1e-9 and keeps(question, needed, filled, mix):
            return True
    return False


def fillings(question, pool):
    """Every multiset of node contents; a content is a sorted tuple of shape names."""
    sizes = {shape.name: shape.gpus[pool.name] for shape in question.shapes if pool.name in shape.gpus}
    contents = [
        names
        for count in range(1, pool.gpus_per_node + 1)
        for names in itertools.combinations_with_replacement(sorted(sizes), count)
        if sum(sizes[name] for name in names) <= pool.gpus_per_node
    ]
    for count in range(pool.max_nodes + 1):
        yield from itertools.combinations_with_replacement(contents, count)


def keeps(question, needed, filled, mix):
    nodes = [content for pool in filled for content in pool]
    copies = Counter(name for content in nodes for name in content)
    limits = {shape.name: shape.max_copies for shape in question.shapes}
    if any(limits[name] is not None and count > limits[name] for name, count in copies.items()):
        return False
    if not serves(question, needed, copies, mix):
        return False
    spot = {pool.name for pool in question.pools if pool.capacity_type == "Spot"}
    for rule in question.survive:
        guarded = [cls for cls in needed if cls.priority >= rule.min_priority]
        if rule.event == "SpotPools":
            gone = {shape.name for shape in question.shapes if spot & shape.gpus.keys()}
            left = [Counter({name: count for name, count in copies.items() if name not in gone})]
        else:
            left = [copies - Counter(content) for content in set(nodes)]
        if not all(serves(question, guarded, rest, mix) for rest in left):
            return False
    return True


def serves(question, classes, copies, mix):
    """Whether the copies serve these classes: the least lossy copies first, until the rate is reached."""
    for cls in classes:
        rate = 1e-3 if mix else cls.requests_per_second
        mine = sorted(
            (shape.quality_loss.get(cls.name, 0.0), shape.requests_per_second[cls.name] * copies[shape.name])
            for shape in question.shapes
            if cls.name in shape.requests_per_second
        )
        left, lost = rate, 0.0
        for loss, room in mine:
            taken = min(left, room)
            left, lost = left - taken, lost + loss * taken
        limit = cls.quality_loss_limit
        if left > 1e-9 or (limit is not None and lost > limit * rate + 1e-9):
            return False
    return True


def limits(question):
    """The limits of a question by name, as a person would list them."""
    names = ["budget"]
    names += [f"pool:{p.name}" for p in question.pools if any(p.name in s.gpus for s in question.shapes)]
    names += [f"floor:{pool.name}" for pool in question.pools if pool.min_nodes]
    names += [f"max_copies:{shape.name}" for shape in question.shapes if shape.max_copies is not None]
    names += [f"quality:{cls.name}" for cls in question.classes if cls.quality_loss_limit is not None]
    names += [f"survive:{rule.event}" for rule in question.survive]
    return names + [f"class:{cls.name}" for cls in question.classes]


def only(question, kept):
    """The question with only these limits."""
    return changed(question, {name: None for name in limits(question) if name not in kept})


def changed(question, change):
    """The question with limits at other values; None: dropped."""
    data = question.model_dump(mode="json")
    fields = {"pool": ("pools", "max_nodes"), "floor": ("pools", "min_nodes"), "max_copies": ("shapes", "max_copies"),
              "quality": ("classes", "quality_loss_limit"), "class": ("classes", "requests_per_second")}  # fmt: skip
    for name, value in change.items():
        kind, _, item = name.partition(":")
        if kind == "budget":
            data["budget_dollars_per_hour"] = 1e6 if value is None else value
        elif kind == "survive":
            rules = [rule for rule in data["survive"] if value is not None or rule["event"] != item]
            for rule in rules:
                if rule["event"] == item:
                    rule["min_priority"] = int(value)
            data["survive"] = rules
        else:
            items, field = fields[kind]
            one = next(entry for entry in data[items] if entry["name"] == item)
            if kind == "pool":
                value = one["max_nodes"] + MORE if value is None else int(value)
            elif value is None and kind in ("floor", "class"):
                value = 0
            elif kind in ("floor", "max_copies") and value is not None:
                value = int(value)
            one[field] = value
    if all(cls["requests_per_second"] == 0 for cls in data["classes"]):
        data["objective"] = "MinimizeCost"  # an empty mix asks for nothing
        data["survive"] = []
    return Question.model_validate(data)


def impossible_questions(count):
    seeds = itertools.count()
    while count:
        seed = next(seeds)
        question = random_impossible(random.Random(seed))
        if not feasible(question):
            count -= 1
            yield seed, question


@pytest.mark.slow
@pytest.mark.parametrize("block", range(3))
def test_the_clash_is_a_smallest_one_and_each_change_the_smallest_that_does(block):
    kinds = set()
    for seed, question in itertools.islice(impossible_questions(45), block, None, 3):
        answer = solve(question)
        assert answer.status == "Infeasible", seed
        assert verify(question, answer) == (), seed
        clash = answer.explanation.clash
        names = {ease.limit for ease in clash.limits}
        assert clash.guarantee == "smallest", seed
        assert not feasible(only(question, names)), (seed, names)
        for name in names:
            assert feasible(only(question, names - {name})), (seed, names, name)
        for fewer in range(1, len(names)):
            for others in itertools.combinations(limits(question), fewer):
                assert feasible(only(question, others)), (seed, names, others)
        assert len(answer.reasons) == len(names)
        for ease in clash.limits:
            assert ease.known, (seed, ease)
            kinds.add(ease.limit.partition(":")[0])
            check_smallest(question, ease, seed)
    assert kinds >= {"budget", "pool", "survive", "class"}, kinds


def check_smallest(question, ease, seed):
    kind = ease.limit.partition(":")[0]
    if ease.needed is None:
        assert not feasible(changed(question, {ease.limit: None})), (seed, ease)
        return
    assert feasible(changed(question, {ease.limit: ease.needed})), (seed, ease)
    unit = {"budget": 0.5, "quality": 1e-6, "class": 1e-5}.get(kind, 1)
    nearer = ease.needed + (unit if kind in ("floor", "class") else -unit)
    if kind == "class" and question.objective == "MaximizeService":
        assert ease.needed == 0
    elif nearer != ease.now:
        assert not feasible(changed(question, {ease.limit: nearer})), (seed, ease)


def test_several_floors_over_the_budget_clash_with_it():
    pools = tuple(
        Pool(name=f"p{i}", gpus_per_node=1, dollars_per_node_hour=4.0, min_nodes=2, max_nodes=2) for i in range(3)
    )
    question = Question(
        objective="MinimizeCost", budget_dollars_per_hour=10.0, pools=pools, shapes=(),
        classes=(RequestClass(name="k", model="m", requests_per_second=1.0),),
    )  # fmt: skip
    answer = solve(question)
    assert [(ease.limit, ease.needed) for ease in answer.explanation.clash.limits] == [
        ("budget", 24.0),
        ("floor:p0", None),
        ("floor:p1", None),
    ]
    assert answer.reasons[0] == (
        "budget: budget_dollars_per_hour 10 leaves no plan together with floor:p0, floor:p1; raise the budget to 24"
    )


@pytest.mark.slow
def test_a_clash_of_very_many_limits_is_told_in_few_lines():
    pools = tuple(Pool(name=f"p{i}", gpus_per_node=1, dollars_per_node_hour=1.0, max_nodes=0) for i in range(40))
    shapes = tuple(Shape(name=f"s{i}", model="m", gpus={f"p{i}": 1}, requests_per_second={"k": 1.0}) for i in range(40))
    question = Question(
        objective="MaximizeService", budget_dollars_per_hour=10.0, pools=pools, shapes=shapes,
        classes=(RequestClass(name="k", model="m", requests_per_second=1.0),),
    )  # fmt: skip
    answer = solve(question)
    assert len(answer.explanation.clash.limits) == 41
    assert len(answer.reasons) == MOST_LINES + 1
    assert max(map(len, answer.reasons)) < 200
    assert verify(question, answer) == ()


@pytest.mark.parametrize("floors", [(0, 5), (5, 0)])
def test_of_two_rules_for_one_loss_the_lower_priority_is_the_limit(floors):
    pools = (Pool(name="p", gpus_per_node=1, dollars_per_node_hour=1.0, max_nodes=1),)
    classes = (RequestClass(name="k", model="m", requests_per_second=1.0, priority=5),)
    shapes = (Shape(name="s", model="m", gpus={"p": 1}, requests_per_second={"k": 2.0}),)
    question = Question(
        objective="MinimizeCost", budget_dollars_per_hour=10.0, pools=pools, shapes=shapes, classes=classes,
        survive=tuple(SurviveRule(event="AnyNode", min_priority=floor) for floor in floors),
    )  # fmt: skip
    answer = solve(question)
    assert {ease.limit: ease.now for ease in answer.explanation.clash.limits}["survive:AnyNode"] == 0
    assert verify(question, answer) == ()


@pytest.mark.parametrize("change", [{"needed": 5.0}, {"now": 11.0}, {"limit": "pool:nowhere"}])
def test_the_verifier_refuses_a_false_clash(change):
    pools = (Pool(name="p", gpus_per_node=1, dollars_per_node_hour=4.0, min_nodes=3, max_nodes=3),)
    classes = (RequestClass(name="k", model="m", requests_per_second=1.0),)
    question = Question(objective="MinimizeCost", budget_dollars_per_hour=10.0, pools=pools, shapes=(), classes=classes)
    answer = solve(question)
    assert verify(question, answer) == ()
    first, *others = answer.explanation.clash.limits
    clash = answer.explanation.clash.model_copy(update={"limits": (first.model_copy(update=change), *others)})
    wrong = answer.model_copy(update={"explanation": answer.explanation.model_copy(update={"clash": clash})})
    assert {item.promise for item in verify(question, wrong)} == {"explanation"}


@pytest.mark.parametrize("answer", [1, 2, 3, 4, 5, 8, 9, 100, None])
def test_the_least_integer_is_found_in_few_steps(answer):
    asked = []

    def holds(value):
        asked.append(value)
        return answer is not None and value >= answer

    assert least_integer(0, 100, holds) == answer
    assert len(asked) <= 15
