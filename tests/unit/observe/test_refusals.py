"""What clusters say of nodes that cannot be had."""

import pytest

from servingplan.kube import EVENTS, Resource
from servingplan.model.world import Refusal
from servingplan.observe.cluster import Reader
from servingplan.observe.pools import seen_pool
from servingplan.observe.refusals import seen_claim, seen_claim_event
from servingplan.observe.state import ClusterState
from servingplan.observe.urls import UrlPolicy

WORDS = "NodeClaim a100-x7k2p event: no capacity for [a100-4x]"
EVENT = {
    "metadata": {"name": "a100-x7k2p.18", "uid": "e", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "involvedObject": {"kind": "NodeClaim", "name": "a100-x7k2p"},
    "reason": "InsufficientCapacityError",
    "message": WORDS,
    "lastTimestamp": "2026-01-01T00:00:05Z",
}
CLAIM = {
    "metadata": {"name": "a100-x7k2p", "uid": "c", "labels": {"karpenter.sh/nodepool": "a100"}},
    "status": {
        "conditions": [
            {
                "type": "Launched",
                "status": "Unknown",
                "reason": "InsufficientCapacityError",
                "message": "none left",
                "lastTransitionTime": "2026-01-01T00:00:07Z",
            }
        ]
    },
}


def test_an_event_on_a_claim_tells_its_pool():
    assert seen_claim_event(EVENT) == ("a100", Refusal(at="2026-01-01T00:00:05Z", message=WORDS))


def test_an_event_that_was_seen_again_counts_from_then_in_any_zone():
    series = {"lastObservedTime": "2026-01-01T02:00:09.123456+01:00"}
    assert seen_claim_event({**EVENT, "series": series}).refusal.at == "2026-01-01T01:00:09Z"
    bare = {key: value for key, value in EVENT.items() if key != "lastTimestamp"}
    assert seen_claim_event(bare).refusal.at == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "change",
    [{"reason": "Launched"}, {"involvedObject": {"kind": "Node", "name": "a-b"}}, {"involvedObject": {}}],
)
def test_other_events_tell_nothing(change):
    assert seen_claim_event({**EVENT, **change}) is None


def test_a_claim_that_waits_for_capacity_tells_its_pool():
    assert seen_claim(CLAIM) == ("a100", Refusal(at="2026-01-01T00:00:07Z", message="none left"))
    launched = {"type": "Launched", "status": "True", "reason": "Launched"}
    assert seen_claim({**CLAIM, "status": {"conditions": [launched]}}) is None
    assert seen_claim({**CLAIM, "status": {}}) is None


def pool(*conditions):
    return seen_pool({"metadata": {"name": "p"}, "status": {"conditions": list(conditions)}})["refusal"]


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("AsgInstanceLaunchFailures", "We currently do not have sufficient p5.48xlarge capacity"),
        ("Failed", "ZONE_RESOURCE_POOL_EXHAUSTED: try another zone"),
        ("AllocationFailed", ""),
        ("CreateError", "Insufficient Instance Capacity"),
    ],
)
def test_a_pool_object_may_say_it_itself(reason, message):
    found = pool({"type": "Ready", "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    assert found is not None
    assert found.message in (message, reason)


def test_other_conditions_of_a_pool_object_are_no_refusal():
    assert pool({"type": "Ready", "reason": "Ready", "lastTransitionTime": "2026-01-01T00:00:00Z"}) is None
    assert pool() is None


NODE_POOL = {
    "metadata": {"name": "a100", "uid": "p", "resourceVersion": "3"},
    "spec": {"replicas": 2},
    "status": {"nodes": 0},
}
SPEC = {
    "budget": {"dollarsPerHour": 1},
    "models": [{"name": "m"}],
    "nodePools": [
        {
            "name": "rented",
            "nodeSelector": {"a": "b"},
            "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "a100"},
        }
    ],
}


class Cluster:
    """A plan with a Karpenter pool, an event of it and a claim."""

    def pages(self, resource, **asked):
        found = {
            "LLMServingPlan": [
                {"metadata": {"namespace": "llm", "name": "chat", "uid": "u", "generation": 1}, "spec": SPEC}
            ],
            "NodePool": [NODE_POOL],
            "NodeClaim": [CLAIM],
            "Event": [EVENT],
        }
        if resource == EVENTS:
            assert asked["namespace"] == "default"
            assert asked["fields"] == "involvedObject.kind=NodeClaim,reason=InsufficientCapacityError"
        yield {"metadata": {"resourceVersion": "7"}, "items": found.get(resource.kind, [])}

    def discover(self, api_version, kind):
        return Resource(api_version, f"{kind.lower()}s", kind, namespaced=False)

    def get(self, resource, name, **_):
        from servingplan.errors import NotFound

        raise NotFound(404, "NotFound", name)

    def forget(self, resource):
        pass


def test_the_last_refusal_stands_at_the_pool():
    api = Cluster()
    state = ClusterState(api, clock=lambda: 100.0)
    state.load()
    urls = UrlPolicy(api, allowed_hosts=frozenset())
    reader = Reader(api, state, pool_kinds=None, urls=urls, clock=lambda: "2026-01-01T00:00:10Z")
    world = reader.observe("llm", "chat")
    reader.close()
    assert world.pools[0].refusal == Refusal(at="2026-01-01T00:00:07Z", message="none left")
