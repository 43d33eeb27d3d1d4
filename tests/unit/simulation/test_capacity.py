"""Pools that refuse, nodes without GPUs, nodes that somebody drains: the plan goes elsewhere and comes back."""

import pytest

from servingplan.metrics import families
from servingplan.metrics.samples import samples
from servingplan.model.outcome import Outcome
from servingplan.model.world import Offered
from servingplan.planning.situation import Situation
from servingplan.rehearse.cluster import TICK_SECONDS
from servingplan.status.conclude import conclude
from servingplan.status.events import events
from tests.simulated.plans import fixed, model, operator, plan, sized
from tests.unit.simulation.test_stories import LLAMA, NEW_IMAGE, conditions_that_fail, serves_at_least, settled

CHEAP, OTHER = sized(), sized("a100", price="5")


def status_of(driver, pool):
    return next(item for item in driver.cluster.status["nodePools"] if item["name"] == pool)


def wait_seconds(driver, seconds):
    driver.tick(round(seconds / TICK_SECONDS))


def refusing(pools, **provider):
    driver = operator(plan(pools=pools))
    for field, value in provider.items():
        setattr(driver.cluster.pools[pools[0]["name"]], field, value)
    return driver


def test_a_pool_that_refuses_is_not_asked_again_and_the_other_serves():
    driver = refusing([CHEAP, OTHER], provider_has=0)
    driver.act()
    assert driver.cluster.pools["l40s"].wanted == 0, "at once: no time passed"
    assert driver.cluster.pools["l40s"].refusals <= 3
    assert driver.cluster.pools["a100"].wanted > 0
    fleet = settled(driver)
    assert fleet.nodes["l40s"] == 0
    assert driver.serving_rate(LLAMA) == pytest.approx(10)
    assert status_of(driver, "l40s")["learnedCap"]["reason"] == "InsufficientCapacity"
    assert driver.cluster.status["caps"] == "l40s=0"
    assert conditions_that_fail(driver) == {}
    assert "l40s gives at most 0 nodes" in next(
        item["message"] for item in driver.cluster.status["conditions"] if item["type"] == "NodePoolsReady"
    )


def test_a_pool_that_gives_some_is_planned_with_these():
    driver = refusing([CHEAP], provider_has=1)
    fleet = settled(driver)
    assert fleet.nodes == {"l40s": 1}
    assert 0 < driver.serving_rate(LLAMA) < 10
    assert driver.cluster.pools["l40s"].refusals <= 3
    assert conditions_that_fail(driver) == {"SLOAttainable": "BelowTarget"}


def test_when_the_cap_is_over_one_node_is_asked_for_and_the_next_cap_lasts_twice_as_long():
    driver = refusing([CHEAP, OTHER], provider_has=0)
    settled(driver)
    serves_at_least(driver)
    pool = driver.cluster.pools["l40s"]
    first = status_of(driver, "l40s")["learnedCap"]
    before = pool.refusals
    wait_seconds(driver, 1200)
    assert pool.refusals - before == 2, "two probes, of one node"
    assert status_of(driver, "l40s")["learnedCap"]["until"] > first["until"]
    assert pool.wanted == 0


def test_when_the_market_has_nodes_again_the_plan_comes_back():
    driver = refusing([CHEAP, OTHER], provider_has=0)
    settled(driver)
    serves_at_least(driver)
    driver.cluster.pools["l40s"].provider_has = 10
    wait_seconds(driver, 900)
    fleet = settled(driver)
    assert fleet.nodes == {"a100": 0, "l40s": 2}
    assert "learnedCap" not in status_of(driver, "l40s")
    assert driver.cluster.status["caps"] == "none"


def test_a_new_operator_knows_what_was_refused():
    driver = refusing([CHEAP, OTHER], provider_has=0)
    settled(driver)
    refusals = driver.cluster.pools["l40s"].refusals
    again = type(driver)(driver.cluster)
    again.settle()
    assert driver.cluster.pools["l40s"].refusals == refusals


def test_nodes_that_do_not_come_without_a_word_are_given_up_in_time():
    driver = refusing([CHEAP, OTHER], provider_has=0, tells=False)
    driver.act()
    wait_seconds(driver, 590)
    assert driver.cluster.pools["a100"].wanted == 0
    wait_seconds(driver, 20)
    assert driver.cluster.pools["l40s"].wanted == 0
    assert driver.cluster.pools["a100"].wanted > 0
    settled(driver)
    assert status_of(driver, "l40s")["learnedCap"]["reason"] == "NotComing"


def test_without_another_pool_the_size_comes_down_and_it_is_told():
    driver = refusing([CHEAP], provider_has=0)
    driver.act()
    assert driver.cluster.pools["l40s"].wanted == 0
    assert driver.cluster.pools["l40s"].refusals <= 3
    driver.cluster.pools["l40s"].provider_has = 10
    wait_seconds(driver, 400)
    settled(driver)
    assert driver.serving_rate(LLAMA) == pytest.approx(10)


