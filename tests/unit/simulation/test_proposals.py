"""Plans that wait: what the status says of them, how they are approved, and what never waits for that."""

import pytest

from servingplan.decide.decide import decide
from servingplan.decide.proposal import proposal
from servingplan.errors import ApiError
from servingplan.planning.situation import Situation
from tests.simulated.driver import exact
from tests.simulated.plans import fixed, model, operator, plan, sized

NEW_IMAGE = {"image": "vllm/vllm-openai:v0.19.0"}


def approving(spec=None, **more):
    """An operator with an approved plan in force."""
    driver = operator({**(spec or plan()), "mode": "Approve"}, **more)
    driver.settle()
    approve(driver)
    return driver


def approve(driver):
    driver.cluster.approved = driver.cluster.status["proposed"]["hash"]
    driver.settle()


def row(driver, kind):
    return next(item for item in driver.cluster.status["conditions"] if item["type"] == kind)


def test_the_status_says_what_a_waiting_plan_would_change_and_the_approval_does_just_that():
    driver = approving()
    assert "proposed" not in driver.cluster.status
    (old,) = driver.decision.fleet.replica_sets
    driver.cluster.edit(plan(model(rate="20", engine=NEW_IMAGE), mode="Approve", budget="8"))
    driver.settle()
    found = driver.cluster.status["proposed"]
    (new,) = driver.decision.waiting.replica_sets
    budget = "PodDisruptionBudget"
    assert found["hash"] == driver.decision.waiting.hash == driver.cluster.status["proposedPlanHash"]
    assert found["objects"] == {
        "created": {
            "count": 3,
            "names": [f"Deployment/{new.deployment}", f"{budget}/{new.deployment}", f"Service/{new.deployment}"],
        },
        "changed": {"count": 2, "names": ["ConfigMap/chat-routing", "NodePool/l40s"]},
        "removed": {
            "count": 3,
            "names": [f"Deployment/{old.deployment}", f"{budget}/{old.deployment}", f"Service/{old.deployment}"],
        },
    }
    assert found["dollarsPerHour"] == {"before": "4.00", "after": "8.00"}
    assert found["classes"] == [{"model": "llama-3.1-8b", "name": "chat", "before": "10", "after": "20"}]
    assert found["steps"][0].startswith("1. l40s grows from 2 to 4 nodes")
    assert found["steps"][-1].endswith("then 8.00 $/h, about 30 s")

    before = set(driver.cluster.objects)
    approve(driver)
    after = set(driver.cluster.objects)
    assert sorted(f"{kind}/{name}" for kind, name in after - before) == found["objects"]["created"]["names"]
    assert sorted(f"{kind}/{name}" for kind, name in before - after) == found["objects"]["removed"]["names"]
    assert driver.spend == 8
    assert "proposed" not in driver.cluster.status


def test_a_waiting_plan_is_the_same_at_every_turn_so_that_nothing_is_written():
    driver = approving()
    driver.cluster.edit(plan(model(rate="20"), mode="Approve"))
    driver.settle()
    status = driver.cluster.status
    driver.tick(20)
    assert driver.cluster.status == status


def test_while_pods_cannot_be_read_the_status_keeps_what_it_said_of_the_turns_to_come():
    driver = approving(boot_ticks=30)
    driver.cluster.edit(plan(model(rate="20"), mode="Approve"))
    driver.settle()
    driver.cluster.lose_node("l40s-1")
    driver.act()
    before = driver.cluster.status
    assert before["proposed"]
    assert before["transition"]
    driver.cluster.api.refuses = lambda verb, key: ApiError(403, "Forbidden", "no") if key[0] == "Pod" else None
    driver.cluster.api.forgotten = driver.cluster.api.version
    driver.tick(12)
    now = driver.cluster.status
    assert next(item for item in now["conditions"] if item["type"] == "InventoryAvailable")["status"] == "False"
    assert (now["proposed"], now["transition"]) == (before["proposed"], before["transition"])


def test_a_preview_beside_a_plan_in_force_is_shown_in_the_same_way():
    driver = operator(plan())
    driver.settle()
    driver.cluster.edit(plan(model(rate="20"), mode="Preview"))
    driver.settle()
    found = driver.cluster.status["proposed"]
    assert found["dollarsPerHour"] == {"before": "4.00", "after": "8.00"}
    assert row(driver, "Approved")["reason"] == "PreviewOnly"


def test_a_pool_that_the_edit_removes_is_among_what_changes():
    driver = operator(plan(pools=[sized("l40s"), sized("h100", price="9", minNodes=1)]))
    driver.settle()
    driver.cluster.edit(plan(mode="Preview", pools=[sized("l40s")]))
    driver.settle()
    assert "NodePool/h100" in driver.cluster.status["proposed"]["objects"]["changed"]["names"]


