"""A machine dies: traffic leaves it at once, and the plan comes true again on what there is."""

import time

from e2e.cluster.nodes import A100
from e2e.support import plans
from e2e.support.cluster import pod_is_ready
from e2e.support.plans import SMALL
from e2e.support.waiting import wait_for

WITHIN_SECONDS = 1.5
"""A second, and some of a busy machine's noise."""


def seconds_until_weights_left(witness, service: str, node: str, began: float) -> float:
    """From the loss of a node being visible in the API to weights that do without a Service. The two are heard through
    watches of their own, in either order; ``began``: before the loss."""
    lost_at = wait_for("the loss is visible", lambda: witness.lost_nodes.get(node), seconds=5)

    def look():
        later = (item for item in witness.routings["chat-routing"] if item.at > began)
        return next((item for item in later if service not in item.services(SMALL)), None)

    return wait_for(f"weights without {service}", look, seconds=10).at - lost_at


def test_a_rented_node_dies_and_its_replacement_takes_its_place(scene, karpenter, operator, witness):
    pools = [scene.rented(A100, price=20, name=name, most=1) for name in ("east", "west")]
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=120)], pools, budget=50))
    before = scene.wait_ready()
    weights = scene.weights(SMALL)
    assert len(weights) == 2
    lost = next(item["name"] for item in before["deployments"] if item["pool"] == "east")

    (node,) = scene.nodes_of(pools[0])
    began = time.monotonic()
    scene.lose_node(node)
    assert seconds_until_weights_left(witness, lost, node, began) < WITHIN_SECONDS

    wait_for("a replacement", lambda: [name for name in scene.nodes_of(pools[0]) if name != node], seconds=20)
    wait_for("the weights of the plan", lambda: scene.weights(SMALL) == weights, seconds=25, shown=scene.conditions)
    after = scene.wait_ready()
    assert after["planHash"] == before["planHash"]
    assert scene.deployments().keys() == weights.keys()
    witness.catch_up()
    # At no moment was there nobody to serve.
    assert all(item.services(SMALL) for item in witness.routings["chat-routing"] if item.at > began)


def test_a_fixed_node_dies_and_the_plan_makes_do_with_the_others(scene, kwok, operator, witness):
    pool = scene.fixed(A100, 2, price=20)
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=120)], [pool], budget=50))
    before = scene.wait_ready()
    assert len(scene.ready_pods()) == 7

    nodes = scene.nodes_of(pool)
    busier = max(nodes, key=lambda name: sum(pod["spec"]["nodeName"] == name for pod in scene.ready_pods()))
    began = time.monotonic()
    scene.lose_node(busier)
    lost_at = wait_for("the loss is visible", lambda: witness.lost_nodes.get(busier), seconds=5)

    (left,) = set(nodes) - {busier}
    on_the_other = wait_for(
        "every GPU that is left is used",
        lambda: found if len(found := [pod for pod in scene.pods() if _serves(pod, left)]) == 4 else None,
        seconds=20,
        shown=scene.conditions,
    )
    assert len(on_the_other) == 4
    status = scene.wait_ready()
    assert status["planHash"] != before["planHash"]
    assert status["served"] != "100%"
    assert scene.condition("SLOAttainable")["reason"] == "BelowTarget"
    entry = scene.routing()["models"][SMALL]["classes"][0]
    assert 50 < entry["admitRequestsPerSecond"] < 120
    first = next(item for item in witness.routings["chat-routing"] if item.at > began)
    assert first.at - lost_at < WITHIN_SECONDS


def _serves(pod, node) -> bool:
    return pod_is_ready(pod) and pod["spec"].get("nodeName") == node