def test_nodes_without_gpus_are_named_given_back_and_done_without():
    driver = refusing([CHEAP, OTHER], blind=True)
    driver.act()
    driver.tick(4)
    row = next(item for item in driver.cluster.status["conditions"] if item["type"] == "NodePoolsReady")
    assert (row["status"], row["reason"]) == ("False", "NoGPUsVisible")
    assert "l40s-1 shows no GPUs" in row["message"]
    wait_seconds(driver, 620)
    settled(driver)
    assert driver.cluster.nodes_of("l40s") == []
    assert status_of(driver, "l40s")["learnedCap"]["reason"] == "NoGPUsVisible"
    assert driver.serving_rate(LLAMA) == pytest.approx(10)


def drain(driver, node):
    """As ``kubectl drain`` does it: cordon, then evict."""
    driver.cluster.nodes[node].schedulable = False
    for pod in driver.cluster.our_pods():
        if pod.node == node:
            driver.cluster.delete_pod(pod)
    driver.cluster.run_controllers()


@pytest.mark.parametrize("budget", ["20", "2"])
def test_a_drained_node_is_replaced_and_given_back(budget):
    driver = operator(plan(model(rate="4"), pools=[CHEAP], budget=budget))
    settled(driver)
    rate = driver.serving_rate(LLAMA)
    drain(driver, "l40s-1")
    driver.act()
    row = next(item for item in driver.cluster.status["conditions"] if item["type"] == "NodePoolsReady")
    assert "l40s-1 is cordoned" in row["message"]
    settled(driver)
    assert [node.name for node in driver.cluster.nodes_of("l40s")] == ["l40s-2"]
    assert driver.serving_rate(LLAMA) == pytest.approx(rate)


def replicas_that_evictions_leave(driver) -> int:
    """``minAvailable`` of the one PodDisruptionBudget."""
    (found,) = [item for (kind, _), item in driver.cluster.objects.items() if kind == "PodDisruptionBudget"]
    return found["spec"]["minAvailable"]


def test_a_cordoned_node_serves_on_until_its_successor_does():
    driver = operator(plan(model(rate="4"), pools=[CHEAP]))
    settled(driver)
    serves_at_least(driver)
    planned = len(driver.cluster.our_pods())
    assert replicas_that_evictions_leave(driver) == planned
    driver.cluster.nodes["l40s-1"].schedulable = False
    driver.act()
    assert replicas_that_evictions_leave(driver) == planned, "a drain waits until the successor serves"
    settled(driver)
    assert [node.name for node in driver.cluster.nodes_of("l40s")] == ["l40s-2"]


def test_a_cordoned_node_serves_on_while_the_node_of_its_successor_boots():
    """A new node is there before it is Ready, as with a real kubelet: it is none that replicas lack."""
    driver = operator(plan(budget="6"), boot_ticks=2)
    before = settled(driver)
    serves_at_least(driver)
    cordoned = next(pod.node for pod in driver.cluster.our_pods())
    driver.cluster.nodes[cordoned].schedulable = False
    driver.act()
    pool = driver.cluster.pools["l40s"]
    pool.booting.clear()
    driver.cluster._make_node("l40s-new", pool.labels, pool.gpus, "l40s")
    booting = driver.cluster.nodes["l40s-new"]
    booting.ready = False
    driver.act()
    assert not any(pod.draining_since for pod in driver.cluster.our_pods())
    booting.ready = True
    driver.cluster.run_controllers()
    assert settled(driver).nodes == before.nodes
    assert cordoned not in driver.cluster.nodes


def test_a_cordoned_node_without_room_for_a_successor_serves_on():
    driver = operator(plan(model(rate="4"), pools=[CHEAP], budget="3"))
    settled(driver)
    serves_at_least(driver)
    driver.cluster.nodes["l40s-1"].schedulable = False
    driver.settle()
    assert [node.name for node in driver.cluster.nodes_of("l40s")] == ["l40s-1"]
    assert replicas_that_evictions_leave(driver) == 0, "or a drain of the node would never end"


def test_a_drain_does_not_wait_for_replicas_that_the_plan_does_without_and_whose_successors_may_never_come():
    driver = operator(plan(model(rate="4"), pools=[CHEAP]))
    (old,) = settled(driver).replica_sets
    driver.cluster.pools["l40s"].provider_has = 1
    driver.cluster.edit(plan(model(rate="4", engine=NEW_IMAGE), pools=[CHEAP]))
    driver.act()
    assert ("PodDisruptionBudget", old.deployment) in driver.cluster.objects
    driver.cluster.nodes["l40s-1"].schedulable = False
    driver.act()
    assert ("PodDisruptionBudget", old.deployment) not in driver.cluster.objects
    assert driver.serving_rate(LLAMA) == pytest.approx(4), "it serves until somebody drains its node"


def test_a_drained_node_whose_successor_is_refused_is_made_up_for_elsewhere():
    driver = operator(plan(model(rate="4"), pools=[CHEAP, OTHER]))
    settled(driver)
    driver.cluster.pools["l40s"].provider_has = 1
    drain(driver, "l40s-1")
    settled(driver)
    assert driver.serving_rate(LLAMA) == pytest.approx(4)


