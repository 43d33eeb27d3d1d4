"""``kubectl drain`` of the only node of a class: its successor is rented, serves, and the drained node is given back."""

import pytest

from e2e.support import plans
from e2e.support.plans import SMALL
from e2e.support.waiting import wait_for
from localcluster.nodes import A100

pytestmark = pytest.mark.usefixtures("karpenter", "operator")


@pytest.mark.parametrize("budget", [50, 25], ids=["with room for both", "with room for one"])
def test_the_only_node_is_drained(scene, witness, budget):
    pool = scene.rented(A100, price=20)
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=60)], [pool], budget=budget))
    scene.wait_ready()
    (node,) = scene.nodes_of(pool)
    began = len(witness.documents())

    scene.cluster.kubectl("drain", node, "--force", "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=900s")
    wait_for(
        "another node has taken its place",
        lambda: (found := scene.nodes_of(pool)) and node not in found and len(found) == 1,
        seconds=60,
        shown=scene.conditions,
    )
    scene.wait_ready()
    assert scene.weights(SMALL)
    assert (scene.size_of(pool), len(scene.ready_pods())) == (1, 4)
    if budget == 50:
        served = [item.services(SMALL) for item in witness.documents()[began:]]
        assert all(served), "the drain waited, so at no moment was there nobody to serve"


def test_a_cordoned_node_serves_until_its_successor_does(scene, witness):
    pool = scene.rented(A100, price=20)
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=60)], [pool], budget=50))
    scene.wait_ready()
    (node,) = scene.nodes_of(pool)
    began = len(witness.documents())

    scene.cluster.kubectl("cordon", node)
    message = scene.wait_condition("NodePoolsReady", "Scaling")
    assert f"{node} is cordoned" in message
    wait_for("the node is given back", lambda: node not in scene.nodes_of(pool), seconds=60, shown=scene.conditions)
    scene.wait_ready()
    assert scene.size_of(pool) == 1
    assert all(item.services(SMALL) for item in witness.documents()[began:]), "at no moment was there nobody to serve"
