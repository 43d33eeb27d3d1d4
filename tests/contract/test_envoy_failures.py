"""Replicas that refuse, die, or are busy, behind a real Envoy: no request is lost that another replica can serve, none is
sent twice once it may have begun, and sessions stay where they are."""

import json
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.support.gateway import EnvoyProcess, Mount, Replicas, ask_all, request
from e2e.support.waiting import wait_for
from localcluster.ports import free_port, free_ports
from servingplan.routing import envoy

pytestmark = pytest.mark.cluster
SERVICES = ("one", "two", "dead")
REPLICAS = 4
EJECTION = "outlier_detection.base_ejection_time_ms"
_EJECTIONS = {EJECTION: 1000, "outlier_detection.interval_ms": 200}
SHORT_EJECTIONS = {"layers": [{"name": "test", "static_layer": _EJECTIONS}, {"name": "now", "admin_layer": {}}]}
"""So that the tests do not wait for five seconds each time."""


def document(revision=1, *, weights=(("one", 5000), ("two", 5000)), models=None):
    def entry(name, chosen):
        targets = [{"service": service, "port": 8000, "weight": weight} for service, weight in chosen]
        return {"name": name, "match": {}, "admitRequestsPerSecond": None, "targets": targets}

    models = models or {"one": [("one", 10000)], "both": list(weights), "dead": [("dead", 10000)]}
    return {
        "version": 1,
        "plan": "llm/chat",
        "planHash": "9f2c0a11",
        "revision": revision,
        "transitional": False,
        "services": [{"service": name, "port": 8000} for name in SERVICES],
        "models": {name: {"defaultClass": "all", "classes": [entry("all", chosen)]} for name, chosen in models.items()},
    }


class Scene:
    """Envoy by pod: Services ``one`` and ``two`` with replicas of their own, ``dead`` with one that is not there."""

    def __init__(self, folder, servers):
        self.servers = servers
        self.replicas = {
            name: [servers.start(f"{name}-{n}", port=free_port()) for n in range(REPLICAS)] for name in ("one", "two")
        }
        port, admin_port, nobody = free_ports(3)
        self.mount = Mount(folder / "routing")
        self.place = envoy.Place(folder=str(self.mount.folder), port=port, admin_port=admin_port)
        self.endpoints = {name: list(items) for name, items in self.replicas.items()}
        self.nobody = nobody
        self.swap(document())

    def swap(self, made):
        """The document, over the replicas that are endpoints."""
        self.made = made
        addresses = {name: [("127.0.0.1", item.port) for item in items] for name, items in self.endpoints.items()}
        addresses["dead"] = [("127.0.0.1", self.nobody)]
        files = envoy.envoy_files(made, namespace="llm", by_pod=True, place=self.place)
        self.mount.swap({**files, **envoy.endpoint_files(made, addresses)})

    def reset(self):
        for items in self.replicas.values():
            for item in items:
                item.status, item.hang_up, item.tokens, item.released, item.requests = 200, False, 0, None, 0


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    with Replicas() as servers:
        made = Scene(tmp_path_factory.mktemp("envoy"), servers)
        log = made.mount.folder.parent / "log"
        with EnvoyProcess(made.place, log=log, more=json.dumps({"layered_runtime": SHORT_EJECTIONS})) as gateway:
            made.gateway = gateway
            yield made


@pytest.fixture
def calm(scene):
    """All replicas well, and none ejected for what the last test did."""
    scene.reset()
    wait_for("none is ejected", lambda: not ejected(scene), seconds=30)
    yield scene
    scene.reset()


def ejected(scene):
    return sum(value for name, value in scene.gateway.stats().items() if name.endswith("ejections_active"))


def passed_by(scene, replica):
    """Whether many requests in a row go elsewhere."""
    met = replica.requests
    answers = scene.gateway.ask_all([asked("one")] * 80, connections=4)
    assert {answer.status for answer in answers} == {200}
    return replica.requests == met


def asked(model, **headers):
    pairs = [(key.replace("_", "-"), value) for key, value in headers.items()]
    return request(json.dumps({"model": model}).encode(), pairs)


def test_a_request_that_a_replica_refuses_is_served_by_another(calm):
    calm.replicas["one"][0].status = 503
    answers = calm.gateway.ask_all([asked("one")] * 400, connections=4)
    assert {answer.status for answer in answers} == {200}
    assert calm.replicas["one"][0].requests > 0


def test_a_long_prompt_that_a_replica_refuses_is_sent_to_another_whole(calm):
    calm.replicas["one"][0].status = 503
    body = json.dumps({"model": "one", "prompt": "x" * (5 * 2**20)}).encode()
    answers = calm.gateway.ask_all([request(body)] * 16, connections=2)
    assert {answer.status for answer in answers} == {200}
    assert calm.replicas["one"][0].requests > 0
    lengths = {int(item.last_headers["content-length"]) for item in calm.replicas["one"] if item.requests}
    assert lengths == {len(body)}


def test_a_replica_that_keeps_refusing_is_left_alone_for_a_while(calm):
    bad = calm.replicas["one"][1]
    bad.status = 503
    calm.gateway.admin("POST", f"/runtime_modify?{EJECTION}=600000")
    try:
        wait_for("it is left alone", lambda: passed_by(calm, bad), seconds=30)
        assert bad.requests >= 5
        assert ejected(calm) == 1
        assert passed_by(calm, bad)
    finally:
        calm.gateway.admin("POST", f"/runtime_modify?{EJECTION}=")
    wait_for("it is asked again", lambda: not passed_by(calm, bad), seconds=30)


