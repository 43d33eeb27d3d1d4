"""What a cluster goes through, from the first apply to losses and edits, with the rules watched at every write."""

import pytest

from servingplan.model.times import seconds_between
from servingplan.rehearse.cluster import TICK_SECONDS
from tests.simulated.driver import Driver
from tests.simulated.plans import fixed, model, operator, plan, sized

LLAMA = "llama-3.1-8b"
NEW_IMAGE = {"image": "vllm/vllm-openai:v0.19.0"}


def replicas(fleet):
    """Copies by GPUs of one copy."""
    found = {}
    for item in fleet.replica_sets:
        found[item.gpus] = found.get(item.gpus, 0) + item.replicas
    return found


def conditions_that_fail(driver):
    return {item["type"]: item["reason"] for item in driver.cluster.status["conditions"] if item["status"] != "True"}


def serves_at_least(driver, share=1.0, name=LLAMA):
    driver.serving_floor = {name: share * driver.serving_rate(name)}


def settled(driver):
    fleet = driver.settle()
    driver.check_settled()
    return fleet


def test_a_first_plan_grows_from_nothing_to_ready():
    driver = operator(plan())
    fleet = settled(driver)
    assert (fleet.nodes, replicas(fleet)) == ({"l40s": 2}, {1: 2})
    assert conditions_that_fail(driver) == {}
    assert driver.serving_rate(LLAMA) == pytest.approx(10)


def test_a_new_image_comes_where_the_only_node_that_the_budget_allows_is_cordoned():
    driver = operator(plan(model(rate="4"), budget="3"))
    settled(driver)
    (node,) = driver.cluster.nodes
    driver.cluster.nodes[node].schedulable = False
    driver.settle()
    assert list(driver.cluster.nodes) == [node]
    driver.cluster.edit(plan(model(rate="4", engine=NEW_IMAGE), budget="3"))
    settled(driver)
    assert node not in driver.cluster.nodes
    assert driver.serving_rate(LLAMA) == pytest.approx(4)


def test_a_lost_node_of_a_sized_pool_is_replaced_and_its_replica_with_it():
    driver = operator(plan())
    settled(driver)
    serves_at_least(driver, 0.5)
    driver.cluster.lose_node("l40s-1")
    driver.act()
    driver.check_routing_at_rest()
    fleet = settled(driver)
    assert fleet.nodes == {"l40s": 2}
    assert driver.serving_rate(LLAMA) == pytest.approx(10)


def test_a_replica_of_a_lost_node_does_not_wait_for_the_cluster_to_collect_it():
    driver = operator(plan(), collect_ticks=1000, boot_ticks=1, start_ticks=1)
    settled(driver)
    driver.cluster.lose_node("l40s-1")
    for _ in range(6):
        driver.tick()
    assert driver.serving_rate(LLAMA) == pytest.approx(10)


def test_a_lost_fixed_node_is_planned_without():
    driver = operator(plan(pools=[fixed()]), nodes=3)
    settled(driver)
    (lost, *_) = (pod.node for pod in driver.cluster.our_pods())
    driver.cluster.lose_node(lost)
    fleet = settled(driver)
    assert replicas(fleet) == {1: 2}
    driver.cluster.lose_node(next(pod.node for pod in driver.cluster.our_pods()))
    fleet = settled(driver)
    assert replicas(fleet) == {1: 1}
    assert conditions_that_fail(driver) == {"SLOAttainable": "BelowTarget"}


def test_a_node_that_stops_reporting_gets_a_successor_elsewhere():
    driver = operator(plan(pools=[fixed()]), nodes=3)
    settled(driver)
    silent = next(pod.node for pod in driver.cluster.our_pods())
    driver.cluster.nodes[silent].ready = False
    driver.act()
    driver.check_routing_at_rest()
    for _ in range(8):
        driver.tick()
    assert driver.serving_rate(LLAMA) == pytest.approx(10)


def test_a_node_that_stops_reporting_for_a_moment_changes_nothing_in_the_end():
    driver = operator(plan())
    settled(driver)
    driver.cluster.nodes["l40s-1"].ready = False
    driver.tick()
    driver.cluster.nodes["l40s-1"].ready = True
    settled(driver)


def test_two_models_on_one_node_change_their_images_on_a_second_one_where_the_budget_has_room_for_it():
    """The plan wants one node. The second one is rented for the successors, so nobody has to make room for them."""

    def both(**more):
        models = (model(priority=100, **more), model("llama-3.1-70b", "1", priority=1, **more))
        return plan(*models, pools=[sized("h100", gpus=4, price="9")], budget="30")

    driver = operator(both())
    assert settled(driver).nodes == {"h100": 1}
    driver.serving_floor = {name: driver.serving_rate(name) for name in (LLAMA, "llama-3.1-70b")}
    driver.cluster.edit(both(engine=NEW_IMAGE))
    assert settled(driver).nodes == {"h100": 1}


def test_no_replica_is_removed_by_count_in_the_turn_in_which_its_drain_begins():
    """Two replicas of before share a node with two successors: one drains when the first successor serves, the other one when
    the first is gone."""
    h100 = sized("h100", gpus=4, price="9")
    driver = operator(plan(model(rate="30"), pools=[h100]))
    settled(driver)
    removed, delete = [], driver.cluster.delete_pod

    def noted(pod):
        if not pod.terminating and driver.cluster.is_ready(pod):
            removed.append((pod.name, pod.draining_since, driver.cluster.time))
        delete(pod)

    driver.cluster.delete_pod = noted
    driver.cluster.edit(plan(model(rate="10", engine=NEW_IMAGE), pools=[h100]))
    settled(driver)
    assert len(removed) == 2
    assert [name for name, since, at in removed if since is None or seconds_between(since, at) < 30] == []


