"""Envoy's files say what the routing document says."""

import json

import pytest
import yaml

from servingplan.render import envoy


def entry(name, *targets, admitted=None):
    chosen = [{"service": service, "port": 8000, "weight": weight} for service, weight in targets]
    return {"name": name, "match": {}, "admitRequestsPerSecond": admitted, "targets": chosen}


def document(*classes, revision=7):
    services = [{"service": name, "port": 8000} for name in ("b", "a", "idle")]
    models = {"m": {"defaultClass": classes[-1]["name"], "classes": list(classes)}}
    return {"version": 1, "revision": revision, "services": services, "models": models}


def routes(made):
    (host,) = envoy.route_configuration(made)["virtual_hosts"]
    return host["routes"]


def wanted(route):
    return {item["name"]: item["string_match"]["exact"] for item in route["match"].get("headers", ())}


def test_classes_come_first_then_the_models_default_then_404():
    made = routes(document(entry("long-in", ("b", 10_000)), entry("chat", ("a", 10_000))))
    model, chosen = envoy.MODEL_HEADER, envoy.CLASS_HEADER
    assert [wanted(route) for route in made] == [
        {model: "m", chosen: "chat"},
        {model: "m", chosen: "long-in"},
        {model: "m"},
        {},
    ]
    assert made[2]["route"] == made[0]["route"]
    assert made[3]["direct_response"]["status"] == 404


def test_weights_are_passed_on_and_answers_may_stream_for_long():
    route = routes(document(entry("chat", ("a", 7000), ("b", 3000))))[0]["route"]
    assert route["weighted_clusters"]["clusters"] == [{"name": "a", "weight": 7000}, {"name": "b", "weight": 3000}]
    assert route["timeout"] == "0s"


@pytest.mark.parametrize(
    ("made", "status", "code"),
    [
        (entry("chat"), 503, "unavailable"),
        (entry("chat", ("a", 10_000), admitted=0.0), 429, "rate_limit_exceeded"),
    ],
)
def test_refusals_are_openai_errors_with_a_hint_to_come_back(made, status, code):
    route = routes(document(made))[0]
    assert route["direct_response"]["status"] == status
    assert json.loads(route["direct_response"]["body"]["inline_string"])["error"]["code"] == code
    headers = {item["header"]["key"]: item["header"]["value"] for item in route["response_headers_to_add"]}
    assert headers == {"content-type": "application/json", "retry-after": "1"}


@pytest.mark.parametrize("rate", [0.001, 0.4, 1, 2.5, 750.0])
def test_a_class_is_admitted_at_its_rate(rate):
    route = routes(document(entry("chat", ("a", 10_000), admitted=rate)))[0]
    (limit,) = route["typed_per_filter_config"].values()
    bucket = limit["token_bucket"]
    interval = float(bucket["fill_interval"].removesuffix("s"))
    assert bucket["tokens_per_fill"] / interval == pytest.approx(rate, rel=1e-4)
    assert bucket["max_tokens"] == bucket["tokens_per_fill"] >= 1
    assert interval >= 0.05  # Envoy takes no shorter one


def test_every_service_is_a_cluster_before_it_has_weight():
    made = envoy.clusters(document(entry("chat", ("a", 10_000))), namespace="llm")
    assert [item["name"] for item in made] == ["a", "b", "idle"]
    (endpoint,) = made[0]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    assert address == {"address": "a.llm.svc.cluster.local", "port_value": 8000}


def test_only_routes_change_with_the_weights():
    one = envoy.envoy_files(document(entry("chat", ("a", 10_000))), namespace="llm")
    other = envoy.envoy_files(document(entry("chat", ("b", 10_000))), namespace="llm")
    assert [name for name in one if one[name] != other[name]] == ["envoy-rds.yaml"]
    assert {yaml.safe_load(text)["version_info"] for text in one.values()} == {"7"}


def test_files_are_watched_by_their_folder():
    started = envoy.bootstrap(admin_port=9901)["dynamic_resources"]
    for source in started.values():
        assert source["path_config_source"]["watched_directory"] == {"path": envoy.MOUNT}
