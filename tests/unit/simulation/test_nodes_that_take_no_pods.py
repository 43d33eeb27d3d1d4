"""Nodes that exist and take no pods: their autoscaler has not registered them yet, or never will."""

import pytest

from tests.simulated.plans import fixed, operator, plan
from tests.unit.simulation.test_stories import LLAMA, serves_at_least, settled


def nodes_of_pods(driver):
    return {pod.node or pod.must_be_on for pod in driver.cluster.our_pods()} - {None}


def test_a_node_that_never_registers_gets_no_replica():
    driver = operator(plan())
    driver.cluster.add_node("l40s-0", {"pool": "l40s"}, 1)  # an instance whose claim was deleted while it booted
    driver.cluster.nodes["l40s-0"].closed = True
    driver.settle()
    assert driver.serving_rate(LLAMA) == pytest.approx(10)
    assert nodes_of_pods(driver) == {"l40s-1", "l40s-2"}
    told = next(item for item in driver.cluster.status["conditions"] if item["type"] == "NodePoolsReady")
    assert "l40s-0 takes no pods yet" in told["message"]


def test_a_replica_is_placed_as_soon_as_its_node_takes_pods():
    driver = operator(plan(pools=[fixed()]), nodes=2)
    for node in driver.cluster.nodes.values():
        node.closed = True
    driver.tick(3)
    assert nodes_of_pods(driver) == set()
    for node in driver.cluster.nodes.values():
        node.closed = False
    driver.act()
    assert nodes_of_pods(driver) == {"l40s-0", "l40s-1"}
    settled(driver)


def test_a_replica_that_runs_stays_where_its_node_takes_no_more_pods_for_a_moment():
    driver = operator(plan(pools=[fixed()]), nodes=3)
    settled(driver)
    serves_at_least(driver)
    before = {pod.name for pod in driver.cluster.our_pods()}
    for name in nodes_of_pods(driver):
        driver.cluster.nodes[name].closed = True
    driver.tick(6)
    assert {pod.name for pod in driver.cluster.our_pods()} == before
    assert driver.serving_rate(LLAMA) == pytest.approx(10)