def test_more_demand_adds_replicas_and_keeps_those_that_serve():
    driver = operator(plan())
    settled(driver)
    before = {pod.name for pod in driver.cluster.our_pods()}
    serves_at_least(driver)
    driver.cluster.edit(plan(model(rate="20")))
    settled(driver)
    assert before <= {pod.name for pod in driver.cluster.our_pods()}
    assert driver.serving_rate(LLAMA) == pytest.approx(20)


def test_less_demand_drains_replicas_and_gives_their_nodes_back():
    driver = operator(plan(model(rate="20")))
    assert settled(driver).nodes == {"l40s": 4}
    driver.cluster.edit(plan(model(rate="5")))
    assert settled(driver).nodes == {"l40s": 1}


def test_a_new_image_comes_up_beside_the_old_one_where_the_budget_has_room_for_both():
    driver = operator(plan())
    (old,) = settled(driver).replica_sets
    serves_at_least(driver)
    driver.cluster.edit(plan(model(engine=NEW_IMAGE)))
    (new,) = settled(driver).replica_sets
    assert old.deployment != new.deployment


@pytest.mark.parametrize("budget", ["4", "5", "6"])
def test_a_new_image_never_stops_service_where_the_budget_holds_few_more_nodes_or_none(budget):
    driver = operator(plan(budget=budget))
    settled(driver)
    serves_at_least(driver, 1.0 if budget == "6" else 0.5)
    driver.cluster.edit(plan(model(engine=NEW_IMAGE), budget=budget))
    settled(driver)


def test_a_new_image_on_the_only_node_that_the_budget_buys_shrinks_first():
    driver = operator(plan(model(rate="3"), budget="2"))
    settled(driver)
    driver.cluster.edit(plan(model(rate="3", engine=NEW_IMAGE), budget="2"))
    settled(driver)


def test_a_new_image_on_fixed_nodes_takes_the_nodes_one_by_one():
    driver = operator(plan(pools=[fixed()]), nodes=2)
    settled(driver)
    serves_at_least(driver, 0.5)
    driver.cluster.edit(plan(model(engine=NEW_IMAGE), pools=[fixed()]))
    settled(driver)


def test_a_new_image_uses_free_fixed_nodes_before_the_old_replicas_go():
    driver = operator(plan(pools=[fixed()]), nodes=4)
    settled(driver)
    serves_at_least(driver)
    driver.cluster.edit(plan(model(engine=NEW_IMAGE), pools=[fixed()]))
    settled(driver)


def test_a_free_fixed_node_that_the_budget_does_not_hold_beside_the_old_one_is_reached_by_draining_first():
    nodes = [fixed(gpus=2, price="4")]
    driver = operator(plan(pools=nodes, budget="4"), nodes=2)
    settled(driver)
    driver.cluster.edit(plan(model(engine=NEW_IMAGE), pools=nodes, budget="4"))
    settled(driver)
    assert driver.spend == 4


@pytest.mark.slow
def test_a_new_image_does_without_nodes_that_the_provider_does_not_have():
    driver = operator(plan())
    settled(driver)
    driver.cluster.pools["l40s"].provider_has = 2
    serves_at_least(driver, 0.5)
    driver.cluster.edit(plan(model(engine=NEW_IMAGE)))
    (new,) = settled(driver).replica_sets
    assert driver.ready(new.deployment) == 2


def test_moving_to_a_cheaper_pool_does_not_interrupt_service():
    dear = [sized("l40s", price="20"), sized("a100", price="4")]
    driver = operator(plan(pools=dear, budget="60"))
    assert settled(driver).nodes["a100"] > 0
    serves_at_least(driver)
    driver.cluster.edit(plan(pools=[sized("l40s", price="1"), sized("a100", price="20")], budget="60"))
    assert settled(driver).nodes["a100"] == 0


def test_a_budget_lowered_below_what_runs_is_reached_lowest_priority_first():
    high, low = model(LLAMA, "10", priority=10), model("qwen3-8b", "10", priority=1)
    driver = operator(plan(high, low, budget="12"))
    assert settled(driver).nodes == {"l40s": 4}
    serves_at_least(driver)
    driver.cluster.edit(plan(high, low, budget="4"))
    assert settled(driver).nodes == {"l40s": 2}
    assert driver.serving_rate("qwen3-8b") == 0
    assert driver.spend == 4


def test_a_budget_of_nothing_takes_everything_down():
    driver = operator(plan())
    settled(driver)
    driver.cluster.edit(plan(budget="0"))
    settled(driver)
    assert (driver.spend, driver.cluster.our_pods()) == (0, [])


def test_a_price_that_rises_over_the_budget_brings_spend_down():
    driver = operator(plan(budget="5"))
    settled(driver)
    driver.cluster.edit(plan(pools=[sized(price="4")], budget="5"))
    assert settled(driver).nodes == {"l40s": 1}
    assert driver.spend == 4


