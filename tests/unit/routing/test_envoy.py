"""Envoy's files say what the routing document says."""

import json

import pytest
import yaml

from servingplan.routing import envoy
from servingplan.routing.envoy.terms import BODY_FILTER


def entry(name, *targets, admitted=None, **match):
    chosen = [{"service": service, "port": 8000, "weight": weight} for service, weight in targets]
    return {"name": name, "match": match, "admitRequestsPerSecond": admitted, "targets": chosen}


def document(*classes, revision=7, **more):
    services = [{"service": name, "port": 8000} for name in ("b", "a", "idle")]
    models = {"m": {"defaultClass": classes[-1]["name"], "classes": list(classes)}}
    return {"version": 1, "plan": "llm/chat", "revision": revision, "services": services, "models": models, **more}


def routes(made):
    (host,) = envoy.route_configuration(made)["virtual_hosts"]
    return host["routes"]


def wanted(route):
    """What must hold of a request, in short."""
    found = {}
    for item in route["match"].get("headers", ()):
        test = item.get("string_match", item.get("range_match", {"present": item.get("present_match")}))
        found[item["name"].removeprefix("x-servingplan-")] = next(iter(test.values()))
    for item in route["match"].get("dynamic_metadata", ()):
        test = item["value"]
        found[f"body {item['path'][0]['key']}"] = (
            test["string_match"]["exact"] if "string_match" in test else round(test["double_match"]["range"]["end"])
        )
    return found


def classified(made):
    """The routes by which a request without headers finds its class, and where they lead."""
    return [
        (wanted(route), route["route"]["weighted_clusters"]["clusters"][0]["name"])
        for route in routes(made)
        if wanted(route).get("body model") == "m" and not {"class", "x-session-id"} & set(wanted(route))
    ]


def test_the_first_class_whose_match_holds_takes_the_request():
    made = document(
        entry("long-in", ("b", 10_000), inputTokensAtLeast=1476),
        entry("brief", ("idle", 10_000), maxTokensAtMost=64),
        entry("chat", ("a", 10_000)),
        entry("by-header-only", ("b", 10_000)),
    )
    assert classified(made) == [
        ({"body model": "m", "content-length": 1476 * 4}, "b"),
        ({"body model": "m", "body max_tokens": 64}, "idle"),
        ({"body model": "m"}, "a"),
    ]


def test_where_no_match_holds_the_default_class_takes_it():
    made = document(entry("long-in", ("b", 10_000), inputTokensAtLeast=10), bytesPerToken=2.5)
    assert classified(made) == [({"body model": "m", "content-length": 25}, "b"), ({"body model": "m"}, "b")]


def test_a_class_may_ask_for_a_value_of_the_header_beside_its_bounds():
    made = routes(
        document(entry("gold", ("b", 10_000), header="g", inputTokensAtLeast=1), entry("chat", ("a", 10_000)))
    )
    assert {"body model": "m", "class": "g", "content-length": 4} in [wanted(route) for route in made]


def test_headers_that_say_all_leave_the_body_unread_and_so_does_a_body_that_is_too_long():
    made = routes(document(entry("brief", ("b", 10_000), maxTokensAtMost=64), entry("chat", ("a", 10_000))))
    unread = [wanted(route) for route in made if BODY_FILTER in route.get("typed_per_filter_config", {})]
    too_long = {"model": "m", "content-length": 32 * 2**20 + 1}
    assert [item for item in unread if "x-session-id" not in item] == [
        {"model": "m", "class": "brief"},
        {"model": "m", "class": "chat"},
        too_long,
    ]
    (long_route,) = [route for route in made if wanted(route) == too_long]
    assert long_route["route"]["weighted_clusters"]["clusters"][0]["name"] == "a"


def test_what_no_model_takes_is_refused():
    last = routes(document(entry("chat", ("a", 10_000))))[-4:]
    assert [(wanted(route), route["direct_response"]["status"]) for route in last] == [
        ({"model": True}, 404),
        ({"body problem": "malformed"}, 400),
        ({"body problem": "no-model"}, 400),
        ({}, 404),
    ]


def test_weights_are_passed_on_by_name_and_answers_may_stream_for_long():
    chosen = [route["route"] for route in routes(document(entry("chat", ("b", 7000), ("a", 3000)))) if "route" in route]
    sticky, plain = chosen[:2]
    assert plain["weighted_clusters"]["clusters"] == [{"name": "a", "weight": 3000}, {"name": "b", "weight": 7000}]
    assert plain["timeout"] == sticky["timeout"] == "0s"
    assert [item["name"] for item in sticky["weighted_clusters"]["clusters"]] == ["a~sticky", "b~sticky"]


def test_no_request_is_sent_twice_once_it_may_have_begun():
    retries = {
        route["route"]["retry_policy"]["retry_on"]
        for route in routes(document(entry("chat", ("a", 1))))
        if "route" in route
    }
    (only,) = retries
    assert set(only.split(",")) == {
        "connect-failure",
        "refused-stream",
        "reset-before-request",
        "retriable-status-codes",
    }


