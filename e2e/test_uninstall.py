"""No operator is left, and plans must go: ``servingplan uninstall`` tells what it will do, and does what an operator would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.support import plans
from e2e.support.cluster import get_or_none
from e2e.support.waiting import wait_for
from localcluster.nodes import A100
from servingplan.kube import PLANS
from servingplan.lease import LEASES, Keeper, Lease

pytestmark = pytest.mark.usefixtures("karpenter", "operator")


def uninstall(scene, *arguments, answer=""):
    """The command as a person runs it who may do everything."""
    program = str(Path(sys.executable).with_name("servingplan"))
    command = [program, "uninstall", "--namespace", scene.namespace, *arguments]
    environment = {**os.environ, "KUBECONFIG": str(scene.cluster.kubeconfig)}
    return subprocess.run(command, env=environment, input=answer, capture_output=True, text=True)


def gone(scene):
    return get_or_none(scene.api, PLANS, "chat", scene.namespace) is None


def claim(scene, pool):
    return scene.pool_object(pool)["metadata"].get("annotations", {}).get("servingplan.dev/claimed-by")


def serving_without_an_operator(scene, operator, pool, **more):
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=60)], [pool], budget=50, **more))
    scene.wait_ready()
    operator.process.kill()
    operator.process.wait()


def test_a_plan_that_hangs_on_its_finalizer_gives_everything_back(scene, operator):
    pool = scene.rented(A100, price=20)
    serving_without_an_operator(scene, operator, pool)
    assert scene.size_of(pool) == 1
    scene.cluster.kubectl("delete", "lsp", "chat", "-n", scene.namespace, "--wait=false")

    refused = uninstall(scene, answer="n\n")
    assert refused.returncode != 0
    assert "No operator runs" in refused.stdout
    assert f"{scene.namespace}/chat (ScaleToFloor)" in refused.stdout
    assert "which goes to 0" in refused.stdout
    assert "is released" in refused.stdout
    assert not gone(scene)
    assert (scene.size_of(pool), claim(scene, pool)) == (1, f"{scene.namespace}/chat")

    done = uninstall(scene, answer="y\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert gone(scene)
    assert (scene.size_of(pool), claim(scene, pool)) == (0, None)
    wait_for("its objects are gone", lambda: scene.deployments() == {} and not scene.routing(), seconds=60)
    # The Lease is free again.
    lease = get_or_none(scene.api, LEASES, f"servingplan-in-{scene.namespace}", "kube-system")
    assert lease is not None
    assert not lease["spec"].get("holderIdentity")
    assert "There is no plan" in uninstall(scene, "--yes").stdout


def test_retain_leaves_what_serves_and_only_releases_the_pools(scene, operator):
    pool = scene.rented(A100, price=20)
    serving_without_an_operator(scene, operator, pool, deletionPolicy="Retain")
    pods = {pod["metadata"]["uid"] for pod in scene.ready_pods()}
    assert pods

    done = uninstall(scene, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything that it made stays" in done.stdout
    assert gone(scene)
    assert (scene.size_of(pool), claim(scene, pool)) == (1, None)
    assert {pod["metadata"]["uid"] for pod in scene.ready_pods()} == pods
    assert not any(item["metadata"].get("ownerReferences") for item in scene.deployments().values())


def test_an_abandoned_plan_goes_at_once_and_what_stays_is_named(scene, operator):
    pool = scene.rented(A100, price=20)
    serving_without_an_operator(scene, operator, pool)
    done = uninstall(scene, "--abandon", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 node asked of" in done.stdout
    assert "keeps its claim" in done.stdout
    assert gone(scene)
    assert (scene.size_of(pool), claim(scene, pool)) == (1, f"{scene.namespace}/chat")


def test_while_an_operator_runs_it_alone_acts(scene, operator):
    """Its Lease is renewed; the command deletes the plan and waits until the operator has retired it."""
    pool = scene.rented(A100, price=20)
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=60)], [pool], budget=50))
    scene.wait_ready()
    with Holder(scene):
        done = uninstall(scene, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "An operator runs, somebody" in done.stdout
    assert gone(scene)
    assert (scene.size_of(pool), claim(scene, pool)) == (0, None)


class Holder:
    """Holds the Lease of the scene's namespace, as an operator of the chart does; those of stories hold none."""

    def __init__(self, scene):
        lease = Lease(scene.api, namespace="kube-system", namespaces=(scene.namespace,), identity="somebody")
        self._keeper = Keeper(lease, lost=lambda: None)

    def __enter__(self):
        self._keeper.start()
        wait_for("the Lease is held", lambda: self._keeper.wait(0), seconds=30)

    def __exit__(self, *_):
        self._keeper.stop()