def test_a_plan_that_goes_back_to_what_it_was_stops_half_way_without_harm():
    driver = operator(plan())
    settled(driver)
    serves_at_least(driver)
    driver.cluster.edit(plan(model(engine=NEW_IMAGE)))
    driver.tick(6)
    driver.cluster.edit(plan())
    settled(driver)


# --- packing --------------------------------------------------------------------------------------------------------

BIG = {"name": "llama-3.1-70b", "variants": [{"name": "bf16", "source": "hf://meta-llama/Llama-3.1-70B-Instruct"}]}


def packed(*, big="4", small="30", image=None, big_image=None):
    """A model that needs many GPUs at once and small ones that could be spread in its way."""
    return plan(
        model("llama-3.1-70b", big, priority=5, **({"engine": big_image} if big_image else {})),
        model(LLAMA, small, priority=1, **({"engine": image} if image else {})),
        pools=[fixed("h100", gpus=8, price="24")],
        budget="48",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit",
    [
        {"image": NEW_IMAGE},
        {"big_image": NEW_IMAGE},
        {"image": NEW_IMAGE, "big_image": NEW_IMAGE},
        {"big": "20"},
        {"small": "300"},
        {"small": "2"},
    ],
)
def test_on_two_full_nodes_nothing_that_is_planned_stays_pending_after_an_edit(edit):
    driver = operator(packed(big="60", small="200"), nodes=2)
    settled(driver)
    driver.cluster.edit(packed(**{"big": "60", "small": "200", **edit}))
    settled(driver)


@pytest.mark.slow
def test_on_two_full_nodes_nothing_that_is_planned_stays_pending_after_a_loss_and_a_return():
    driver = operator(packed(big="60", small="200"), nodes=2)
    settled(driver)
    driver.cluster.lose_node("h100-0")
    settled(driver)
    driver.cluster.add_node("h100-0", {"pool": "h100"}, 8)
    settled(driver)


def test_gpus_of_foreign_pods_on_fixed_nodes_are_not_ours():
    driver = operator(plan(pools=[fixed("a100", gpus=2)], budget="100"), nodes=2)
    driver.cluster.add_foreign_pod("a100-0", 2)
    settled(driver)
    assert {pod.node for pod in driver.cluster.our_pods()} == {"a100-1"}


def test_a_foreign_pod_that_comes_and_goes_on_a_fixed_node_is_planned_around():
    driver = operator(plan(model(rate="60"), pools=[fixed("a100", gpus=4)], budget="100"), nodes=2)
    settled(driver)
    free = next(name for name in driver.cluster.nodes if driver.cluster.free_gpus(name) > 0)
    foreign = driver.cluster.add_foreign_pod(free, driver.cluster.free_gpus(free))
    settled(driver)
    driver.cluster.delete_pod(driver.cluster.pods[foreign])
    settled(driver)


# --- pools ----------------------------------------------------------------------------------------------------------


def test_a_pool_that_another_plan_claimed_is_left_to_it():
    driver = operator(plan(pools=[sized(), sized("a100", price="4")], budget="40"))
    driver.cluster.other_plans["other"] = plan()
    driver.cluster.pools["l40s"].claimed_by = "llm/other"
    fleet = settled(driver)
    assert set(fleet.nodes) == {"a100"}
    assert driver.cluster.pools["l40s"].wanted == 0
    assert driver.conditions()["NodePoolsReady"] == "ClaimedByOther"


def test_consent_that_is_withdrawn_is_honoured_and_what_runs_there_counts_until_it_is_given_back():
    driver = operator(plan(pools=[sized(), sized("a100", price="6")], budget="8"))
    assert settled(driver).nodes["l40s"] == 2
    driver.cluster.pools["l40s"].allowed = ()
    driver.act()
    assert driver.cluster.status["cost"]["spendPerHour"] == "4.00", "what runs on the pool is not free"
    for _ in range(150):
        driver.tick()
        pools = driver.cluster.pools
        assert 2 * pools["l40s"].wanted + 6 * pools["a100"].wanted <= 8
        if not driver.cluster.pools["l40s"].wanted:
            break
    assert driver.conditions()["NodePoolsReady"] == "NotAllowed"
    fleet = driver.settle()
    assert fleet.nodes["a100"] > 0
    assert (driver.cluster.pools["l40s"].wanted, driver.cluster.pools["l40s"].claimed_by) == (0, None)


def test_a_pool_whose_owner_withdraws_consent_never_grows():
    driver = operator(plan())
    settled(driver)
    driver.cluster.pools["l40s"].allowed = ()
    driver.cluster.lose_node("l40s-1")
    driver.act()
    driver.cluster.edit(plan(model(rate="30")))
    driver.tick(3)
    assert driver.cluster.pools["l40s"].wanted <= 2


def test_two_pools_of_one_object_are_refused_and_what_runs_is_left_alone():
    driver = operator(plan())
    settled(driver)
    before = {pod.name for pod in driver.cluster.our_pods()}
    copy = sized("l40s", nodeSelector={"pool": "other"}) | {"name": "copied"}
    driver.cluster.edit(plan(pools=[sized(), copy]))
    for _ in range(20):
        driver.tick()
        assert driver.cluster.pools["l40s"].wanted == 2
    assert {pod.name for pod in driver.cluster.our_pods()} == before
    assert driver.conditions()["SpecValid"] == "SpecInvalid"
    assert driver.cluster.status["cost"]["spendPerHour"] == "4.00"
    driver.cluster.edit(plan())
    settled(driver)


