"""Searches that take longer than a turn, in a cluster that goes on meanwhile."""

from typing import Any

import pytest

from servingplan.model.answer import Answer
from servingplan.model.question import Change
from servingplan.search_process import SolverCrashed
from tests.simulated.driver import Driver, exact
from tests.simulated.plans import fixed, model, operator, plan, sized
from tests.unit.simulation.test_demand import LLAMA, MEASURED, Traffic

Json = dict[str, Any]
NO_PLAN = Answer.model_validate({"status": "Infeasible", "method": "anytime", "stopped": "deadline"})


def cut(question, spec, at_most_seconds=None, **_):
    """A solver that never proves that its plan is the cheapest."""
    answer = exact(question, spec)
    levels = tuple(level.model_copy(update={"proved": level.name != "dollars"}) for level in answer.levels)
    return answer.model_copy(update={"stopped": "deadline", "status": "Feasible", "levels": levels})


def reasons_at_rest(driver: Driver, ticks: int = 8) -> list[str]:
    """What PlanSolved says in each turn once the first search has ended."""
    driver.act()
    driver.pass_time()
    told = []
    for _ in range(ticks):
        driver.turn()
        told.append(driver.conditions()["PlanSolved"])
        driver.pass_time()
    return told


def test_a_plan_that_is_only_shown_stays_shown():
    driver = operator(plan(mode="Preview"), solve=cut, slow=True)
    assert set(reasons_at_rest(driver)) == {"Feasible"}


def test_a_search_that_found_nothing_in_time_does_not_make_the_status_flap():
    driver = operator(plan(), solve=lambda *_, **__: NO_PLAN, slow=True)
    assert set(reasons_at_rest(driver)) == {"TimeLimit"}


def test_a_search_that_crashes_does_not_make_the_status_flap():
    def crash(*_, **__):
        raise SolverCrashed("signal SIGSEGV")

    driver = operator(plan(), solve=crash, slow=True)
    assert set(reasons_at_rest(driver)) == {"SolverError"}


def test_a_first_plan_for_measured_rates_is_not_sought_anew_whenever_more_is_counted():
    driver = operator(plan(model(rate="10"), **MEASURED), slow=True)
    driver.cluster.demand = Traffic(20).seen
    driver.act()
    driver.tick(3)
    assert driver.decision.fleet is not None


def settled_and_edited(before: Json, after: Json) -> Driver:
    """A fleet whose plan was edited, and the search for the edit takes as long as the test likes."""
    driver = operator(before, slow=True)
    driver.settle()
    driver.searches_end = False
    driver.cluster.edit(after)
    driver.act()
    assert driver.decision.searching
    return driver


@pytest.mark.parametrize("mode", ["Approve", "Preview"])
def test_a_shrink_that_the_budget_forces_never_waits_for_a_search_where_plans_need_approval(mode):
    twenty = model(rate="20")
    driver = settled_and_edited(plan(twenty), plan(twenty, mode=mode, budget="4"))
    assert driver.cluster.pools["l40s"].wanted == 4
    driver.tick(30)
    assert driver.decision.searching
    assert driver.cluster.pools["l40s"].wanted == 2


def test_what_is_in_force_is_kept_up_while_a_plan_to_approve_is_searched():
    driver = settled_and_edited(plan(model(rate="20")), plan(model(rate="30"), mode="Approve"))
    driver.cluster.lose_node(driver.cluster.our_pods()[0].node)
    driver.tick(30)
    assert driver.decision.searching
    assert driver.serving_rate(LLAMA) == pytest.approx(20, rel=0.01)
    assert driver.cluster.pools["l40s"].wanted == 4
    driver.searches_end = True
    driver.tick(2)
    assert driver.conditions()["Approved"] == "AwaitingApproval"


def restless(driver: Driver, ticks: int) -> None:
    """The cluster changes before any search ends."""
    driver.searches_end = False
    for _ in range(ticks):
        driver.cluster.add_node(f"l40s-{len(driver.cluster.nodes)}", {"pool": "l40s"}, 1)
        driver.act()
        driver.pass_time()


@pytest.mark.parametrize("mode", ["Approve", "Preview"])
def test_a_first_proposal_is_made_though_the_cluster_changes_faster_than_a_search(mode):
    driver = operator(plan(pools=[fixed()], mode=mode), nodes=2, slow=True)
    restless(driver, 3)
    assert driver.conditions()["Approved"] == {"Approve": "AwaitingApproval", "Preview": "PreviewOnly"}[mode]
    assert driver.decision.waiting.nodes == {"l40s": 2}


def test_an_approval_counts_though_the_cluster_changes_faster_than_a_search():
    driver = operator(plan(pools=[fixed()], mode="Approve"), nodes=2, slow=True)
    restless(driver, 3)
    driver.cluster.approved = driver.decision.waiting.hash
    restless(driver, 5)
    assert driver.decision.waiting is None
    assert driver.serving_rate(LLAMA) == pytest.approx(10)


def test_an_edit_is_proposed_though_the_cluster_changes_faster_than_a_search():
    driver = operator(plan(pools=[fixed()]), nodes=4, slow=True)
    driver.settle()
    driver.cluster.edit(plan(model(rate="20"), pools=[fixed()], mode="Approve"))
    restless(driver, 3)
    assert driver.decision.waiting.nodes == {"l40s": 4}
    assert driver.decision.fleet.nodes == {"l40s": 2}, "the plan in force goes on"


