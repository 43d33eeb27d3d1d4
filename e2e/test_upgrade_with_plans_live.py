"""The operator is upgraded from an earlier release and rolled back while a plan serves: nothing of what serves notices.

Each release is its own code, chart and definition of plans, taken from its commit. Pods answer by emulated engines, and
requests go through a real Envoy, as in ``test_no_request_lost``.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from e2e.support import plans, served
from e2e.support.cluster import NODE_POOLS, own_cluster
from e2e.support.emulated_kubelet import EmulatedKubelet
from e2e.support.feed import Feed
from e2e.support.load import Kind, Load
from e2e.support.plans import SMALL
from e2e.support.releases import THIS, CommitNotThereError, earlier
from e2e.support.waiting import wait_for
from localcluster.control_plane import wait_until_established
from localcluster.nodes import A100
from servingplan.kube import CONFIG_MAPS, DEPLOYMENTS, ENDPOINT_SLICES, NODES, PLANS, PODS
from servingplan.routing.envoy import BOOTSTRAP

EARLIER = os.environ.get("UPGRADE_FROM", "8c483a21c30f58f7ab17cc3962c191f28fb87147")
"""The commit that is upgraded from."""
KINDS = (
    Kind(SMALL, output_tokens=18, stream=False, requests_per_second=12),
    Kind(SMALL, output_tokens=18, stream=True, requests_per_second=6),
    Kind(SMALL, output_tokens=100, stream=True, requests_per_second=3),
)
TURNS, REQUESTS = 4, 60
"""The turns that each release takes, and the requests that it serves, while nothing may change. Its first turn reads all that
the other one has left."""


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    try:
        return earlier(EARLIER, tmp_path_factory.mktemp("earlier"))
    except CommitNotThereError as error:
        pytest.skip(f"NO UPGRADE WAS TESTED: {error}")


@pytest.fixture(scope="module")
def cluster(before):
    """One of its own, in which the definition of plans is that of the earlier release."""
    with own_cluster(with_crd=False) as made:
        define(made, before)
        yield made


@pytest.fixture(scope="module")
def feed(cluster):
    kinds = [NODES, PODS, DEPLOYMENTS, ENDPOINT_SLICES, CONFIG_MAPS, PLANS, NODE_POOLS]
    with Feed(cluster.client, kinds) as running:
        yield running


@pytest.fixture
def pool(scene):
    return scene.rented(A100, price=20)


@pytest.fixture
def kubelet(scene, pool):
    gpus = {pool["resize"]["name"]: pool["gpu"]}
    with EmulatedKubelet(scene.feed, scene.cluster, scene.namespace, gpus=gpus) as running:
        yield running
        assert not running.problems, running.problems
        assert running.cut == 0, "an engine ended with answers under way"


def define(cluster, release):
    """Apply a release's definition of plans, as its page says."""
    arguments = ("--server-side", "--force-conflicts", "--field-manager=cluster-admin")
    cluster.kubectl("apply", *arguments, "-f", str(release.definition))
    wait_until_established(cluster.kubectl, release.definition.stem)


class Story:
    """A plan with users, and the operators that follow one another."""

    def __init__(self, scene, kubelet, witness, load):
        self.scene, self.kubelet, self.witness, self.load = scene, kubelet, witness, load

    def standing(self):
        """What serves: pods, Deployments as the API server counts their changes, and weights."""
        deployments = self.scene.deployments().values()
        return {
            "pods": {pod["metadata"]["uid"] for pod in self.scene.ready_pods()},
            "engines": (self.kubelet.started, self.kubelet.stopped),
            "deployments": {item["metadata"]["uid"]: item["metadata"]["generation"] for item in deployments},
            "templates": {item["metadata"]["name"]: item["spec"]["template"] for item in deployments},
            "weights": _weights(self.scene.routing()),
        }

    def nothing_changes(self, operator, found):
        """While an operator takes turns and users ask: ``found`` stands, and no other weights were ever published."""
        namespace, before = self.scene.namespace, len(self.witness.documents())
        wanted = operator.turns(namespace) + TURNS
        turned = lambda: operator.alive() and operator.turns(namespace) >= wanted  # noqa: E731
        wait_for("it takes its turns", turned, seconds=60, shown=operator.words)
        wait_for("requests go on", self.load.until_sent(REQUESTS), seconds=30)
        assert self.standing() == found
        published = [_weights(item.document) for item in self.witness.documents()[before:]]
        assert all(item == found["weights"] for item in published)
        assert not self.load.lost, "\n".join(map(str, self.load.lost[:20]))

    def moved(self):
        """Whether all that the present spec asks for is ready and has its weights."""
        solved = self.scene.condition("PlanSolved").get("status") == "True"
        return solved and not self.scene.routing()["transitional"]


