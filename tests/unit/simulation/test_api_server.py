"""What an API server does to an operator: answers that are lost, events that are late, watches that end, lists anew."""

import pytest

from servingplan.errors import ApiError, Conflict, Forbidden
from tests.simulated.plans import model, operator, plan, sized
from tests.unit.simulation.test_stories import LLAMA, settled

POOLS = [sized(price="2"), sized("a100", price="5")]
DEAR = [sized(price="4"), sized("a100", price="5")]


def never_told(cluster, *kinds):
    """Watches of these kinds tell nothing more."""
    cluster.api.withheld = lambda kind: 10_000 if kind in kinds else 0


def test_a_size_whose_answer_was_lost_is_paid_for_in_the_next_decision():
    """The pool has grown, the answer to that write was lost, its watch is late, and by now another pool is the better one:
    the budget does not hold both."""
    driver = operator(plan(pools=POOLS, budget="5"))
    never_told(driver.cluster, "NodePool")
    driver.cluster.api.loses = lambda verb, key: key[0] == "NodePool" and driver.cluster.pools["l40s"].wanted > 0
    for _ in range(5):
        if not driver.cluster.pools["l40s"].wanted:
            driver.attempt()
    assert driver.cluster.pools["l40s"].wanted == 2
    driver.cluster.api.loses = lambda verb, key: False
    driver.cluster.edit(plan(pools=DEAR, budget="5"))
    for _ in range(5):
        driver.attempt()
    assert driver.cluster.pools["a100"].wanted == 0, "what is paid for already is not known to be"


def test_while_an_answer_that_was_lost_cannot_be_made_up_for_nothing_is_decided():
    driver = operator(plan())
    driver.cluster.api.loses = lambda verb, key: key[0] == "Deployment"
    driver.turn()
    driver.cluster.api.loses = lambda verb, key: False
    away = ApiError(503, "ServiceUnavailable", "etcd is away")
    driver.cluster.api.refuses = lambda verb, key: away if (verb, key[0]) == ("get", "Deployment") else None
    writes = driver.writes
    for _ in range(3):
        driver.turn()
    assert driver.writes == writes
    assert driver.conditions()["InventoryAvailable"] == "ReadFailed"
    driver.cluster.api.refuses = lambda verb, key: None
    settled(driver)


def test_a_deletion_whose_answer_was_lost_is_seen_in_the_next_turn():
    driver = operator(plan())
    settled(driver)
    driver.cluster.edit(plan(model(engine={"image": "v2"})))
    driver.cluster.api.loses = lambda verb, key: verb == "delete"
    for _ in range(12):
        driver.cluster.tick()
        driver.attempt()
        never_told(driver.cluster, "Deployment", "Service")
    driver.attempt()
    held = {live.name for live in driver.world.deployments()}
    assert held == set(driver.deployments())


def test_a_pool_that_changes_between_look_and_write_is_left_alone_in_that_turn():
    driver = operator(plan())
    never_told(driver.cluster, "NodePool")
    driver.turn()
    driver.cluster.pools["l40s"].wanted = 3
    driver.cluster.edit(plan(model(rate="5")))
    driver.turn()
    assert driver.cluster.pools["l40s"].wanted == 3
    driver.cluster.api.withheld = lambda kind: 0
    driver.act()
    assert driver.conditions()["NodePoolsReady"] == "FieldOwnershipConflict"


def test_weights_that_the_api_server_refuses_hold_every_removal_back():
    driver = operator(plan(model(rate="20")))
    settled(driver)
    before = {pod.name for pod in driver.cluster.our_pods()}
    busy = Conflict(409, "Conflict", "the object has been modified")
    driver.cluster.api.refuses = lambda verb, key: busy if (verb, key[2]) == ("apply", "chat-routing") else None
    driver.cluster.edit(plan(model(rate="5")))
    for _ in range(20):
        driver.attempt()
        driver.cluster.tick()
    assert {pod.name for pod in driver.cluster.our_pods()} == before
    assert driver.serving_rate(LLAMA) == pytest.approx(20)
    driver.cluster.api.refuses = lambda verb, key: None
    settled(driver)


def test_a_history_that_is_forgotten_again_and_again_only_costs_lists():
    driver = operator(plan())
    for _ in range(12):
        driver.cluster.tick()
        driver.cluster.api.refresh()
        driver.cluster.api.compact()
        driver.turn()
        driver.turn()
    settled(driver)


def test_weights_go_on_while_what_became_of_a_pool_is_not_known():
    driver = operator(plan())
    settled(driver)
    driver.cluster.api.loses = lambda verb, key: key[0] == "NodePool"
    driver.cluster.edit(plan(model(rate="20")))
    for _ in range(4):
        if driver.cluster.pools["l40s"].wanted == 2:
            driver.turn()
    assert driver.cluster.pools["l40s"].wanted == 4
    away = ApiError(500, "InternalError", "conversion webhook is away")
    driver.cluster.api.refuses = lambda verb, key: away if key[0] == "NodePool" else None
    driver.cluster.lose_node("l40s-1")
    driver.turn()
    driver.check_routing_at_rest()
    assert driver.conditions()["InventoryAvailable"] == "ReadFailed"
    driver.cluster.api.refuses, driver.cluster.api.loses = (lambda verb, key: None), (lambda verb, key: False)
    settled(driver)


def test_what_the_operator_may_only_watch_is_not_waited_for():
    driver = operator(plan())
    driver.cluster.api.loses = lambda verb, key: key[0] == "Deployment"
    driver.turn()
    driver.cluster.api.loses = lambda verb, key: False
    refused = Forbidden(403, "Forbidden", "cannot get deployments")
    driver.cluster.api.refuses = lambda verb, key: refused if (verb, key[0]) == ("get", "Deployment") else None
    settled(driver)
