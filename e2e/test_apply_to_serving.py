"""A user applies one plan on a cluster with empty node pools; minutes later (here: seconds) it serves."""

import pytest

from e2e.support import plans
from e2e.support.plans import SMALL
from localcluster.nodes import A100, L40S

pytestmark = pytest.mark.usefixtures("karpenter")


def test_from_zero_nodes_to_serving_and_a_second_plan_leaves_its_pools_alone(scene, witness):
    other = scene.new_namespace("others")
    pools = [scene.rented(A100, price=20, name="a100"), scene.rented(L40S, price=90, name="l40s")]

    def plan(namespace: str) -> plans.Json:
        return plans.plan(namespace, [plans.model(rate=60)], pools, budget=50)

    with scene.operator(clusterwide=True):
        scene.apply(plan(scene.namespace))
        status = scene.wait_ready()

        # What it planned is what is there.
        assert status["cost"] == {"perHour": "20.00", "spendPerHour": "20.00", "budgetPerHour": "50.00"}
        assert [scene.size_of(pool) for pool in pools] == [1, 0]
        assert len(scene.nodes_of(pools[0])) == 1
        assert [item["ready"] for item in status["deployments"]] == [4]
        assert len(scene.ready_pods()) == 4
        assert sum(scene.weights(SMALL).values()) == 10_000
        assert scene.routing()["transitional"] is False
        assert scene.routing()["planHash"] == status["planHash"]
        for reason in ("PlanSolved", "PoolResized", "Ready"):
            scene.wait_event(reason)

        # Weight came only with readiness: each document before named no Service, or this one.
        documents = witness.documents()
        assert documents[0].services(SMALL) == set()
        assert documents[-1].services(SMALL) == set(scene.deployments())

        # What kubectl shows.
        header, row = scene.cluster.kubectl("get", "lsp", "-n", scene.namespace).splitlines()
        shown = dict(zip(header.split(), row.split(), strict=True))
        wanted = {"NAME": "chat", "READY": "True", "MODELS": "1/1", "GPUS": "4xA100-SXM4-80GB", "SERVED": "100%"}
        wanted["503"] = "none"
        assert shown | wanted == shown
        assert shown["$/H"] == "20.00"

        # The same plan again, elsewhere: the pools have an owner.
        scene.apply(plan(other))
        message = scene.wait_condition("NodePoolsReady", "ClaimedByOther", namespace=other)
        assert f"{scene.namespace}/chat" in message
        scene.wait_event("ClaimedByOther", namespace=other)
        assert scene.deployments(other) == {}
        assert [scene.size_of(pool) for pool in pools] == [1, 0]
        assert scene.condition("Ready")["status"] == "True"
