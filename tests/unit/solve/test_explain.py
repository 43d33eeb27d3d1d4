"""What one more unit is worth, against enumeration of all plans; alternatives; claims that the verifier refuses."""

import itertools

import pytest

from servingplan.model.answer import Level, WhatIf, answer_from_json, answer_json
from servingplan.model.question import Pool, Question, RequestClass, Shape
from servingplan.solve import explain, solve
from servingplan.solve.sensitivity import gained
from servingplan.verify import verify
from tests.unit.solve.brute_force import best_values, most_copies
from tests.unit.solve.questions import worked_example
from tests.unit.solve.test_brute_force import questions


def explained(question):
    answer = solve(question, relative_gap=0.0)
    return answer.model_copy(update={"explanation": explain(question, answer)})


def with_one_more(question, name, value):
    """The question with one limit changed, spelt out apart from the solver's and the verifier's way."""
    kind, _, item = name.partition(":")
    data = question.model_dump(mode="json", exclude_none=True)
    if kind == "budget":
        data["budget_dollars_per_hour"] = value
    for pool in data["pools"]:
        if kind == "pool" and pool["name"] == item:
            pool["max_nodes"] = int(value)
        if kind == "floor" and pool["name"] == item:
            pool["min_nodes"] = int(value)
    for shape in data["shapes"]:
        if kind == "max_copies" and shape["name"] == item:
            shape["max_copies"] = int(value)
    for cls in data["classes"]:
        if kind == "quality" and cls["name"] == item:
            cls["quality_loss_limit"] = value
    return Question.model_validate(data)


def largest(question):
    return max((most_copies(question, shape) for shape in question.shapes), default=0)


@pytest.mark.slow
def test_the_worth_of_one_more_unit_is_the_difference_of_the_best_plans():
    kinds = set()
    tried = 0
    for seed, question in itertools.islice(questions("tiny", 0), 40):
        answer = explained(question)
        if answer.status == "Infeasible":
            continue
        assert verify(question, answer) == (), seed
        before = best_values(question)
        for what_if in answer.explanation.worth:
            changed = with_one_more(question, what_if.name, what_if.change[what_if.name])
            if largest(changed) > 16:
                continue
            after = best_values(changed)
            tried += 1
            names = [level.name for level in answer.levels]
            differing = [
                i for i, (a, b) in enumerate(zip(before, after, strict=True)) if abs(a - b) > 3e-6 * max(1, abs(a))
            ]
            assert what_if.distinguishable, (seed, what_if.name)
            if not differing:
                assert what_if.gain == pytest.approx(0.0, abs=1e-5), (seed, what_if)
                continue
            first = differing[0]
            assert what_if.level == names[first], (seed, what_if.name)
            assert what_if.gain == pytest.approx(after[first] - before[first], rel=1e-5, abs=1e-6), (seed, what_if.name)
            kinds.add((what_if.name.partition(":")[0], what_if.level.partition("/")[0]))
    assert tried > 25
    assert {("pool", "scale"), ("pool", "served-fraction"), ("floor", "dollars")} <= kinds, kinds


def test_an_explained_answer_reads_back_and_an_older_one_too():
    answer = explained(worked_example())
    assert answer_from_json(answer_json(answer)) == answer
    plain = solve(worked_example())
    assert "explanation" not in answer_json(plain)
    assert answer_from_json(answer_json(plain)) == plain


def test_the_worked_example_says_what_a_node_and_ten_per_cent_bring():
    found = explained(worked_example()).explanation
    assert [item.name for item in found.worth] == ["budget", "pool:t2", "pool:t1", "pool:t3"]
    assert [item.name for item in found.alternatives] == ["budget+10%", "without pool:t2"]
    assert found.alternatives[1].answer.nodes["t2"] == 0
    assert found.pruned == {"Dominated": 0}
    assert found.not_asked == 0


