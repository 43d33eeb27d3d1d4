"""A plan is edited: a new kind of replica is a new Deployment, and gets traffic only when it is ready."""

from itertools import dropwhile

import pytest

from e2e.support import plans
from e2e.support.plans import SMALL
from e2e.support.waiting import hold, wait_for
from localcluster.nodes import A100
from servingplan.kube import DISRUPTION_BUDGETS, SERVICES

pytestmark = pytest.mark.usefixtures("karpenter", "operator")


def test_a_new_image_replaces_the_old_one_replica_by_replica(scene, witness):
    pool = scene.rented(A100, price=20, most=1)
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=60, image="engine:1")], [pool], budget=20))
    scene.wait_ready()
    (old,) = scene.deployments()

    # An image that never comes up takes no traffic, and no more than one replica's room.
    bad = plans.model(rate=60, image="engine:bad", never_ready_percent=100, startup_seconds=2)
    scene.edit("chat", {"models": [bad]})
    wait_for(
        "a pod of the bad image was given up", lambda: "not ready within its start-up" in scene.words(), seconds=15
    )
    (broken,) = scene.deployments().keys() - {old}
    hold("the old ones go on serving", lambda: scene.weights(SMALL) == {old: 10_000}, seconds=3)
    assert len([pod for pod in scene.ready_pods() if _belongs(pod, old)]) >= 3
    assert scene.condition("Ready")["reason"] == "RollingOut"

    # One that comes up mostly does: a pod in ten that hangs is replaced. Those that do not hang are given time to come.
    good = plans.model(rate=60, image="engine:2", ready_seconds=1, never_ready_percent=10, startup_seconds=30)
    scene.edit("chat", {"models": [good]})
    status = scene.wait_ready(seconds=120)
    (new,) = [item["name"] for item in status["deployments"]]
    assert scene.weights(SMALL) == {new: 10_000}
    wait_for("what is old is gone", lambda: scene.deployments().keys() == {new}, seconds=10)
    beside = lambda: _of_plan(scene, SERVICES) | _of_plan(scene, DISRUPTION_BUDGETS)  # noqa: E731
    wait_for("what was beside it is gone", lambda: beside() == {new}, seconds=10)

    serving = list(dropwhile(lambda services: not services, (item.services(SMALL) for item in witness.documents())))
    assert all(serving), "somebody served at every moment"
    assert not any(broken in services for services in serving)
    assert {old, new} in serving, "both served while one replaced the other"
    assert witness.sizes(pool) == [0, 1]


def _of_plan(scene, kind) -> set[str]:
    listed = scene.api.list(kind, namespace=scene.namespace, labels="servingplan.dev/plan")
    return {item["metadata"]["name"] for item in listed}


def _belongs(pod, deployment) -> bool:
    return bool(pod["metadata"]["labels"]["servingplan.dev/deployment"] == deployment)
