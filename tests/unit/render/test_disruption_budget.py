"""Evictions wait for successors, where there can be any."""

from servingplan.model.world import PlanObject
from servingplan.render.disruption_budget import disruption_budget
from tests.unit.rollout.builders import replica_set

PLAN = PlanObject(namespace="llm", name="chat", uid="u-1", generation=1, spec={})


def test_all_planned_replicas_must_stay():
    made = disruption_budget(plan=PLAN, replica_set=replica_set("chat-d", 3), evictable=0)
    assert made["spec"]["minAvailable"] == 3
    assert made["spec"]["selector"] == {
        "matchLabels": {"servingplan.dev/plan": "chat", "servingplan.dev/deployment": "chat-d"}
    }
    assert (made["metadata"]["name"], made["metadata"]["ownerReferences"][0]["uid"]) == ("chat-d", "u-1")


def test_replicas_that_are_not_ready_never_hold_a_drain_up():
    made = disruption_budget(plan=PLAN, replica_set=replica_set(), evictable=0)
    assert made["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_replicas_that_nothing_can_replace_may_go():
    made = disruption_budget(plan=PLAN, replica_set=replica_set(replicas=3), evictable=2)
    assert made["spec"]["minAvailable"] == 1
    made = disruption_budget(plan=PLAN, replica_set=replica_set(replicas=1), evictable=2)
    assert made["spec"]["minAvailable"] == 0
