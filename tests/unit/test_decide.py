"""A turn is a pure function of what it saw."""

import json
import random

import pytest

from servingplan.api.status_v1alpha1 import PlanStatus
from servingplan.cli.imagine import imagined_world
from servingplan.decide.decide import decide, publish
from servingplan.decide.replan import HURRIED_SECONDS
from servingplan.decide.retirement import retire
from servingplan.model.actions import ApplyObject, ClaimPool, PlacePod, ResizePool
from servingplan.model.outcome import Outcome
from servingplan.model.times import seconds_between
from servingplan.model.world import Failure, LiveObject, NamespaceBudget, Observation, OtherPlan, PoolObject
from servingplan.planning.situation import Situation
from servingplan.status.conclude import conclude
from servingplan.status.events import retirement_events
from servingplan.status.exceptional import retiring
from tests.simulated.driver import exact
from tests.simulated.plans import fixed, model, operator, plan, sized


def decided(world):
    return decide(Situation(world), exact)


def moments():
    """Observations from the midst of a busy life."""
    driver = operator(plan(model(), model("qwen3-8b", "4"), pools=[sized(), fixed("a100", gpus=2)]), nodes=2)
    yield driver.cluster.observe()
    for edit in (None, "8", "v2", "lost"):
        if edit == "v2":
            driver.cluster.edit(plan(model(engine={"image": "v2"}), pools=[sized(), fixed("a100", gpus=2)]))
        elif edit == "8":
            driver.cluster.edit(plan(model(), pools=[sized(), fixed("a100", gpus=2)], budget="8"))
        elif edit == "lost":
            driver.cluster.lose_node(min(driver.cluster.nodes))
        driver.turn()
        for _ in range(4):
            yield driver.cluster.observe()
            driver.tick()


MOMENTS = list(moments())


@pytest.mark.parametrize("index", range(len(MOMENTS)))
def test_an_observation_that_was_written_down_decides_the_same_to_the_byte(index):
    world = MOMENTS[index]
    again = Observation.model_validate_json(json.dumps(json.loads(world.model_dump_json())))
    assert again == world
    assert decided(again).model_dump_json() == decided(world).model_dump_json()
    assert publish(Situation(again)) == publish(Situation(world))


@pytest.mark.parametrize("index", range(len(MOMENTS)))
def test_the_order_in_which_things_were_read_does_not_matter(index):
    world = MOMENTS[index]
    chance = random.Random(index)

    def shuffled(items):
        return tuple(chance.sample(items, len(items)))

    raw = {**world.plan.spec, "nodePools": list(reversed(world.plan.spec["nodePools"]))}
    for spec in (world.plan.spec, raw):
        other = world.model_copy(
            update={
                "plan": world.plan.model_copy(update={"spec": spec}),
                "nodes": shuffled(world.nodes),
                "pods": shuffled(world.pods),
                "objects": shuffled(world.objects),
                "pools": shuffled(world.pools),
            }
        )
        mine, theirs = decided(world), decided(other)
        if spec is world.plan.spec:
            assert set(map(str, mine.actions)) == set(map(str, theirs.actions))
        assert mine.fleet == theirs.fleet
        assert mine.ready == theirs.ready


def test_a_source_that_could_not_be_read_keeps_everything_as_it_is():
    world = MOMENTS[3].model_copy(
        update={"failures": (Failure(source="pods", reason="ReadForbidden", message="pods: forbidden"),)}
    )
    decision = decided(world)
    assert (decision.actions, publish(Situation(world))) == ((), ())
    assert [item.reason for item in decision.findings] == ["ReadForbidden"]
    assert decision.fleet is not None


@pytest.mark.parametrize("source", ["other plans", "LeaderWorkerSets", "Services", "nodes"])
def test_weights_need_pods_slices_and_the_record_and_nothing_else(source):
    driver = operator(plan())
    driver.settle()
    driver.cluster.lose_node("l40s-1")
    world = driver.cluster.observe()
    failed = world.model_copy(update={"failures": (Failure(source=source, reason="ReadFailed", message="away"),)})
    assert publish(Situation(failed)) == publish(Situation(world)) != ()


