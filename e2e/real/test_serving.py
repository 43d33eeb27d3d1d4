"""One plan on a real node: emulated engines as pods, Envoy as a pod, users who must not notice what changes."""

import time
import urllib.request

import pytest

from e2e.real.ground import ask, chat, revision
from e2e.real.traffic import Traffic, until_sent
from e2e.support.plans import SMALL
from e2e.support.waiting import wait_for
from servingplan.kube import Resource

OTHER = "mistral-7b"
LENGTHS = (5, 100, 20, 200)
SETTLED_SECONDS = 2
"""A replica that is lost gets no more requests after this long (the goal of its 99th percentile)."""
RESOURCE_QUOTAS = Resource("v1", "resourcequotas", "ResourceQuota")


@pytest.fixture
def gateway(scene, operator, ground):
    """A plan that serves with three replicas, behind Envoy."""
    scene.apply(ground.plan(ground.model(50)))
    ground.apply_gateway()
    ground.apply_mounted_gateway()
    wait_for("the engines' probes succeed", lambda: len(scene.ready_pods()) == 3, seconds=90, shown=ground.pods)
    address = ground.address_of("chat-gateway")
    scene.wait_ready(seconds=60)
    return address


def test_users_lose_nothing_by_a_swap_of_models_and_little_by_a_crash(scene, ground, gateway, witness):
    mounted = ground.address_of("chat-gateway-mounted")
    status, answer = ask(gateway, chat(tokens=5))
    assert (status, answer["usage"]["completion_tokens"]) == (200, 5)
    assert ask(gateway, chat(tokens=5, model="gpt-5"))[0] == 404
    assert ask(ground.gateway_address, chat(tokens=5), port=80)[0] == 200  # through the node's proxy

    _a_crash_costs_what_was_in_flight(scene, gateway)
    _a_swap_costs_nothing(scene, ground, gateway)
    _weights_leave_a_replica_that_is_deleted_and_come_back(scene, gateway)

    scene.wait_ready(seconds=60)
    wanted = scene.routing()["revision"]
    wait_for("the gateway has the weights", lambda: revision(gateway) == wanted, seconds=10)
    ground.touch_mounted_gateway()  # else it takes the kubelet a minute or more
    wait_for("the kubelet has brought the weights", lambda: revision(mounted) == wanted, seconds=15)


def _a_crash_costs_what_was_in_flight(scene, gateway):
    pods = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in scene.ready_pods()}
    crashed = sorted(pods)[0]
    with Traffic(gateway, requests_per_second=8, tokens=LENGTHS) as traffic:
        wait_for("every replica answers", lambda: traffic.engines(since=0) == pods.keys(), seconds=30)
        fail = urllib.request.Request(f"http://{pods[crashed]}:8000/emulator/fail", b'{"mode": "crash"}')
        at = time.monotonic()
        urllib.request.urlopen(fail, timeout=60).close()
        wait_for("the kubelet has seen its end", lambda: _restarts(scene, crashed) >= 1, seconds=60)
        assert ask(gateway, chat(tokens=5))[0] == 200  # the gateway has had a turn since
        settled = time.monotonic()
        wait_for(
            "the kubelet has started it again",
            lambda: any(o.engine == crashed and o.sent > settled for o in traffic.outcomes),
            seconds=60,
        )
        wait_for("all are Ready", lambda: _ready(scene) == pods.keys(), seconds=30)
    assert [outcome for outcome in traffic.lost if outcome.sent > settled] == []
    late = sum(outcome.sent > at + SETTLED_SECONDS for outcome in traffic.lost)
    print(
        f"a crash: {len(traffic.lost)} of {len(traffic.outcomes)} requests lost, "
        f"{late} of them sent {SETTLED_SECONDS} s after it"
    )


def _a_swap_costs_nothing(scene, ground, gateway):
    with Traffic(gateway, requests_per_second=8, tokens=LENGTHS) as traffic:
        wait_for("streams are in flight", lambda: traffic.in_flight >= 5, seconds=30)
        began = time.monotonic()
        scene.edit("chat", {"models": [ground.model(15), ground.model(30, OTHER)]})
        wait_for("one replica is left", lambda: len(_pods_of(scene, SMALL)) == 1, seconds=90, shown=ground.pods)
        print(f"two replicas were drained and gone {time.monotonic() - began:.1f} s after the edit")
        (left,) = _pods_of(scene, SMALL)
        gone = time.monotonic()
        wait_for("the other model answers", lambda: ask(gateway, chat(tokens=3, model=OTHER))[0] == 200, seconds=60)
        wait_for("users go on", until_sent(traffic, 20), seconds=30)
    print(f"a swap: {len(traffic.lost)} of {len(traffic.outcomes)} requests lost")
    assert traffic.lost == []
    assert traffic.engines(since=gone) == {left}
    scene.wait_ready(seconds=60)


def _weights_leave_a_replica_that_is_deleted_and_come_back(scene, gateway):
    (pod,) = _pods_of(scene, SMALL)
    # No other comes before the gateway was seen to have none.
    quota = {"metadata": {"name": "no-more-pods"}, "spec": {"hard": {"pods": "0"}}}
    scene.api.create(RESOURCE_QUOTAS, quota, namespace=scene.namespace)
    scene.cluster.kubectl("delete", "pod", pod, "-n", scene.namespace, "--grace-period=0", "--force")
    began = time.monotonic()
    wait_for("the class has no target", lambda: scene.weights(SMALL) == {}, seconds=10)
    wait_for("the gateway says so", lambda: ask(gateway, chat(tokens=3))[0] == 503, seconds=10)
    print(
        f"the gateway had no weights left {time.monotonic() - began:.1f} s after the last replica was deleted by force"
    )
    assert "error" in ask(gateway, chat(tokens=3))[1]
    assert ask(gateway, chat(tokens=3, model=OTHER))[0] == 200
    scene.cluster.kubectl("delete", "resourcequota", "no-more-pods", "-n", scene.namespace)
    began = time.monotonic()
    wait_for("another serves", lambda: ask(gateway, chat(tokens=3))[0] == 200, seconds=60)
    print(f"a new replica served {time.monotonic() - began:.1f} s after it was let come")
    assert _pods_of(scene, SMALL) != [pod]


def _ready(scene):
    return {pod["metadata"]["name"] for pod in scene.ready_pods()}


def _restarts(scene, name):
    """Of the containers of a pod."""
    (pod,) = [pod for pod in scene.pods() if pod["metadata"]["name"] == name]
    return sum(container["restartCount"] for container in pod["status"]["containerStatuses"])


def _pods_of(scene, model):
    return [p["metadata"]["name"] for p in scene.pods() if p["metadata"]["labels"]["servingplan.dev/model"] == model]
