"""All plans of a namespace together stay within its budget, the oldest first, whatever is edited."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servingplan.errors import InputError
from servingplan.model.world import PlanObject
from servingplan.observe.budgets import namespace_budget, parse_budgets


def plan_of(name, budget="10", *, age=0, namespace="llm", spend=None, planned=None, **more):
    cost = {"spendPerHour": spend, "perHour": planned or "0.00", "budgetPerHour": more.pop("told", "0.00")}
    return PlanObject(
        namespace=namespace,
        name=name,
        uid=f"{namespace}/{name}",
        generation=1,
        created=f"2026-01-{30 - age:02}T00:00:00Z",
        spec={"budget": {"dollarsPerHour": budget}, **more.pop("spec", {})},
        status={} if spend is None else {"cost": cost, **({"planHash": "x"} if planned else {})},
        **more,
    )


def left_for(plan, *others, budgets=None):
    found = namespace_budget(plan, [plan, *others], budgets or {"llm": 20.0})
    return None if found is None else found.left


def test_a_namespace_without_a_budget_has_none_and_a_star_stands_for_the_rest():
    mine = plan_of("a")
    assert left_for(mine, budgets={"other": 5.0}) is None
    assert left_for(mine, budgets={"other": 5.0, "*": 7.0}) == 7
    assert left_for(mine, budgets={"llm": 3.0, "*": 7.0}) == 3


def test_the_oldest_comes_first_and_plans_of_other_namespaces_do_not_count():
    old, new = plan_of("z", "15", age=2), plan_of("a", "15", age=1)
    foreign = plan_of("b", "15", age=9, namespace="other")
    assert left_for(old, new, foreign) == 20
    assert left_for(new, old, foreign) == 5
    assert left_for(plan_of("b", age=2), plan_of("a", "15", age=2)) == 5


def test_what_a_younger_plan_still_spends_is_not_there_for_an_older_one_that_wants_more():
    old, new = plan_of("old", "20", age=2), plan_of("new", "10", age=1, spend="8.00", planned="9.00")
    assert left_for(old, new) == 11
    assert left_for(new, old) == 0
    assert left_for(old, plan_of("new", "10", age=1, spend="0.00")) == 20


def test_an_older_plan_that_spends_more_than_its_budget_takes_that():
    assert left_for(plan_of("new"), plan_of("old", "2", age=2, spend="12.00")) == 8
    assert left_for(plan_of("new"), plan_of("old", "2", age=2, told="12.00", spend="0.00")) == 8


@pytest.mark.parametrize("spend", ["unknown", "-1", "1e9", "nan", "inf", ""])
def test_what_cannot_be_read_counts_as_all_that_the_plan_may_spend(spend):
    assert left_for(plan_of("old", age=2), plan_of("new", "15", age=1, spend=spend)) == 5


def test_a_plan_that_is_only_shown_takes_nothing_and_one_that_goes_what_it_still_spends():
    assert left_for(plan_of("new"), plan_of("old", age=2, spec={"mode": "Preview"})) == 20
    going = plan_of("old", "15", age=2, spend="4.00", deleting_since="2026-02-01T00:00:00Z")
    assert left_for(plan_of("new"), going) == 16


def test_a_spec_that_makes_no_sense_is_read():
    odd = plan_of("old", age=2).model_copy(update={"spec": ["x"], "status": {"cost": 7}})
    assert left_for(plan_of("new"), odd) == 20


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 60))
def test_however_many_plans_there_are_their_budgets_add_up_to_no_more(budgets, limit):
    plans = [plan_of(f"p{index}", str(dollars), age=index) for index, dollars in enumerate(budgets)]
    total = 0.0
    for mine, dollars in zip(plans, budgets, strict=True):
        total += min(dollars, namespace_budget(mine, plans, {"llm": float(limit)}).left)
    assert total <= limit


@pytest.mark.parametrize(
    "text", ["llm", "llm=", "llm=-1", "llm=1e3", "llm=1,llm=2", "LLM=1", "=1", "llm=nan", "llm=1 2"]
)
def test_a_list_that_cannot_be_read_is_an_error_and_not_no_budget(text):
    with pytest.raises(InputError, match="NAMESPACE=DOLLARS"):
        parse_budgets(text)


def test_the_list_is_read():
    assert parse_budgets("") == {}
    assert parse_budgets("llm=40.5, *=0,") == {"llm": 40.5, "*": 0.0}
