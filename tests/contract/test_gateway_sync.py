"""``servingplan gateway-sync`` beside a real API server and a real Envoy: weights and readiness reach requests at once."""

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kubernetes.config
import pytest

from e2e.support.gateway import request
from e2e.support.gateway_ground import CONFIG_MAP, EXAMPLE, NAMESPACE, GatewayGround
from e2e.support.waiting import wait_for
from localcluster.control_plane import ControlPlane
from servingplan.errors import Forbidden
from servingplan.kube import CONFIG_MAPS, ENDPOINT_SLICES, PODS, Kube
from servingplan.observe.gateway import ask_gateway
from servingplan.observe.urls import UrlPolicy

pytestmark = pytest.mark.cluster
SECONDS = 30
"""Generous: how long it takes is measured by the benchmarks, not here."""


def document(revision, one=10000, also=None):
    """``also``: weights of further Services, which ``one`` gives up."""
    also = also or {}
    weights = {"one": one - sum(also.values()), "two": 10000 - one, **also}
    targets = [{"service": name, "port": 8000, "weight": weight} for name, weight in weights.items() if weight]
    return {
        "version": 1,
        "plan": "llm/chat",
        "planHash": "9f2c0a11",
        "revision": revision,
        "transitional": False,
        "services": [{"service": name, "port": 8000} for name in weights],
        "models": {
            "m": {
                "defaultClass": "all",
                "classes": [{"name": "all", "match": {}, "admitRequestsPerSecond": None, "targets": targets}],
            }
        },
    }


@pytest.fixture(scope="module")
def cluster():
    with ControlPlane() as running:
        yield running


@pytest.fixture(scope="module")
def ground(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    with GatewayGround(cluster, folder, {"one": 3, "two": 1}, document(1)) as running:
        yield running


def served_by(ground, number=40):
    answers = ground.envoy.ask_all([request(b'{"model": "m"}')] * number, connections=4)
    assert {answer.status for answer in answers} == {200}
    return {answer.text for answer in answers}


def wait_served_by(ground, replicas):
    wait_for(f"requests go to {sorted(replicas)}", lambda: served_by(ground) == replicas, seconds=SECONDS)


@pytest.mark.parametrize("name", ["envoy.yaml", "envoy-mounted.yaml"])
def test_the_examples_are_manifests_that_the_api_server_takes(cluster, name):
    cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(EXAMPLE.with_name(name)))


def test_new_weights_are_followed(ground):
    assert served_by(ground) == {"one-0", "one-1", "one-2"}
    ground.publish(document(2, one=0))
    wait_for("Envoy has revision 2", lambda: ground.envoy.revision() == 2, seconds=SECONDS)
    wait_served_by(ground, {"two-0"})
    ground.publish(document(3))
    wait_served_by(ground, {"one-0", "one-1", "one-2"})


def test_the_operator_learns_which_weights_are_in_use(ground):
    url = f"http://127.0.0.1:{ground.place.port}/servingplan/revision"
    urls = UrlPolicy(None, allowed_hosts=frozenset({"127.0.0.1"}))
    with ThreadPoolExecutor(4) as threads:
        for revision in (4, 5):
            ground.publish(document(revision))
            wait_for(
                f"revision {revision} is taken",
                lambda wanted=revision: ask_gateway(url, "llm/chat", threads, urls).taken == wanted,
                seconds=SECONDS,
            )
        assert ask_gateway(url, "llm/other", threads, urls).taken is None


def test_a_replica_that_is_not_ready_gets_nothing_and_one_that_is_again_does(ground):
    ground.set_ready("one-1", ready=False)
    wait_served_by(ground, {"one-0", "one-2"})
    ground.set_ready("one-1", ready=True)
    wait_served_by(ground, {"one-0", "one-1", "one-2"})


def test_requests_go_to_the_replica_with_the_fewest_in_flight_of_all(ground):
    own = [ground.replicas[f"one-{number}"] for number in range(3)]
    before = [replica.requests for replica in own]
    released = threading.Event()
    for replica in own:
        replica.tokens, replica.released = 2, released
    with ThreadPoolExecutor(2) as threads:
        try:
            streams = [threads.submit(ground.envoy.ask, {"model": "m"}) for _ in range(2)]
            wait_for(
                "both requests arrive",
                lambda: sum(replica.requests for replica in own) - sum(before) == 2,
                seconds=SECONDS,
            )
            busy = {replica.name for replica, count in zip(own, before, strict=True) if replica.requests > count}
            for replica in own:
                replica.tokens = 0  # of the requests that follow
            assert len(busy) == 2
            answers = ground.envoy.ask_all([request(b'{"model": "m"}')] * 20, connections=1)
        finally:
            released.set()
        assert {answer.text for answer in answers} == {replica.name for replica in own} - busy
        assert {stream.result().status for stream in streams} == {200}


