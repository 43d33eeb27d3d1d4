"""Replicas over several nodes: groups of pods that come, serve, are lost and leave together."""

import pytest

from servingplan.decide.decide import decide
from servingplan.decide.proposal import proposal
from servingplan.decide.transition import transition_in_force
from servingplan.planning.situation import Situation
from tests.simulated.driver import exact
from tests.simulated.plans import model, operator, plan, sized

LARGE = "llama-3.1-405b"
SLOW = {"ttftSeconds": "10", "tpotSeconds": "0.3"}


def large(rate="0.1", **more):
    """A model that needs two nodes of eight A100."""
    return {**model(LARGE, rate, **more), "slo": SLOW}


def over_nodes(*models, budget="100", **more):
    pool = sized("a100", gpus=8, price="29", zone="z1", **more)
    return plan(*(models or (large(),)), pools=[pool], budget=budget)


def running(spec=None, **cluster):
    driver = operator(spec or over_nodes(), leader_worker_sets=True, **cluster)
    driver.settle()
    return driver


def groups(driver):
    """Nodes of each group that has any, by its leader."""
    pods = driver.cluster.our_pods()
    return {
        leader.name: [pod.node for pod in pods if pod is leader or pod.leader == leader.uid]
        for leader in pods
        if not leader.rank and leader.node is not None
    }


def targets(driver):
    (item,) = driver.routing()["models"].values()
    return [target["service"] for entry in item["classes"] for target in entry["targets"]]


def test_a_model_that_needs_two_nodes_comes_to_serve_from_nothing():
    driver = running()
    driver.check_settled()
    (item,) = driver.decision.fleet.replica_sets
    assert (item.nodes, item.replicas, driver.decision.fleet.nodes) == (2, 1, {"a100": 2})
    assert groups(driver) == {f"{item.deployment}-0": ["a100-1", "a100-2"]}
    assert targets(driver) == [item.deployment]
    assert driver.conditions()["WorkloadsReady"] == "AsPlanned"
    assert driver.serving_rate(LARGE) == pytest.approx(0.1)


def lost(driver, node):
    """A node goes; what the operator does at once."""
    driver.cluster.lose_node(node)
    driver.act()


@pytest.mark.parametrize("node", ["a100-1", "a100-2"])
def test_a_group_that_loses_a_node_has_no_weight_and_comes_again_as_a_whole(node):
    driver = running()
    uids = {pod.uid for pod in driver.cluster.our_pods()}
    lost(driver, node)
    assert targets(driver) == []
    driver.settle()
    driver.check_settled()
    assert uids.isdisjoint(pod.uid for pod in driver.cluster.our_pods())
    (kept,) = {"a100-1", "a100-2"} - {node}
    (nodes,) = groups(driver).values()
    assert sorted(nodes) == sorted([kept, "a100-3"])
    assert targets(driver) == [item.deployment for item in driver.decision.fleet.replica_sets]


def test_a_worker_that_is_evicted_takes_its_group_with_it():
    driver = running()
    (worker,) = [pod for pod in driver.cluster.our_pods() if pod.rank]
    driver.cluster.delete_pod(worker)
    driver.tick()
    assert targets(driver) == []
    driver.settle()
    driver.check_settled()
    assert sorted(next(iter(groups(driver).values()))) == ["a100-1", "a100-2"]


def test_no_pod_of_a_group_is_let_go_before_all_of_its_nodes_are_there():
    driver = operator(over_nodes(), leader_worker_sets=True)
    driver.cluster.pools["a100"].provider_has = 1
    for _ in range(20):
        driver.tick()
        assert len(driver.cluster.nodes) <= 1
        assert all(pod.gated for pod in driver.cluster.our_pods())
    driver.cluster.pools["a100"].provider_has = 2
    driver.settle()
    driver.check_settled()


def test_an_operator_that_dies_between_two_pods_of_a_group_is_followed_by_one_that_goes_on():
    driver = operator(over_nodes(), leader_worker_sets=True)
    driver.act()
    driver.cluster.tick()
    driver.cluster.tick()
    for _ in range(20):
        driver.dies_in = 1
        driver.attempt()
        driver.cluster.run_controllers()
        if any(not pod.gated for pod in driver.cluster.our_pods()):
            break
        driver.cluster.tick()
    assert sorted(pod.gated for pod in driver.cluster.our_pods()) == [False, True]
    driver.dies_in = None
    driver.settle()
    driver.check_settled()
    assert len(groups(driver)) == 1


def test_of_two_groups_the_one_on_the_cordoned_node_goes_once_another_serves():
    driver = running(over_nodes(large("5"), maxNodes=8, budget="300"))
    before = groups(driver)
    assert len(before) >= 2
    first = min(before)
    driver.serving_floor = {LARGE: 5 / 2}
    driver.cluster.nodes[before[first][0]].schedulable = False
    driver.settle()
    driver.serving_floor = {}
    after = groups(driver)
    assert first not in after
    assert {name: nodes for name, nodes in before.items() if name != first}.items() <= after.items()
    assert len(after) == len(before)
    driver.check_settled()


def test_a_smaller_plan_removes_the_last_group_and_its_nodes():
    driver = running(over_nodes(large("5"), maxNodes=8, budget="300"))
    before = groups(driver)
    driver.cluster.edit(over_nodes(large("0.1"), maxNodes=8, budget="300"))
    driver.settle()
    driver.check_settled()
    assert groups(driver).items() < before.items()
    assert len(driver.cluster.nodes) == 2


def test_a_group_that_ends_on_a_silent_node_does_not_hold_up_its_successor():
    driver = running(over_nodes(maxNodes=4, budget="200"))
    driver.cluster.nodes["a100-2"].ready = False
    for _ in range(30):
        driver.tick()
    assert driver.conditions()["WorkloadsReady"] == "AsPlanned"
    assert len(targets(driver)) == 1


