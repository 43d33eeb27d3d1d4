"""The next safe step: where a replica is placed now, and where it waits."""

from dataclasses import replace

import pytest

from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.api.v1alpha1 import Change
from servingplan.model.actions import DrainPod, PlacePod, ResizePool
from servingplan.planning.pools import PoolNode
from servingplan.rollout.next import NODE_MAY_GO_SECONDS, lost_pods, next_step
from servingplan.rollout.state import Limits, Rollout
from tests.unit.rollout.builders import NOW, facts, fleet, node, pod, pool, replica_set, world

LIMITS = Limits(budget_dollars_per_hour=100.0, may_grow=True, change=Change(), startup_seconds={})
AN_HOUR_AGO = "2026-01-01T00:00:00Z"


def step_of(the_pool, *pods):
    """The step towards a plan of one replica on one node."""
    rollout = Rollout(
        world=world(*pods, nodes=tuple(item.node for item in the_pool.nodes)),
        pools=(the_pool,),
        fleet=fleet(replica_set(gpus=8), nodes={"h100": 1}, groups=[(1, {"d": 1})]),
        facts={"d": facts(gpus=8)},
    )
    return next_step(rollout, LIMITS)


def placed_on(step):
    return [item.node for item in step.before_routing if isinstance(item, PlacePod)]


def test_a_new_replica_keeps_off_empty_nodes_while_its_pool_gives_one_back():
    new = pod("new", gpus=8, created=NOW)
    step = step_of(pool(node("n1"), wanted=0), new)
    assert [item.nodes for item in step.before_routing if isinstance(item, ResizePool)] == [1]
    assert placed_on(step) == [], "the provider may have chosen the node when none was asked for"
    assert step.wake_in_seconds == NODE_MAY_GO_SECONDS
    assert placed_on(step_of(pool(node("n1"), node("n2"), wanted=1), new)) == [], "one of them goes"


def test_it_is_placed_once_the_other_node_is_gone_or_marked():
    new = pod("new", gpus=8, created=NOW)
    assert placed_on(step_of(pool(node("n1"), wanted=1), new)) == ["n1"]
    assert placed_on(step_of(pool(node("n1", disrupted=True), node("n2"), wanted=1), new)) == ["n2"]


@pytest.mark.parametrize(("marks", "machines"), [(False, ()), (True, ("llm/n2",))])
def test_the_machine_of_a_node_that_goes_is_named_only_where_the_installation_marks_them(marks, machines):
    nodes = tuple(node(name, machine=f"llm/{name}") for name in ("n1", "n2"))
    there = pod("there", "n1", gpus=8)
    found = pool(*nodes, pods=(there,), wanted=2)
    resize = {"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineDeployment", "name": "h100"}
    found = replace(found, spec=NodePool.model_validate({**found.spec.model_dump(by_alias=True), "resize": resize}))
    rollout = Rollout(
        world=world(there, nodes=nodes, marks_machines=marks),
        pools=(found,),
        fleet=fleet(replica_set(gpus=8), nodes={"h100": 1}, groups=[(1, {"d": 1})]),
        facts={"d": facts(gpus=8)},
    )
    (resized,) = [item for item in next_step(rollout, LIMITS).after_routing if isinstance(item, ResizePool)]
    assert (resized.nodes, resized.machines) == (1, machines)


@pytest.mark.parametrize("where", [{"disrupted": True}, {"schedulable": False}, {}, None])
def test_a_replica_that_was_placed_on_a_node_which_takes_nobody_is_made_anew_at_once(where):
    """Gone before the scheduler bound it there, going, cordoned, or never taken in by its autoscaler."""
    tied = pod("tied", "n1", gpus=8, bound=False)
    nodes = (node("n2"),) if where is None else (node("n1", **where), node("n2"))
    assert lost_pods(world(tied, nodes=nodes), {"n1"} if where == {} else ()) == {"uid-tied"}


def test_a_node_where_others_run_that_takes_nobody_for_a_moment_is_not_closed():
    tied, there = pod("tied", "n1", gpus=4, bound=False), pod("there", "n1", gpus=4)
    assert PoolNode(node("n1"), 0, (tied,), kept_off=True).closed
    assert not PoolNode(node("n1"), 0, (tied, there), kept_off=True).closed


def test_no_node_is_asked_for_because_of_replicas_that_end_on_one_that_goes():
    """Whoever takes the node away also replaces it."""
    ends, new = pod("ends", "n1", gpus=8, terminating=True), pod("new", "n2", gpus=8)
    the_pool = pool(node("n1", disrupted=True), node("n2"), pods=[ends, new], wanted=1)
    step = step_of(the_pool, ends, new)
    assert [item for item in (*step.before_routing, *step.after_routing) if isinstance(item, ResizePool)] == []