def test_a_size_that_another_manager_sets_is_left_alone_until_it_is_given_back():
    driver = operator(plan())
    settled(driver)
    driver.cluster.pools["l40s"].wanted, driver.cluster.pools["l40s"].manager = 3, "somebody"
    for _ in range(6):
        driver.tick()
    assert driver.cluster.pools["l40s"].wanted == 3
    assert driver.conditions()["NodePoolsReady"] == "FieldOwnershipConflict"
    driver.cluster.pools["l40s"].claimed_by = driver.cluster.pools["l40s"].asked = None
    assert settled(driver).nodes == {"l40s": 2}


def test_nothing_grows_while_a_price_is_unknown():
    driver = operator(plan(pools=[sized(price=None)]))
    driver.settle()
    assert driver.cluster.pools["l40s"].wanted == 0
    assert driver.conditions()["WithinBudget"] == "PriceUnknown"
    driver.cluster.edit(plan())
    assert settled(driver).nodes == {"l40s": 2}


def test_what_serves_goes_on_while_a_price_is_unknown():
    driver = operator(plan())
    settled(driver)
    serves_at_least(driver)
    driver.cluster.edit(plan(pools=[sized(price=None)]))
    driver.settle()
    assert driver.conditions()["WithinBudget"] == "PriceUnknown"


def test_two_prices_for_one_pool_are_told():
    driver = operator(plan())
    driver.cluster.other_plans["other"] = plan(pools=[sized(price="3")])
    driver.settle()
    assert driver.conditions()["WithinBudget"] == "PriceDisagreement"


def test_a_pool_that_is_missing_is_told_and_used_once_it_is_there():
    driver = operator(plan())
    pool = driver.cluster.pools.pop("l40s")
    driver.settle()
    assert driver.conditions()["NodePoolsReady"] == "PoolMissing"
    driver.cluster.pools["l40s"] = pool
    assert settled(driver).nodes == {"l40s": 2}


def test_a_pool_that_is_too_large_at_first_is_made_as_large_as_planned():
    driver = operator(plan())
    driver.cluster.pools["l40s"].wanted = 5
    driver.cluster.tick()
    settled(driver)


def test_a_pool_that_leaves_the_spec_loses_its_replicas_once_others_serve():
    both = [sized(), sized("a100", price="9")]
    driver = operator(plan(pools=both, budget="60"))
    settled(driver)
    serves_at_least(driver)
    driver.cluster.edit(plan(pools=both[1:], budget="60"))
    fleet = driver.settle()
    assert {item.pool for item in fleet.replica_sets} == {"a100"}
    assert driver.deployments() == [item.deployment for item in fleet.replica_sets]


def test_a_pool_that_leaves_the_spec_goes_to_its_floor_and_is_given_back():
    both = [sized(), sized("a100", price="9")]
    driver = operator(plan(pools=both, budget="60"))
    settled(driver)
    name = both[0]["resize"]["name"]
    assert driver.cluster.pools[name].wanted > 0
    driver.cluster.edit(plan(pools=both[1:], budget="60"))
    driver.settle()
    pool = driver.cluster.pools[name]
    assert (pool.wanted, pool.claimed_by, driver.cluster.nodes_of(name)) == (0, None, [])


def test_a_pool_that_leaves_and_comes_back_is_the_plans_again():
    both = [sized(), sized("a100", price="9")]
    driver = operator(plan(pools=both, budget="60"))
    before = settled(driver)
    driver.cluster.edit(plan(pools=both[1:], budget="60"))
    driver.tick(2)
    driver.cluster.edit(plan(pools=both, budget="60"))
    assert driver.settle().nodes == before.nodes


def test_a_cordoned_node_keeps_its_replica_and_gets_no_other_where_the_budget_has_room_for_no_successor():
    driver = operator(plan(budget="4"))
    settled(driver)
    before = {pod.name for pod in driver.cluster.our_pods()}
    serves_at_least(driver)
    driver.cluster.nodes["l40s-1"].schedulable = False
    driver.settle()
    assert {pod.name for pod in driver.cluster.our_pods()} == before


def test_replicas_leave_a_node_that_is_being_taken_away_after_their_successors_are_ready():
    driver = operator(plan(pools=[fixed()]), nodes=3)
    settled(driver)
    serves_at_least(driver)
    going = next(pod.node for pod in driver.cluster.our_pods())
    driver.cluster.nodes[going].disrupted = True
    settled(driver)
    assert going not in {pod.node for pod in driver.cluster.our_pods()}


# --- replicas that fail -----------------------------------------------------------------------------------------------


def test_a_replica_that_is_never_ready_is_replaced_after_its_start_up_time():
    quick = model(rate="40", engine={"startupSeconds": 60})
    driver = operator(plan(quick, pools=[sized(maxNodes=10)], budget="40"), never_ready=lambda serial: serial % 10 == 3)
    fleet = settled(driver)
    assert driver.serving_rate(LLAMA) == pytest.approx(40)
    assert sum(replicas(fleet).values()) == len(driver.cluster.our_pods())


def test_a_replica_that_has_served_and_is_not_ready_for_a_moment_stays():
    driver = operator(plan(model(rate="5", engine={"startupSeconds": 60})))
    settled(driver)
    driver.tick(20)
    (serves,) = driver.cluster.our_pods()
    serves.reports_ready = False
    driver.cluster.run_controllers()
    driver.act()
    assert not serves.terminating
    assert driver.decision.failed_shapes == {}
    driver.tick()
    assert driver.serving_rate(LLAMA) == pytest.approx(5)