def test_a_turn_goes_on_where_only_the_prices_of_other_plans_are_unread():
    driver = operator(plan())
    driver.settle()
    world = driver.cluster.observe()
    failed = world.model_copy(update={"failures": (Failure(source="other plans", reason="ReadFailed", message="x"),)})
    status = conclude(Situation(failed), decided(failed), Outcome())
    found = {item.type: (item.status, item.reason) for item in status.conditions}
    assert found["InventoryAvailable"] == ("True", "ReadFailed")
    assert found["Ready"][0] == "True"


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), RuntimeError(), AssertionError("a proof that failed")])
def test_whatever_a_solver_raises_is_a_condition_and_what_runs_is_kept(error):
    driver = operator(plan())
    driver.settle()
    driver.cluster.edit(plan(model(rate="20")))

    def broken(*asked, **more):
        raise error

    decision = decide(Situation(driver.cluster.observe()), broken)
    assert [(item.condition, item.reason) for item in decision.findings] == [("PlanSolved", "SolverError")]
    assert type(error).__name__ in decision.findings[0].message
    assert decision.fleet == driver.decision.fleet
    assert decision.grow == ()


def test_a_config_map_of_somebody_else_is_left_alone():
    driver = operator(plan())
    driver.cluster.objects["ConfigMap", "chat-routing"] = {"kind": "ConfigMap", "metadata": {}, "data": {}}
    driver.cluster.foreign_objects.add(("ConfigMap", "chat-routing"))
    assert driver.turn() == 0
    assert driver.conditions()["RoutingPublished"] == "NameTaken"


def test_a_plan_is_kept_for_its_least_lifetime_and_then_gives_way_to_a_better_one():
    pools = [fixed("a100", price="10"), fixed("l40s", price="1")]
    driver = operator(plan(model(rate="5"), pools=pools))
    driver.cluster.add_node("a100-0", {"pool": "a100"}, 1)
    driver.turn()
    driver.cluster.add_node("l40s-0", {"pool": "l40s"}, 1)
    driver.act()
    driver.tick(50)
    assert (driver.decision.fleet.dollars_per_hour, driver.decision.wake_in_seconds) == (10, 100)
    fleet = driver.settle()
    assert fleet.dollars_per_hour == 1
    driver.check_settled()


