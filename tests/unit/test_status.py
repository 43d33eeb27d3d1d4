"""What the status says about each bad input, and that it says nothing of the time it took."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servingplan.api.reasons import LONGEST_MESSAGE, REASONS, needs_a_person
from servingplan.decide.decide import decide
from servingplan.model.actions import ApplyObject, ClaimPool, PlacePod, ResizePool
from servingplan.model.decision import Decision
from servingplan.model.outcome import Outcome, Refused
from servingplan.model.row import Row
from servingplan.model.world import Failure
from servingplan.planning.situation import Situation
from servingplan.status.conclude import conclude
from servingplan.status.conditions import COUNT_IN_READY, with_ready
from servingplan.status.events import events
from servingplan.status.exceptional import turn_failed
from servingplan.status.summary import shortened
from tests.simulated.driver import exact
from tests.simulated.plans import fixed, model, operator, plan, sized


def concluded(world, outcome=None):
    decision = decide(Situation(world), exact)
    return conclude(Situation(world), decision, outcome or Outcome())


def conditions(status):
    return {item.type: item for item in status.conditions}


def false_or_unknown(status):
    return {item.type: item.reason for item in status.conditions if item.status != "True"}


def conditions_of(published):
    return {item["type"]: item for item in published["conditions"]}


def at_first(spec, **more):
    return operator(spec, **more).cluster.observe()


@pytest.fixture(scope="module")
def served():
    driver = operator(plan())
    driver.settle()
    return driver.cluster.observe()


CHANGES = {
    "misspelt field": ({"modles": []}, "SpecValid", "SpecInvalid", "modles"),
    "no budget": ({"budget": None}, "SpecValid", "SpecInvalid", "spec.budget"),
    "float money": ({"budget": {"dollarsPerHour": 1.5}}, "SpecValid", "SpecInvalid", "quoted decimal"),
    "unknown model": ({"models": [model("nobody")]}, "SpecValid", "UnknownModel", "nobody"),
    "unknown GPU": ({"nodePools": [sized(gpu="X1")]}, "SpecValid", "UnknownGPU", "X1"),
    "model too large": ({"models": [model("llama-3.1-405b")]}, "SpecValid", "NoFittingShape", "llama-3.1-405b"),
    "limits out of reach": (
        {"models": [model(slo={"tpotSeconds": "0.00001"})]},
        "SpecValid",
        "NoFittingShape",
        "classes[chat]",
    ),
    "bad source": (
        {"models": [model(variants=[{"name": "v", "source": "ftp://x"}])]},
        "SpecValid",
        "SpecInvalid",
        "hf://",
    ),
    "argument of ours": (
        {"models": [model(engine={"extraArgs": ["--port=1"]})]},
        "SpecValid",
        "SpecInvalid",
        "--port=1",
    ),
    "no price": ({"nodePools": [sized(price=None)]}, "WithinBudget", "PriceUnknown", "dollarsPerNodeHour"),
    "no nodes": ({"nodePools": [fixed()]}, "PlanSolved", "NoCapacity", "add nodes"),
    "no budget to speak of": ({"budget": {"dollarsPerHour": "1"}}, "PlanSolved", "BudgetTooSmall", "dollarsPerHour"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_bad_input_is_told_by_its_condition_with_what_to_do(name):
    change, condition, reason, words = CHANGES[name]
    driver = operator(plan())
    driver.cluster.edit({**plan(), **change})
    status = concluded(driver.cluster.observe())
    found = conditions(status)[condition]
    assert (found.status, found.reason) == ("False", reason)
    assert words in found.message
    assert conditions(status)["Ready"].status == "False"


@pytest.mark.parametrize(
    ("change", "condition", "reason"),
    [
        ({"claimed_by": "llm/other"}, "NodePoolsReady", "ClaimedByOther"),
        ({"allowed": ()}, "NodePoolsReady", "NotAllowed"),
        (None, "NodePoolsReady", "PoolMissing"),
    ],
)
def test_a_pool_that_cannot_be_sized_is_told(change, condition, reason):
    driver = operator(plan())
    driver.cluster.other_plans["other"] = plan()
    if change is None:
        driver.cluster.pools.clear()
    for key, value in (change or {}).items():
        setattr(driver.cluster.pools["l40s"], key, value)
    assert false_or_unknown(concluded(driver.cluster.observe()))[condition] == reason


def test_a_source_that_cannot_be_read_is_told(served):
    world = served.model_copy(
        update={"failures": (Failure(source="nodes", reason="ReadForbidden", message="nodes: forbidden"),)}
    )
    assert false_or_unknown(concluded(world))["InventoryAvailable"] == "ReadForbidden"


def test_floors_that_the_budget_does_not_pay_are_told():
    status = concluded(at_first(plan(pools=[sized(minNodes=3)], budget="4")))
    assert false_or_unknown(status)["PlanSolved"] == "Infeasible"


def test_a_plan_that_serves_in_part_says_what_it_admits():
    status = concluded(at_first(plan(model(rate="100"), budget="4")))
    assert "of 100 requests/s" in conditions(status)["SLOAttainable"].message
    assert (status.served or "").endswith("%")


def test_a_plan_at_rest_is_ready(served):
    status = concluded(served)
    assert false_or_unknown(status) == {}
    assert [item.type for item in status.conditions][-1] == "Ready"
    assert {*COUNT_IN_READY} <= {item.type for item in status.conditions}


def test_the_same_turn_at_another_time_says_the_same(served):
    first = concluded(served)
    published = first.model_dump(mode="json", by_alias=True, exclude_none=True)
    later = served.model_copy(
        update={
            "now": "2031-05-05T05:05:05Z",
            "plan": served.plan.model_copy(update={"status": copy.deepcopy(published)}),
        }
    )
    assert concluded(later) == first
    assert "seconds" not in json.dumps({key: value for key, value in published.items() if key != "conditions"})


def test_a_condition_keeps_its_date_until_it_turns(served):
    status = concluded(served)
    old = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    for item in old["conditions"]:
        item["lastTransitionTime"] = "2020-01-01T00:00:00Z"
    spec = {**served.plan.spec, "modles": []}
    world = served.model_copy(update={"plan": served.plan.model_copy(update={"status": old, "spec": spec})})
    found = conditions(concluded(world))
    assert found["SpecValid"].last_transition_time == world.now
    assert found["WithinBudget"].last_transition_time == "2020-01-01T00:00:00Z"


REFUSALS = [
    (ResizePool(pool="l40s", before=0, nodes=1, why="w"), "Forbidden", "NodePoolsReady", "WriteForbidden"),
    (ResizePool(pool="l40s", before=0, nodes=1, why="w"), "Changed", "NodePoolsReady", "Scaling"),
    (ClaimPool(pool="l40s", claimed_by="x", why="w"), "ClaimedByOther", "NodePoolsReady", "ClaimedByOther"),
    (PlacePod(pod="p", uid="u", node="n", node_affinity={}, why="w"), "Invalid", "WorkloadsReady", "WriteFailed"),
    (ApplyObject(manifest={"kind": "Service"}, why="w"), "NameTaken", "WorkloadsReady", "NameTaken"),
    (
        ApplyObject(manifest={"kind": "ConfigMap", "data": {"routing.json": "{}"}}, why="w"),
        "Forbidden",
        "RoutingPublished",
        "WriteForbidden",
    ),
]


@pytest.mark.parametrize(("action", "refusal", "condition", "reason"), REFUSALS)
def test_a_refused_write_is_told_where_it_belongs(served, action, refusal, condition, reason):
    outcome = Outcome(refused=(Refused(action=action, reason=refusal, message="no"),))
    assert false_or_unknown(concluded(served, outcome))[condition] == reason


def test_long_messages_are_cut():
    driver = operator(plan())
    driver.cluster.edit(plan(pools=[{**sized(gpu="X" * 100), "name": f"p{index}"} for index in range(30)]))
    status = concluded(driver.cluster.observe())
    assert max(len(item.message) for item in status.conditions) == LONGEST_MESSAGE


def test_news_is_posted_once():
    driver = operator(plan())
    world = driver.cluster.observe()
    decision = decide(Situation(world), exact)
    outcome = Outcome(done=decision.actions)
    status = conclude(Situation(world), decision, outcome)
    assert [item.reason for item in events(world, decision, outcome, status)] == ["PlanSolved"]
    published = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    again = world.model_copy(update={"plan": world.plan.model_copy(update={"status": published})})
    assert events(again, decision, Outcome(), status) == ()
    driver.turn()
    world = driver.cluster.observe()
    decision = decide(Situation(world), exact)
    outcome = Outcome(done=decision.actions)
    assert [
        item.reason for item in events(world, decision, outcome, conclude(Situation(world), decision, outcome))
    ] == ["PoolResized"]


def test_a_spec_that_never_was_right_has_a_status_all_the_same():
    driver = operator(plan())
    driver.cluster.edit({"nonsense": True})
    world = driver.cluster.observe()
    status = conclude(Situation(world), Decision(findings=decide(Situation(world), exact).findings), Outcome())
    assert conditions(status)["SpecValid"].reason == "SpecInvalid"


def test_the_status_tells_how_engines_run():
    driver = operator(plan(model(engine={"maxNumSeqs": 48, "kvCacheDtype": "fp8"})))
    driver.settle()
    (deployment,) = driver.cluster.status["deployments"]
    assert deployment["engine"] == "at most 48 requests at a time, FP8 KV cache"


def claimed_by_another(cluster):
    cluster.other_plans["other"] = plan()
    cluster.pools["l40s"].claimed_by = "llm/other"


CAUSES = {
    "no pool": (lambda cluster: cluster.pools.clear(), "PoolMissing"),
    "no consent": (lambda cluster: setattr(cluster.pools["l40s"], "allowed", ()), "NotAllowed"),
    "another plan's": (claimed_by_another, "ClaimedByOther"),
    "no price": (lambda cluster: cluster.edit(plan(pools=[sized(price=None)])), "PriceUnknown"),
    "a small budget": (lambda cluster: cluster.edit(plan(budget="1")), "BudgetTooSmall"),
    "a wrong field": (lambda cluster: cluster.edit({**plan(), "modles": []}), "SpecInvalid"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_ready_tells_the_cause_and_the_event_says_it_once(name):
    change, reason = CAUSES[name]
    driver = operator(plan())
    change(driver.cluster)
    world = driver.cluster.observe()
    decision = decide(Situation(world), exact)
    status = conclude(Situation(world), decision, Outcome())
    ready = conditions(status)["Ready"]
    assert (ready.status, ready.reason) == ("False", reason)
    told = [item.reason for item in events(world, decision, Outcome(), status)]
    assert told.count(reason) == 1


def test_while_nothing_is_ready_the_status_says_503_first_and_promises_nothing():
    driver = operator(plan())
    driver.act()
    status = driver.cluster.status
    found = conditions_of(status)
    assert (status["served"], status["plannedServed"]) == ("0%", "100%")
    assert status["unanswered"] == "llama-3.1-8b/chat"
    assert found["Ready"]["message"].startswith("no ready replica for llama-3.1-8b/chat: the gateway answers 503")
    assert (found["SLOAttainable"]["status"], found["SLOAttainable"]["reason"]) == ("False", "Transitional")
    assert "0 of 10 requests/s" in found["SLOAttainable"]["message"]
    assert [item["servedRequestsPerSecond"] for item in status["classes"]] == ["0"]


def test_many_classes_without_an_answer_are_counted():
    assert shortened(["a", "b", "c", "d"]) == "a,b,+2"
    assert shortened(["a", "b"]) == "a,b"
    assert shortened([]) == ""


def test_at_rest_the_status_says_what_is_served_and_that_nothing_idles():
    driver = operator(plan())
    driver.settle()
    status = driver.cluster.status
    assert (status["served"], status["plannedServed"], status["unanswered"]) == ("100%", "100%", "none")
    assert status["idleGPUs"] == "none"
    assert [item["servedRequestsPerSecond"] for item in status["classes"]] == ["10"]


def test_a_lost_replica_is_served_less_until_another_is_there():
    driver = operator(plan(model(rate="20")))
    fleet = driver.settle()
    assert fleet.nodes == {"l40s": 2}
    (one,) = (item.capacity["chat"] for item in fleet.replica_sets)
    driver.cluster.lose_node("l40s-1")
    driver.act()
    status = driver.cluster.status
    assert (status["served"], status["plannedServed"]) == (f"{one / 20:.1%}", "100%")
    assert f"{one:.4g} of 20 requests/s" in conditions_of(status)["SLOAttainable"]["message"]


def test_the_spend_is_that_of_now_and_paid_nodes_that_serve_nothing_are_told():
    driver = operator(plan(model(rate="20")))
    driver.act()
    assert driver.cluster.status["cost"] == {"perHour": "4.00", "spendPerHour": "4.00", "budgetPerHour": "20.00"}
    assert (driver.cluster.status["served"], driver.cluster.status["idleGPUs"]) == ("0%", "2xL40S")
    assert [item["idleGPUs"] for item in driver.cluster.status["nodePools"]] == [2]
    driver.settle()
    assert (driver.cluster.status["served"], driver.cluster.status["idleGPUs"]) == ("100%", "none")
    driver.cluster.edit(plan(model(rate="1")))
    driver.act()
    assert driver.cluster.status["cost"] == {"perHour": "2.00", "spendPerHour": "4.00", "budgetPerHour": "20.00"}


def test_fixed_nodes_are_paid_while_they_hold_our_replicas_and_foreign_pods_use_theirs():
    driver = operator(plan(model(rate="1"), pools=[fixed(gpus=4)]), nodes=2)
    driver.cluster.add_foreign_pod("l40s-0", 1)
    driver.cluster.add_foreign_pod("l40s-1", 1)
    fleet = driver.settle()
    used = sum(item.replicas * item.gpus for item in fleet.replica_sets)
    assert driver.cluster.status["idleGPUs"] == f"{3 - used}xL40S"


def test_a_multiple_of_the_mix_is_of_what_is_ready():
    driver = operator(plan(objective="MaximizeService", budget="4"))
    driver.act()
    assert driver.cluster.status["served"] == "0x"
    driver.settle()
    assert driver.cluster.status["served"] == driver.cluster.status["plannedServed"]


def test_a_selector_that_no_node_matches_is_named():
    driver = operator(plan(pools=[fixed()]), nodes=2)
    driver.cluster.edit(plan(pools=[fixed(nodeSelector={"pool": "misspelt"})]))
    ready = conditions(concluded(driver.cluster.observe()))["Ready"]
    assert ready.reason == "NoCapacity"
    assert "0 nodes match spec.nodePools[l40s].nodeSelector {pool: misspelt}: correct it" in ready.message


def test_rented_nodes_that_the_selector_does_not_match_are_told_apart_from_those_that_boot():
    driver = operator(plan())
    driver.settle()
    world = driver.cluster.observe()
    (pool,) = world.pools
    unlabelled = world.model_copy(
        update={
            "nodes": tuple(node.model_copy(update={"labels": {}}) for node in world.nodes),
            "pools": (pool.model_copy(update={"actual": 1}),),
        }
    )
    message = conditions(concluded(unlabelled))["NodePoolsReady"].message
    assert "1 exist, 0 of them have the labels of nodeSelector" in message
    assert "nodeSelector" not in conditions(concluded(world))["NodePoolsReady"].message


ROWS = st.lists(
    st.builds(
        Row,
        st.sampled_from(COUNT_IN_READY),
        st.sampled_from(["True", "False", "Unknown"]),
        st.sampled_from(sorted(REASONS)),
        st.text("ab ", max_size=5),
    ),
    unique_by=lambda row: row.type,
)


@given(ROWS)
def test_ready_tells_what_is_false_before_what_is_unknown_and_only_what_its_cause_says(rows):
    *_, ready = with_ready(rows)
    causes = [row for row in rows if row.status == "False"] or [row for row in rows if row.status == "Unknown"]
    assert (ready.status == "True") == (not causes)
    if causes:
        assert ready.reason in {row.reason for row in causes}
        assert ready.message in {f"{row.type}: {row.message}" for row in causes}


@given(ROWS)
def test_stalled_is_there_only_while_a_person_has_to_act(rows):
    found = {row.type: row for row in with_ready(rows)}
    ready, stalled = found["Ready"], found.get("Stalled")
    wanted = ready.status == "False" and needs_a_person(ready.reason)
    assert (stalled is not None) == wanted
    if stalled is not None:
        assert (stalled.status, stalled.reason) == ("True", ready.reason)
        assert ready.message not in stalled.message or not ready.message


def test_a_turn_that_failed_is_tried_again_and_stalls_nothing():
    driver = operator(plan())
    driver.cluster.pools.clear()
    driver.turn()
    world = driver.cluster.observe()
    assert "Stalled" in {item["type"] for item in world.plan.status["conditions"]}
    told = turn_failed(world.plan, ValueError("x"), world.now)
    assert "Stalled" not in {item["type"] for item in told["conditions"]}