def test_a_replica_that_never_gets_ready_does_not_block_a_new_image():
    bad = model(engine={"image": "broken", "startupSeconds": 60})
    driver = operator(plan())
    settled(driver)
    serves_at_least(driver)
    broken = driver.cluster
    serial = broken._serial
    broken.never_ready = lambda number: number > serial
    broken.edit(plan(bad))
    driver.tick(20)
    broken.never_ready = lambda number: False
    broken.edit(plan(model(engine={"image": "good", "startupSeconds": 60})))
    settled(driver)


# --- modes, mistakes, crashes -------------------------------------------------------------------------------------------


def test_a_preview_shows_a_plan_and_writes_nothing():
    driver = operator(plan(mode="Preview"))
    assert driver.turn() == 0
    assert driver.decision.waiting is not None
    assert driver.cluster.objects == {}
    assert driver.conditions()["Approved"] == "PreviewOnly"


def test_a_plan_waits_for_its_approval():
    driver = operator(plan(mode="Approve"))
    driver.settle()
    waiting = driver.decision.waiting
    assert waiting is not None
    assert driver.cluster.pools["l40s"].wanted == 0
    driver.cluster.approved = waiting.hash
    settled(driver)
    assert driver.decision.fleet == waiting


def test_growth_waits_for_approval_while_a_lost_replica_leaves_the_weights_at_once():
    driver = operator(plan(mode="Approve"))
    driver.settle()
    driver.cluster.approved = driver.decision.waiting.hash
    settled(driver)
    driver.cluster.edit(plan(model(rate="20"), mode="Approve"))
    driver.settle()
    assert driver.cluster.pools["l40s"].wanted == 2
    driver.cluster.lose_node("l40s-1")
    driver.act()
    driver.check_routing_at_rest()


def test_a_shrink_that_the_budget_forces_does_not_wait_for_approval():
    driver = operator(plan(mode="Approve"))
    driver.settle()
    driver.cluster.approved = driver.decision.waiting.hash
    settled(driver)
    driver.cluster.edit(plan(budget="2", mode="Approve"))
    driver.settle()
    assert driver.spend == 2


def test_what_serves_is_looked_after_while_the_spec_is_wrong():
    driver = operator(plan())
    settled(driver)
    driver.cluster.edit({**plan(), "modles": []})
    driver.cluster.lose_node("l40s-1")
    driver.settle()
    assert driver.conditions()["SpecValid"] == "SpecInvalid"
    assert driver.serving_rate(LLAMA) == pytest.approx(10)


def test_maximising_service_spends_the_budget_on_the_mix_and_follows_it_down():
    driver = operator(plan(objective="MaximizeService", budget="8"))
    fleet = settled(driver)
    assert (fleet.nodes, fleet.scale) == ({"l40s": 4}, pytest.approx(2.35, rel=0.05))
    serves_at_least(driver, 0.5)
    driver.cluster.edit(plan(objective="MaximizeService", budget="4"))
    assert settled(driver).nodes == {"l40s": 2}


@pytest.mark.parametrize("ticks", [0, 1, 3])
def test_a_replica_gets_weight_when_its_service_lists_it_and_the_old_one_stays_until_then(ticks):
    driver = operator(plan(pools=[fixed(gpus=4)]), nodes=1, slice_ticks=ticks)
    settled(driver)
    (old,) = driver.deployments()
    driver.cluster.edit(plan(model(engine=NEW_IMAGE), pools=[fixed(gpus=4)]))
    serves_at_least(driver, 1)
    driver.act()
    (new,) = set(driver.deployments()) - {old}
    ready_at = weighted_at = None
    for _ in range(20):
        driver.tick()
        if ready_at is None and driver.ready(new):
            ready_at = driver.cluster.now
        targets = [target["service"] for target in driver.routing()["models"][LLAMA]["classes"][0]["targets"]]
        weighted_at = weighted_at or (driver.cluster.now if new in targets else None)
    assert (weighted_at - ready_at).total_seconds() == ticks * TICK_SECONDS
    settled(driver)
    assert driver.deployments() == [new]


def test_a_replica_that_no_endpoint_slice_lists_is_told():
    driver = operator(plan(), slice_ticks=1000)
    driver.act()
    driver.tick(12)
    assert driver.conditions()["WorkloadsReady"] == "RollingOut"
    (text,) = [item["message"] for item in driver.cluster.status["conditions"] if item["type"] == "WorkloadsReady"]
    assert text.endswith("0 of 2 ready; 2 not yet in the EndpointSlices of their Services")


@pytest.mark.slow
@pytest.mark.parametrize("edited", [False, True])
def test_a_crash_between_any_two_writes_changes_nothing_about_the_end(edited):
    driver = operator(plan(), slice_ticks=2)
    if edited:
        settled(driver)
        driver.cluster.edit(plan(model(rate="15", engine=NEW_IMAGE)))
    moments = driver.before_each_write = []
    fleet = settled(driver)
    assert len(moments) > 8
    for number, cluster in enumerate(moments):
        cluster.controllers_keep_up = number % 2 == 0
        fresh = Driver(cluster)
        assert settled(fresh).hash == fleet.hash, f"after write {number}"