def test_what_takes_the_place_of_a_lost_node_is_proposed_though_the_cluster_changes_faster_than_a_search():
    driver = operator(plan(pools=[fixed(), fixed("a100", price="9")], mode="Approve"), nodes=2, slow=True)
    driver.settle()
    driver.cluster.approved = driver.decision.waiting.hash
    driver.settle()
    driver.searches_end = False
    for name in ("l40s-0", "l40s-1"):
        driver.cluster.lose_node(name)
        driver.act()
        driver.pass_time()
    driver.cluster.add_node("a100-2", {"pool": "a100"}, 1)
    driver.act()
    assert driver.decision.waiting.nodes == {"a100": 1}


def test_a_proposal_made_in_haste_is_searched_again_with_all_the_time():
    asked = []

    def hasty(question, spec, at_most_seconds=None, **_):
        asked.append(at_most_seconds)
        return (cut if at_most_seconds is not None else exact)(question, spec)

    driver = operator(plan(pools=[fixed()], mode="Approve"), nodes=2, solve=hasty, slow=True)
    restless(driver, 3)
    first = driver.decision.waiting
    asked.clear()
    driver.searches_end = True
    driver.tick(2)
    assert set(asked) == {None}
    assert driver.decision.waiting.hash == first.hash
    asked.clear()
    driver.tick(3)
    assert not asked, "no search goes on at rest"


def settled_with_a_cheaper_plan_in_sight() -> Driver:
    """A fleet that follows new rates as it is, since it is too young to move to cheaper nodes that came meanwhile."""
    pools = [fixed("a100", price="1"), fixed("l40s", price="2")]
    driver = operator(plan(model(rate="5"), pools=pools, **{**MEASURED, "change": {"minLifetime": "10m"}}), slow=True)
    traffic = Traffic(2)
    driver.cluster.demand = traffic.seen
    driver.cluster.add_node("l40s-0", {"pool": "l40s"}, 1)
    driver.settle()
    driver.cluster.add_node("a100-0", {"pool": "a100"}, 1)
    traffic.rate = 4
    driver.tick(36)
    assert driver.decision.fleet.nodes == {"a100": 0, "l40s": 1}
    assert float(driver.cluster.status["classes"][0]["requestsPerSecond"]) == pytest.approx(4, rel=0.2)
    return driver


def test_new_rates_do_not_make_a_plan_young_again_where_a_pool_got_its_first_nodes():
    driver = settled_with_a_cheaper_plan_in_sight()
    driver.tick(30)  # 11 minutes
    assert driver.decision.fleet.nodes == {"a100": 1, "l40s": 0}


def test_a_loss_is_answered_in_haste_while_a_cheaper_plan_waits_for_the_age_of_the_present_one():
    driver = settled_with_a_cheaper_plan_in_sight()
    driver.searches_end = False
    driver.cluster.lose_node("l40s-0")
    driver.act()
    assert driver.decision.fleet.nodes["a100"] == 1


def test_a_budget_that_takes_everything_down_is_told_once_and_not_again_while_its_plan_is_searched():
    driver = operator(plan(model(rate="5")), slow=True)
    driver.settle()
    driver.cluster.edit(plan(model(rate="5"), budget="1"))
    driver.act()
    since = driver.cluster.status["notice"]["since"]
    driver.tick(5)
    driver.searches_end = False
    driver.tick(3)
    assert driver.decision.searching
    assert driver.cluster.status["notice"]["since"] == since
    driver.searches_end = True
    driver.tick(12)
    assert driver.cluster.pools["l40s"].wanted == 0


def test_a_search_is_no_event_that_a_person_needs():
    driver = operator(plan(), slow=True)
    driver.settle()
    assert driver.cluster.api.events
    assert "Searching" not in [item["reason"] for item in driver.cluster.api.events]


def test_a_smaller_fleet_for_a_smaller_budget_is_not_sought_behind_improvements_of_other_plans():
    asked = []

    def noted(question, spec, at_most_seconds=None, *, first=False, **_):
        asked.append(first)
        return exact(question, spec)

    def floor(budget: str) -> Json:
        return plan(model(rate="10"), pools=[sized(price="10", minNodes=1)], budget=budget)

    driver = operator(floor("40"), solve=noted, slow=True)
    driver.settle()
    asked.clear()
    driver.cluster.edit(floor("5"))
    driver.tick(20)
    assert driver.spend == 10
    assert set(asked) == {True}


def test_a_fleet_that_was_kept_in_haste_is_searched_again_with_all_the_time():
    def hasty(question, spec, at_most_seconds=None, **_):
        """A solver that finds nothing better than what runs in a hurry."""
        if at_most_seconds is None:
            return exact(question, spec)
        stay = exact(question.model_copy(update={"change": Change(min_gain=1e9)}), spec)
        return stay.model_copy(update={"stopped": "deadline", "status": "Feasible"})

    driver = operator(plan(model(rate="10"), **MEASURED), solve=hasty, slow=True)
    traffic = Traffic(10)
    driver.cluster.demand = traffic.seen
    driver.settle()
    before = driver.decision.fleet.nodes["l40s"]
    traffic.rate = 20
    driver.tick(60)
    assert driver.decision.fleet.nodes["l40s"] > before