def test_a_wrong_hash_is_told_with_the_right_one_and_the_command_and_approves_nothing():
    driver = approving()
    driver.cluster.edit(plan(model(rate="20"), mode="Approve"))
    driver.cluster.approved = "0bad0bad"
    driver.settle()
    waiting = driver.decision.waiting.hash
    told = row(driver, "Approved")
    assert (told["status"], told["reason"]) == ("False", "AwaitingApproval")
    assert "'0bad0bad', which is not the hash of the waiting plan" in told["message"]
    assert f"kubectl annotate lsp chat -n llm servingplan.dev/approve={waiting} --overwrite" in told["message"]
    assert driver.cluster.pools["l40s"].wanted == 2


def test_an_approval_of_an_earlier_proposal_is_stale_and_approves_nothing():
    driver = approving()
    in_force = driver.cluster.status["planHash"]
    driver.cluster.edit(plan(model(rate="20"), mode="Approve"))
    driver.settle()
    assert "which is not the hash" not in row(driver, "Approved")["message"], "the hash in force is no mistake"
    earlier = driver.cluster.status["proposed"]["hash"]
    driver.cluster.edit(plan(model(rate="40"), mode="Approve"))
    driver.cluster.approved = earlier
    driver.settle()
    assert driver.cluster.status["planHash"] == in_force
    assert f"'{earlier}', which is not the hash of the waiting plan" in row(driver, "Approved")["message"]
    assert driver.cluster.pools["l40s"].wanted == 2
    approve(driver)
    assert driver.cluster.pools["l40s"].wanted == driver.decision.fleet.nodes["l40s"] > 4


def test_conditions_of_the_plan_in_force_do_not_carry_the_generation_of_an_edit_that_waits():
    driver = approving()
    driver.cluster.edit(plan(model(rate="20"), mode="Approve"))
    driver.settle()
    told = {item["type"]: item["observedGeneration"] for item in driver.cluster.status["conditions"]}
    assert driver.cluster.status["observedGeneration"] == 2
    assert {kind for kind, generation in told.items() if generation == 1} == {
        "ProfilesAvailable",
        "PlanSolved",
        "NodePoolsReady",
        "WorkloadsReady",
        "RoutingPublished",
        "SLOAttainable",
        "Ready",
    }
    approve(driver)
    assert {item["observedGeneration"] for item in driver.cluster.status["conditions"]} == {2}


def test_an_edit_that_cannot_be_solved_is_told_of_its_own_generation():
    driver = approving()
    impossible = plan(mode="Approve", pools=[sized(minNodes=6)], budget="5")
    driver.cluster.edit(impossible)
    driver.settle()
    assert (row(driver, "PlanSolved")["status"], row(driver, "PlanSolved")["observedGeneration"]) == ("False", 2)
    assert row(driver, "Ready")["observedGeneration"] == 2


@pytest.mark.parametrize("mode", ["Approve", "Preview"])
def test_a_loss_and_a_smaller_budget_never_wait(mode):
    driver = approving(plan(model(rate="20")))
    driver.cluster.edit(plan(model(rate="40"), mode=mode))
    driver.settle()
    assert driver.cluster.status["proposed"]
    lost = next(pod for pod in driver.cluster.our_pods())
    driver.cluster.lose_node(lost.node)
    driver.turn()
    targets = [entry["targets"] for entry in driver.routing()["models"]["llama-3.1-8b"]["classes"]]
    assert all(targets)
    driver.check_routing_at_rest()
    driver.settle()
    driver.cluster.edit(plan(model(rate="40"), mode=mode, budget="4"))
    driver.settle()
    assert driver.spend == 4


def test_what_is_not_rented_is_no_object():
    driver = operator(plan(pools=[fixed()]), nodes=4)
    driver.settle()
    driver.cluster.edit(plan(model(rate="5"), pools=[fixed()]))
    situation = Situation(driver.cluster.observe())
    decision = decide(situation, exact)
    (item,) = decision.fleet.replica_sets
    found = proposal(situation, decision, situation.record.fleet, decision.fleet)
    assert f"Deployment/{item.deployment}" in found.changed
    assert not any("l40s" in name.partition("/")[2].split("-") for name in found.changed)
    assert found.created == found.removed == ()


def test_a_pool_that_a_waiting_edit_takes_out_is_kept_and_paid_until_the_approval():
    cheap, dear = sized(), sized("h100", price="9")
    driver = approving(plan(model(rate="20"), pools=[cheap, dear], budget="14"))
    assert (driver.cluster.pools["l40s"].wanted, driver.cluster.pools["h100"].wanted) == (4, 0)
    driver.cluster.edit(plan(model(rate="20"), pools=[dear], budget="14", mode="Approve"))
    driver.settle()
    assert driver.cluster.status["cost"]["spendPerHour"] == "8.00"
    assert row(driver, "Approved")["reason"] == "AwaitingApproval"
    assert set(driver.decision.waiting.nodes) == {"h100"}

    driver.cluster.lose_node(next(name for name in driver.cluster.nodes if name.startswith("l40s")))
    driver.settle()
    assert driver.cluster.pools["l40s"].wanted == 4
    assert driver.serving_rate("llama-3.1-8b") == pytest.approx(20), "what is in force is kept up"

    approve(driver)
    assert (driver.cluster.pools["l40s"].wanted, driver.cluster.pools["h100"].wanted) == (0, 1)
    assert driver.cluster.status["cost"]["spendPerHour"] == "9.00"
