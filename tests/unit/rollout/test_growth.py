"""Pools grow as far as the budget reaches and shrink only around what is empty."""

import math
from dataclasses import replace

from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.planning.pools import total_spend
from servingplan.rollout.growth import grow, planned_size, shrink, that_can_exist, wished_size
from servingplan.rollout.placement import Assignment
from tests.unit.rollout.builders import fleet, node, placement, pod, pool, replica_set


def grown(pools, the_fleet, budget, sizes=None):
    sizes = sizes or {item.name: planned_size(item, the_fleet) for item in pools}
    found = grow(pools=pools, fleet=the_fleet, sizes=sizes, budget=budget, spend=total_spend(pools))
    return {item.pool: item.nodes for item in found.resize}, found.spend_after, found.held_back


def test_pools_grow_to_the_plan_where_the_budget_reaches():
    assert grown((pool(wanted=0),), fleet(nodes={"h100": 3}), 30) == ({"h100": 3}, 30, False)


def test_growth_stops_at_the_budget_and_says_so():
    assert grown((pool(wanted=1),), fleet(nodes={"h100": 3}), 25) == ({"h100": 2}, 20, True)


def test_nodes_that_linger_count_as_spend():
    assert grown((pool(wanted=1, actual=3),), fleet(nodes={"h100": 2}), 20) == ({}, 30, True)


def test_the_pool_of_the_higher_priority_grows_first():
    pools = (pool(name="a", wanted=0), pool(name="b", wanted=0))
    sets = (replica_set("x", priority=1, pool="a"), replica_set("y", priority=9, pool="b"))
    assert grown(pools, fleet(*sets, nodes={"a": 1, "b": 1}), 10) == ({"b": 1}, 10, True)


def test_every_planned_node_comes_before_any_for_successors():
    pools = (pool(name="a", wanted=1), pool(name="b", wanted=0))
    sets = (replica_set("x", priority=9, pool="a"), replica_set("y", priority=1, pool="b"))
    found = grown(pools, fleet(*sets, nodes={"a": 1, "b": 1}), 20, sizes={"a": 2, "b": 1})
    assert found == ({"b": 1}, 20, False)


def test_successors_get_what_room_the_budget_leaves():
    found = grown((pool(wanted=2),), fleet(nodes={"h100": 2}), 35, sizes={"h100": 4})
    assert found == ({"h100": 3}, 30, False)


def test_nothing_grows_while_spend_is_unknown():
    found = grow(pools=(pool(wanted=0),), fleet=fleet(nodes={"h100": 1}), sizes={}, budget=99, spend=math.nan)
    assert (found.resize, found.held_back) == ((), True)


def test_a_node_at_no_price_grows_on_no_budget():
    assert grown((pool(wanted=0, price=0.0),), fleet(nodes={"h100": 2}), 0) == ({"h100": 2}, 0, False)


def test_the_floor_holds_and_the_cap_holds():
    assert planned_size(pool(wanted=0, minNodes=2), fleet()) == 2
    assert planned_size(pool(wanted=0, maxNodes=2), fleet(nodes={"h100": 5})) == 2


def test_nodes_that_foreign_pods_hold_come_on_top_of_the_plan():
    assert planned_size(pool(node("n1"), wanted=1, foreign={"n1": 8}), fleet(nodes={"h100": 2})) == 3


def test_successors_of_replicas_that_serve_get_nodes_of_their_own():
    pods = [pod("a", "n1", gpus=8), pod("b", "n2", gpus=8)]
    both = pool(node("n1"), node("n2"), pods=pods, wanted=2)
    plan = fleet(nodes={"h100": 2})
    assert wished_size(both, plan, placement()) == 2
    assert wished_size(both, plan, placement(blocked=(8, 8))) == 4
    assert wished_size(both, plan, placement(blocked=(4, 4))) == 3
    assert (
        wished_size(pool(node("n1"), node("n2"), pods=pods, wanted=2, maxNodes=3), plan, placement(blocked=(8, 8))) == 3
    )


def test_a_node_on_which_a_replica_was_just_given_a_seat_is_kept():
    old, new = pod("old", "n1"), pod("new")
    two = pool(node("n1"), node("n2"), pods=[old], wanted=2)
    size = wished_size(two, fleet(nodes={"h100": 1}), placement(assigned=(Assignment(new, ("n2",), True),)))
    assert size == 2


