"""Weights: whole, complete, in proportion to what is planned and ready; the document follows its schema."""

import json
from decimal import Decimal

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.fleet import ClassService, Fleet, ReplicaFacts, ReplicaSet
from servingplan.model.world import PlanObject
from servingplan.routing.document import routing_config_map, routing_document, schema
from servingplan.routing.weights import WEIGHT_TOTAL, largest_remainder

thorough = settings(max_examples=100)
PLAN = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={})
CLASSES = ("long-in", "chat")
SCHEMA = jsonschema.Draft202012Validator(schema())
rates = st.floats(0, 1000, allow_nan=False).map(lambda rate: round(rate, 4))
by_class = st.dictionaries(st.sampled_from(CLASSES), rates)


def spec(**match):
    given_match = {"match": match or {"inputTokensAtLeast": 1476}}
    tokens = {"inputTokens": 100, "outputTokens": 100, "requestsPerSecond": "1.5"}
    return PlanSpec.model_validate(
        {
            "budget": {"dollarsPerHour": 10},
            "models": [
                {"name": "m", "classes": [{"name": "long-in", **tokens, **given_match}, {"name": "chat", **tokens}]}
            ],
            "nodePools": [{"name": "p", "nodeSelector": {"a": "b"}}],
        }
    )


def facts(model="m", planned=None, capacity=None):
    return ReplicaFacts(model=model, pool="p", gpus=1, priority=0, planned=planned or {}, capacity=capacity or {})


def replica_set(deployment, replicas):
    return ReplicaSet(
        deployment=deployment,
        model="m",
        variant="v",
        pool="p",
        gpu="g",
        tensor_parallel=1,
        pipeline_parallel=1,
        replicas=replicas,
        planned={"chat": float(replicas)},
        capacity={"chat": 2.0},
        priority=0,
        error_band=0.1,
        source="measured",
    )


def document(known, ready, *, fleet=None, previous=None, plan_spec=None, measured=()):
    return routing_document(
        plan=PLAN,
        spec=plan_spec or spec(),
        fleet=fleet or Fleet(),
        facts=known,
        ready=ready,
        previous=previous,
        measured=measured,
    )


def weights(made, class_name="chat"):
    (entry,) = (item for item in made["models"]["m"]["classes"] if item["name"] == class_name)
    return {target["service"]: target["weight"] for target in entry["targets"]}


@st.composite
def fleets(draw):
    """Replicas that are known, some of them ready, some of another model."""
    labels = draw(st.lists(st.integers(0, 99), unique=True, max_size=6))
    known = {
        f"d{label}": facts(draw(st.sampled_from(["m", "m", "m", "other"])), draw(by_class), draw(by_class))
        for label in labels
    }
    return known, {name: draw(st.integers(0, 5)) for name in known if draw(st.booleans())}


@thorough
@given(st.dictionaries(st.text("abc", max_size=3), rates, max_size=8), st.integers(1, 10_000))
def test_whole_shares_add_up_and_are_within_one_of_the_quota(shares, total):
    got = largest_remainder(shares, total)
    whole = sum(shares.values())
    if whole == 0:
        assert got == {}
        return
    assert sum(got.values()) == total
    assert got.keys() == shares.keys()
    for name, number in got.items():
        assert abs(number - shares[name] / whole * total) < 1 + 1e-6


@thorough
@given(fleets())
def test_every_document_follows_the_schema_and_its_weights_add_up(fleet_state):
    known, ready = fleet_state
    made = document(known, ready)
    SCHEMA.validate(made)
    for class_name in CLASSES:
        shares = weights(made, class_name)
        assert sum(shares.values()) in (0, WEIGHT_TOTAL)
        assert all(known[name].model == "m" and ready[name] > 0 for name in shares)


@thorough
@given(fleets())
def test_weights_are_in_proportion_to_planned_rate_times_ready_replicas(fleet_state):
    known, ready = fleet_state
    for class_name in CLASSES:
        got = weights(document(known, ready), class_name)

        def total(field, class_name=class_name):
            candidates = {name: item for name, item in known.items() if item.model == "m" and ready.get(name)}
            rates = {name: getattr(item, field).get(class_name, 0) * ready[name] for name, item in candidates.items()}
            return {name: rate for name, rate in rates.items() if rate > 0}

        shares = total("planned") or total("capacity")
        assert bool(got) == bool(shares)
        for name, share in shares.items():
            assert abs(got.get(name, 0) - WEIGHT_TOTAL * share / sum(shares.values())) < 1 + 1e-6


