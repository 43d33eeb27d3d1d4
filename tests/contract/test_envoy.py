"""A stock Envoy reads the keys of the routing ConfigMap as they are, and follows them as the kubelet swaps them."""

import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter

import pytest
import yaml

from e2e.support.gateway import ENVOY, Gateway, Replicas, ask_all, request
from servingplan.demand import signals
from servingplan.model.names import arrivals_prefix
from servingplan.routing import envoy

pytestmark = pytest.mark.cluster
NAMESPACE = "llm"
SERVICES = ("chat-a", "chat-b", "chat-c")


def target(service, weight):
    return {"service": service, "port": 8000, "weight": weight}


def entry(name, *targets, admitted=None, **match):
    return {"name": name, "match": match, "admitRequestsPerSecond": admitted, "targets": list(targets)}


def routing_document(revision, *chat, admitted=None):
    """Two models; ``chat`` is where the first one's default class goes."""
    return {
        "version": 1,
        "plan": f"{NAMESPACE}/chat",
        "planHash": "9f2c0a11",
        "revision": revision,
        "transitional": False,
        "services": [{"service": name, "port": 8000} for name in SERVICES],
        "models": {
            "meta/llama": {
                "defaultClass": "chat",
                "classes": [
                    entry("long-in", target("chat-b", 10000), inputTokensAtLeast=1476),
                    entry("chat", *chat),
                    entry("rare", *chat, admitted=admitted),
                ],
            },
            "qwen": {"defaultClass": "all", "classes": [entry("all")]},
        },
    }


FIRST = routing_document(1, target("chat-a", 7000), target("chat-b", 3000), admitted=2.5)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with Replicas() as replicas:
        ports = {name: replicas.start(name).port for name in SERVICES}
        with Gateway(tmp_path_factory.mktemp("envoy"), FIRST, ports) as running:
            yield running


def asked(model, class_name=None, **more):
    headers = {"x-servingplan-model": model, "x-servingplan-class": class_name, **more}
    return request(b"{}", [(key, value) for key, value in headers.items() if value is not None])


def shares(gateway, number, *what, **more):
    answers = gateway.ask_all([asked(*what, **more)] * number)
    assert {answer.status for answer in answers} == {200}
    return Counter(answer.text for answer in answers)


def assert_shares(counts, **weights):
    """Each within five standard deviations of its weight: chance goes beyond once in 1.7 million times."""
    total = sum(counts.values())
    for name, weight in weights.items():
        share = weight / 10_000
        deviation = (total * share * (1 - share)) ** 0.5
        assert abs(counts[name] - total * share) <= 5 * deviation, (name, counts, deviation)


