"""What Prometheus is asked, and what its answers mean."""

import re

import pytest

from servingplan.api.models_v1alpha1 import RequestClass
from servingplan.api.parse import parse_spec
from servingplan.demand.signals import signals
from servingplan.demand.split import shares
from servingplan.model.names import arrivals_prefix

MODEL = "meta-llama/Llama-3.1-8B"


def spec_of(*lengths, **prometheus):
    classes = [
        {"name": f"c{index}", "inputTokens": prompt, "outputTokens": answer, "requestsPerSecond": 1}
        for index, (prompt, answer) in enumerate(lengths or ((500, 200),))
    ]
    raw = {
        "budget": {"dollarsPerHour": 10},
        "models": [{"name": MODEL, "classes": classes}],
        "nodePools": [{"name": "p", "nodeSelector": {"a": "b"}}],
        "demand": {"prometheus": {"url": "http://p:9090", **prometheus}},
    }
    spec, errors = parse_spec(raw)
    assert not errors, errors
    return spec


def row(labels, *values, **more):
    return {"metric": labels, "values": [[15.0 * index, str(value)] for index, value in enumerate(values)], **more}


def test_the_gateway_is_asked_before_the_engines_and_a_query_instead_of_both():
    assert [item.name for item in signals(spec_of(), "llm/chat")] == ["envoy", "envoy", "vllm"]
    assert [item.name for item in signals(spec_of(query="up"), "llm/chat")] == ["query"]


def test_two_plans_models_or_classes_never_share_a_counter():
    made = {
        arrivals_prefix(plan, model, name)
        for plan in ("a/b", "a/b.c")
        for model in ("m", "m.1", "m%2E1", "m/1")
        for name in ("x", "x.y")
    }
    assert len(made) == 16
    assert not any("." in item for item in made)


def test_envoys_counters_are_asked_for_by_name_and_read_by_class():
    signal = signals(spec_of((500, 200), (4000, 50)), "llm/chat")[0]
    (query,) = signal.queries
    pattern = re.search(r'=~"(.*)"}\[360s\]', query.text)[1].replace("\\\\", "\\")
    prefixes = [arrivals_prefix("llm/chat", MODEL, name) for name in ("c0", "c1")]
    assert all(re.fullmatch(pattern, item) for item in prefixes)
    assert not re.fullmatch(pattern, prefixes[0] + "x")
    label = "envoy_local_http_ratelimit_prefix"
    rows = [
        row({label: prefixes[0], "instance": "a"}, 0, 150, 300),
        row({label: prefixes[0], "instance": "b"}, 1000, 1060, 30),
        row({label: "llm/other/x/y"}, 0, 1e9, 2e9),
        row({}, 0, 5),
    ]
    counted, metrics = signal.read([rows])
    assert metrics == {"envoy_http_local_rate_limit_enabled"}
    assert {key: [count for *_, count in item] for key, item in counted.items()} == {f"{MODEL}/c0": [210, 180]}


def test_the_plans_own_query_is_read_by_its_labels():
    (signal,) = signals(spec_of(query="rate(x[$interval])"), "llm/chat")
    assert (signal.queries[0].text, signal.queries[0].step_seconds) == ("rate(x[30s])", 30)
    assert signal.history(3600) == "rate(x[3600s])"
    rows = [row({"model": MODEL, "class": "c0"}, 10, "NaN", 30), row({"model": MODEL, "class": "no"}, 5), row({}, 5)]
    counted, _ = signal.read([rows])
    assert counted == {f"{MODEL}/c0": ((0.0, 30.0, 300.0), (30.0, 30.0, 900.0))}


@pytest.mark.parametrize("colon", [":", "_"])
def test_vllm_counts_what_finished_and_what_waits_by_length(colon):
    signal = signals(spec_of((500, 200), (4000, 200)), "llm/chat")[2]
    labels = {"model_name": MODEL, "instance": "a"}
    rows = [
        row({**labels, "__name__": f"vllm{colon}request_success_total", "finished_reason": "stop"}, 0, 60, 120),
        row({**labels, "__name__": f"vllm{colon}request_success_total", "finished_reason": "length"}, 0, 30, 60),
        row({**labels, "__name__": f"vllm{colon}num_requests_waiting"}, 0, 10, 0),
        row({"model_name": "other", "__name__": f"vllm{colon}request_success_total"}, 0, 1e6, 2e6),
    ]

    def histogram(*cumulative):
        return [{"metric": {"model_name": MODEL, "le": le}, "value": [0, str(count)]} for le, count in cumulative]

    prompts = histogram(("1000", 75), ("5000", 100), ("+Inf", 100))
    answers = histogram(("500", 100), ("+Inf", 100))
    counted, metrics = signal.read([rows, prompts, answers])
    assert f"vllm{colon}request_success_total" in metrics
    found = {key: [count for *_, count in item] for key, item in counted.items()}
    assert found == {f"{MODEL}/c0": [75, 60], f"{MODEL}/c1": [25, 20]}
    assert signal.read([rows, [], []])[0] == {}
    assert signal.read([[], prompts, answers]) == ({}, frozenset())


def test_shares_sum_to_one_and_follow_the_nearest_lengths():
    classes = [
        RequestClass(name=name, input_tokens=prompt, output_tokens=answer, requests_per_second=1)
        for name, prompt, answer in (("a", 100, 100), ("b", 100, 2000), ("c", 8000, 100))
    ]
    found = shares(classes, {128: 60, 8192: 100}, {128: 50, 4096: 100})
    assert sum(found.values()) == pytest.approx(1)
    assert found["a"] > 0
    assert found["b"] >= 0.3
    assert shares(classes, {128: 0}, {128: 5}) is None
    assert shares(classes[:1], {}, {}) == {"a": 1.0}
