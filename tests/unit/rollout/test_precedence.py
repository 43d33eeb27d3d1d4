"""Who makes way while a replica of higher priority is replaced, and when nobody does."""

import pytest

from servingplan.api.v1alpha1 import Change
from servingplan.model.actions import DrainPod, ResizePool, ScaleDeployment
from servingplan.model.world import LiveObject
from servingplan.rollout.next import next_step
from servingplan.rollout.state import Limits, Rollout, missing_replicas
from tests.unit.rollout.builders import facts, fleet, node, pod, pool, replica_set, world


def deployment(name, replicas=1, **status):
    manifest = {"metadata": {"name": name}, "spec": {"replicas": replicas}, "status": status}
    return LiveObject(kind="Deployment", name=name, uid=name, ours=True, owner="this plan", manifest=manifest)


def step(*, budget=20, high=200, low=0, most=6, refused=False, here=(), of_low=1):
    """The step from old to new replicas of a model in one pool beside those of another model in another pool, each on a node of
    10 $/h. ``here``: more replicas of the new kind."""
    old, new = pod("old-0", "n1", of="old", gpus=8), pod("new-0", of="new", gpus=8)
    others = [pod(f"low-{index}", f"m{index}", of="low", gpus=8, listed=True) for index in range(of_low)]
    pools = (
        pool(node("n1"), *(node(item.node) for item in here), pods=[old, *here], wanted=1 + len(here), maxNodes=most),
        pool(*(node(item.node) for item in others), pods=others, name="other", wanted=of_low),
    )
    plan = fleet(
        replica_set("new", gpus=8, priority=high, model="a"),
        replica_set("low", of_low, gpus=8, priority=low, model="b", pool="other"),
        nodes={"h100": 1, "other": of_low},
        groups=[(1, {"new": 1})],
    )
    group = plan.groups[0].model_copy(update={"pool": "other", "nodes": of_low, "replicas": {"low": 1}})
    plan = plan.model_copy(update={"groups": (*plan.groups, group)})
    seen = world(
        *(old, *(() if here or refused else (new,)), *here, *others),
        nodes=tuple(item.node for each in pools for item in each.nodes),
        objects=(
            deployment("old"),
            deployment("new", **({"replicaFailure": "exceeded quota"} if refused else {})),
            deployment("low", of_low),
        ),
    )
    known = {
        "old": facts(priority=high, model="a", gpus=8),
        "new": facts(priority=high, model="a", gpus=8),
        "low": facts(priority=low, model="b", gpus=8, pool="other"),
    }
    rollout = Rollout(world=seen, pools=pools, fleet=plan, facts=known, missing=missing_replicas(seen, plan))
    return next_step(rollout, Limits(budget, True, Change(), {}))


def drained(found):
    return sorted(item.pod for item in found.after_routing if isinstance(item, DrainPod))


def test_a_lower_priority_makes_way_where_the_budget_has_no_room_for_both():
    found = step()
    assert drained(found) == ["low-0"]
    (reason,) = (item.why for item in found.after_routing if isinstance(item, DrainPod))
    assert "makes way until the successors of a higher priority serve" in reason
    assert not [item for item in found.before_routing if isinstance(item, ResizePool)], "its node is still paid for"


def test_no_more_make_way_than_it_takes():
    found = step(of_low=3, budget=40)
    assert drained(found) == ["low-2"]


def test_the_object_of_what_makes_way_stays():
    found = step()
    assert not any(isinstance(item, ScaleDeployment) and item.name == "low" for item in found.before_routing)
    kinds = [type(item).__name__ for item in found.after_routing]
    assert "DeleteObject" not in kinds


@pytest.mark.parametrize(
    "more",
    [
        {"budget": 30},
        {"high": 0},
        {"low": 200},
        {"most": 1},
        {"refused": True},
        {"here": (pod("new-0", "n2", of="new", gpus=8),)},
    ],
    ids=["room", "equal", "equally high", "a full pool", "pods are refused", "a successor serves"],
)
def test_nobody_makes_way_without_need_or_gain(more):
    assert "low-0" not in drained(step(**more))