def test_a_replica_that_is_gone_costs_no_request(calm):
    lost = calm.replicas["two"][3]
    calm.servers.stop(lost.port)
    try:
        answers = calm.gateway.ask_all([asked("both")] * 400, connections=4)
        assert {answer.status for answer in answers} == {200}
    finally:
        calm.replicas["two"][3] = calm.servers.start(lost.name, port=lost.port)


def test_a_request_that_may_have_begun_is_not_sent_again(calm):
    for item in calm.replicas["one"]:
        item.hang_up = True
    answer = calm.gateway.ask({"model": "one"})
    assert (answer.status, answer.error["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    assert sum(item.requests for item in calm.replicas["one"]) == 1


def test_an_engines_own_error_is_passed_on_once(calm):
    for item in calm.replicas["one"]:
        item.status = 500
    answers = calm.gateway.ask_all([asked("one")] * 40, connections=2)
    assert {answer.status for answer in answers} == {500}
    assert sum(item.requests for item in calm.replicas["one"]) == 40


def test_where_nobody_can_be_reached_the_answer_is_an_openai_error(calm):
    answer = calm.gateway.ask({"model": "dead"})
    assert (answer.status, answer.error["type"], answer.error["code"]) == (503, "server_error", "unavailable")


def test_a_body_that_is_too_long_is_refused_as_such_unless_headers_name_its_model(calm):
    body = b'{"model": "one", "prompt": "' + b"x" * (33 * 2**20) + b'"}'
    answer = calm.gateway.ask(body)
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert calm.gateway.ask(body, headers={"x-servingplan-model": "one"}).status == 200
    long_enough = b'{"model": "one", "prompt": "' + b"x" * (30 * 2**20) + b'"}'
    assert calm.gateway.ask(long_enough).status == 200


def test_a_session_stays_on_its_replica_and_sessions_are_spread(calm):
    sessions = [f"session-{number}" for number in range(200)]
    first = calm.gateway.ask_all([asked("both", x_session_id=name) for name in sessions], connections=1)
    again = calm.gateway.ask_all([asked("both", x_session_id=name) for name in sessions], connections=1)
    assert [answer.text for answer in first] == [answer.text for answer in again]
    places = Counter(answer.text for answer in first)
    assert len(places) == 2 * REPLICAS
    by_service = Counter(name.partition("-")[0] for name in places.elements())
    assert 60 <= by_service["one"] <= 140


def test_another_weight_moves_only_as_many_sessions_as_it_must(calm):
    sessions = [asked("both", x_session_id=f"session-{number}") for number in range(400)]
    before = [answer.text for answer in calm.gateway.ask_all(sessions, connections=1)]
    revision = calm.made["revision"] + 1
    calm.swap(document(revision, weights=(("one", 6000), ("two", 4000))))
    calm.gateway.follow(revision)
    after = [answer.text for answer in calm.gateway.ask_all(sessions, connections=1)]
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    assert 10 <= moved <= 80  # a tenth of the weight
    calm.swap(document(revision + 1))
    calm.gateway.follow(revision + 1)


def test_streams_in_flight_end_in_full_when_their_replica_leaves(calm):
    released = threading.Event()
    own = calm.replicas["one"]
    for item in own:
        item.tokens, item.released = 20, released
    with ThreadPoolExecutor(1) as threads:
        try:
            asking = threads.submit(ask_all, calm.gateway.port, [asked("one")] * 16, connections=16)
            wait_for("every stream has begun", lambda: sum(item.requests for item in own) == 16, seconds=30)
            for item in own:
                item.released = None  # of the requests that follow
            slow = own[2]
            assert slow.requests > 0
            calm.endpoints["one"] = [item for item in own if item is not slow]
            revision = calm.made["revision"] + 1
            calm.swap(document(revision, models={"one": [("one", 10000)], "both": [("two", 10000)]}))
            calm.gateway.follow(revision)
            wait_for("it gets nothing more", lambda: passed_by(calm, slow), seconds=30)
            assert not asking.done()
        finally:
            released.set()
        assert {(answer.status, answer.body) for answer in asking.result()} == {(200, b"data: x\n" * 20)}
    calm.endpoints["one"] = list(own)
    calm.swap(document(revision + 1))
    calm.gateway.follow(revision + 1)


def test_the_least_busy_replica_is_preferred(calm):
    slow, *others = calm.replicas["one"]
    released = threading.Event()
    slow.tokens, slow.released = 1, released
    with ThreadPoolExecutor(1) as threads:
        try:
            asking = threads.submit(ask_all, calm.gateway.port, [asked("one")] * 400, connections=8)
            wait_for("others serve", lambda: sum(item.requests for item in others) >= 390, seconds=60)
            assert slow.requests < min(item.requests for item in others) / 2
        finally:
            released.set()
        assert len(asking.result()) == 400


def test_a_client_that_hangs_up_does_no_harm(calm):
    for cut in (10, 60, 150):
        with socket.create_connection(("127.0.0.1", calm.gateway.port)) as connection:
            connection.sendall(asked("one")[:cut])
    assert calm.gateway.ask({"model": "one"}).status == 200
