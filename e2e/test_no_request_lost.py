"""Requests keep coming while the plan is edited, prices move the fleet, and replicas are deleted: none is lost.

Nodes are KWOK's, the operator is the real one with the rights of the chart, pods answer by emulated engines in this process
(``support.emulated_kubelet``), and requests go through a real Envoy that ``gateway-sync`` keeps by the operator's routing
ConfigMap and the control plane's EndpointSlices. ``CHANGES=200`` is ``make soak``.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.support import plans, served
from e2e.support.emulated_kubelet import EmulatedKubelet
from e2e.support.load import Kind, Load
from e2e.support.plans import SMALL
from e2e.support.waiting import wait_for
from localcluster.nodes import A100, L40S
from servingplan.routing.envoy import BOOTSTRAP

pytestmark = pytest.mark.usefixtures("karpenter")

CHANGES = int(os.environ.get("CHANGES", "20"))
KINDS = (
    Kind(SMALL, output_tokens=18, stream=False, requests_per_second=20),
    Kind(SMALL, output_tokens=18, stream=True, requests_per_second=12),
    Kind(SMALL, output_tokens=100, stream=True, requests_per_second=6),
    Kind(SMALL, output_tokens=300, stream=True, requests_per_second=2),
)
"""The longest streams outlast the drain of a replica (one second) and the pause before its engine is told to stop."""
REQUESTS_BETWEEN = 80
"""Sent until the next change comes while one is under way: those of two seconds."""


def changes(pools) -> Iterator[tuple[str, plans.Json]]:
    """What a user does to a plan, again and again; no two that follow one another leave it as it was."""
    first, second = pools
    dear, cheap = {**first, "dollarsPerNodeHour": "80"}, {**second, "dollarsPerNodeHour": "4"}
    for number in itertools.count():
        image = f"engine:{number % 3 + 1}"
        yield "rates rise", {"models": [served.model(short=110, long=15, image=image)]}
        yield "rates fall", {"models": [served.model(short=40, long=15, image=image)]}
        yield "a replica is deleted", {}
        yield "the other pool is cheaper", {"nodePools": [dear, cheap]}
        yield "the mix turns", {"models": [served.model(short=20, long=45, image=image)]}
        yield "the first pool is cheaper again", {"nodePools": [first, second]}
        yield "another image", {"models": [served.model(short=40, long=15, image=f"engine:{(number + 1) % 3 + 1}")]}


@pytest.fixture
def gateway(scene, kubelet, tmp_path):
    """Envoy, and what keeps its files."""
    with served.gateway(scene, kubelet, tmp_path) as envoy:
        yield envoy


@pytest.fixture
def pools(scene):
    """Two kinds of nodes, either of which could carry all."""
    return [scene.rented(A100, price=20, name="a100"), scene.rented(L40S, price=60, name="l40s", most=3)]


@pytest.fixture
def kubelet(scene, pools):
    gpus = {pool["resize"]["name"]: pool["gpu"] for pool in pools}
    with EmulatedKubelet(scene.feed, scene.cluster, scene.namespace, gpus=gpus) as running:
        yield running
        assert not running.problems, running.problems
        assert running.cut == 0, "an engine ended with answers under way"


def test_no_request_is_lost_whatever_changes(scene, operator, kubelet, gateway, pools, witness):
    place = gateway.place
    scene.apply(
        plans.plan(
            scene.namespace,
            [served.model(short=40, long=15)],
            pools,
            budget=400,
            gateway={"ackUrl": f"http://127.0.0.1:{place.port}/servingplan/revision"},
        )
    )
    wait_for("Envoy has its files", (Path(place.folder) / BOOTSTRAP).exists, seconds=30)
    with gateway:
        scene.wait_ready(seconds=60)
        question = {"model": SMALL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
        wait_for("Envoy has a replica", lambda: gateway.ask(question).status == 200, seconds=10)
        hashes = set()
        with Load(place.port, KINDS) as load:
            began = time.monotonic()
            for number, (what, change) in enumerate(itertools.islice(changes(pools), CHANGES), start=1):
                print(f"{time.monotonic() - began:6.1f} s {what}; {len(load.lost)} lost so far")
                if change:
                    scene.edit("chat", change)
                else:
                    _delete_one_of_several(scene)
                if number % 2:
                    wait_for("requests go on", load.until_sent(REQUESTS_BETWEEN), seconds=10)
                else:
                    wait_for("traffic has moved", lambda: _moved(scene), seconds=60, shown=scene.conditions)
                hashes.add(scene.routing()["planHash"])
            seconds = time.monotonic() - began
            # However many changes overtake one another: those that are waited for move all to another pool this often.
            fleet_moved = lambda: kubelet.stopped >= CHANGES // 4  # noqa: E731
            wait_for("the fleet has moved", fleet_moved, seconds=60, shown=lambda: kubelet.stopped)
        sent = sum(load.sent.values())
        print(
            f"{sent} requests in {seconds:.0f} s, {len(load.lost)} lost, at most {load.most_in_flight} in flight; "
            f"{kubelet.started} engines started, {kubelet.stopped} ended; {len(hashes)} plans, "
            f"routing revision {scene.routing()['revision']}"
        )
    assert not load.lost, "\n".join(map(str, load.lost[:20]))
    assert sum(load.complete.values()) == sent
    assert len(hashes) >= 4, "the plan hardly changed"


def _moved(scene) -> bool:
    """Whether all that the present spec asks for is ready and has its weights; what is old may still go."""
    return scene.condition("PlanSolved").get("status") == "True" and not scene.routing()["transitional"]


def _delete_one_of_several(scene) -> None:
    """As a person or an eviction does: the pod has its grace period, and another takes its place."""
    several = wait_for("two replicas are Ready", lambda: len(ready := scene.ready_pods()) > 1 and ready, seconds=60)
    name = min(item["metadata"]["name"] for item in several)
    scene.cluster.kubectl("delete", "pod", name, "-n", scene.namespace, "--wait=false")
