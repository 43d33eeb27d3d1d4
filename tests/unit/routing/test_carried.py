"""What ready replicas carry of each class now, beside what the plan says."""

import pytest

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.fleet import ClassService, Fleet, ReplicaFacts
from servingplan.routing.carried import Carried, carried
from tests.simulated.plans import model, plan

LONG = {"name": "long", "inputTokens": 4000, "outputTokens": 100, "requestsPerSecond": "2"}
CHAT = {"name": "chat", "inputTokens": 500, "outputTokens": 250, "requestsPerSecond": "10"}


def facts(planned, capacity):
    return ReplicaFacts(model="llama-3.1-8b", pool="l40s", gpus=1, priority=0, planned=planned, capacity=capacity)


def carry(ready, facts_by_name, *, planned=None, classes=(CHAT, LONG), **more):
    asked = {item["name"]: float(item["requestsPerSecond"]) for item in classes}
    services = tuple(
        ClassService(
            model="llama-3.1-8b",
            name=name,
            requests_per_second=rate,
            planned_requests_per_second=(planned or asked)[name],
        )
        for name, rate in asked.items()
    )
    spec = PlanSpec.model_validate(plan(model(classes=list(classes), **more)))
    found = carried(spec=spec, fleet=Fleet(classes=services), facts=facts_by_name, ready=ready)
    return {item.name: item for item in found}


BOTH = {
    "a": facts({"chat": 5.0}, {"chat": 5.0}),
    "b": facts({"long": 2.0}, {"long": 2.0, "chat": 1.0}),
}


def test_a_whole_fleet_carries_what_is_planned():
    found = carry({"a": 2, "b": 1}, BOTH)
    assert {name: item.requests_per_second for name, item in found.items()} == pytest.approx({"chat": 10, "long": 2})
    assert all(item.in_time and item.answered for item in found.values())


def test_half_the_replicas_carry_half():
    assert carry({"a": 1, "b": 1}, BOTH)["chat"].requests_per_second == pytest.approx(5)


def test_more_replicas_than_planned_carry_no_more_than_is_planned():
    assert carry({"a": 4, "b": 1}, BOTH, planned={"chat": 6.0, "long": 2.0})["chat"].requests_per_second == 6.0


def test_a_class_without_a_ready_replica_is_not_answered():
    found = carry({"a": 2, "b": 0}, BOTH, spill=False)
    assert found["long"] == Carried("llama-3.1-8b", "long", 2.0, 2.0, 0.0, answered=False, in_time=False)
    assert found["chat"].answered


def test_a_class_that_spills_is_carried_late_and_into_what_is_unused():
    found = carry({"a": 4, "b": 0}, BOTH)
    assert found["long"].answered
    assert not found["long"].in_time
    assert 0 < found["long"].requests_per_second < 2


def test_a_class_that_asks_for_nothing_is_whole():
    quiet = {**LONG, "requestsPerSecond": "0"}
    assert carry({"a": 2, "b": 0}, BOTH, classes=(CHAT, quiet), spill=False)["long"].part == 1.0
