"""A machine dies: traffic leaves it at once, and the plan comes true again on what there is."""

import pytest

from e2e.support import plans
from e2e.support.cluster import pod_is_ready
from e2e.support.plans import SMALL
from e2e.support.waiting import wait_for
from localcluster.nodes import A100

PERIOD_SECONDS = 3600
"""No story lasts so long: whatever the operator does, it was woken to do."""
AT_ONCE_SECONDS = 30
"""The goal is one second. This is for a machine that stands still, and sooner than the cluster collects the pods of a node
that is gone (40 seconds and more), which would wake the operator, too."""


@pytest.fixture
def operator(scene):
    with scene.operator(period_seconds=PERIOD_SECONDS) as running:
        yield running


def documents_before(scene, witness) -> int:
    """How many routing documents there are once nothing but a change wakes the operator: it has explained its plan."""
    wait_for("the status explains the plan", lambda: "explanation" in scene.plan()["status"], seconds=60)
    return len(witness.documents())


def see_at_once(witness, node: str, documents: int, what: str, is_it) -> None:
    """Wait for a routing document that follows the loss of a node, and print how long after the loss was visible in the
    API. The two are heard through watches of their own, in either order; ``documents``: how many there were before."""
    lost_at = wait_for("the loss is visible", lambda: witness.lost_nodes.get(node), seconds=5)
    found = wait_for(what, lambda: next(filter(is_it, witness.documents()[documents:]), None), seconds=10)
    print(f"{what} {found.at - lost_at:.2f} s after the loss was visible")
    assert found.at - lost_at < AT_ONCE_SECONDS


def test_a_rented_node_dies_and_its_replacement_takes_its_place(scene, karpenter, operator, witness):
    pools = [scene.rented(A100, price=20, name=name, most=1) for name in ("east", "west")]
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=120)], pools, budget=50))
    before = scene.wait_ready()
    weights = scene.weights(SMALL)
    assert len(weights) == 2
    lost = next(item["name"] for item in before["deployments"] if item["pool"] == "east")

    (node,) = scene.nodes_of(pools[0])
    documents = documents_before(scene, witness)
    scene.lose_node(node)
    see_at_once(witness, node, documents, f"weights without {lost}", lambda item: lost not in item.services(SMALL))

    wait_for("a replacement", lambda: [name for name in scene.nodes_of(pools[0]) if name != node], seconds=20)
    wait_for("the weights of the plan", lambda: scene.weights(SMALL) == weights, seconds=25, shown=scene.conditions)
    after = scene.wait_ready()
    assert after["planHash"] == before["planHash"]
    assert scene.deployments().keys() == weights.keys()
    # At no moment was there nobody to serve.
    assert all(item.services(SMALL) for item in witness.documents()[documents:])


def test_a_fixed_node_dies_and_the_plan_makes_do_with_the_others(scene, kwok, operator, witness):
    pool = scene.fixed(A100, 2, price=20)
    plan = plans.plan(scene.namespace, [plans.model(rate=120)], [pool], budget=50)
    scene.apply(plan)
    before = scene.wait_ready()
    assert len(scene.ready_pods()) == 7

    nodes = scene.nodes_of(pool)
    busier = max(nodes, key=lambda name: sum(pod["spec"]["nodeName"] == name for pod in scene.ready_pods()))
    documents = documents_before(scene, witness)
    scene.lose_node(busier)
    see_at_once(witness, busier, documents, "other weights", lambda item: True)

    (left,) = set(nodes) - {busier}
    on_the_other = wait_for(
        "every GPU that is left is used",
        lambda: found if len(found := [pod for pod in scene.pods() if _serves(pod, left)]) == 4 else None,
        seconds=20,
        shown=scene.conditions,
    )
    assert len(on_the_other) == 4
    status = scene.wait_ready(such=lambda status: status["planHash"] != before["planHash"])
    assert status["served"] != "100%"
    assert scene.condition("SLOAttainable")["reason"] == "BelowTarget"
    entry = scene.routing()["models"][SMALL]["classes"][0]
    asked = float(plan["spec"]["models"][0]["classes"][0]["requestsPerSecond"])
    assert 0.4 * asked < entry["admitRequestsPerSecond"] < asked


def _serves(pod, node) -> bool:
    return pod_is_ready(pod) and pod["spec"].get("nodeName") == node
