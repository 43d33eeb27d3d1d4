"""Somebody else sizes a pool: it is theirs, the plan says so and leaves the size alone, until it is given back."""

import pytest

from e2e.support import plans
from e2e.support.operator import PERIOD_SECONDS
from e2e.support.waiting import hold, wait_for
from localcluster.nodes import A100

pytestmark = pytest.mark.usefixtures("karpenter", "operator")


def test_a_size_that_somebody_else_set_is_left_alone(scene, witness):
    pool = scene.rented(A100, price=20)
    # The plan that pays for all that the other one rents is worth leaving at once.
    change = {"drainSeconds": 1, "minLifetime": "1s"}
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=60)], [pool], budget=90, change=change))
    scene.wait_ready()
    assert scene.size_of(pool) == 1
    pods = {pod["metadata"]["uid"] for pod in scene.ready_pods()}

    name = pool["resize"]["name"]
    scene.cluster.kubectl("scale", "nodepool", name, "--replicas=3")
    message = scene.wait_condition("NodePoolsReady", "FieldOwnershipConflict")
    assert all(word in message for word in (name, "3 nodes", "kubectl", "servingplan.dev/claimed-by"))
    scene.wait_event("FieldOwnershipConflict")
    hold("the size stays", lambda: scene.size_of(pool) == 3, seconds=2 * PERIOD_SECONDS)
    assert {pod["metadata"]["uid"] for pod in scene.ready_pods()} == pods, "what serves goes on serving"

    # The other gives it back.
    scene.cluster.kubectl("annotate", "nodepool", name, "servingplan.dev/claimed-by-")
    wait_for("the size is the plan's again", lambda: scene.size_of(pool) == 1, seconds=15, shown=scene.conditions)
    scene.wait_ready()
    assert {pod["metadata"]["uid"] for pod in scene.ready_pods()} == pods
