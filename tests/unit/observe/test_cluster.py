"""What a turn reads besides its objects: which APIs the server has."""

import pytest

from servingplan.errors import ApiError, Forbidden, NotFound
from servingplan.kube import HTTP_ROUTES, Resource
from servingplan.observe.cluster import Reader

PLAN = {"metadata": {"namespace": "llm", "name": "chat", "uid": "u", "generation": 1}, "spec": {}}
SETS = Resource("leaderworkerset.x-k8s.io/v1", "leaderworkersets", "LeaderWorkerSet")


class EmptyCluster:
    """An API server with one plan in it and nothing else."""

    def __init__(self, discovered=SETS, routes=HTTP_ROUTES, spec=None, found=()):
        self.discovered = {SETS.kind: discovered, HTTP_ROUTES.kind: routes}
        self.spec = spec or {}
        self.found = found

    def list(self, resource, **_):
        return iter(self.found if resource == HTTP_ROUTES else ())

    def get(self, resource, name, **_):
        if resource.kind == "LLMServingPlan":
            return {**PLAN, "spec": self.spec}
        raise NotFound(404, "NotFound", name)

    def discover(self, api_version, kind):
        found = self.discovered[kind]
        assert api_version == {SETS.kind: SETS, HTTP_ROUTES.kind: HTTP_ROUTES}[kind].api_version
        if isinstance(found, Exception):
            raise found
        return found


def observed(*cluster, **more):
    reader = Reader(EmptyCluster(*cluster, **more), pool_kinds=None, clock=lambda: "2026-01-01T00:00:00Z")
    try:
        return reader.observe("llm", "chat")
    finally:
        reader.close()


@pytest.mark.parametrize(("discovered", "there"), [(SETS, True), (NotFound(404, "NotFound", "no such group"), False)])
def test_the_leader_worker_set_api_is_there_or_not(discovered, there):
    world = observed(discovered)
    assert (world.leader_worker_sets, world.failures) == (there, ())


def test_a_server_that_does_not_tell_is_a_failure_and_not_a_no():
    world = observed(ApiError(0, "Unreachable", "connection refused"))
    assert [(item.source, item.reason) for item in world.failures] == [("the LeaderWorkerSet API", "ReadFailed")]


ROUTED = {
    "budget": {"dollarsPerHour": 1},
    "models": [{"name": "m"}],
    "nodePools": [{"name": "p", "nodeSelector": {"a": "b"}}],
    "gateway": {"httpRoute": {"parentRefs": [{"name": "public"}]}},
}
ROUTE = {
    "metadata": {
        "name": "chat-m",
        "uid": "r",
        "generation": 4,
        "annotations": {"servingplan.dev/spec-hash": "1f", "other": "x"},
        "ownerReferences": [{"controller": True, "uid": "u", "kind": "LLMServingPlan", "name": "chat"}],
    },
    "spec": {"rules": []},
    "status": {"parents": []},
}


def test_our_routes_are_read_with_what_gateways_say():
    (route,) = observed(found=[ROUTE]).objects
    assert (route.kind, route.ours) == ("HTTPRoute", True)
    assert route.manifest["metadata"]["generation"] == 4
    assert route.manifest["metadata"]["annotations"] == {"servingplan.dev/spec-hash": "1f"}
    assert route.manifest["status"] == {"parents": []}


def test_without_the_gateway_api_the_turn_goes_on_and_says_what_lacks():
    world = observed(routes=NotFound(404, "NotFound", "no such group"), spec=ROUTED)
    assert world.failures == ()
    assert "install the CRDs of the Gateway API" in world.http_routes_unread


def test_without_the_right_to_read_routes_the_turn_goes_on_and_names_the_right():
    world = observed(routes=Forbidden(403, "Forbidden", "cannot list httproutes"), spec=ROUTED)
    assert world.failures == ()
    assert "cannot list httproutes; grant it" in world.http_routes_unread


def test_routes_that_may_be_there_and_cannot_be_read_hold_the_turn_where_they_count():
    away = ApiError(0, "Unreachable", "connection refused")
    assert [item.source for item in observed(routes=away, spec=ROUTED).failures] == ["HTTPRoutes"]
    assert observed(routes=away, spec={**ROUTED, "gateway": {}}).failures == ()