def test_a_node_that_foreign_pods_hold_is_paid_and_planned_around():
    driver = operator(plan())
    driver.cluster.pools["l40s"].wanted = 1
    driver.cluster.tick()
    driver.cluster.tick()
    driver.cluster.tick()
    driver.cluster.add_foreign_pod("l40s-1", 1)
    driver.settle()
    assert driver.cluster.pools["l40s"].wanted == 3
    assert driver.serving_rate(LLAMA) == pytest.approx(10)


def test_spend_falls_with_the_budget_also_while_the_rest_of_the_spec_cannot_be_planned():
    driver = operator(plan())
    settled(driver)
    unknown = {**model(), "name": "nobody-knows-this"}
    driver.cluster.edit(plan(model(), unknown, budget="2"))
    driver.settle()
    assert driver.conditions()["SpecValid"] == "UnknownModel"
    assert (driver.spend, driver.ready(driver.deployments()[0])) == (2, 1)


# --- replicas that cannot exist ---------------------------------------------------------------------------------------


def test_no_node_is_rented_for_a_deployment_that_the_api_server_refuses():
    driver = operator(plan(model(LLAMA), model("qwen3-8b", "10"), pools=[sized(maxNodes=8)]))
    driver.cluster.refuses = lambda item: item["kind"] == "Deployment" and "qwen3" in item["metadata"]["name"]
    for _ in range(10):
        for _ in range(4):
            driver.turn()
        driver.cluster.tick()
    assert driver.cluster.pools["l40s"].wanted == 2, "only what the other model needs"
    assert driver.serving_rate(LLAMA) == pytest.approx(10)
    assert driver.conditions()["WorkloadsReady"] == "WriteFailed"
    driver.cluster.refuses = lambda item: False
    settled(driver)


def test_no_node_is_rented_for_pods_that_are_not_created():
    driver = operator(plan(model(rate="20")))
    driver.cluster.most_pods = 1
    driver.act()
    driver.tick(10)
    assert driver.cluster.pools["l40s"].wanted == 1
    assert driver.conditions()["WorkloadsReady"] == "ReplicaFailure"
    driver.cluster.most_pods = None
    settled(driver)
    assert driver.serving_rate(LLAMA) == pytest.approx(20)


def test_a_class_whose_replicas_are_all_away_spills_and_the_status_says_so():
    long = {
        "name": "long",
        "inputTokens": 6000,
        "outputTokens": 50,
        "requestsPerSecond": "1",
        "slo": {"ttftSeconds": "0.7"},
    }
    chat = {"name": "chat", "inputTokens": 500, "outputTokens": 250, "requestsPerSecond": "24"}
    pools = [fixed("l40s", price="1"), sized("h100", price="12")]
    driver = operator(plan(model(classes=[long, chat], slo={"ttftSeconds": "3"}), pools=pools, budget="40"), nodes=3)
    fleet = settled(driver)
    takers = {name for item in fleet.replica_sets if item.planned.get("long") for name in [item.pool]}
    others = {item.pool for item in fleet.replica_sets} - takers
    assert (takers, others) == ({"h100"}, {"l40s"}), "the scene needs a pool that cannot serve the class in time"
    for name in [name for name in driver.cluster.nodes if name.startswith("h100")]:
        driver.cluster.lose_node(name)
    driver.turn()
    entry = next(item for item in driver.routing()["models"][LLAMA]["classes"] if item["name"] == "long")
    assert entry["targets"]
    assert entry["degraded"]
    assert driver.conditions()["Degraded"] == "Spilled"
    driver.settle()
    assert "Degraded" not in driver.conditions()


def test_a_queue_holds_pods_and_no_node_is_rented_before_it_lets_them_go():
    driver = operator(plan())
    driver.cluster.queue = "team-a"
    driver.act()
    driver.tick(20)
    assert driver.spend == 0
    assert driver.conditions()["WorkloadsReady"] == "GatedByOther"
    driver.cluster.admit(1)
    driver.tick(20)
    assert (driver.spend, driver.serving_rate(LLAMA)) == (2, pytest.approx(5))
    driver.cluster.admit(1)
    settled(driver)
    assert driver.serving_rate(LLAMA) == pytest.approx(10)


def test_replicas_that_serve_do_not_make_way_for_pods_that_a_queue_holds():
    driver = operator(plan(pools=[fixed()]), nodes=2)
    settled(driver)
    serves_at_least(driver)
    driver.cluster.queue = "team-a"
    driver.cluster.edit(plan(model(engine=NEW_IMAGE), pools=[fixed()]))
    driver.tick(200)
    assert driver.conditions()["WorkloadsReady"] == "GatedByOther"


def test_a_replica_with_answers_under_way_is_removed_when_it_has_none_left():
    driver = operator(plan())
    settled(driver)
    for pod in driver.cluster.our_pods():
        pod.requests_inside = 4
    driver.cluster.edit(plan(model(rate="5")))
    driver.tick(12)
    (leaving,) = [pod for pod in driver.cluster.our_pods() if pod.draining_since is not None]
    assert not leaving.terminating
    leaving.requests_inside = 0
    settled(driver)
    assert leaving.name not in driver.cluster.pods


