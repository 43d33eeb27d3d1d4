"""Evictions wait for successors, where there can be any."""

from servingplan.model.world import PlanObject
from servingplan.render.disruption_budget import disruption_budget
from tests.unit.rollout.builders import replica_set

PLAN = PlanObject(namespace="llm", name="chat", uid="u-1", generation=1, spec={})


def test_so_many_replicas_must_stay():
    made = disruption_budget(plan=PLAN, replica_set=replica_set("chat-d", 3), must_stay=3)
    assert made["spec"]["minAvailable"] == 3
    assert made["spec"]["selector"] == {
        "matchLabels": {"servingplan.dev/plan": "chat", "servingplan.dev/deployment": "chat-d"}
    }
    assert (made["metadata"]["name"], made["metadata"]["ownerReferences"][0]["uid"]) == ("chat-d", "u-1")


def test_replicas_that_are_not_ready_never_hold_a_drain_up():
    made = disruption_budget(plan=PLAN, replica_set=replica_set(), must_stay=1)
    assert made["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
