"""No request is lost behind a gateway that goes by Services, while their EndpointSlices come late.

The gateway is Envoy Gateway with the operator's HTTPRoutes: it learns of a replica from its EndpointSlice alone, which this
control plane writes ``LATE_SECONDS`` after the pod is ready, as large clusters do to write fewer. The operator is the real
one; pods answer by emulated engines in this process, each on an address of its own.
"""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from e2e.support import plans
from e2e.support.cluster import cluster_of
from e2e.support.emulated_kubelet import TIMES, EmulatedKubelet, envoy_sends_to, own_addresses
from e2e.support.feed import Feed
from e2e.support.load import Kind, Load
from e2e.support.plans import SMALL
from e2e.support.waiting import wait_for
from localcluster import binaries
from localcluster.control_plane import ControlPlane
from localcluster.envoy_gateway import EnvoyGateway
from localcluster.nodes import A100, L40S
from localcluster.ports import free_port
from servingplan.kube import CONFIG_MAPS, DEPLOYMENTS, ENDPOINT_SLICES, NODES, PLANS, PODS

LATE_SECONDS = 2.0
"""Replicas that leave are taken out of the EndpointSlices as late."""
REQUESTS_BETWEEN = 40
CHANGES = 8
GATEWAY = "public"
ENVOY_ADMIN_PORT = 19000
"""Envoy Gateway gives every Envoy this one."""
MODEL = (("x-servingplan-model", SMALL),)
KINDS = (
    Kind(SMALL, output_tokens=18, stream=False, requests_per_second=25, headers=MODEL),
    Kind(SMALL, output_tokens=18, stream=True, requests_per_second=15, headers=MODEL),
    Kind(SMALL, output_tokens=150, stream=True, requests_per_second=4, headers=MODEL),
)


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    try:
        binaries.program("envoy-gateway")
    except binaries.BuildError as error:
        pytest.skip(f"Envoy Gateway cannot be built here: {str(error).splitlines()[0]}")
    with ControlPlane(endpoint_batch_seconds=LATE_SECONDS) as plane:
        yield plane


@pytest.fixture(scope="module")
def cluster(plane):
    with cluster_of(plane, has_kwok=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def feed(cluster):
    with Feed(cluster.client, [NODES, PODS, DEPLOYMENTS, ENDPOINT_SLICES, CONFIG_MAPS, PLANS]) as running:
        yield running


@pytest.fixture
def pools(scene):
    """Two kinds of nodes, either of which could carry all."""
    return [scene.fixed(A100, 3, price=20, name="a100"), scene.fixed(L40S, 3, price=60, name="l40s")]


@pytest.fixture
def kubelet(scene, pools):
    gpus = {value: pool["gpu"] for pool in pools for value in pool["nodeSelector"].values()}
    try:
        with (
            own_addresses() as addresses,
            EmulatedKubelet(
                scene.feed,
                scene.cluster,
                scene.namespace,
                gpus=gpus,
                addresses=addresses,
            ) as running,
        ):
            yield running
            assert not running.problems, running.problems
            assert running.cut == 0, "an engine ended with answers under way"
    except PermissionError as error:
        pytest.skip(f"pods cannot have addresses of this machine's: {error}")


@pytest.fixture
def port(plane, scene, kubelet, tmp_path):
    """Of the gateway."""
    port = free_port(host="0.0.0.0")
    with EnvoyGateway(plane, tmp_path) as gateway:
        kubelet.is_in_use = envoy_sends_to(ENVOY_ADMIN_PORT)
        plane.apply(gateway.gateway(GATEWAY, namespace=scene.namespace, port=port))
        yield port


def model(rate, image):
    scale = plans.planned_of_an_a100() / plans.SERVED_BY_AN_A100
    made = plans.model_at(requests_per_second=rate * scale, image=f"engine:{image}")
    made["maxModelLen"] = 2048
    made["engine"]["podTemplate"]["metadata"]["annotations"] = TIMES
    return made


def changes(pools):
    """Replicas come, and whole Deployments are replaced."""
    first, second = pools
    dear, cheap = {**first, "dollarsPerNodeHour": "80"}, {**second, "dollarsPerNodeHour": "4"}
    for image in itertools.count(1):
        yield "replicas are added", {"models": [model(100, image)]}
        yield "another image", {"models": [model(100, image + 1)]}
        yield "the other pool is cheaper", {"nodePools": [dear, cheap]}
        yield "replicas go, the rest have another image", {"models": [model(40, image + 2)]}
        yield "the first pool is cheaper again", {"nodePools": [first, second], "models": [model(40, image + 1)]}


def test_no_request_is_lost_while_replicas_come_and_their_endpoints_come_late(
    scene, operator, kubelet, port, pools, witness
):
    routed = {"httpRoute": {"parentRefs": [{"name": GATEWAY}]}}
    scene.apply(plans.plan(scene.namespace, [model(40, 1)], pools, budget=400, gateway=routed))
    scene.wait_ready(seconds=60)
    wait_for("the gateway has a replica", lambda: _status(port) == 200, seconds=10)
    with Load(port, KINDS) as load:
        began = time.monotonic()
        for what, change in itertools.islice(changes(pools), CHANGES):
            print(f"{time.monotonic() - began:6.1f} s {what}; {len(load.lost)} lost so far")
            scene.edit("chat", change)
            wait_for("traffic has moved", lambda: _moved(scene), seconds=60, shown=scene.conditions)
            wait_for("requests go on", load.until_sent(REQUESTS_BETWEEN), seconds=10)
        seconds = time.monotonic() - began
    sent = sum(load.sent.values())
    print(f"{sent} requests in {seconds:.0f} s, {len(load.lost)} lost; {kubelet.started} engines started")
    assert not load.lost, "\n".join(map(str, load.lost[:20]))
    assert sum(load.complete.values()) == sent
    assert kubelet.started >= 2 * CHANGES, "the fleet hardly moved"


def _moved(scene) -> bool:
    """Whether all that the present spec asks for has its weights; what is old may still go."""
    return scene.condition("PlanSolved").get("status") == "True" and not scene.routing()["transitional"]


def _status(port: int) -> int:
    """Of one request; 0 where nobody answers."""
    body = {"model": SMALL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    headers = {"content-type": "application/json", **dict(MODEL)}
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request("POST", "/v1/chat/completions", body=json.dumps(body), headers=headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
    except (OSError, http.client.HTTPException):
        return 0