def test_for_a_group_whose_workers_are_refused_no_node_is_asked():
    driver = operator(over_nodes(), leader_worker_sets=True)
    driver.cluster.most_pods = 1
    for _ in range(10):
        driver.tick()
    assert driver.cluster.pools["a100"].wanted == 0
    assert "no group of" in next(
        item["message"] for item in driver.cluster.status["conditions"] if item["type"] == "WorkloadsReady"
    )


def test_a_group_in_a_queue_is_placed_once_all_of_it_is_admitted():
    driver = operator(over_nodes(), leader_worker_sets=True)
    driver.cluster.queue = "team"
    driver.act()
    for admitted in (0, 1):
        driver.cluster.admit(admitted)
        driver.tick(3)
        assert driver.cluster.pools["a100"].wanted == 0
    driver.cluster.admit(1)
    driver.settle()
    driver.check_settled()


def test_a_number_of_groups_that_somebody_else_sets_is_told_and_set_again():
    driver = running(over_nodes(maxNodes=4, budget="200"))
    (name,) = driver.deployments()
    driver.cluster.scale(name, 2, "hpa")
    driver.tick()
    assert driver.conditions()["WorkloadsReady"] == "ReplicasSetByOther"
    driver.settle()
    driver.check_settled()
    assert driver.cluster.objects["LeaderWorkerSet", name]["spec"]["replicas"] == 1


def test_a_plan_that_is_deleted_takes_its_groups_with_it():
    driver = running()
    driver.cluster.deleting_since = driver.cluster.time
    for _ in range(60):
        driver.cluster.tick()
        if driver.retire():
            break
    assert driver.cluster.our_pods() == []
    assert (driver.cluster.pools["a100"].wanted, driver.cluster.pools["a100"].claimed_by) == (0, None)


def test_a_group_that_crashes_is_made_anew_and_its_shape_left_out_in_the_end():
    driver = operator(over_nodes(), leader_worker_sets=True)
    driver.cluster.crashes = lambda pod: "Error (exit code 1): out of memory"
    for _ in range(40):
        driver.tick()
        if any(item.until for item in driver.decision.failed_shapes.values()):
            break
    (failed,) = driver.decision.failed_shapes.values()
    assert failed.until is not None
    assert "out of memory" in failed.message


def test_a_budget_below_two_nodes_takes_the_whole_group():
    driver = running()
    driver.cluster.edit(over_nodes(budget="30"))
    driver.settle()
    assert groups(driver) == {}
    assert driver.cluster.pools["a100"].wanted == 0


def test_a_group_below_others_that_waits_for_nothing_holds_up_no_successor():
    """Of two groups the first has gone; then a new image comes where the budget has no room for both kinds."""
    driver = running(over_nodes(large("5"), maxNodes=8, budget="240"))
    first = min(groups(driver))
    driver.cluster.nodes[groups(driver)[first][0]].schedulable = False
    driver.settle()
    assert first not in groups(driver)
    newer = {"engine": {"image": "vllm/vllm-openai:v0.19.0"}}
    driver.cluster.edit(over_nodes(large("5", **newer), maxNodes=8, budget="120"))
    driver.settle()
    driver.check_settled()
    assert len(groups(driver)) == 2


NEWER = {"engine": {"image": "vllm/vllm-openai:v0.19.0"}}
ROOM = {"maxNodes": 8, "budget": "300"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, over_nodes()),
        (over_nodes(large("1"), **ROOM), over_nodes(large("5"), **ROOM)),
        (over_nodes(large("5"), **ROOM), over_nodes(large("1"), **ROOM)),
        (over_nodes(**ROOM), over_nodes(large(**NEWER), **ROOM)),
        (over_nodes(budget="60"), over_nodes(large(**NEWER), budget="60")),
    ],
    ids=["from nothing", "more demand", "less demand", "a new image, and room", "a new image, and no room"],
)
def test_the_steps_to_a_plan_with_groups_are_told_and_end_at_it(before, after):
    driver = operator(before or after, leader_worker_sets=True, boot_ticks=3, start_ticks=3)
    if before is not None:
        driver.settle()
        driver.cluster.edit(after)
    driver.turn()
    situation = Situation(driver.cluster.observe())
    decision = decide(situation, exact)
    found = transition_in_force(situation, decision)
    assert found.reaches
    budget = float(after["budget"]["dollarsPerHour"])
    assert all(step.dollars_per_hour <= budget for step in found.steps)
    fleet = driver.settle()
    driver.check_settled()
    assert found.steps[-1].dollars_per_hour == pytest.approx(fleet.dollars_per_hour)


def test_the_steps_end_at_the_plan_beside_a_group_that_waits_for_nothing():
    driver = running(over_nodes(large("5"), **ROOM))
    first = min(groups(driver))
    driver.cluster.nodes[groups(driver)[first][0]].schedulable = False
    driver.settle()
    assert first not in groups(driver)
    driver.cluster.edit(over_nodes(large("9"), **ROOM))
    driver.turn()
    situation = Situation(driver.cluster.observe())
    assert transition_in_force(situation, decide(situation, exact)).reaches


def test_what_waits_for_approval_tells_its_groups():
    driver = operator({**over_nodes(), "mode": "Approve"}, leader_worker_sets=True)
    driver.turn()
    situation = Situation(driver.cluster.observe())
    decision = decide(situation, exact)
    (item,) = decision.waiting.replica_sets
    found = proposal(situation, decision, None, decision.waiting)
    assert {f"LeaderWorkerSet/{item.deployment}", f"Service/{item.deployment}"} <= set(found.created)
    assert found.transition.reaches
