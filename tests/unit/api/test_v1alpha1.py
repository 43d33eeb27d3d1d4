"""Every mistake in a spec is told by field, value and what to do; what is left out has a default."""

import copy
import re
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from servingplan.api.models_v1alpha1 import Match
from servingplan.api.parse import name_problem, parse_spec
from servingplan.api.scalars import seconds_of
from servingplan.api.v1alpha1 import PlanSpec

PLAN = yaml.safe_load((Path(__file__).parents[2] / "golden" / "render" / "plan.yaml").read_text())
SMALLEST = {
    "budget": {"dollarsPerHour": 10},
    "models": [{"name": "llama"}],
    "nodePools": [{"name": "pool", "nodeSelector": {"pool": "a"}}],
}
CARD = {
    "parameters": 10,
    "layers": 2,
    "hiddenSize": 8,
    "attentionHeads": 8,
    "kvHeads": 2,
    "headDim": 1,
}


def with_value(path, value):
    """The full plan's spec with one thing put in; ``...`` takes it out."""
    spec = copy.deepcopy(PLAN["spec"])
    *parents, last = path
    part = spec
    for key in parents:
        part = part.setdefault(key, {}) if isinstance(part, dict) else part[key]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return spec


def only_error(spec):
    parsed, errors = parse_spec(spec)
    assert parsed is None
    (error,) = errors
    return error


MODEL = ("models", 0)
POOL = ("nodePools", 0)
CLASS = "spec.models[0].classes[0]"
ENGINE = "spec.models[0].engine"
TWICE = [{"name": "public"}, {"name": "public"}]
HALF = [{"name": "public"}, {"name": "public", "sectionName": "https"}]