def test_a_pool_shrinks_to_what_is_wished():
    assert [item.nodes for item in shrink(pools=(pool(wanted=4),), sizes={"h100": 2})] == [2]
    assert shrink(pools=(pool(wanted=2),), sizes={"h100": 2}) == ()
    assert shrink(pools=(pool(node("n1")),), sizes={"h100": 0}) == ()


def test_nodes_that_are_kept_for_a_group_until_its_last_one_comes_are_not_given_back():
    """The successor of a group that serves has one node of its two so far."""
    old = pod("old", "n1", gpus=8)
    three = pool(node("n1"), node("n2"), node("n3"), pods=[old], wanted=3)
    assert wished_size(three, fleet(nodes={"h100": 2}), placement(kept=frozenset({"n2"}), blocked=(8,))) == 3


def test_a_group_that_does_not_exist_needs_none_of_its_nodes():
    wide = replica_set("wide", 2, gpus=16).model_copy(update={"nodes": 2})
    plan = fleet(wide, nodes={"h100": 4}, groups=[(4, {"wide": 1})])
    assert [that_can_exist(plan, {"wide": missing}).nodes["h100"] for missing in (0, 1, 2)] == [4, 2, 0]


# --- sizes that go in steps: so many nodes in each zone ----------------------------------------------------------------


def test_a_size_in_steps_holds_the_plan_and_no_more_than_it_has_to():
    zones = pool(wanted=0, step=3, maxNodes=9)
    assert grown((zones,), fleet(nodes={"h100": 4}), 100) == ({"h100": 6}, 60, False)
    assert grown((zones,), fleet(nodes={"h100": 6}), 100) == ({"h100": 6}, 60, False)


def test_a_budget_between_two_steps_buys_the_lower_one():
    assert grown((pool(wanted=0, step=3, maxNodes=9),), fleet(nodes={"h100": 4}), 50) == ({"h100": 3}, 30, True)


def test_a_size_in_steps_comes_down_only_by_whole_ones():
    zones = pool(wanted=6, step=3, maxNodes=9)
    assert shrink(pools=(zones,), sizes={"h100": 4}) == ()
    assert [item.nodes for item in shrink(pools=(zones,), sizes={"h100": 2})] == [3]


def test_nothing_is_asked_for_below_the_least_that_the_object_allows():
    bound = pool(wanted=4)
    bound = replace(bound, object=bound.object.model_copy(update={"min_nodes": 2}))
    assert [item.nodes for item in shrink(pools=(bound,), sizes={"h100": 0})] == [2]


def machine(name, **more):
    return node(name, machine=f"llm/{name}", **more)


def of_machines(*nodes, pods=(), wanted, foreign=None, api="cluster.x-k8s.io/v1beta2", kind="MachineDeployment"):
    resize = {"apiVersion": api, "kind": kind, "name": "h100"}
    found = pool(*nodes, pods=pods, wanted=wanted, foreign=foreign)
    return replace(found, spec=NodePool.model_validate({**found.spec.model_dump(by_alias=True), "resize": resize}))


def test_the_machines_of_empty_nodes_are_chosen_those_that_are_of_no_more_use_first():
    nodes = [machine("n1"), machine("n2"), machine("n3", schedulable=False), machine("n4"), machine("n5")]
    pods = [pod("a", "n1")]
    machines = of_machines(*nodes, pods=pods, wanted=5, foreign={"n2": 8})
    leaving = {"h100": ("n5",)}
    for size, gone in ((4, {"n3"}), (3, {"n3", "n5"}), (2, {"n3", "n4", "n5"}), (1, {"n2", "n3", "n4", "n5"})):
        (found,) = shrink(pools=(machines,), sizes={"h100": size}, leaving=leaving)
        assert set(found.machines) == {f"llm/{name}" for name in gone}
        assert set(found.spared) == {f"llm/n{index}" for index in range(1, 6)} - set(found.machines)
        assert "llm/n1" in found.spared, "it serves"


def test_no_machine_is_chosen_where_the_installation_or_the_kind_of_pool_says_nothing_of_it():
    machines = of_machines(machine("n1"), machine("n2"), wanted=2)
    (as_before,) = shrink(pools=(machines,), sizes={"h100": 1})
    karpenter = of_machines(machine("n1"), machine("n2"), wanted=2, api="karpenter.sh/v1", kind="NodePool")
    (of_karpenter,) = shrink(pools=(karpenter,), sizes={"h100": 1}, leaving={})
    (unknown,) = shrink(pools=(of_machines(node("n1"), wanted=2),), sizes={"h100": 1}, leaving={})
    assert {(item.machines, item.spared) for item in (as_before, of_karpenter, unknown)} == {((), ())}
