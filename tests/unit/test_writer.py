"""A pool is written only where nobody else has it, at its owner's path, and only if it is as it was seen."""

import pytest

from servingplan.api.parse import parse_spec
from servingplan.apply.writer import Writer
from servingplan.kube import Resource
from servingplan.model.actions import ClaimPool, ResizePool
from tests.simulated.plans import operator, plan

NODE_POOLS = Resource("karpenter.sh/v1", "nodepools", "NodePool", namespaced=False)
CLAIM = ClaimPool(pool="l40s", claimed_by="llm/chat", why="w")


class Pools:
    """An API server with one pool object."""

    def __init__(self, holder, **spec):
        self.item = {
            "metadata": {"resourceVersion": "7", "annotations": {"servingplan.dev/claimed-by": holder}},
            "spec": spec or {"replicas": 0},
        }
        self.patches = []

    def discover(self, *_):
        return NODE_POOLS

    def get(self, *_, **__):
        return self.item

    def merge(self, resource, name, patch, *, manager, namespace):
        self.patches.append(patch)


def written(api, action, **pool):
    world = operator(plan()).cluster.observe()
    seen = world.pools[0].model_copy(update=pool)
    world = world.model_copy(update={"pools": (seen,)})
    spec, _ = parse_spec(world.plan.spec)
    return Writer(api).write((action,), world=world, spec=spec)


def test_a_claim_that_was_left_behind_is_taken_over():
    api = Pools("llm/gone")
    assert written(api, CLAIM, orphan_of="llm/gone").refused == ()
    (patch,) = api.patches
    assert patch["metadata"]["annotations"]["servingplan.dev/claimed-by"] == "llm/chat"
    assert patch["metadata"]["resourceVersion"] == "7"


@pytest.mark.parametrize("orphan", [None, "llm/gone"])
def test_one_that_another_plan_made_meanwhile_is_not(orphan):
    api = Pools("llm/other")
    (refused,) = written(api, CLAIM, orphan_of=orphan).refused
    assert (refused.reason, api.patches) == ("ClaimedByOther", [])


def test_the_size_is_written_at_the_owners_path_whatever_the_plan_says():
    api = Pools("llm/chat", count=1, replicas=9)
    resize = ResizePool(pool="l40s", before=1, nodes=2, why="w")
    assert written(api, resize, path=("spec", "count"), wanted=1).refused == ()
    assert api.patches[0]["spec"] == {"count": 2}
