"""A class whose planned replicas are all away: late into what others have unused, rather than 503."""

import pytest

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.fleet import ClassService, Fleet, ReplicaFacts
from servingplan.model.world import PlanObject
from servingplan.routing.document import routing_document

PLAN = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={})
LONG = {"name": "long", "inputTokens": 4000, "outputTokens": 100, "requestsPerSecond": "2"}
CHAT = {"name": "chat", "inputTokens": 500, "outputTokens": 100, "requestsPerSecond": "8"}


def entry(ready, *, spill=True, chat_rate=8.0, contexts=None, measured=(), copies=2):
    """Of class ``long``, which only Deployment big is planned for and meets the limits of."""
    spec = PlanSpec.model_validate(
        {
            "budget": {"dollarsPerHour": "1"},
            "nodePools": [{"name": "p", "nodeSelector": {"a": "b"}}],
            "models": [{"name": "m", "spill": spill, "classes": [LONG, CHAT]}],
        }
    )
    common = {"model": "m", "pool": "p", "gpus": 1, "priority": 0}
    facts = {
        "big": ReplicaFacts(**common, planned={"long": 2.0}, capacity={"long": 3.0, "chat": 20.0}),
        "small": ReplicaFacts(**common, planned={"chat": chat_rate / copies}, capacity={"chat": 10.0}),
    }
    classes = (
        ClassService(model="m", name="long", requests_per_second=2.0, planned_requests_per_second=2.0),
        ClassService(model="m", name="chat", requests_per_second=8.0, planned_requests_per_second=chat_rate),
    )
    document = routing_document(
        plan=PLAN,
        spec=spec,
        fleet=Fleet(classes=classes),
        facts=facts,
        ready=ready,
        previous=None,
        measured=measured,
        contexts=contexts,
    )
    return next(item for item in document["models"]["m"]["classes"] if item["name"] == "long")


def test_it_goes_to_ready_replicas_of_its_model_and_says_so():
    found = entry({"small": 2})
    assert [target["service"] for target in found["targets"]] == ["small"]
    assert found["degraded"] is True


def test_it_gets_no_more_than_the_others_leave_unused():
    """Chat takes 8 of 20 requests/s, so 60 % of two replicas is unused. A long request is 8 times as long in its prompt
    and 4,100/600 times in all: 10 / (8 x 6.83) requests/s on a replica."""
    assert entry({"small": 2})["admitRequestsPerSecond"] == pytest.approx(0.6 * 2 * 10 / (8 * 4100 / 600), rel=1e-4)


@pytest.mark.parametrize("measured", [(), ("m/long", "m/chat")])
def test_where_nothing_is_unused_all_of_it_is_turned_away(measured):
    found = entry({"small": 1}, chat_rate=20.0, measured=measured)
    assert found["targets"]
    assert found["admitRequestsPerSecond"] <= 1e-6


def test_it_never_gets_more_than_the_plan_serves():
    assert entry({"small": 200})["admitRequestsPerSecond"] == 2.0


def test_with_its_own_replicas_ready_nothing_spills():
    found = entry({"small": 2, "big": 1})
    assert [target["service"] for target in found["targets"]] == ["big"]
    assert "degraded" not in found


@pytest.mark.parametrize(
    ("ready", "more"),
    [({"small": 2}, {"spill": False}), ({"small": 2}, {"contexts": {"small": 2048}}), ({"small": 0}, {})],
    ids=["switched off", "context too short", "nobody ready"],
)
def test_else_its_list_is_empty_and_the_gateway_answers_503(ready, more):
    found = entry(ready, **more)
    assert found["targets"] == []
    assert "degraded" not in found
