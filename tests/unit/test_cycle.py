"""What a turn writes, and what it leaves when the plan is another one by the time it is planned for."""

import pytest

from servingplan.cycle import Turns
from servingplan.errors import NotFound
from servingplan.kube import PLANS, Resource
from tests.simulated.driver import exact
from tests.simulated.plans import operator, plan


class Cluster:
    """A plan that was just written, for `Turns`; notes every write and does nothing about it."""

    def __init__(self):
        self.world = operator(plan()).cluster.observe()
        self.found = {"uid": self.world.plan.uid, "generation": self.world.plan.generation}
        self.written = []

    def observe(self, namespace, name):
        return self.world

    def get(self, resource, name, **more):
        if resource is PLANS and self.found is not None:
            return {"metadata": self.found}
        raise NotFound(404, "NotFound", name)

    def discover(self, api_version, kind):
        return Resource(api_version, f"{kind.lower()}s", kind)

    def merge(self, resource, name, patch, **more):
        self.written.append(name)
        return patch

    def apply(self, resource, manifest, **more):
        self.written.append(manifest["metadata"]["name"])
        return manifest

    def create(self, resource, manifest, **more):
        self.written.append(manifest["kind"])
        return manifest


def turns_of(cluster, solve=exact):
    return Turns(api=cluster, reader=cluster, solve=solve, namespace="llm", name="chat")


async def test_a_plan_that_stays_is_written():
    cluster = Cluster()
    report = await turns_of(cluster).take()
    assert cluster.written
    assert report.writes > 0


@pytest.mark.parametrize(
    "edit",
    [
        lambda found: {**found, "generation": found["generation"] + 1},
        lambda found: {**found, "deletionTimestamp": "2026-11-22T04:00:00Z"},
        lambda found: {**found, "uid": "another"},
        lambda found: None,
    ],
    ids=["edited", "being deleted", "made anew", "gone"],
)
async def test_of_a_plan_that_is_another_one_by_then_nothing_is_written(edit):
    cluster = Cluster()

    def solve(*asked, **more):
        answer = exact(*asked, **more)
        cluster.found = edit(cluster.found)
        return answer

    report = await turns_of(cluster, solve).take()
    assert cluster.written == []
    assert (report.writes, report.again) == (0, True)