def test_a_service_gets_its_first_weight_once_envoy_has_its_replica_however_long_that_takes(ground):
    ground.add_service("three", replicas=1)
    wanted = document(7, also={"three": 5000})
    released = threading.Event()
    lost = []

    def ask_on():
        while not released.is_set():
            answers = ground.envoy.ask_all([request(b'{"model": "m"}')] * 20, connections=2)
            lost.extend(answer for answer in answers if answer.status != 200)

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(ask_on)
        try:
            ground.envoy.process.send_signal(signal.SIGSTOP)
            try:
                ground.publish(wanted)
                endpoints = Path(ground.place.folder) / "envoy-eds-three.yaml"
                wait_for("the addresses are written", endpoints.exists, seconds=SECONDS)
                time.sleep(1)  # far longer than it waits where it cannot ask
            finally:
                ground.envoy.process.send_signal(signal.SIGCONT)
            wait_served_by(ground, {"one-0", "one-1", "one-2", "three-0"})
        finally:
            released.set()
        asking.result()
    assert lost == []
    ground.publish(document(8))
    wait_served_by(ground, {"one-0", "one-1", "one-2"})


def test_a_replica_that_is_deleted_is_left_and_a_new_one_found(ground):
    ground.add("one-3", "one")
    wait_for("one-3 gets requests", lambda: "one-3" in served_by(ground), seconds=SECONDS)
    pod = ground.api.get(PODS, "one-3", namespace=NAMESPACE)
    ground.api.delete(PODS, "one-3", uid=pod["metadata"]["uid"], namespace=NAMESPACE)
    wait_for("one-3 gets nothing more", lambda: "one-3" not in served_by(ground), seconds=SECONDS)


@pytest.mark.parametrize(
    "data", [{}, {"routing.json": "{"}, {"routing.json": "[]"}, {"routing.json": '{"revision": 9}'}]
)
def test_what_is_no_routing_document_changes_nothing(ground, data):
    before = ground.envoy.revision()
    ground.write({"other": "x"})
    ground.write(data)
    ground.set_ready("one-0", ready=False)  # later news are followed all the same
    wait_served_by(ground, {"one-1", "one-2"})
    ground.set_ready("one-0", ready=True)
    wait_for("one-0 gets requests again", lambda: "one-0" in served_by(ground), seconds=SECONDS)
    assert ground.envoy.revision() == before
    assert "has no routing document" in ground.sync_log


def test_a_config_map_that_is_deleted_leaves_the_gateway_as_it_is(ground):
    made = ground.api.get(CONFIG_MAPS, CONFIG_MAP, namespace=NAMESPACE)
    ground.api.delete(CONFIG_MAPS, CONFIG_MAP, uid=made["metadata"]["uid"], namespace=NAMESPACE)
    time.sleep(0.3)
    assert served_by(ground) == {"one-0", "one-1", "one-2"}
    ground.publish(document(20, one=0))
    wait_served_by(ground, {"two-0"})
    ground.publish(document(21))
    wait_for("Envoy has revision 21", lambda: ground.envoy.revision() == 21, seconds=SECONDS)


def test_while_it_is_away_envoy_goes_on_and_afterwards_it_catches_up(ground):
    assert ground.stop_sync() == 0
    ground.publish(document(22, one=0))
    ground.set_ready("one-0", ready=False)
    assert served_by(ground) == {"one-0", "one-1", "one-2"}
    ground.start_sync()
    wait_served_by(ground, {"two-0"})
    ground.publish(document(23))
    ground.set_ready("one-0", ready=True)
    wait_served_by(ground, {"one-0", "one-1", "one-2"})


def test_its_account_may_read_its_config_map_and_endpoint_slices_and_nothing_else(ground):
    with kubernetes.config.new_client_from_config(str(ground.kubeconfig)) as client:
        own = Kube(client)
        assert own.get(CONFIG_MAPS, CONFIG_MAP, namespace=NAMESPACE)["data"]
        assert list(own.list(ENDPOINT_SLICES, namespace=NAMESPACE))
        refused = [
            lambda: list(own.list(CONFIG_MAPS, namespace=NAMESPACE)),
            lambda: list(own.list(PODS, namespace=NAMESPACE)),
            lambda: list(own.list(ENDPOINT_SLICES, namespace="default")),
            lambda: own.get(CONFIG_MAPS, "kube-root-ca.crt", namespace=NAMESPACE),
            lambda: own.merge(CONFIG_MAPS, CONFIG_MAP, {"data": {"a": "b"}}, manager="x", namespace=NAMESPACE),
        ]
        for attempt in refused:
            with pytest.raises(Forbidden):
                attempt()


def test_nothing_was_rejected(ground):
    stats = ground.envoy.stats()
    rejected = {name: value for name, value in stats.items() if name.endswith("update_rejected")}
    assert len(rejected) >= 5
    assert set(rejected.values()) == {0}, ground.envoy.log.read_text()
    kinds = {item["@type"] for item in json.loads(ground.envoy.admin("GET", "/config_dump?include_eds"))["configs"]}
    assert "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump" in kinds