def test_a_pool_is_not_made_smaller_while_replicas_are_on_a_node_that_goes():
    stays, new = pod("stays", "n1", gpus=8), pod("new", "n2", gpus=8)
    the_pool = pool(node("n1", disrupted=True), node("n2"), pods=[stays, new], wanted=2)
    step = step_of(the_pool, stays, new)
    assert [item for item in (*step.before_routing, *step.after_routing) if isinstance(item, ResizePool)] == []


def test_a_provider_that_takes_no_node_back_does_not_keep_a_replica_waiting():
    old = pod("old", gpus=8, created=AN_HOUR_AGO)
    assert placed_on(step_of(pool(node("n1"), node("n2"), wanted=1), old)) == ["n1"]


def test_a_node_with_replicas_of_the_plan_stays_whatever_goes():
    new, there = pod("new", gpus=8, created=NOW), pod("there", "n2", gpus=8, of="e")
    wanted = pool(node("n1"), node("n2", gpus=16), pods=[there], wanted=1)
    rollout = Rollout(
        world=world(new, there, nodes=tuple(item.node for item in wanted.nodes)),
        pools=(wanted,),
        fleet=fleet(replica_set(gpus=8), replica_set("e", gpus=8), nodes={"h100": 1}, groups=[(1, {"d": 1, "e": 1})]),
        facts={"d": facts(gpus=8), "e": facts(gpus=8)},
    )
    assert placed_on(next_step(rollout, LIMITS)) == ["n2"]


def test_replicas_in_other_pools_count_for_a_model_that_is_spread():
    def zoned(name, of, zone):
        return node(name).model_copy(update={"labels": {"pool": of, "topology.kubernetes.io/zone": zone}})

    nodes = {"h100": (zoned("n1", "h100", "a"),), "l40s": (zoned("m1", "l40s", "a"), zoned("m2", "l40s", "b"))}
    there, new = pod("there", "n1"), pod("new", of="e")
    rollout = Rollout(
        world=world(there, new, nodes=(*nodes["h100"], *nodes["l40s"])),
        pools=(pool(*nodes["h100"], pods=(there,)), pool(*nodes["l40s"], name="l40s")),
        fleet=fleet(replica_set(), replica_set("e", pool="l40s"), nodes={"h100": 1, "l40s": 2}),
        facts={"d": facts(), "e": facts(pool="l40s")},
    )
    apart = replace(LIMITS, topology_keys={"m": "topology.kubernetes.io/zone"})
    assert placed_on(next_step(rollout, LIMITS)) == ["m1"]
    assert placed_on(next_step(rollout, apart)) == ["m2"]


def test_nobody_makes_room_while_a_replica_only_waits_for_a_node_to_go():
    """It is about to come: until it serves, the replicas that are to leave are missed."""
    ends, new, blocked = pod("old", "n1", gpus=8, of="e"), pod("a", gpus=8, created=NOW), pod("b", gpus=8, created=NOW)
    silent = node("n3").model_copy(update={"ready": False})
    the_pool = pool(node("n1"), node("n2"), silent, pods=[ends], wanted=2)

    def step(created):
        pods = (ends, *(item.model_copy(update={"created": created}) for item in (new, blocked)))
        rollout = Rollout(
            world=world(*pods, nodes=tuple(item.node for item in the_pool.nodes)),
            pools=(the_pool,),
            fleet=fleet(replica_set(replicas=2, gpus=8), nodes={"h100": 2}, groups=[(2, {"d": 1})]),
            facts={"d": facts(gpus=8), "e": facts(gpus=8)},
            age_seconds=3600.0,
        )
        return next_step(rollout, LIMITS)

    assert placed_on(step(AN_HOUR_AGO)) == ["n2"]
    for created in (AN_HOUR_AGO, NOW):
        assert [item for item in step(created).after_routing if isinstance(item, DrainPod)] == []


def test_over_the_budget_no_node_is_given_back_on_which_a_replica_is_placed_in_the_same_turn():
    going, new = pod("going", "n1", gpus=8, terminating=True, ready=False), pod("new", gpus=8)
    the_pool = pool(node("n1"), node("n2"), pods=[going], wanted=2, price=60.0)
    step = step_of(the_pool, going, new)
    assert placed_on(step) == ["n2"]
    assert [item for item in step.after_routing if isinstance(item, ResizePool)] == []