def test_a_replica_that_waits_for_a_node_which_is_cordoned_meanwhile_goes_elsewhere():
    driver = operator(plan(model(rate="4"), pools=[CHEAP]), controllers_keep_up=False)
    driver.act()
    while not any(pod.placed_on and pod.node is None for pod in driver.cluster.our_pods()):
        driver.cluster.tick()
        driver.act()
    driver.cluster.nodes["l40s-1"].schedulable = False
    settled(driver)
    assert [node.name for node in driver.cluster.nodes_of("l40s")] == ["l40s-2"]
    assert driver.serving_rate(LLAMA) == pytest.approx(4)


def row_of(driver, kind):
    return next(item for item in driver.cluster.status["conditions"] if item["type"] == kind)


def test_a_refused_size_comes_down_while_the_new_plan_waits_for_approval():
    driver = operator(plan(mode="Approve", pools=[CHEAP, OTHER]))
    driver.act()
    driver.cluster.pools["l40s"].provider_has = 0
    driver.cluster.approved = driver.decision.waiting.hash
    driver.act()
    assert driver.cluster.pools["l40s"].wanted == 0
    assert (row_of(driver, "NodePoolsReady")["status"], row_of(driver, "NodePoolsReady")["reason"]) == (
        "False",
        "InsufficientCapacity",
    )
    assert row_of(driver, "Approved")["reason"] == "AwaitingApproval"
    driver.cluster.approved = driver.decision.waiting.hash
    settled(driver)
    assert driver.serving_rate(LLAMA) == pytest.approx(10)


def test_a_cap_is_a_metric_and_its_beginning_an_event():
    driver = refusing([CHEAP, OTHER], provider_has=0)
    driver.turn()
    posted = []
    for _ in range(6):
        world = driver.cluster.observe()
        driver.turn()
        told = conclude(Situation(world), driver.decision, Outcome())
        posted += [event.reason for event in events(world, driver.decision, Outcome(), told)]
    assert posted.count("InsufficientCapacity") == 1
    found = samples(Situation(driver.cluster.observe()), driver.decision, Outcome())
    assert found[families.NODES, ("l40s", "L40S", "OnDemand", "learned_cap")] == 0


def test_a_fixed_node_without_gpus_is_named():
    driver = operator(plan(pools=[fixed()]), nodes=2)
    driver.cluster.add_node("bare", {"pool": "l40s"}, 0)
    settled(driver)
    assert "bare shows no GPUs" in row_of(driver, "NodePoolsReady")["message"]


def test_of_two_fixed_nodes_the_cordoned_one_is_left():
    driver = operator(plan(pools=[fixed()]), nodes=2)
    settled(driver)
    first = min(driver.cluster.our_pods(), key=lambda pod: pod.serial)
    driver.cluster.nodes[first.node].schedulable = False
    settled(driver)
    assert [pod.node for pod in driver.cluster.our_pods()] == [
        name for name in driver.cluster.nodes if name != first.node
    ]


def test_an_empty_cordoned_node_is_not_given_back_while_the_provider_could_take_another():
    """Three nodes are all that the budget has room for, one is cordoned, and the others are empty, too: they show no GPUs."""
    driver = operator(plan(model(rate="15"), pools=[CHEAP], budget="7"))
    driver.cluster.pools["l40s"].blind = True
    driver.act()
    driver.tick(3)
    assert len(driver.cluster.nodes_of("l40s")) == 3
    driver.cluster.nodes["l40s-2"].schedulable = False
    driver.act()
    assert driver.cluster.pools["l40s"].wanted == 3


# --- what Karpenter's metrics say of the market -----------------------------------------------------------------------


def test_a_pool_that_the_market_has_none_of_is_never_asked_and_comes_back_with_the_market():
    driver = refusing([CHEAP, OTHER], offered=Offered(available=False), provider_has=0)
    fleet = settled(driver)
    assert fleet.nodes["l40s"] == 0
    assert driver.cluster.pools["l40s"].refusals == 0
    assert driver.cluster.pools["a100"].wanted > 0
    assert status_of(driver, "l40s")["learnedCap"]["reason"] == "NotOffered"
    driver.cluster.pools["l40s"].provider_has = 1000
    driver.cluster.pools["l40s"].offered = Offered(available=True)
    wait_seconds(driver, 700)
    assert settled(driver).nodes["l40s"] > 0
    assert driver.cluster.status["caps"] == "none"


def test_a_pool_that_sells_no_more_keeps_what_serves():
    driver = operator(plan(pools=[CHEAP]))
    before = settled(driver)
    serves_at_least(driver)
    driver.cluster.pools["l40s"].offered = Offered(available=False)
    assert settled(driver).nodes == before.nodes
    writes = driver.writes
    driver.tick(12)
    assert driver.writes == writes, "nothing changes while the market stays as it is"


def test_a_price_that_nobody_states_is_the_market_s():
    driver = refusing([sized(price=None)], offered=Offered(available=True, dollars_per_node_hour=2.5))
    fleet = settled(driver)
    assert fleet.dollars_per_hour == pytest.approx(2.5 * fleet.nodes["l40s"])
    assert fleet.nodes["l40s"] > 0