def _weights(document):
    return {name: item["classes"] for name, item in document["models"].items()}


def test_upgrade_and_rollback_touch_nothing_that_serves(scene, before, kubelet, pool, witness, tmp_path):
    def operator(release):
        return scene.operator(release=release, lets_plans_go=False)

    with served.gateway(scene, kubelet, tmp_path) as gateway, ExitStack() as users:
        with operator(before) as running:
            ack = {"ackUrl": f"http://127.0.0.1:{gateway.port}/servingplan/revision"}
            models = [served.model(short=30, long=8)]
            scene.apply(plans.plan(scene.namespace, models, [pool], budget=200, gateway=ack))
            wait_for("Envoy has its files", (Path(gateway.place.folder) / BOOTSTRAP).exists, seconds=60)
            users.enter_context(gateway)
            scene.wait_ready(seconds=60)
            question = {"model": SMALL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
            wait_for("Envoy has a replica", lambda: gateway.ask(question).status == 200, seconds=30)
            load = users.enter_context(Load(gateway.port, KINDS))
            story = Story(scene, kubelet, witness, load)
            wait_for("all has its weights", story.moved, seconds=60, shown=scene.conditions)
            first = story.standing()
            story.nothing_changes(running, first)
        assert story.standing() == first, "the operator's end changes nothing"

        define(scene.cluster, THIS)
        with operator(THIS) as running:
            story.nothing_changes(running, first)
            # Its own hand in the record: a plan of the new release, which the earlier one then finds.
            scene.edit("chat", {"models": [served.model(short=70, long=8)]})
            scene.wait_ready(seconds=120)
            wait_for("all has its weights", story.moved, seconds=60, shown=scene.conditions)
            second = story.standing()
            assert second["pods"] > first["pods"], "the edit adds a replica and leaves the others alone"

        # The definition stays as it is, as after `helm rollback`.
        with operator(before) as running:
            story.nothing_changes(running, second)
            read = scene.condition("PlanSolved")
            print(f"the earlier release on the later record: {read['reason']}: {read['message']}")
            assert read["status"] == "True" or read["reason"] == "RecordUnreadable"

        with operator(THIS) as running:
            story.nothing_changes(running, second)
            assert scene.condition("Ready")["status"] == "True"
            users.close()
            scene.let_plans_go()
    sent = sum(load.sent.values())
    print(f"{len(load.lost)} of {sent} requests lost in an upgrade, a rollback and another upgrade")
    assert not load.lost
    assert load.complete.total() == sent


def test_plans_that_the_earlier_release_has_stored_stay_as_they_are(cluster, before):
    """Its examples, stored under its definition, are read and written under the present one; nothing of them is lost."""
    cluster.kubectl("create", "namespace", "stored")
    define(cluster, before)
    paths = [
        path for where in ("examples", "tests/golden/released") for path in (before.folder / where).rglob("*.yaml")
    ]
    found = [item for path in sorted(paths) for item in _plans_in(path)]
    made = {}
    for number, plan in enumerate(found):
        plan["metadata"] = {"name": f"plan-{number}", "namespace": "stored"}
        made[f"plan-{number}"] = cluster.api.create(PLANS, plan, namespace="stored")["spec"]
    assert made
    define(cluster, THIS)
    for name, spec in made.items():
        stored = cluster.api.get(PLANS, name, namespace="stored")
        assert stored["spec"] == spec
        written = ("replace", "--validate=strict", "--dry-run=server", "-o", "json", "-f", "-")
        assert json.loads(cluster.kubectl(*written, stdin=json.dumps(stored)))["spec"] == spec


def _plans_in(path):
    return [item for item in yaml.safe_load_all(path.read_text()) if item and item["kind"] == PLANS.kind]