def test_a_cheaper_plan_takes_over_once_the_present_one_has_cost_as_much_more_as_the_move():
    """A start of 1,000 s on a node of 8 $/h costs 2.22 $, which 2 $/h bring back in 4,000 s."""
    driver = operator(
        plan(model(rate="5"), pools=[fixed("a100", price="10"), fixed("l40s", price="8")]), start_ticks=100
    )
    driver.cluster.add_node("a100-0", {"pool": "a100"}, 1)
    driver.settle()
    (times,) = driver.decision.start_times.values()
    assert times.seconds == (1000,)
    driver.cluster.add_node("l40s-0", {"pool": "l40s"}, 1)
    driver.act()
    age = seconds_between(driver.decision.in_force_since, driver.cluster.time)
    assert (driver.decision.fleet.dollars_per_hour, driver.decision.wake_in_seconds) == (10, 4000 - age)
    driver.tick(int(3990 - age) // 10)
    assert driver.decision.fleet.dollars_per_hour == 10
    assert driver.settle().dollars_per_hour == 8


def test_after_a_loss_the_first_good_plan_is_taken_and_the_best_one_sought_in_the_next_turn():
    asked = []

    def slow(question, spec, at_most_seconds=None, **_):
        """A solver that proves nothing in a hurry."""
        asked.append(at_most_seconds)
        answer = exact(question, spec)
        levels = tuple(level.model_copy(update={"proved": level.name != "dollars"}) for level in answer.levels)
        cut = {"stopped": "deadline", "status": "Feasible", "levels": levels}
        return answer.model_copy(update=cut) if at_most_seconds else answer

    pools = [fixed("a100", price="10"), fixed("l40s", price="20")]
    driver = operator(plan(model(rate="5"), pools=pools), solve=slow)
    for pool in ("a100", "l40s"):
        driver.cluster.add_node(f"{pool}-0", {"pool": pool}, 1)
    driver.settle()
    assert asked == [None]
    driver.cluster.lose_node("a100-0")
    driver.turn()
    assert asked[1:] == [HURRIED_SECONDS]
    assert driver.decision.fleet.nodes == {"l40s": 1}
    driver.settle()
    assert asked[2:] == [None]
    driver.check_settled()


def retired(driver, ticks=300):
    """The last step of a retirement."""
    for _ in range(ticks):
        if driver.retire():
            return retire(Situation(driver.world))
        driver.cluster.tick()
    raise AssertionError(f"the plan does not go: {retire(Situation(driver.world)).left}")


def test_a_deletion_that_is_seen_late_still_takes_everything_back():
    """The operator was away: what counts is when the retirement begins, not when the deletion was asked for."""
    driver = operator(plan())
    driver.settle()
    driver.cluster.deleting_since = "2025-12-31T00:00:00Z"
    assert retired(driver).late is False
    pool = driver.cluster.pools["l40s"]
    assert (pool.wanted, pool.claimed_by, driver.cluster.our_pods()) == (0, None, [])


def test_a_pool_whose_nodes_contradict_the_plan_is_given_back_all_the_same():
    driver = operator(plan())
    driver.settle()
    for node in driver.cluster.nodes_of("l40s"):
        node.labels["nvidia.com/gpu.product"] = "NVIDIA-H100-80GB-HBM3"
    driver.cluster.deleting_since = driver.cluster.time
    assert retired(driver).late is False
    pool = driver.cluster.pools["l40s"]
    assert (pool.wanted, pool.claimed_by) == (0, None)


def test_a_deletion_waits_for_a_pool_that_cannot_be_read_and_names_it():
    driver = operator(plan())
    driver.settle()
    world = driver.cluster.observe()
    unread = tuple(pool.model_copy(update={"problem_reason": "ReadFailed", "problem": "away"}) for pool in world.pools)
    asked = world.plan.model_copy(update={"deleting_since": world.now})
    step = retire(Situation(world.model_copy(update={"pools": unread, "plan": asked, "pods": ()})))
    assert not step.done
    assert any("size cannot be read" in line for line in step.left), step.left


def test_a_drain_as_long_as_is_allowed_is_waited_for():
    driver = operator(plan(change={"drainSeconds": 3600}))
    driver.settle()
    driver.cluster.deleting_since = driver.cluster.time
    assert retired(driver, ticks=600).late is False
    assert driver.cluster.pools["l40s"].wanted == 0


def test_replicas_that_take_long_to_end_are_waited_for():
    slow = {"podTemplate": {"spec": {"terminationGracePeriodSeconds": 3000}}}
    driver = operator(plan(model(engine=slow)), stop_ticks=290)
    driver.settle()
    driver.cluster.deleting_since = driver.cluster.time
    assert retired(driver, ticks=600).late is False
    assert driver.cluster.pools["l40s"].wanted == 0


def test_replicas_that_would_end_in_no_time_of_people_hold_a_plan_no_longer_than_a_day():
    endless = {"podTemplate": {"spec": {"terminationGracePeriodSeconds": 2**63 - 1}}}
    driver = operator(plan(model(engine=endless)))
    driver.settle()
    driver.cluster.deleting_since = driver.cluster.time
    step = retire(Situation(driver.cluster.observe()))
    assert 24 * 3600 <= seconds_between(step.since, step.until) <= 26 * 3600


def test_a_provider_that_is_stuck_holds_a_plan_no_longer_than_its_time_and_what_is_left_is_told():
    driver = operator(plan(), stop_ticks=100_000)
    driver.settle()
    cluster = driver.cluster
    cluster.deleting_since = cluster.time
    step = retired(driver)
    assert step.late
    assert "1 replica of" in step.left[0]
    posted = retirement_events(cluster.observe(), step, Outcome())
    assert [(event.reason, event.about) for event in posted] == [("LeftBehind", "namespace")]
    assert cluster.pools["l40s"].claimed_by is None


def test_a_retirement_is_told_from_its_first_step():
    driver = operator(plan())
    driver.settle()
    driver.cluster.deleting_since = driver.cluster.time
    world = driver.cluster.observe()
    step = retire(Situation(world))
    status = PlanStatus.model_validate(retiring(world.plan, step, world.now))
    ready = next(item for item in status.conditions if item.type == "Ready")
    assert (ready.status, ready.reason, status.retirement.since) == ("False", "Retiring", world.now)
    assert (
        "left: 1 replica of chat-llama-3-1-8b-23d830, 1 node asked of NodePool l40s, which goes to 0;" in ready.message
    )
    assert status.plan_hash == world.plan.status["planHash"]
    assert [event.reason for event in retirement_events(world, step, Outcome())] == ["Retiring"]


def test_a_deleted_plan_drains_returns_its_pools_and_releases_them():
    driver = operator(plan())
    driver.settle()
    cluster = driver.cluster
    cluster.deleting_since = cluster.time
    assert retired(driver).late is False
    assert (cluster.pools["l40s"].wanted, cluster.pools["l40s"].claimed_by) == (0, None)
    assert cluster.our_pods() == []


def test_a_deleted_plan_that_retains_only_lets_its_pools_go():
    driver = operator(plan(deletionPolicy="Retain"))
    driver.settle()
    step = retire(Situation(driver.cluster.observe()))
    assert step.done
    assert all(isinstance(action, ClaimPool) for action in step.decision.actions)


def test_every_action_says_why():
    actions = [action for world in MOMENTS for action in decided(world).actions]
    assert any(isinstance(action, PlacePod) for action in actions)
    assert all(action.why for action in actions)


LARGE = {
    "apiVersion": "servingplan.dev/v1alpha1",
    "kind": "LLMServingPlan",
    "metadata": {"name": "large", "namespace": "llm"},
    "spec": {
        "budget": {"dollarsPerHour": "100"},
        "models": [
            {
                "name": "llama-3.1-405b",
                "slo": {"ttftSeconds": "10", "tpotSeconds": "0.3"},
                "classes": [{"name": "chat", "inputTokens": 496, "outputTokens": 253, "requestsPerSecond": "0.1"}],
            }
        ],
        "nodePools": [
            {
                "name": "a100",
                "gpu": "A100-SXM4-80GB",
                "gpusPerNode": 8,
                "dollarsPerNodeHour": "29",
                "zone": "z1",
                "maxNodes": 4,
                "nodeSelector": {"pool": "a100"},
                "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "a100"},
            }
        ],
    },
}


def test_without_leader_worker_sets_the_operator_plans_nothing_over_several_nodes():
    decision = decided(imagined_world(LARGE))
    assert (decision.fleet, decision.waiting, decision.actions) == (None, None, ())
    assert [item.reason for item in decision.findings] == ["NoFittingShape"]
    assert "it would fit over 2 nodes of pool a100 (TP8, PP2)" in decision.findings[0].message


def test_with_leader_worker_sets_a_replica_over_two_nodes_is_planned_and_applied():
    decision = decided(imagined_world(LARGE).model_copy(update={"leader_worker_sets": True}))
    (item,) = decision.fleet.replica_sets
    assert (item.nodes, item.gpus, decision.fleet.nodes) == (2, 16, {"a100": 2})
    made = [action.manifest for action in decision.grow if isinstance(action, ApplyObject)]
    assert [manifest["kind"] for manifest in made] == ["Service", "PodDisruptionBudget", "LeaderWorkerSet"]
    assert made[1]["spec"]["minAvailable"] == 2
    assert [action.manifest for action in decision.shrink if isinstance(action, ApplyObject)] == []


def test_leader_worker_sets_that_cannot_be_read_hold_up_only_a_plan_that_has_them():
    served = imagined_world(LARGE).model_copy(update={"leader_worker_sets": True})
    (record,) = decided(served).first
    live = LiveObject(kind="ConfigMap", name="large-plan", uid="r", ours=True, owner="", manifest=record.manifest)
    unread = (Failure(source="LeaderWorkerSets", reason="ReadFailed", message="away"),)
    has_them = served.model_copy(update={"leader_worker_sets": False, "objects": (live,), "failures": unread})
    decision = decided(has_them)
    assert (decision.fleet.spans_nodes, decision.actions) == (True, ())
    assert [(item.reason, item.holds) for item in decision.findings] == [("ReadFailed", False)]
    assert publish(Situation(has_them)) == ()


def test_what_if_replicas_could_span_nodes_is_only_shown():
    decision = decide(Situation(imagined_world(LARGE)), exact, what_if_leader_worker_sets=True)
    assert (decision.fleet, decision.actions) == (None, ())
    assert [item.reason for item in decision.findings] == ["NotRenderable"]
    (item,) = decision.waiting.replica_sets
    assert [(stage.pool, stage.layers) for stage in item.stages] == [("a100", 62), ("a100", 64)]
    assert (item.gpus, item.legs, decision.waiting.nodes) == (16, [("a100", 2)], {"a100": 2})
    assert [(group.nodes, group.replicas) for group in decision.waiting.groups] == [(2, {item.deployment: 1})]


def test_what_if_changes_nothing_of_what_runs():
    world = MOMENTS[-1]
    live, what_if = decided(world), decide(Situation(world), exact, what_if_leader_worker_sets=True)
    assert what_if.fleet == live.fleet
    assert not (what_if.waiting and not what_if.waiting.spans_nodes)


def test_a_world_of_an_older_operator_has_no_leader_worker_sets():
    old = json.loads(imagined_world(LARGE).model_dump_json())
    del old["leader_worker_sets"]
    assert Observation.model_validate(old).leader_worker_sets is False


def test_a_plan_without_replicas_over_nodes_is_written_as_ever():
    fleet = decided(MOMENTS[-1]).fleet
    assert fleet.replica_sets
    assert not any("stages" in item for item in fleet.model_dump()["replica_sets"])


def test_a_plan_whose_weights_could_not_be_published_rents_nothing(monkeypatch):
    monkeypatch.setattr("servingplan.routing.publishing.LARGEST_BYTES", 500)
    driver = operator(plan())
    driver.act()
    assert driver.cluster.pools["l40s"].wanted == 0
    assert driver.conditions()["RoutingPublished"] == "TooLarge"


PRIVILEGED = {"podTemplate": {"spec": {"containers": [{"name": "engine", "securityContext": {"privileged": True}}]}}}


def with_access(world, *allowed):
    return world.model_copy(update={"pod_access": allowed})


def test_a_pod_template_that_is_not_allowed_is_refused_before_anything_is_rented():
    world = operator(plan(model(engine=PRIVILEGED))).cluster.observe()
    decision = decided(with_access(world))
    (finding,) = [item for item in decision.findings if item.condition == "SpecValid"]
    assert finding.reason == "PodAccessNotAllowed"
    assert "podTemplate.spec.containers[engine].securityContext.privileged" in finding.message
    assert (decision.fleet, decision.actions) == (None, ())
    assert decided(with_access(world, "privileged")).fleet is not None


def test_what_runs_stays_as_it_is_when_an_edit_asks_for_what_is_not_allowed():
    driver = operator(plan())
    driver.settle()
    driver.cluster.edit(plan(model(engine=PRIVILEGED)))
    decision = decided(with_access(driver.cluster.observe()))
    assert decision.fleet is not None
    assert decision.actions == ()


@pytest.mark.parametrize(
    "asking", [{"priorityClassName": "system-node-critical"}, {"podTemplate": {"spec": {"priorityClassName": "batch"}}}]
)
def test_a_priority_class_is_refused_unless_the_installation_names_it(asking):
    world = operator(plan(model(engine=asking))).cluster.observe()
    decision = decided(with_access(world, "priorityClassName=serving"))
    (finding,) = [item for item in decision.findings if item.condition == "SpecValid"]
    assert finding.reason == "PodAccessNotAllowed"
    assert decision.actions == ()
    assert decided(with_access(world, "priorityClassName")).fleet is not None


def test_to_spread_a_running_model_restarts_nothing_and_a_new_priority_class_replaces_it():
    driver = operator(plan())
    driver.settle()
    running = {pod.uid for pod in driver.cluster.observe().pods}
    driver.cluster.edit(plan(model(topologySpread={"topologyKey": "topology.kubernetes.io/zone"})))
    driver.settle()
    assert {pod.uid for pod in driver.cluster.observe().pods} == running
    driver.cluster.edit(plan(model(engine={"priorityClassName": "serving"})))
    driver.settle()
    assert running.isdisjoint(pod.uid for pod in driver.cluster.observe().pods)


def test_replicas_of_a_time_when_more_was_allowed_are_not_made_anew():
    driver = operator(plan(model(engine=PRIVILEGED)))
    driver.settle()
    world = driver.cluster.observe()
    gone = world.model_copy(update={"objects": tuple(item for item in world.objects if item.kind != "Deployment")})
    made = [item.manifest["kind"] for item in decided(gone).actions if isinstance(item, ApplyObject)]
    assert "Deployment" in made
    made = [item.manifest["kind"] for item in decided(with_access(gone)).actions if isinstance(item, ApplyObject)]
    assert "Deployment" not in made


def with_pool(world, **update):
    return world.model_copy(update={"pools": tuple(pool.model_copy(update=update) for pool in world.pools)})


def test_the_owners_ceiling_bounds_the_plan_whatever_the_plan_says():
    driver = operator(plan(model(rate="20"), budget="100"))
    driver.cluster.pools["l40s"].max_nodes = 1
    driver.settle()
    assert (driver.cluster.pools["l40s"].wanted, driver.cluster.status["nodePools"][0]["planned"]) == (1, 1)
    assert (
        "admitted"
        in next(row for row in driver.cluster.status["conditions"] if row["type"] == "SLOAttainable")["message"]
    )


def test_a_ceiling_that_is_lowered_while_an_approved_plan_grows_holds_at_once():
    driver = operator(plan(model(rate="20"), budget="100", mode="Approve"))
    driver.turn()
    driver.cluster.approved = driver.cluster.status["proposedPlanHash"]
    driver.cluster.pools["l40s"].max_nodes = 2
    driver.settle()
    assert driver.cluster.pools["l40s"].wanted <= 2


def test_under_a_ceiling_that_cannot_be_read_nothing_grows_and_the_owner_is_named():
    world = operator(plan()).cluster.observe()
    decision = decided(with_pool(world, max_nodes=0, max_nodes_problem="its annotation is odd"))
    assert not [action for action in decision.actions if isinstance(action, ResizePool)]
    (finding,) = [item for item in decision.findings if item.condition == "NodePoolsReady" and not item.holds]
    assert (finding.reason, "its annotation is odd" in finding.message) == ("CeilingUnreadable", True)


OF_POOLS = (ClaimPool, ResizePool)


def test_a_pool_that_another_autoscaler_sizes_is_neither_claimed_nor_sized_and_its_owner_is_named():
    world = operator(plan()).cluster.observe()
    decision = decided(with_pool(world, sized_by="the autoscaler of X"))
    assert not [action for action in decision.actions if isinstance(action, OF_POOLS)]
    (finding,) = [item for item in decision.findings if item.reason == "SizedByOther"]
    assert (finding.condition, "the autoscaler of X" in finding.message) == ("NodePoolsReady", True)


def test_one_that_it_takes_over_keeps_its_size_while_replicas_serve_there():
    driver = operator(plan(model(rate="20")))
    driver.settle()
    driver.cluster.edit(plan(model(rate="1")))
    seen = driver.cluster.observe()
    decision = decided(with_pool(seen, sized_by="the autoscaler of X"))
    assert not [action for action in decision.actions if isinstance(action, OF_POOLS)]
    assert decision.spend_dollars_per_hour == 4
    assert "SizedByOther" in [item.reason for item in decision.findings]


@pytest.mark.parametrize(("budget", "sizes"), [("20", [3]), ("6", [3]), ("5", [])])
def test_a_size_that_goes_in_steps_is_asked_for_whole_and_never_beyond_the_budget(budget, sizes):
    driver = operator(plan(budget=budget))
    driver.turn()
    world = driver.cluster.observe()
    assert [pool.wanted for pool in world.pools] == [0], "nodes are asked for once their pods are there"
    decision = decided(with_pool(world, step=3))
    assert [action.nodes for action in decision.actions if isinstance(action, ResizePool)] == sizes


def test_a_path_that_is_not_the_objects_is_an_error_of_its_field_and_what_runs_still_counts():
    driver = operator(plan())
    driver.settle()
    before = driver.cluster.observe()
    decision = decided(with_pool(before, path_problem="is not the path of the size"))
    (finding,) = [item for item in decision.findings if item.condition == "SpecValid"]
    assert "spec.nodePools[l40s].resize.replicasPath" in finding.message
    assert decision.spend_dollars_per_hour == decided(before).spend_dollars_per_hour == 2
    assert decision.actions == ()


LOST = ["KindNotAllowed", "NotResizable", "PathNotAllowed", "PoolMissing"]


def with_lost(world, pool, reason):
    pools = tuple(
        PoolObject(pool=pool, reference=item.reference, problem_reason=reason, problem="gone")
        if item.pool == pool
        else item
        for item in world.pools
    )
    return world.model_copy(update={"pools": pools})


@pytest.mark.parametrize("reason", LOST)
def test_a_pool_in_use_whose_size_is_lost_from_sight_costs_what_is_seen_of_it(reason):
    driver = operator(plan(model(rate="20"), budget="5"))
    driver.settle()
    before = decided(driver.cluster.observe())
    assert before.spend_dollars_per_hour == 4
    driver.cluster.edit(plan(model(rate="20"), budget="5", pools=[sized(), sized("h100", price="1")]))
    driver.cluster.add_pool("h100", {"pool": "h100"}, 0)
    decision = decided(with_lost(driver.cluster.observe(), "l40s", reason))
    assert decision.spend_dollars_per_hour == 4
    assert not [action for action in decision.actions if isinstance(action, ResizePool)]
    assert decision.fleet == before.fleet


@pytest.mark.parametrize("reason", ["KindNotAllowed", "NotResizable", "PathNotAllowed"])
def test_a_pool_that_left_the_spec_and_is_lost_from_sight_lets_nothing_grow_while_it_has_nodes(reason):
    driver = operator(plan(budget="5"))
    driver.settle()
    driver.cluster.add_pool("h100", {"pool": "h100"}, 0)
    driver.cluster.edit(plan(budget="5", pools=[sized("h100", price="1")]))
    driver.turn()
    seen = driver.cluster.observe()
    assert "l40s~left" in [pool.pool for pool in seen.pools]
    lost = decided(with_lost(seen, "l40s~left", reason))
    assert [action for action in decided(seen).actions if isinstance(action, ResizePool)]
    assert not [action for action in lost.actions if isinstance(action, ResizePool)]
    elsewhere = {
        "nodes": tuple(node for node in seen.nodes if node.labels["pool"] != "l40s"),
        "pods": tuple(pod for pod in seen.pods if pod.node is None),
    }
    gone = decided(with_lost(seen.model_copy(update=elsewhere), "l40s~left", reason))
    assert [action for action in gone.actions if isinstance(action, ResizePool)]


@pytest.mark.parametrize("reason", LOST)
def test_a_pool_in_use_whose_size_is_lost_from_sight_lets_nothing_grow_elsewhere(reason):
    driver = operator(plan(budget="4"))
    driver.settle()
    driver.cluster.edit(plan(budget="4", pools=[sized(), sized("h100", price="1")]))
    driver.cluster.add_pool("h100", {"pool": "h100"}, 1)
    seen = driver.cluster.observe()
    pools = tuple(
        pool.model_copy(update={"problem_reason": reason, "problem": "gone"}) if pool.pool == "l40s" else pool
        for pool in seen.pools
    )
    decision = decided(seen.model_copy(update={"pools": pools}))
    assert decision.fleet == driver.decision.fleet


def with_budget(world, dollars, **taken):
    return world.model_copy(update={"namespace_budget": NamespaceBudget(dollars_per_hour=dollars, taken=taken)})


def rows(world):
    status = conclude(Situation(world), decided(world), Outcome())
    return status, {item.type: item for item in status.conditions}


def test_a_namespaces_budget_bounds_a_plan_whatever_it_says_itself():
    spec = plan(model(rate="40"), budget="100")
    free, _ = rows(operator(spec).cluster.observe())
    status, conditions = rows(with_budget(operator(spec).cluster.observe(), 5.0, other=3.0))
    assert float(free.cost.per_hour) > 2
    assert (status.cost.per_hour, status.cost.budget_per_hour) == ("2.00", "2.00")
    assert conditions["WithinBudget"].message.endswith(
        "; all plans of namespace llm may spend 5.00 $/h; other plans take other 3.00"
    )


def test_where_it_leaves_nothing_a_plan_says_who_can_change_that():
    _, conditions = rows(with_budget(operator(plan()).cluster.observe(), 5.0, other=5.0))
    assert conditions["PlanSolved"].reason == "BudgetTooSmall"
    assert (
        "ask for a higher entry for namespace llm in the chart's namespaceBudgets" in conditions["PlanSolved"].message
    )


def test_a_budget_that_leaves_enough_changes_nothing():
    world = operator(plan()).cluster.observe()
    roomy = with_budget(world, 1000.0)
    assert decided(roomy) == decided(world)
    assert "namespace" not in rows(roomy)[1]["WithinBudget"].message


def test_what_other_plans_spend_must_be_known_where_the_namespace_has_a_budget():
    failure = Failure(source="other plans", reason="ReadFailed", message="other plans could not be read")
    world = operator(plan()).cluster.observe().model_copy(update={"failures": (failure,)})
    assert decided(world).fleet is not None
    assert decided(with_budget(world, 1000.0)).fleet is None


def findings(world, condition):
    return [item for item in decided(world).findings if item.condition == condition]


def test_a_plan_that_may_not_size_a_pool_cannot_unsettle_one_that_does_by_another_price():
    seen = operator(plan()).cluster.observe()
    others = (OtherPlan(key="stranger/x", prices={"NodePool//l40s": "3"}),)
    world = with_pool(seen, allowed_namespaces=("llm",)).model_copy(update={"other_plans": others})
    assert findings(world, "WithinBudget") == []
    shared = with_pool(world, allowed_namespaces=("llm", "stranger"))
    assert [item.reason for item in findings(shared, "WithinBudget")] == ["PriceDisagreement"]


def test_the_owners_price_counts_whatever_a_plan_says():
    cheap = operator(plan(pools=[sized(price="0")], budget="3")).cluster.observe()
    assert decided(cheap).fleet.dollars_per_hour == 0
    priced = decided(with_pool(cheap, dollars_per_node_hour="2.5"))
    assert priced.fleet.dollars_per_hour == 2.5
    dear = decided(with_pool(cheap, dollars_per_node_hour="3.5"))
    assert dear.fleet.replica_sets == ()


@pytest.mark.parametrize("text", ["", "cheap", "-1", "1e3", "nan"])
def test_a_price_of_the_owner_that_cannot_be_read_is_unknown_and_nothing_grows(text):
    world = with_pool(operator(plan()).cluster.observe(), dollars_per_node_hour=text)
    (finding,) = findings(world, "WithinBudget")
    assert finding.reason == "PriceUnknown"
    assert "annotation servingplan.dev/dollars-per-node-hour" in finding.message
    assert not [action for action in decided(world).actions if isinstance(action, ResizePool)]


# --- searches that take longer than a turn ----------------------------------------------------------------------------


def settled_with_a_slow_solver(*models, **more):
    driver = operator(plan(*models, **more), slow=True)
    driver.settle()
    driver.check_settled()
    return driver


def test_a_new_plan_says_that_it_is_being_searched():
    driver = operator(plan(), slow=True)
    driver.act()
    assert (driver.conditions()["PlanSolved"], driver.conditions()["Ready"]) == ("Searching", "Searching")
    assert driver.cluster.pools["l40s"].wanted == 0
    driver.settle()
    assert driver.conditions()["Ready"] == "Ready"


def test_weights_leave_a_lost_replica_while_the_plan_s_own_search_goes_on():
    pools = [fixed("a100"), fixed("l40s")]
    driver = operator(plan(model(rate="20"), pools=pools), nodes=1, slow=True)
    driver.settle()
    assert len(driver.cluster.targets_of_gateway()) == 2
    driver.cluster.edit(plan(model(rate="10"), pools=pools))
    driver.act()
    assert driver.decision.searching
    lost = driver.cluster.our_pods()[0]
    driver.cluster.delete_pod(lost)
    driver.cluster.run_controllers()
    driver.act()
    assert driver.decision.searching, "it is still the search for the edited spec"
    assert driver.conditions()["Ready"] == "Searching"
    assert lost.deployment not in driver.cluster.targets_of_gateway()
    driver.settle()
    driver.check_settled()


def test_while_an_edit_is_searched_nothing_is_rented_and_nothing_given_back():
    driver = settled_with_a_slow_solver(model(rate="20"))
    before = driver.cluster.pools["l40s"].wanted
    driver.cluster.edit(plan(model(rate="5")))
    driver.act()
    assert (driver.decision.searching, driver.cluster.pools["l40s"].wanted) == (True, before)
    driver.settle()
    assert driver.cluster.pools["l40s"].wanted < before


def test_a_second_loss_is_answered_in_haste_while_the_search_after_the_first_goes_on():
    asked = []

    def cut(question, spec, at_most_seconds=None, **_):
        """A solver that proves nothing in a hurry."""
        asked.append(at_most_seconds)
        answer = exact(question, spec)
        levels = tuple(level.model_copy(update={"proved": level.name != "dollars"}) for level in answer.levels)
        shorter = {"stopped": "deadline", "status": "Feasible", "levels": levels}
        return answer.model_copy(update=shorter) if at_most_seconds else answer

    pools = [fixed("a100", price="1"), fixed("l40s", price="2"), fixed("h100", price="3")]
    driver = operator(plan(model(rate="5"), pools=pools), solve=cut, slow=True)
    for pool in ("a100", "l40s", "h100"):
        driver.cluster.add_node(f"{pool}-0", {"pool": pool}, 1)
    driver.settle()
    asked.clear()
    for lost, left in (("a100-0", "l40s"), ("l40s-0", "h100")):
        driver.cluster.lose_node(lost)
        driver.act()
        assert driver.decision.searching
        assert driver.decision.fleet.nodes[left] == 1
    assert asked == [HURRIED_SECONDS, HURRIED_SECONDS]
    driver.settle()
    driver.check_settled()
    assert driver.decision.searching is False


def test_a_first_plan_is_found_in_haste_where_the_cluster_does_not_hold_still():
    pools = [fixed("a100", price="1")]
    driver = operator(plan(model(rate="5"), pools=pools), slow=True)
    driver.cluster.add_node("a100-0", {"pool": "a100"}, 1)
    driver.act()
    assert (driver.decision.searching, driver.decision.fleet) == (True, None)
    driver.cluster.add_node("a100-1", {"pool": "a100"}, 1)
    driver.act()
    assert driver.decision.fleet is not None