def test_the_example_of_the_documentation():
    known = {"a": facts(planned={"long-in": 0.58}), "b": facts(planned={"long-in": 0.1, "chat": 3.0})}
    made = document(known, {"a": 1, "b": 1})
    assert weights(made, "long-in") == {"a": 8529, "b": 1471}
    assert weights(made, "chat") == {"b": 10_000}
    assert [item["name"] for item in made["models"]["m"]["classes"]] == ["long-in", "chat"]
    assert made["models"]["m"]["classes"][0]["match"] == {"inputTokensAtLeast": 1476}
    assert made["models"]["m"]["defaultClass"] == "chat"


def test_while_nothing_planned_for_a_class_is_ready_others_that_can_take_it():
    known = {
        "planned": facts(planned={"chat": 5.0}, capacity={"chat": 6.0}),
        "able": facts(planned={"long-in": 1.0}, capacity={"chat": 3.0, "long-in": 1.0}),
        "unable": facts(planned={"long-in": 1.0}, capacity={"long-in": 1.0}),
    }
    assert weights(document(known, {"planned": 1, "able": 2, "unable": 2})) == {"planned": 10_000}
    assert weights(document(known, {"able": 2, "unable": 2})) == {"able": 10_000}
    assert weights(document(known, {"unable": 2})) == {}


def test_a_gateway_learns_of_services_before_they_get_weight_and_until_they_are_gone():
    fleet = Fleet(replica_sets=(replica_set("new", 1),))
    made = document({"old": facts(planned={"chat": 1.0})}, {"old": 1}, fleet=fleet)
    assert [item["service"] for item in made["services"]] == ["new", "old"]
    assert weights(made) == {"old": 10_000}


def test_the_document_is_transitional_while_other_replicas_serve_than_planned():
    fleet = Fleet(replica_sets=(replica_set("a", 2),))
    known = {"a": facts(planned={"chat": 1.0})}
    assert document(known, {"a": 1}, fleet=fleet)["transitional"] is True
    assert document(known, {"a": 2}, fleet=fleet)["transitional"] is False
    assert document(known, {"a": 2, "old": 1}, fleet=fleet)["transitional"] is True
    assert document(known, {"a": 2, "old": 0}, fleet=fleet)["transitional"] is False


@pytest.mark.parametrize(("planned", "admitted"), [(1.5, None), (1.4999999, None), (0.75, 0.75), (0.0, 0.0)])
def test_a_class_that_is_served_in_part_is_admitted_in_part(planned, admitted):
    service = ClassService(model="m", name="chat", requests_per_second=1.5, planned_requests_per_second=planned)
    made = document({}, {}, fleet=Fleet(classes=(service,)))
    assert made["models"]["m"]["classes"][1]["admitRequestsPerSecond"] == admitted
    SCHEMA.validate(made)


@thorough
@given(fleets(), fleets())
def test_the_revision_counts_changes_only(before, after):
    first = document(*before)
    assert first["revision"] == 1
    assert document(*before, previous=first) == first
    second = document(*after, previous=first)
    same = {**second, "revision": 0} == {**first, "revision": 0}
    assert second["revision"] == (1 if same else 2)


@pytest.mark.parametrize("previous", [{}, {"revision": "x"}, {"revision": None}])
def test_a_spoilt_document_is_replaced(previous):
    assert document({}, {}, previous=previous)["revision"] == 1


def test_without_a_class_that_takes_the_rest_the_last_one_does():
    every = spec()
    last = every.models[0].classes[1].model_copy(update={"match": every.models[0].classes[0].match})
    model = every.models[0].model_copy(update={"classes": (every.models[0].classes[0], last)})
    made = document({}, {}, plan_spec=every.model_copy(update={"models": (model,)}))
    assert made["models"]["m"]["defaultClass"] == "chat"


def test_the_config_map_holds_the_document_and_its_renderings():
    made = document({"a": facts(planned={"chat": 1.0})}, {"a": 1})
    held = routing_config_map(PLAN, spec(), made)
    assert held["metadata"]["name"] == "chat-routing"
    assert held["metadata"]["ownerReferences"][0]["uid"] == "u"
    assert json.loads(held["data"]["routing.json"]) == made
    assert set(held["data"]) == {
        "routing.json",
        "envoy-lds.yaml",
        "envoy-rds.yaml",
        "envoy-bootstrap.yaml",
        "envoy-cds.yaml",
    }
    assert spec().models[0].classes[0].requests_per_second == Decimal("1.5")