def test_envoy_takes_the_resources_as_a_static_configuration(tmp_path):
    files = envoy.envoy_files(FIRST, namespace=NAMESPACE)
    listeners, routes, clusters = (
        yaml.safe_load(files[f"envoy-{kind}.yaml"])["resources"] for kind in ("lds", "rds", "cds")
    )
    manager = listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = {key: value for key, value in routes[0].items() if key != "@type"}
    resources = {
        "listeners": [{key: value for key, value in item.items() if key != "@type"} for item in listeners],
        "clusters": [{key: value for key, value in item.items() if key != "@type"} for item in clusters],
    }
    path = tmp_path / "static.yaml"
    path.write_text(yaml.safe_dump({"static_resources": resources}))
    done = subprocess.run([ENVOY, "--mode", "validate", "-c", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stdout + done.stderr


def test_weights_share_the_requests_of_a_class(gateway):
    assert_shares(shares(gateway, 5000, "meta/llama", "chat"), **{"chat-a": 7000, "chat-b": 3000})


def test_a_class_goes_where_its_own_targets_are(gateway):
    assert shares(gateway, 50, "meta/llama", "long-in") == {"chat-b": 50}


def test_without_a_class_or_with_an_unknown_one_the_request_itself_tells(gateway):
    assert set(shares(gateway, 100, "meta/llama")) == {"chat-a", "chat-b"}
    assert set(shares(gateway, 100, "meta/llama", "odd")) == {"chat-a", "chat-b"}


def test_a_model_that_is_not_served_answers_404(gateway):
    assert gateway.ask({}, headers={"x-servingplan-model": "gpt"}).status == 404
    answer = gateway.ask({"model": "gpt"})
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize("body", [None, b"", {}, {"model": None}, [], "meta/llama", 5])
def test_a_request_without_a_model_answers_400(gateway, body):
    answer = gateway.ask(body)
    assert (answer.status, answer.error["param"]) == (400, "model")


def test_a_body_that_is_not_json_answers_400(gateway):
    answer = gateway.ask(b'{"model": "meta/llama"')
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert "JSON" in answer.error["message"]


def test_a_class_with_nothing_ready_answers_503(gateway):
    answer = gateway.ask({"model": "qwen"})
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "unavailable", "1")


def test_the_models_are_listed(gateway):
    answer = gateway.ask(path="/v1/models", method="GET")
    assert answer.status == 200
    assert [item["id"] for item in yaml.safe_load(answer.body)["data"]] == ["meta/llama", "qwen"]


def test_what_is_above_the_admitted_rate_answers_429_whichever_route_led_to_it(gateway):
    started = time.monotonic()
    body = b'{"model": "meta/llama"}'
    rare = ("x-servingplan-class", "rare")
    ways = [
        asked("meta/llama", "rare"),
        asked("meta/llama", "rare", **{"x-session-id": "s"}),
        request(body, [rare]),
        request(body, [rare, ("x-session-id", "s")]),
    ]
    answers = gateway.ask_all(ways * 50)
    seconds = time.monotonic() - started
    admitted = sum(answer.status == 200 for answer in answers)
    assert 3 <= admitted <= 3 + 3 * (1 + seconds / 1.2)
    turned_away = next(answer for answer in answers if answer.status == 429)
    assert turned_away.error["code"] == "rate_limit_exceeded"
    assert turned_away.headers["retry-after"] == "1"


def test_every_request_of_a_class_is_counted_those_turned_away_too(gateway):
    """Under the name by which the demand is read: ``demand.signals``."""
    before = arrivals(gateway)
    gateway.ask_all([asked("meta/llama", "rare")] * 30 + [asked("meta/llama", "long-in")] * 7 + [asked("qwen")] * 5)
    gateway.ask_all([request(b'{"model": "meta/llama"}', [("x-session-id", "s")])] * 3)
    after = arrivals(gateway)
    counted = {name: after[name] - before.get(name, 0) for name in after}
    assert counted == {
        arrivals_prefix(f"{NAMESPACE}/chat", model, name): count
        for model, name, count in (
            ("meta/llama", "rare", 30), ("meta/llama", "long-in", 7), ("meta/llama", "chat", 3), ("qwen", "all", 5)
        )
    }  # fmt: skip


def arrivals(gateway):
    """Requests by the prefix under which Envoy counted them."""
    metric, label = signals.ENVOY[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.place.admin_port}/stats/prometheus", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [re.fullmatch(rf'{metric}{{{label}="(.*)"}} (\d+)', line) for line in lines]
    return {match[1]: int(match[2]) for match in found if match and "/" in match[1]}


def test_a_swapped_document_is_followed_without_a_restart_and_without_a_lost_request(gateway):
    lost, stop = [], threading.Event()

    def ask_on():
        while not stop.is_set():
            answers = ask_all(gateway.port, [asked("meta/llama")] * 20, connections=1)
            lost.extend(answer for answer in answers if answer.status != 200)

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        for revision in range(3, 13):  # to a Service that had no weight, and back
            chosen = "chat-c" if revision % 2 else "chat-a"
            gateway.take(routing_document(revision, target(chosen, 10000)))
            assert shares(gateway, 20, "meta/llama") == {chosen: 20}
    finally:
        stop.set()
        asking.join()
    assert lost == []
    gateway.take(routing_document(13, target("chat-b", 9000), target("chat-c", 1000)))
    assert_shares(shares(gateway, 2000, "meta/llama"), **{"chat-b": 9000, "chat-c": 1000})
    stats = gateway.stats()
    rejected = {name: value for name, value in stats.items() if name.endswith("update_rejected")}
    assert len(rejected) >= 3
    assert set(rejected.values()) == {0}
    assert stats["listener_manager.listener_create_success"] == 2  # the counters' too
    assert stats["listener_manager.listener_modified"] == 0


def test_prometheus_finds_counters_where_nobody_can_stop_or_read_envoy(gateway):
    gateway.ask({"model": "qwen"})
    url = f"http://127.0.0.1:{gateway.place.stats_port}"
    with urllib.request.urlopen(f"{url}{envoy.STATS_PATH}", timeout=5) as answer:
        assert b"envoy_http_local_rate_limit_enabled{" in answer.read()
    for method, path in (("POST", "/quitquitquit"), ("GET", "/config_dump"), ("POST", envoy.STATS_PATH), ("GET", "/")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(f"{url}{path}", method=method), timeout=5)
        refused.value.close()
        assert refused.value.code == 404, path
