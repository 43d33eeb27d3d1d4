"""Who makes way while a replica of higher priority is replaced, and when nobody does."""

from dataclasses import replace

import pytest

from servingplan.api.v1alpha1 import Change
from servingplan.model.actions import DrainPod, ResizePool, ScaleDeployment
from servingplan.model.fleet import NodeGroup
from servingplan.model.world import LiveObject
from servingplan.planning.pools import Problem
from servingplan.rollout.next import next_step
from servingplan.rollout.placement import Placement
from servingplan.rollout.precedence import nodes_beside
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


def test_what_frees_no_money_stays():
    """Somebody else sizes the pool of the lowest priority: its node is paid for with or without its replica."""
    old, new = pod("old-0", "n1", of="old", gpus=8), pod("new-0", of="new", gpus=8)
    low, middle = (pod(f"{name}-0", f"{name}-node", of=name, gpus=8, listed=True) for name in ("low", "middle"))
    theirs = pool(node("low-node"), pods=[low], name="theirs", wanted=1)
    pools = (
        pool(node("n1"), pods=[old], wanted=1, maxNodes=6),
        replace(theirs, conflict=Problem("SizedByOther", "an autoscaler sizes it")),
        pool(node("middle-node"), pods=[middle], name="ours", wanted=1),
    )
    sets = [
        replica_set("new", gpus=8, priority=200, model="a"),
        replica_set("low", gpus=8, priority=0, model="b", pool="theirs"),
        replica_set("middle", gpus=8, priority=100, model="c", pool="ours"),
    ]
    groups = [NodeGroup(pool=item.pool, nodes=1, free_gpus=0, replicas={item.deployment: 1}) for item in sets]
    plan = fleet(*sets, nodes={item.pool: 1 for item in sets}).model_copy(update={"groups": tuple(groups)})
    seen = world(
        *(old, new, low, middle),
        nodes=tuple(item.node for each in pools for item in each.nodes),
        objects=tuple(map(deployment, ("old", "new", "low", "middle"))),
    )
    known = {item.deployment: facts(priority=item.priority, model=item.model, gpus=8, pool=item.pool) for item in sets}
    known["old"] = known["new"]
    rollout = Rollout(world=seen, pools=pools, fleet=plan, facts=known, missing=missing_replicas(seen, plan))
    assert drained(next_step(rollout, Limits(30, True, Change(), {}))) == ["middle-0"]


def test_a_kept_replica_that_stays_needs_no_node_beside_it():
    stays = pod("new-0", "n1", of="new", gpus=8)
    placement = Placement(stay=(stays,), assigned=(), movers=(), surplus=(), leaving=(), unplaced=0)
    assert nodes_beside(pool(node("n1"), pods=[stays], wanted=1), placement, [stays]) == 0
    goes = replace(placement, stay=(), surplus=(stays,), leaving=("n1",))
    assert nodes_beside(pool(node("n1"), pods=[stays], wanted=1), goes, [stays]) == 1