@pytest.mark.parametrize(
    ("path", "value", "field", "shown", "advice"),
    [
        (("budget",), ..., "spec.budget", None, "is required; add it"),
        (("budget",), None, "spec.budget", None, "is null, and must be a mapping, keys with their values"),
        (("models",), {"name": "a"}, "spec.models", {"name": "a"}, "must be a list"),
        (("models",), [3], "spec.models[0]", 3, "must be a mapping, keys with their values"),
        ((*MODEL, "slo", "percentile"), "95", "spec.models[0].slo.percentile", "95", "leave out the quotation marks"),
        ((*MODEL, "slo", "percentile"), True, "spec.models[0].slo.percentile", True, "must be a whole number"),
        ((*MODEL, "classes", 0, "inputTokens"), "500", f"{CLASS}.inputTokens", "500", "leave out the quotation marks"),
        ((*MODEL, "engine"), {"expertParallel": "yes"}, f"{ENGINE}.expertParallel", "yes", "must be true or false"),
        ((*MODEL, "engine"), {"extraArgs": "--x"}, f"{ENGINE}.extraArgs", "--x", "must be a list"),
        ((*MODEL, "engine"), {"extraArgs": [3]}, f"{ENGINE}.extraArgs[0]", 3, "put it in quotation marks"),
        ((*MODEL, "spill"), "false", "spec.models[0].spill", "false", "must be true or false"),
        (("budgets",), 5, "spec.budgets", 5, "is not a field of LLMServingPlan; remove it or correct its spelling"),
        (("budget", "dollarsPerHour"), 1.5, "spec.budget.dollarsPerHour", 1.5, "quoted decimal"),
        (("budget", "dollarsPerHour"), True, "spec.budget.dollarsPerHour", True, "quoted decimal"),
        (("budget", "dollarsPerHour"), "-1", "spec.budget.dollarsPerHour", "-1", "not negative"),
        (("budget", "dollarsPerHour"), -1, "spec.budget.dollarsPerHour", -1, "must not be negative"),
        (("budget", "dollarsPerHour"), 10**12, "spec.budget.dollarsPerHour", 10**12, "below 10^12"),
        (("budget", "dollarsPerHour"), "1e3", "spec.budget.dollarsPerHour", "1e3", "must be a decimal"),
        (("objective",), "Fast", "spec.objective", "Fast", "'MinimizeCost' or 'MaximizeService'"),
        ((*MODEL, "slo", "ttftSeconds"), 0, "spec.models[0].slo.ttftSeconds", 0, "must be greater than 0"),
        ((*MODEL, "slo", "percentile"), 100, "spec.models[0].slo.percentile", 100, "must be at most 99"),
        ((*MODEL, "maxModelLen"), 2000, "spec.models[0].maxModelLen", 2000, "raise it, or remove it"),
        ((*MODEL, "name"), "two words", "spec.models[0].name", "two words", "match the pattern"),
        ((*MODEL, "card"), {**CARD, "kvHeads": 3}, "spec.models[0].card.kvHeads", 3, "not a multiple of kvHeads"),
        (
            (*MODEL, "card"),
            {**CARD, "activeParameters": 11},
            "spec.models[0].card.activeParameters",
            11,
            "above parameters",
        ),
        ((*MODEL, "card"), {**CARD, "expertsPerToken": 2}, "spec.models[0].card.expertsPerToken", 2, "set experts"),
        (
            (*MODEL, "variants", 0, "source"),
            "s3://bucket",
            "spec.models[0].variants[0].source",
            "s3://bucket",
            "must begin with hf://, pvc:// or oci://",
        ),
        (
            (*MODEL, "variants", 0, "source"),
            "hf:///x",
            "spec.models[0].variants[0].source",
            "hf:///x",
            "followed by a name",
        ),
        ((*POOL, "minNodes"), 9, "spec.nodePools[0].minNodes", 9, "minNodes is above maxNodes"),
        ((*POOL, "nodeSelector"), {}, "spec.nodePools[0].nodeSelector", {}, "at least one label"),
        ((*POOL, "dollarsPerNodeHour"), "-1", "spec.nodePools[0].dollarsPerNodeHour", "-1", "not negative"),
        ((*POOL, "resize", "replicasPath"), "spec.n", "spec.nodePools[0].resize.replicasPath", "spec.n", "pattern"),
        (
            (*POOL, "resize", "replicasPath"),
            ".metadata.generation",
            "spec.nodePools[0].resize.replicasPath",
            ".metadata.generation",
            "pattern",
        ),
        ((*POOL, "resize", "apiVersion"), "../v1", "spec.nodePools[0].resize.apiVersion", "../v1", "pattern"),
        (("demand", "prometheus", "window"), "5", "spec.demand.prometheus.window", "5", "such as 90s, 10m or 1h"),
        (("demand", "prometheus", "window"), "", "spec.demand.prometheus.window", "", "such as 90s, 10m or 1h"),
        (("demand", "prometheus", "window"), "30s", "spec.demand.prometheus.window", "30s", "must be from 1m to 1h"),
        (("demand", "prometheus", "window"), "61m", "spec.demand.prometheus.window", "61m", "must be from 1m to 1h"),
        (("demand", "prometheus", "floor"), "1.5", "spec.demand.prometheus.floor", "1.5", "must be at most 1"),
        (("demand", "prometheus", "query"), "", "spec.demand.prometheus.query", "", "at least 1 character"),
        (("demand", "prometheus", "quantile"), 2, "spec.demand.prometheus.quantile", 2, "must be at most 1"),
        (("planning", "confidence"), "0.4", "spec.planning.confidence", "0.4", "must be at least 0.5"),
        (("planning", "confidence"), 1, "spec.planning.confidence", 1, "at most 0.99"),
        (("demand", "prometheus", "url"), "ftp://x", "spec.demand.prometheus.url", "ftp://x", "pattern"),
        (("resilience", "survive", 0, "event"), "Flood", "spec.resilience.survive[0].event", "Flood", "'AnyNode'"),
        (("gateway", "httpRoute", "parentRefs"), [], "spec.gateway.httpRoute.parentRefs", [], "at least 1 item"),
        (("gateway", "httpRoute", "hostnames"), ["a_b"], "spec.gateway.httpRoute.hostnames[0]", "a_b", "pattern"),
        (("gateway", "httpRoute", "hostnames"), ["a.*"], "spec.gateway.httpRoute.hostnames[0]", "a.*", "pattern"),
        (("gateway", "httpRoute", "parentRefs"), TWICE, "spec.gateway.httpRoute.parentRefs", TWICE, "is given twice"),
        (("gateway", "httpRoute", "parentRefs"), HALF, "spec.gateway.httpRoute.parentRefs", HALF, "is given twice"),
        (("models",), [], "spec.models", [], "at least 1 item"),
    ],
)
def test_a_mistake_is_told_by_field_value_and_what_to_do(path, value, field, shown, advice):
    error = only_error(with_value(path, value))
    assert error.field == field
    assert error.value == shown
    assert advice in error.advice
    assert str(error).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("path", "field", "key"),
    [
        (("models",), "spec.models", "name"),
        ((*MODEL, "variants"), "spec.models[0].variants", "name"),
        ((*MODEL, "classes"), "spec.models[0].classes", "name"),
        (("nodePools",), "spec.nodePools", "name"),
        (("resilience", "survive"), "spec.resilience.survive", "event"),
    ],
)
def test_nothing_is_given_twice(path, field, key):
    items = PLAN["spec"]
    for part in path:
        items = items[part]
    error = only_error(with_value(path, [*items, items[0]]))
    assert error.field == field
    assert error.advice == f"the {key} {items[0][key]!r} is given twice; change or remove one"


def test_a_floor_above_the_default_cap_needs_a_cap():
    spec = with_value((*POOL, "minNodes"), 101)
    del spec["nodePools"][0]["maxNodes"]
    assert only_error(spec).advice.endswith("set maxNodes")
    del spec["nodePools"][0]["resize"]
    assert parse_spec(spec)[1] == ()