def test_a_replica_that_never_ends_its_answers_is_removed_at_the_deadline():
    driver = operator(plan())
    settled(driver)
    driver.cluster.edit(plan(model(rate="5"), change={"drainDeadlineSeconds": 100}))
    driver.act()
    for pod in driver.cluster.our_pods():
        pod.requests_inside = 4
    driver.tick(9)
    assert len(driver.cluster.our_pods()) == 2
    settled(driver)
    assert len(driver.cluster.our_pods()) == 1


def test_an_autoscaler_on_a_deployment_is_told_by_name_and_not_fought_at_every_turn():
    driver = operator(plan())
    (replica_set,) = settled(driver).replica_sets
    name = replica_set.deployment
    for _ in range(3):
        driver.cluster.scale(name, 3, "keda-operator")
        driver.tick(5)
        assert driver.cluster.objects["Deployment", name]["spec"]["replicas"] == 3, "theirs is left for a minute"
        driver.tick(2)
        assert driver.cluster.objects["Deployment", name]["spec"]["replicas"] == 2
        told = next(item for item in driver.cluster.status["conditions"] if item["type"] == "WorkloadsReady")
        assert (told["status"], told["reason"]) == ("False", "ReplicasSetByOther")
        assert "keda-operator" in told["message"]
    driver.tick(61)
    settled(driver)
    assert conditions_that_fail(driver) == {}


def test_replicas_that_somebody_takes_away_are_set_back_in_the_next_turn_and_told_by_name():
    driver = operator(plan())
    (replica_set,) = settled(driver).replica_sets
    driver.cluster.scale(replica_set.deployment, 0, "kubectl-scale")
    driver.tick()
    assert driver.cluster.objects["Deployment", replica_set.deployment]["spec"]["replicas"] == 2
    driver.tick(2)
    told = next(item for item in driver.cluster.status["conditions"] if item["type"] == "WorkloadsReady")
    assert told["reason"] == "ReplicasSetByOther"
    assert "kubectl-scale" in told["message"]


def test_more_replicas_than_planned_that_somebody_set_rent_nothing():
    driver = operator(plan())
    (replica_set,) = settled(driver).replica_sets
    driver.cluster.scale(replica_set.deployment, 5, "kube-controller-manager")
    driver.tick(3)
    assert driver.spend == 4
    assert driver.conditions()["WorkloadsReady"] == "ReplicasSetByOther"
    settled(driver)


# --- a budget below what runs -----------------------------------------------------------------------------------------


def unanswered_ticks(driver, name, *, ticks=40):
    """Moments at which a model is answered with 503 while more is paid than the budget."""
    found = 0
    for _ in range(ticks):
        driver.tick()
        entries = driver.routing()["models"][name]["classes"]
        found += not all(entry["targets"] for entry in entries) and driver.spend > driver.budget
    return found


def test_what_a_lower_budget_takes_away_serves_until_it_is_removed():
    high, low = model(LLAMA, "10", priority=10), model("qwen3-8b", "10", priority=1)
    driver = operator(plan(high, low, budget="12"), stop_ticks=1)
    settled(driver)
    serves_at_least(driver)
    driver.cluster.edit(plan(high, low, budget="4"))
    assert unanswered_ticks(driver, "qwen3-8b") <= 1, "the time to stop, and no drain of half a minute before it"
    settled(driver)
    assert driver.spend == 4


def test_a_class_that_others_still_serve_is_drained_before_its_replicas_go():
    driver = operator(plan(model(rate="20")))
    settled(driver)
    driver.cluster.edit(plan(model(rate="20"), budget="4"))
    driver.act()
    assert any(pod.draining_since for pod in driver.cluster.our_pods())
    assert not any(pod.terminating for pod in driver.cluster.our_pods())
    assert unanswered_ticks(driver, LLAMA) == 0


def test_a_budget_below_one_node_is_told_a_minute_before_it_is_carried_out():
    driver = operator(plan(), stop_ticks=1)
    settled(driver)
    serves_at_least(driver)
    driver.cluster.edit(plan(budget="1"))
    driver.tick(5)
    told = next(item for item in driver.cluster.status["conditions"] if item["type"] == "WithinBudget")
    assert (told["status"], told["reason"]) == ("False", "BudgetBelowOneNode")
    assert driver.cluster.status["notice"]["until"] in told["message"]
    assert driver.cluster.status["served"] == "100%"
    assert driver.spend == 4
    driver.serving_floor = {}
    assert unanswered_ticks(driver, LLAMA) <= 1
    settled(driver)
    assert driver.spend == 0
    assert "notice" not in driver.cluster.status


def test_a_budget_below_one_node_that_is_taken_back_in_time_does_no_harm():
    driver = operator(plan())
    settled(driver)
    serves_at_least(driver)
    driver.cluster.edit(plan(budget="1"))
    driver.tick(4)
    driver.cluster.edit(plan())
    settled(driver)
    assert "notice" not in driver.cluster.status


def test_with_approval_a_budget_below_one_node_waits_for_it():
    driver = operator(plan())
    settled(driver)
    serves_at_least(driver)
    driver.cluster.edit(plan(budget="1", mode="Approve"))
    driver.tick(30)
    proposed = driver.cluster.status["proposedPlanHash"]
    told = next(item for item in driver.cluster.status["conditions"] if item["type"] == "WithinBudget")
    assert told["reason"] == "BudgetBelowOneNode"
    assert proposed in told["message"]
    driver.serving_floor = {}
    driver.cluster.approved = proposed
    settled(driver)
    assert driver.spend == 0