def test_what_is_not_served_in_full_says_what_it_would_take():
    question = Question(
        objective="MinimizeCost",
        budget_dollars_per_hour=5.0,
        pools=(Pool(name="p", gpus_per_node=1, dollars_per_node_hour=2.0, max_nodes=3),),
        classes=(
            RequestClass(name="high", model="m", requests_per_second=1.0, priority=9),
            RequestClass(name="low", model="m", requests_per_second=4.0),
        ),
        shapes=(Shape(name="s", model="m", gpus={"p": 1}, requests_per_second={"high": 1.0, "low": 1.0}),),
    )
    answer = explained(question)
    assert verify(question, answer) == ()
    assert [item.name for item in answer.explanation.alternatives] == [
        "budget+10%",
        "without pool:p",
        "top priority only",
    ]
    assert answer.explanation.alternatives[2].answer.dollars_per_hour == 2.0
    clash = answer.explanation.clash
    assert (clash.goal, clash.guarantee) == ("full service", "smallest")
    assert [(ease.limit, ease.needed) for ease in clash.limits] == [
        ("budget", None),  # five nodes are needed, three exist
        ("class:low", pytest.approx(1.0, abs=1e-5)),
    ]
    enough = question.model_copy(update={"budget_dollars_per_hour": 10.0})
    limits = explained(enough).explanation.clash.limits
    assert (limits[0].limit, limits[0].needed) == ("pool:p", 5.0)


def level(name, value, bound):
    return Level(name=name, value=value, bound=bound, gap=0.0, proved=True)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([(1.0, 1.0), (9.0, 9.0)], [(1.0, 1.0), (7.0, 7.0)], ("dollars", 2.0, 2.0, True)),
        ([(1.0, 1.0), (9.0, 8.0)], [(1.0, 1.0), (8.5, 8.0)], ("dollars", 0.5, 1.0, False)),
        ([(0.5, 0.5), (9.0, 9.0)], [(0.5, 0.6), (7.0, 7.0)], ("served-fraction/priority=0", 0.0, 0.1, False)),
        ([(0.5, 0.5), (9.0, 9.0)], [(0.6, 0.6), (12.0, 12.0)], ("served-fraction/priority=0", 0.1, 0.1, True)),
        ([(0.5, 0.5), (9.0, 9.0)], [(0.4, 0.5), (1.0, 1.0)], ("dollars", 0.0, 8.0, False)),
        ([(1.0, 1.0), (9.0, 8.0)], [(1.0, 1.0), (9.0, 9.0)], (None, 0.0, 0.0, True)),
    ],
)
def test_a_gain_below_the_gaps_is_said_to_be_so(before, after, expected):
    names = ("served-fraction/priority=0", "dollars")
    made = [tuple(level(n, *pair) for n, pair in zip(names, pairs, strict=True)) for pairs in (before, after)]
    base = solve(worked_example())
    what_if = WhatIf(name="budget", change={"budget": 9.0}, answer=base.model_copy(update={"levels": made[1]}))
    found = gained(what_if, base.model_copy(update={"levels": made[0]}))
    assert (found.level, found.distinguishable) == (expected[0], expected[3])
    assert (found.gain, found.at_most) == pytest.approx(expected[1:3])


FALSE_CLAIMS = {
    "a gain that is not there": ("worth", 1, {"gain": 5.0, "level": "scale"}),
    "a sure gain that is not": ("worth", 0, {"distinguishable": False}),
    "more than one more unit": ("worth", 0, {"change": {"budget": 19.0}}),
    "a limit that nobody set": ("worth", 1, {"change": {"pool:nowhere": 3.0}}),
    "an alternative over its budget": ("alternatives", 0, {"change": {"budget": 1.0}}),
    "an alternative on a pool that it does without": ("alternatives", 1, {"change": {"pool:t1": 0.0}}),
}


@pytest.mark.parametrize("name", FALSE_CLAIMS)
def test_the_verifier_refuses_a_false_claim(name):
    field, index, update = FALSE_CLAIMS[name]
    answer = explained(worked_example())
    items = list(getattr(answer.explanation, field))
    items[index] = items[index].model_copy(update=update)
    wrong = answer.explanation.model_copy(update={field: tuple(items)})
    broken = verify(worked_example(), answer.model_copy(update={"explanation": wrong}))
    assert {item.promise for item in broken} == {"explanation"}
