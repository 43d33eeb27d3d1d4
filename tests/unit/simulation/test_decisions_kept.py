"""``status.history``: the plans that were taken into force, and why."""

from servingplan.api.status_v1alpha1 import PastDecision
from tests.simulated.driver import Driver
from tests.simulated.plans import fixed, model, operator, plan, sized


def settled(driver):
    driver.settle()
    return driver.cluster.status["history"]


def reasons(history):
    return [entry["reason"] for entry in history]


def test_only_a_plan_that_takes_over_adds_an_entry_and_a_turn_at_rest_writes_nothing():
    driver = operator(plan())
    (first,) = settled(driver)
    assert first["reason"] == "FirstPlan"
    assert first["hash"] == driver.cluster.status["planHash"]
    assert (first["dollarsPerHour"], first["served"]) == ("4.00", "100%")
    assert first["time"] < driver.cluster.time
    status = driver.cluster.status
    driver.tick(30)
    assert driver.cluster.status == status

    driver.cluster.edit(plan(model(rate="20")))
    history = settled(driver)
    assert reasons(history) == ["SpecChanged", "FirstPlan"]
    assert history[1] == first
    assert history[0]["dollarsPerHour"] == "8.00"

    driver.cluster.edit(plan(model(rate="20"), budget="21"))
    assert settled(driver) == history, "an edit that keeps the plan is no decision"


def test_a_loss_an_improvement_and_an_approval_are_told_apart():
    driver = operator(plan(pools=[fixed()]), nodes=2)
    settled(driver)
    driver.cluster.lose_node("l40s-0")
    assert reasons(settled(driver))[0] == "NoLongerHeld"
    driver.cluster.add_node("l40s-2", {"pool": "l40s"}, 1)
    assert reasons(settled(driver))[0] == "Improvement"

    driver = operator(plan(mode="Approve"))
    driver.settle()
    assert "history" not in driver.cluster.status or driver.cluster.status["history"] == []
    driver.cluster.approved = driver.cluster.status["proposedPlanHash"]
    assert reasons(settled(driver)) == ["Approved"]


def test_floors_that_exclude_every_plan_are_the_reason_of_a_smaller_one():
    survive = {"resilience": {"survive": [{"event": "AnyNode"}]}}
    driver = operator(plan(model(rate="20"), budget="20", **survive))
    settled(driver)
    driver.cluster.edit(plan(model(rate="20"), budget="6", pools=[sized(maxNodes=2)], **survive))
    history = settled(driver)
    assert len(history) == len({entry["hash"] for entry in history})
    assert history[0]["hash"] == driver.cluster.status["planHash"]


def test_no_more_than_ten_are_kept_and_another_operator_goes_on_with_them():
    driver = operator(plan())
    for rate in range(1, 13):
        driver.cluster.edit(plan(model(rate=str(5 * (1 + rate % 6) + rate))))
        driver.settle()
    history = driver.cluster.status["history"]
    assert len(history) == 10
    assert [entry["time"] for entry in history] == sorted((entry["time"] for entry in history), reverse=True)
    successor = Driver(driver.cluster)
    successor.settle()
    assert driver.cluster.status["history"] == history


def test_an_operator_that_ended_before_it_wrote_the_status_leaves_no_gap():
    driver = operator(plan())
    settled(driver)
    driver.cluster.edit(plan(model(rate="20")))
    before = driver.cluster.status
    driver.act()
    taken = driver.decision.in_force_since
    driver.cluster.status = before
    driver.cluster.now = driver.cluster.now.replace(minute=driver.cluster.now.minute + 1)
    successor = Driver(driver.cluster)
    successor.act()
    newest = PastDecision.model_validate(driver.cluster.status["history"][0])
    assert newest.reason == "SpecChanged"
    assert newest.time == taken


def test_a_history_that_somebody_wrote_over_begins_anew():
    driver = operator(plan())
    settled(driver)
    driver.cluster.status = {**driver.cluster.status, "history": [{"hash": 1}]}
    assert [entry["hash"] for entry in settled(driver)] == [driver.cluster.status["planHash"]]
