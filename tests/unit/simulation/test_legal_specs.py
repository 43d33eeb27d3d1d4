"""Specs that the schema takes and nobody would write on purpose: each is answered, and no turn fails."""

import pytest

from tests.simulated.plans import model, operator, plan

EVERY_EXPERT = {
    "parameters": 8_000_000_000,
    "activeParameters": 8_000_000_000,
    "experts": 8,
    "expertsPerToken": 8,
    "layers": 32,
    "hiddenSize": 4096,
    "attentionHeads": 32,
    "kvHeads": 8,
    "headDim": 128,
    "vocabularySize": 128256,
    "maxContextTokens": 131072,
}


def told(driver, kind):
    return next(item for item in driver.cluster.status["conditions"] if item["type"] == kind)


def test_rates_of_nothing_cost_nothing():
    driver = operator(plan(model(rate="0")))
    driver.settle()
    assert told(driver, "PlanSolved")["reason"] == "Optimal"
    assert driver.spend == 0


@pytest.mark.parametrize("before", ["0", "10"])
def test_a_mix_of_nothing_is_served_by_nothing(before):
    driver = operator(plan(model(rate=before), objective="MaximizeService"))
    driver.settle()
    driver.cluster.edit(plan(model(rate="0"), objective="MaximizeService"))
    driver.settle()
    assert (told(driver, "PlanSolved")["status"], told(driver, "PlanSolved")["reason"]) == ("True", "Optimal")
    assert (driver.spend, driver.deployments()) == (0, [])


def test_a_card_whose_tokens_ask_every_expert_is_planned():
    mine = model("mine", rate="1", card=EVERY_EXPERT, variants=[{"name": "bf16", "source": "pvc://weights/mine"}])
    driver = operator(plan(mine))
    driver.settle()
    assert told(driver, "PlanSolved")["reason"] == "Optimal"


def test_rates_ten_orders_of_magnitude_apart_are_planned():
    """What is out of reach is served in part; nothing raises."""
    chat = model(rate="0.01")
    (usual,) = chat["classes"]
    chat["classes"] = [{**usual, "name": "rare"}, {**usual, "name": "flood", "requestsPerSecond": "100000000"}]
    driver = operator(plan(chat))
    driver.turn()
    assert told(driver, "PlanSolved")["status"] == "True"


@pytest.mark.parametrize("most", [10, 10_000_000])
def test_nothing_is_rented_for_weights_that_no_config_map_holds(monkeypatch, most):
    monkeypatch.setattr("servingplan.routing.publishing.LARGEST_BYTES", most)
    driver = operator(plan())
    driver.turn()
    driver.turn()
    held = most > 10_000
    assert (told(driver, "RoutingPublished")["reason"] == "TooLarge") == (not held)
    assert (driver.spend > 0) == held