def test_all_mistakes_are_told_at_once():
    spec = with_value((*POOL, "nodeSelector"), ...)
    spec["budget"]["dollarsPerHour"] = -1
    spec["mode"] = "Maybe"
    _, errors = parse_spec(spec)
    assert [error.field for error in errors] == [
        "spec.budget.dollarsPerHour",
        "spec.mode",
        "spec.nodePools[0].nodeSelector",
    ]


@pytest.mark.parametrize("raw", [None, [], "spec", 7])
def test_a_spec_that_is_no_object_is_one_mistake(raw):
    assert only_error(raw).field == "spec"


def test_the_full_plan_is_read_as_written():
    spec, errors = parse_spec(PLAN["spec"])
    assert errors == ()
    assert spec.budget.dollars_per_hour == 60
    assert spec.node_pools[0].dollars_per_node_hour == Decimal("23.92")
    assert [item.match.input_tokens_at_least for item in spec.models[0].classes] == [1476, None]
    assert PlanSpec.model_validate(spec.model_dump(by_alias=True, mode="json")) == spec


def test_a_model_a_budget_and_a_pool_are_enough():
    spec, errors = parse_spec(SMALLEST)
    assert errors == ()
    (model,), (pool,) = spec.models, spec.node_pools
    assert (spec.objective, spec.mode, spec.deletion_policy) == ("MinimizeCost", "Auto", "ScaleToFloor")
    assert [(item.name, item.source) for item in model.effective_variants] == [("bf16", None)]
    (only,) = model.effective_classes
    assert (only.input_tokens, only.output_tokens, only.requests_per_second) == (1024, 256, 1)
    assert model.effective_max_model_len == 2 * (1024 + 256)
    assert (pool.min_nodes, pool.cap, pool.dollars_per_node_hour) == (0, 100, None)
    assert (spec.change.min_gain, spec.change.min_lifetime) == (Decimal("0.05"), "10m")
    assert spec.solver.deadline_seconds == 10
    assert spec.planning.confidence == Decimal("0.75")


def test_a_price_of_zero_is_a_price():
    spec, _ = parse_spec(with_value((*POOL, "dollarsPerNodeHour"), 0))
    assert spec.node_pools[0].dollars_per_node_hour == 0


def test_a_plan_whose_name_cannot_name_other_objects_is_told():
    spec, _ = parse_spec(PLAN["spec"])
    assert name_problem("chat", spec) is None
    assert "shorten it" in name_problem("x" * 64, spec).advice
    clash, _ = parse_spec(with_value(("gateway", "configMap"), "chat-plan"))
    assert name_problem("chat", clash).field == "spec.gateway.configMap"
    assert name_problem("other", clash) is None


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("1h5m", 3900), ("0s", 0)])
def test_durations_are_hours_minutes_and_seconds(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5d", "-5m", "5m1h", "1.5h", "5m "])
def test_other_words_are_no_durations(text):
    with pytest.raises(ValueError, match="such as 90s"):
        seconds_of(text)


@settings(max_examples=100)
@given(st.decimals(0, 10**6, places=4))
def test_decimals_come_back_as_they_went_in(value):
    spec, _ = parse_spec({**SMALLEST, "budget": {"dollarsPerHour": format(value, "f")}})
    assert spec.budget.dollars_per_hour == value
    written = spec.model_dump(by_alias=True, mode="json")["budget"]["dollarsPerHour"]
    assert isinstance(written, str)
    assert Decimal(written) == value


@pytest.mark.parametrize(
    "refs",
    [
        [{"name": "public"}, {"name": "public", "namespace": "edge"}],
        [{"name": "public", "sectionName": "http"}, {"name": "public", "sectionName": "https"}],
    ],
)
def test_gateways_and_listeners_may_be_several(refs):
    assert parse_spec(with_value(("gateway", "httpRoute", "parentRefs"), refs))[1] == ()


@pytest.mark.parametrize("value", ["a\nb", "a\r", " a", "a ", "\x7f", "é"])
def test_the_value_of_a_header_is_one_that_a_header_can_have(value):
    """A newline would begin another line of a gateway's file."""
    with pytest.raises(ValidationError):
        Match.model_validate({"header": value})
    assert Match.model_validate({"header": "long context"}).header == "long context"


PYTHON = re.compile(r"\b(None|True|False|Tuple|tuple|dict|dictionary|instance|Input should|validation)\b")
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "x", "500", "yes"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "name"]), inner, max_size=2),
    max_leaves=5,
)


def places(node, path=()):
    """Every place of a spec."""
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, item in children:
        yield from places(item, (*path, key))


@given(data=st.data(), value=ANYTHING)
@settings(max_examples=300, deadline=None)
def test_no_mistake_is_told_in_the_words_of_python(data, value):
    spec = copy.deepcopy(PLAN["spec"])
    path = data.draw(st.sampled_from([place for place in places(PLAN["spec"]) if place]))
    target = spec
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    for error in parse_spec(spec)[1]:
        assert not PYTHON.search(str(error)), error
