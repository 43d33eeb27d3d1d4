"""Fixed nodes are shared: GPUs that other people's pods hold are not ours, and ours again when they leave."""

from collections import Counter

import pytest

from e2e.support import plans
from e2e.support.plans import SMALL
from e2e.support.waiting import hold, wait_for
from localcluster.nodes import A100
from servingplan.kube import PODS

pytestmark = pytest.mark.usefixtures("kwok", "operator")


def test_the_plan_uses_what_foreign_pods_leave(scene, witness):
    pool = scene.fixed(A100, 2, price=20)
    shared, other = scene.nodes_of(pool)
    strangers = scene.new_namespace("strangers")
    scene.foreign_pod("training", gpus=2, node=shared, namespace=strangers)
    wait_for(
        "the foreign pod holds its GPUs",
        lambda: scene.api.get(PODS, "training", namespace=strangers)["spec"].get("nodeName"),
        seconds=5,
    )

    scene.apply(plans.plan(scene.namespace, [plans.model(rate=150)], [pool], budget=50))
    status = scene.wait_ready()
    assert _by_node(scene) == {shared: 2, other: 4}
    assert status["served"] != "100%"
    assert scene.routing()["models"][SMALL]["classes"][0]["admitRequestsPerSecond"] is not None

    # The stranger leaves: what it held is used.
    scene.cluster.kubectl("delete", "pod", "training", "-n", strangers, "--wait=false")
    wait_for("all GPUs are used", lambda: _by_node(scene) == {shared: 4, other: 4}, seconds=15, shown=scene.conditions)
    scene.wait_ready(such=lambda status: status["served"] == "100%")

    # Another one comes and finds no room: it waits, and nobody of ours makes way.
    scene.foreign_pod("late", gpus=1, node=shared, namespace=strangers)
    hold("nobody makes way", lambda: _by_node(scene) == {shared: 4, other: 4}, seconds=3)


def _by_node(scene) -> dict[str, int]:
    return dict(Counter(pod["spec"]["nodeName"] for pod in scene.ready_pods()))
