"""What a turn reads besides its objects: which APIs the server has."""

import pytest

from servingplan.errors import ApiError, NotFound
from servingplan.kube import Resource
from servingplan.observe.cluster import Reader

PLAN = {"metadata": {"namespace": "llm", "name": "chat", "uid": "u", "generation": 1}, "spec": {}}
SETS = Resource("leaderworkerset.x-k8s.io/v1", "leaderworkersets", "LeaderWorkerSet")


class EmptyCluster:
    """An API server with one plan in it and nothing else."""

    def __init__(self, discovered):
        self.discovered = discovered

    def list(self, resource, **_):
        return iter(())

    def get(self, resource, name, **_):
        if resource.kind == "LLMServingPlan":
            return PLAN
        raise NotFound(404, "NotFound", name)

    def discover(self, api_version, kind):
        assert (api_version, kind) == (SETS.api_version, SETS.kind)
        if isinstance(self.discovered, Exception):
            raise self.discovered
        return self.discovered


def observed(discovered):
    reader = Reader(EmptyCluster(discovered), pool_kinds=None, clock=lambda: "2026-01-01T00:00:00Z")
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