def floor(budget, *, rate="5", **more):
    return plan(model(rate=rate), pools=[sized(price="10", minNodes=1)], budget=budget, **more)


@pytest.mark.parametrize("mode", ["Auto", "Approve", "Preview"])
def test_a_budget_below_a_floor_takes_nothing_from_the_nodes_that_are_paid_anyway(mode):
    driver = operator(floor("40"))
    settled(driver)
    serves_at_least(driver)
    driver.cluster.edit(floor("5", mode=mode))
    driver.tick(20)
    assert driver.decision.notice is None
    assert (driver.spend, driver.serving_rate(LLAMA)) == (10, pytest.approx(5))
    assert conditions_that_fail(driver)["PlanSolved"] == "Infeasible"
    driver.cluster.edit(floor("40"))
    settled(driver)


@pytest.mark.parametrize("mode", ["Auto", "Approve", "Preview"])
def test_a_budget_below_a_floor_takes_what_is_beyond_it_and_the_new_plan_waits_where_the_mode_says_so(mode):
    driver = operator(floor("40", rate="10"))
    before = settled(driver)
    serves_at_least(driver, 0.5)
    driver.cluster.edit(floor("5", rate="10", mode=mode))
    driver.tick(20)
    assert driver.spend == 10
    less, waits = {"l40s": 1}, mode != "Auto"
    assert driver.decision.fleet.nodes == (before.nodes if waits else less)
    assert (driver.decision.waiting.nodes if waits else None) == (less if waits else None)
    driver.cluster.approved = driver.cluster.status.get("proposedPlanHash")
    driver.tick(5)
    assert driver.decision.fleet.nodes == (before.nodes if mode == "Preview" else less)
    assert driver.spend == 10


# --- what nodes say ---------------------------------------------------------------------------------------------------


def test_nodes_of_another_card_than_declared_are_told_and_the_plan_goes_on_without_them():
    driver = operator(plan(pools=[sized(), sized("a100", price="9")], budget="40"))
    driver.cluster.pools["l40s"].labels["nvidia.com/gpu.product"] = "NVIDIA-L4"
    driver.tick(30)
    told = next(item for item in driver.cluster.status["conditions"] if item["type"] == "NodePoolsReady")
    assert (told["status"], told["reason"]) == ("False", "FalseDeclaration")
    for word in ("nodePools[l40s].gpu is L40S", "node l40s-", "nvidia.com/gpu.product=NVIDIA-L4"):
        assert word in told["message"]
    assert driver.serving_rate(LLAMA) == pytest.approx(10)
    assert {pod.node.partition("-")[0] for pod in driver.cluster.our_pods()} == {"a100"}
    bought = driver.cluster.pools["l40s"].wanted
    driver.cluster.edit(plan(model(rate="20"), pools=[sized(), sized("a100", price="9")], budget="40"))
    driver.tick(30)
    assert driver.cluster.pools["l40s"].wanted == bought, "nothing more is bought on it"
    driver.cluster.edit(plan(pools=[sized("a100", price="9")], budget="40"))
    settled(driver)
    assert driver.cluster.pools["l40s"].wanted == 0


def test_a_replica_that_serves_on_a_node_that_says_otherwise_goes_on_serving():
    driver = operator(plan())
    settled(driver)
    serves_at_least(driver)
    for node in driver.cluster.nodes.values():
        node.labels["nvidia.com/gpu.product"] = "NVIDIA-L4"
    driver.tick(20)
    assert driver.conditions()["NodePoolsReady"] == "FalseDeclaration"
    driver.cluster.edit(plan(model(rate="20")))
    driver.tick(20)
    assert driver.cluster.pools["l40s"].wanted == 2


def test_fewer_gpus_than_declared_are_used_as_they_are_and_no_more_is_bought():
    pools = [sized("a100", gpus=8, price="8")]
    driver = operator(plan(model(rate="200"), pools=pools, budget="60"))
    driver.cluster.pools["a100"].gpus = 4
    driver.tick(30)
    assert driver.conditions()["NodePoolsReady"] == "FalseDeclaration"
    assert all(driver.cluster.free_gpus(name) == 0 for name in driver.cluster.nodes), "what is paid for is used"
    bought = driver.cluster.pools["a100"].wanted
    driver.cluster.edit(plan(model(rate="400"), pools=pools, budget="60"))
    driver.tick(10)
    assert driver.cluster.pools["a100"].wanted == bought


def test_over_the_budget_a_pool_that_contradicts_the_plan_is_given_back():
    driver = operator(plan(pools=[sized(), sized("a100", price="9")], budget="40"))
    driver.cluster.pools["l40s"].labels["nvidia.com/gpu.product"] = "NVIDIA-L4"
    driver.tick(30)
    assert driver.cluster.pools["l40s"].wanted > 0
    driver.cluster.edit(plan(pools=[sized(), sized("a100", price="9")], budget="10"))
    driver.tick(30)
    assert driver.spend <= 10


def test_fixed_nodes_that_are_not_there_are_told_by_their_selector():
    driver = operator(plan(pools=[fixed()]))
    driver.act()
    told = next(item for item in driver.cluster.status["conditions"] if item["type"] == "PlanSolved")
    assert told["reason"] == "NoCapacity"
    assert "0 nodes match spec.nodePools[l40s].nodeSelector {pool: l40s}" in told["message"]
