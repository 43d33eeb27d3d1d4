"""Demand goes up, then down: nodes come before replicas, and go after them."""

import pytest

from e2e.support import plans
from e2e.support.plans import SMALL
from e2e.support.waiting import wait_for
from localcluster.nodes import A100

pytestmark = pytest.mark.usefixtures("karpenter", "operator")


def test_the_pool_follows_the_demand_both_ways(scene, witness):
    pool = scene.rented(A100, price=20)
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=60)], [pool], budget=60))
    scene.wait_ready()
    assert (scene.size_of(pool), len(scene.ready_pods())) == (1, 4)
    (name,) = scene.deployments()
    began = len(witness.documents())

    scene.edit("chat", {"models": [plans.model(rate=150)]})
    scene.wait_ready()
    assert (scene.size_of(pool), len(scene.ready_pods())) == (2, 8)

    scene.edit("chat", {"models": [plans.model(rate=30)]})
    scene.wait_ready()
    # One node is all that is paid for; its GPUs need not lie idle.
    assert (scene.size_of(pool), len(scene.ready_pods())) == (1, 4)
    wait_for("the node that is left over goes", lambda: len(scene.nodes_of(pool)) == 1, seconds=10)

    # The same replica is the same Deployment, at any size.
    assert scene.deployments().keys() == {name}
    assert witness.most_pods(name) == 8
    assert witness.sizes(pool) == [0, 1, 2, 1]
    assert all(item.services(SMALL) == {name} for item in witness.documents()[began:])
    assert [event.reason for event in scene.events()].count("ReplicaDraining") == 4
