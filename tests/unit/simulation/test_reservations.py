"""Reserved capacity with its window: a plan waits for it, uses no more of it than there is, and leaves before it ends."""

import pytest

from tests.simulated.plans import model, operator, plan, sized
from tests.unit.simulation.test_capacity import status_of, wait_seconds
from tests.unit.simulation.test_stories import LLAMA, conditions_that_fail, serves_at_least, settled

WINDOW = {"nodes": 2, "start": "2026-01-01T00:30:00Z", "end": "2026-01-01T02:00:00Z"}
"""The cluster's clock begins at midnight."""
MINUTE = 60


def with_reservation(*others, rate="10", **window):
    reserved = sized(reservation={**WINDOW, **window}, capacityType="Reserved", price="2")
    return operator(plan(model(rate=rate), pools=[reserved, *others], budget="60"))


def asked_for(driver):
    return driver.cluster.pools["l40s"].wanted


def clock(driver):
    return driver.cluster.now.strftime("%H:%M")


def test_the_plan_waits_for_the_window_moves_there_and_is_gone_before_the_end():
    driver = with_reservation(sized("a100", price="5"))
    fleet = settled(driver)
    assert fleet.nodes["l40s"] == 0
    assert fleet.nodes["a100"] > 0
    assert conditions_that_fail(driver) == {}
    told = status_of(driver, "l40s")["learnedCap"]
    assert (told["nodes"], told["reason"], told["until"]) == (0, "NotReservedYet", WINDOW["start"])
    assert driver.cluster.status["caps"] == "l40s=0"
    serves_at_least(driver)
    while clock(driver) < "00:30":
        assert asked_for(driver) == 0
        driver.tick()
    wait_seconds(driver, 5 * MINUTE)
    assert settled(driver).nodes == {"a100": 0, "l40s": 2}
    told = status_of(driver, "l40s")["learnedCap"]
    assert (told["nodes"], told["reason"], told["until"]) == (2, "Reserved", "2026-01-01T01:45:00Z")
    while clock(driver) < "01:44":
        driver.tick()
    assert asked_for(driver) == 2
    wait_seconds(driver, 11 * MINUTE)  # the driver checks at every turn that the model is served as before
    assert clock(driver) < "02:00"
    assert settled(driver).nodes["l40s"] == 0
    assert not [node for node in driver.cluster.nodes.values() if node.pool == "l40s"]
    assert driver.serving_rate(LLAMA) == pytest.approx(10)
    assert status_of(driver, "l40s")["learnedCap"]["reason"] == "ReservationEnds"
    wait_seconds(driver, 60 * MINUTE)
    assert asked_for(driver) == 0, "it is not probed once it is over"


def test_no_more_nodes_are_asked_for_than_are_reserved():
    driver = with_reservation(start="2026-01-01T00:00:00Z", rate="40")
    driver.settle()
    assert asked_for(driver) == 2
    assert conditions_that_fail(driver) == {"SLOAttainable": "BelowTarget"}


def test_without_another_pool_the_nodes_are_given_back_and_it_is_told():
    driver = with_reservation(start="2026-01-01T00:00:00Z", end="2026-01-01T00:40:00Z")
    settled(driver)
    assert asked_for(driver) == 2
    wait_seconds(driver, 30 * MINUTE)
    assert asked_for(driver) == 0
    message = next(item["message"] for item in driver.cluster.status["conditions"] if item["type"] == "NodePoolsReady")
    assert "l40s gives at most 0 nodes (ReservationEnds: its reservation ends at 2026-01-01T00:40:00Z)" in message


def test_a_turn_is_due_when_a_reservation_begins():
    driver = with_reservation(sized("a100", price="5"))
    settled(driver)
    left = driver.decision.wake_in_seconds
    assert left is not None
    assert left <= (30 * MINUTE) - (driver.cluster.now.minute * MINUTE + driver.cluster.now.second)


def test_a_refusal_within_the_window_counts_beside_it():
    driver = with_reservation(sized("a100", price="5"), start="2026-01-01T00:00:00Z")
    driver.cluster.pools["l40s"].provider_has = 1
    fleet = settled(driver)
    assert fleet.nodes["l40s"] <= 1
    assert status_of(driver, "l40s")["learnedCap"]["reason"] == "InsufficientCapacity"