@pytest.mark.parametrize(
    ("made", "status", "code"),
    [
        (entry("chat"), 503, "unavailable"),
        (entry("chat", ("a", 10_000), admitted=0.0), 429, "rate_limit_exceeded"),
    ],
)
def test_refusals_are_openai_errors_with_a_hint_to_come_back(made, status, code):
    (route,) = [route for route in routes(document(made)) if wanted(route) == {"body model": "m"}]
    assert route["direct_response"]["status"] == status
    assert json.loads(route["direct_response"]["body"]["inline_string"])["error"]["code"] == code
    headers = {item["header"]["key"]: item["header"]["value"] for item in route["response_headers_to_add"]}
    assert headers == {"content-type": "application/json", "retry-after": "1"}


@pytest.mark.parametrize("rate", [0.001, 0.4, 1, 2.5, 750.0])
def test_a_class_is_admitted_at_its_rate(rate):
    made = envoy.route_configuration(document(entry("chat", ("a", 10_000), admitted=rate)))
    (limit,) = made["virtual_hosts"][0]["typed_per_filter_config"].values()
    (descriptor,) = limit["descriptors"]
    bucket = descriptor["token_bucket"]
    interval = float(bucket["fill_interval"].removesuffix("s"))
    assert bucket["tokens_per_fill"] / interval == pytest.approx(rate, rel=1e-4)
    assert bucket["max_tokens"] == bucket["tokens_per_fill"] >= 1
    assert interval >= 0.05  # Envoy takes no shorter one
    classes = {
        route["metadata"]["filter_metadata"]["servingplan"]["class"]
        for route in made["virtual_hosts"][0]["routes"]
        if "route" in route
    }
    assert classes == {descriptor["entries"][0]["value"]}


def test_every_service_is_a_cluster_before_it_has_weight():
    made = envoy.clusters(document(entry("chat", ("a", 10_000))), namespace="llm")
    assert [item["name"] for item in made] == ["a", "a~sticky", "b", "b~sticky", "idle", "idle~sticky"]
    (endpoint,) = made[0]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    assert address == {"address": "a.llm.svc.cluster.local", "port_value": 8000}


def test_replicas_are_reached_by_their_own_addresses_where_these_are_known():
    made = document(entry("chat", ("a", 10_000)))
    files = envoy.envoy_files(made, namespace="llm", by_pod=True, place=envoy.Place(folder="/x"))
    files |= envoy.endpoint_files(made, {"a": [("10.0.0.7", 8000), ("10.0.0.8", 8000)]})
    for cluster in yaml.safe_load(files["envoy-cds.yaml"])["resources"]:
        source = cluster["eds_cluster_config"]
        path = source["eds_config"]["path_config_source"]["path"].removeprefix("/x/")
        (assignment,) = yaml.safe_load(files[path])["resources"]
        assert assignment["cluster_name"] == source["service_name"] == cluster["name"].removesuffix("~sticky")
    (found,) = yaml.safe_load(files["envoy-eds-a.yaml"])["resources"]
    (group,) = found["endpoints"]
    assert [item["endpoint"]["address"]["socket_address"]["address"] for item in group["lb_endpoints"]] == [
        "10.0.0.7",
        "10.0.0.8",
    ]


def test_the_revision_is_told():
    first = routes(document(entry("chat"), revision=12))[0]
    assert first["match"] == {"path": "/servingplan/revision"}
    assert json.loads(first["direct_response"]["body"]["inline_string"]) == {"plan": "llm/chat", "revision": 12}


def test_only_routes_change_with_the_weights():
    one = envoy.envoy_files(document(entry("chat", ("a", 10_000))), namespace="llm")
    other = envoy.envoy_files(document(entry("chat", ("b", 10_000))), namespace="llm")
    assert [name for name in one if one[name] != other[name]] == ["envoy-rds.yaml"]
    assert {yaml.safe_load(text).get("version_info", "7") for text in one.values()} == {"7"}


def test_clients_headers_are_stripped_where_they_are_not_trusted():
    for made, stripped in ((document(entry("chat")), False), (document(entry("chat"), clientHeaders="Strip"), True)):
        files = envoy.envoy_files(made, namespace="llm")
        assert ("early_header_mutation" in files["envoy-lds.yaml"]) is stripped


def test_files_are_watched_by_their_folder():
    started = envoy.bootstrap()["dynamic_resources"]
    for source in started.values():
        assert source["path_config_source"]["watched_directory"] == {"path": "/etc/envoy/routing"}


def test_a_large_plan_fits_into_a_config_map():
    classes = [
        {**entry(f"class-{number}", *[(f"chat-some-model-{item:06x}", 2500) for item in range(4)]), "match": match}
        for number, match in enumerate(({"inputTokensAtLeast": 9}, {"maxTokensAtMost": 5}, {"header": "h"}, {}))
    ]
    models = {
        f"organisation/model-{number}-70b-instruct": {"defaultClass": "class-3", "classes": classes}
        for number in range(20)
    }
    files = envoy.envoy_files({**document(entry("chat")), "models": models}, namespace="llm")
    assert sum(len(text) for text in files.values()) < 2**19


def test_counters_are_shown_on_the_usual_port_and_nowhere_if_none_is_given():
    (listener,) = envoy.bootstrap()["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "0.0.0.0", "port_value": 9902}
    assert "static_resources" not in envoy.bootstrap(envoy.Place())
