"""A plan is deleted: by default everything goes and the pools return to their floor; with Retain everything stays."""

import pytest

from e2e.support import plans
from e2e.support.cluster import get_or_none
from e2e.support.plans import SMALL
from e2e.support.waiting import hold, wait_for
from localcluster.nodes import A100
from servingplan.kube import CONFIG_MAPS, PLANS, SERVICES

pytestmark = pytest.mark.usefixtures("karpenter", "operator")


def _delete(scene):
    scene.cluster.kubectl("delete", "lsp", "chat", "-n", scene.namespace, "--wait=false")
    wait_for("the plan is gone", lambda: get_or_none(scene.api, PLANS, "chat", scene.namespace) is None, seconds=25)


def _claim(scene, pool):
    return scene.pool_object(pool)["metadata"].get("annotations", {}).get("servingplan.dev/claimed-by")


def test_scale_to_floor_drains_and_gives_the_nodes_back(scene, operator, witness):
    pool = scene.rented(A100, price=20, least=1)
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=120)], [pool], budget=50))
    scene.wait_ready()
    assert scene.size_of(pool) == 2
    label = f'{{plan="chat",plan_namespace="{scene.namespace}"'
    assert operator.metrics(scene.namespace)[f"servingplan_spend_dollars_per_hour{label}}}"] == 40
    assert operator.metrics(scene.namespace)[f'servingplan_turns_total{label},result="error"}}'] == 0

    _delete(scene)
    wait_for("its series have ended", lambda: operator.metrics(scene.namespace) == {}, seconds=5)
    assert scene.size_of(pool) == 1
    assert _claim(scene, pool) is None
    assert scene.pods() == []
    wait_for("its objects are gone", lambda: scene.deployments() == {} and not scene.routing(), seconds=60)
    sizes = witness.sizes(pool)
    # The floor may come before the pods, and so before what only they ask for.
    assert sizes in ([0, 2, 1], [0, 1, 2, 1])
    # Weights went before the pods.
    assert witness.documents()[-1].services(SMALL) == set()


def test_retain_leaves_all_that_serves_as_it_is(scene, witness):
    pool = scene.rented(A100, price=20)
    plan = plans.plan(scene.namespace, [plans.model(rate=60)], [pool], budget=50, deletionPolicy="Retain")
    scene.apply(plan)
    scene.wait_ready()
    pods = {pod["metadata"]["uid"] for pod in scene.ready_pods()}
    weights = scene.weights(SMALL)

    _delete(scene)
    assert _claim(scene, pool) is None

    def all_stays() -> bool:
        return (
            {pod["metadata"]["uid"] for pod in scene.ready_pods()} == pods
            and scene.weights(SMALL) == weights
            and scene.size_of(pool) == 1
        )

    hold("everything stays", all_stays, seconds=4)
    for item in (
        *scene.deployments().values(),
        *scene.api.list(SERVICES, namespace=scene.namespace, labels="servingplan.dev/plan"),
        scene.api.get(CONFIG_MAPS, "chat-routing", namespace=scene.namespace),
    ):
        assert "ownerReferences" not in item["metadata"]
