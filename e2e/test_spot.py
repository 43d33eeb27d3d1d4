"""Spot nodes are taken back. With notice the replicas leave in time, without a word at once; where there is no other Spot node
the plan falls back to nodes on demand, and it returns when there is one again.

At every resource version: the spend is within the budget, and somebody serves the model.
"""

import pytest

from e2e.support import plans
from e2e.support.plans import SMALL
from e2e.support.record import let_caps_end
from e2e.support.waiting import wait_for
from localcluster.karpenter import SPOT
from localcluster.nodes import A100

pytestmark = pytest.mark.usefixtures("karpenter", "operator")

CHANGE = {"drainSeconds": 1, "minLifetime": "1s"}


@pytest.fixture
def spot(scene):
    return scene.rented(A100, price=8, name="spot", most=1, capacity_type=SPOT)


@pytest.fixture
def on_demand(scene):
    return scene.rented(A100, price=20, name="on-demand", most=2)


def pools_that_serve(scene) -> set[str]:
    """Pools of the replicas that have weight."""
    made = scene.deployments()
    return {made[name]["metadata"]["labels"]["servingplan.dev/pool"] for name in scene.weights(SMALL) if name in made}


def test_a_node_that_goes_with_notice_is_left_before_it_goes(scene, spot, on_demand, witness):
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=60)], [spot, on_demand], budget=20, change=CHANGE))
    scene.wait_ready()
    (node,) = scene.nodes_of(spot)
    began = len(witness.documents())

    # What Karpenter does when a cloud gives notice: it takes the claim back, which taints the node and asks for another.
    scene.cluster.kubectl("delete", "nodeclaim", scene.claim_of(node), "--wait=false")
    wait_for("the node is gone", lambda: node not in scene.nodes_of(spot), seconds=60, shown=scene.conditions)
    scene.wait_ready()
    assert len(scene.nodes_of(spot)) == 1
    assert all(item.services(SMALL) for item in witness.documents()[began:]), "at no moment was there nobody to serve"
    assert (witness.sizes(spot), witness.sizes(on_demand)) == ([0, 1], [0])
    assert max(witness.spends()) <= 20


def test_a_node_that_goes_without_a_word_is_replaced_on_demand_until_spot_is_back(
    scene, sell, spot, on_demand, witness
):
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=120)], [spot, on_demand], budget=50, change=CHANGE))
    scene.wait_ready()
    assert pools_that_serve(scene) == {"spot", "on-demand"}
    (node,) = scene.nodes_of(spot)
    began = len(witness.documents())

    sell(sold_out=[f"{A100.name}/{SPOT}"])
    scene.lose_node(node)
    wait_for("a node on demand is asked for", lambda: scene.size_of(on_demand) == 2, seconds=60, shown=scene.conditions)
    wait_for("no Spot node is", lambda: scene.size_of(spot) == 0, seconds=60, shown=scene.conditions)
    scene.wait_ready()
    assert pools_that_serve(scene) == {"on-demand"}
    scene.wait_event("InsufficientCapacity")

    sell()
    let_caps_end(scene)
    wait_for("Spot is back", lambda: scene.size_of(on_demand) == 1, seconds=60, shown=scene.conditions)
    scene.wait_ready()
    assert pools_that_serve(scene) == {"spot", "on-demand"}
    assert (witness.sizes(spot), witness.sizes(on_demand)) == ([0, 1, 0, 1], [0, 1, 2, 1])
    assert all(item.services(SMALL) for item in witness.documents()[began:]), "at no moment was there nobody to serve"
    assert max(witness.spends()) <= 50
