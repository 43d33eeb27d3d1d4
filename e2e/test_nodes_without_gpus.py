"""Nodes come up whose GPUs nobody sees: they are named, given back, and another pool serves.

At every resource version: the spend is within the budget, and no weight goes to a replica of the pool.
"""

import pytest

from e2e.support import plans
from e2e.support.plans import SMALL
from e2e.support.record import let_patience_end
from e2e.support.waiting import wait_for
from localcluster.nodes import A100, BLIND

pytestmark = pytest.mark.usefixtures("karpenter", "operator")


def test_nodes_without_gpus_are_given_back_and_another_pool_serves(scene, witness):
    blind, other = scene.rented(BLIND, price=10, name="blind"), scene.rented(A100, price=30, name="other")
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=60)], [blind, other], budget=45))
    (node,) = wait_for("a node comes", lambda: scene.nodes_of(blind), seconds=60, shown=scene.conditions)
    told = scene.wait_condition("NodePoolsReady", "NoGPUsVisible")
    assert f"{node} shows no GPUs" in told
    assert scene.ready_pods() == []

    let_patience_end(scene, blind)
    wait_for("the other pool is asked", lambda: scene.size_of(other) == 1, seconds=60, shown=scene.conditions)
    wait_for("the node is given back", lambda: not scene.nodes_of(blind), seconds=60, shown=scene.conditions)
    scene.wait_event("NoGPUsVisible")
    scene.wait_ready()
    (cap,) = (item["learnedCap"] for item in scene.plan()["status"]["nodePools"] if "learnedCap" in item)
    assert (cap["nodes"], cap["reason"]) == (0, "NoGPUsVisible")
    assert (witness.sizes(blind), witness.sizes(other)) == ([0, 1, 0], [0, 1])
    (serving,) = scene.weights(SMALL)
    assert scene.deployments()[serving]["metadata"]["labels"]["servingplan.dev/pool"] == "other"
    assert set().union(*(item.services(SMALL) for item in witness.documents())) == {serving}
    assert max(witness.spends()) <= 45
