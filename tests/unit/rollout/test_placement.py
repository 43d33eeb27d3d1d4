"""Every planned replica has a place, and those that serve keep theirs."""

from servingplan.rollout.placement import Wanted, place
from tests.unit.rollout.builders import fleet, node, pod, pool


def placed(the_pool, pods, replicas, *, gpus=None, size=None, groups=()):
    wanted = Wanted(
        replicas=replicas,
        gpus=gpus or {"d": 1, "old": 1, "big": 8, "half": 4},
        nodes=len(the_pool.nodes) if size is None else size,
        groups=fleet(groups=groups).groups,
    )
    return place(the_pool, tuple(pods), wanted)


def names(pods):
    return [item.name for item in pods]


def test_replicas_that_sit_where_they_may_stay_stay():
    pods = [pod("a", "n1"), pod("b", "n2")]
    found = placed(pool(node("n1"), node("n2"), pods=pods), pods, {"d": 2})
    assert (names(found.stay), found.assigned, found.movers, found.surplus) == (["a", "b"], (), (), ())


def test_a_new_replica_gets_the_tightest_place():
    pods = [pod("a", "n1", of="half", gpus=4), pod("new", of="half", gpus=4)]
    found = placed(pool(node("n1"), node("n2"), pods=pods), pods, {"half": 2})
    assert [(item.pod.name, item.nodes, item.free_now) for item in found.assigned] == [("new", ("n1",), True)]


def test_the_surplus_of_a_kind_is_what_serves_least():
    pods = [pod("a", "n1"), pod("b", "n1", ready=False), pod("c")]
    found = placed(pool(node("n1"), pods=pods), pods, {"d": 1})
    assert names(found.surplus) == ["b", "c"]


def test_a_replica_on_a_node_that_is_being_taken_away_moves_and_counts_as_unplaced_until_its_successor_fits():
    pods = [pod("a", "n1")]
    found = placed(pool(node("n1", disrupted=True), pods=pods), pods, {"d": 1}, size=1)
    assert (names(found.movers), found.unplaced) == (["a"], 1)


def test_a_replica_on_a_cordoned_node_stays_and_nobody_joins_it():
    pods = [pod("a", "n1"), pod("new")]
    found = placed(pool(node("n1", schedulable=False), node("n2"), pods=pods), pods, {"d": 2})
    assert names(found.stay) == ["a"]
    assert [item.nodes for item in found.assigned] == [("n2",)]


def test_scattered_small_replicas_move_together_for_one_that_needs_a_whole_node():
    pods = [pod("a", "n1", of="half", gpus=4), pod("b", "n2", of="half", gpus=4), pod("big", of="big", gpus=8)]
    found = placed(
        pool(node("n1"), node("n2"), pods=pods),
        pods,
        {"half": 2, "big": 1},
        groups=((1, {"big": 1}), (1, {"half": 2})),
    )
    assert len(found.stay) == len(found.movers) == 1
    assert [(item.pod.name, item.nodes) for item in found.assigned] == [("big", (found.movers[0].node,))]


def test_a_place_that_serving_replicas_hold_is_blocked_and_one_that_is_being_left_is_not():
    old = pod("old", "n1", of="old", gpus=8)
    new = pod("new", of="big", gpus=8)
    gpus = {"old": 8, "big": 8}
    assert placed(pool(node("n1"), pods=[old]), [old, new], {"big": 1}, gpus=gpus).blocked == (8,)
    leaving = old.model_copy(update={"draining_since": "2026-01-01T00:59:00Z"})
    assert placed(pool(node("n1"), pods=[leaving]), [leaving, new], {"big": 1}, gpus=gpus).blocked == ()


def test_successors_take_unused_nodes_before_nodes_that_must_be_cleared():
    old, new = pod("old", "n1", of="old", gpus=8), pod("new", of="big", gpus=8)
    found = placed(pool(node("n1"), node("n2"), pods=[old]), [old, new], {"big": 1}, gpus={"old": 8, "big": 8}, size=1)
    assert [(item.nodes, item.free_now) for item in found.assigned] == [(("n2",), True)]


def test_gpus_of_foreign_pods_take_nobody():
    pods = [pod("new", of="half", gpus=4)]
    found = placed(pool(node("n1"), node("n2"), pods=pods, foreign={"n1": 6}), pods, {"half": 1}, size=2)
    assert [item.nodes for item in found.assigned] == [("n2",)]


def test_replicas_wait_for_nodes_that_are_still_to_come():
    pods = [pod("a"), pod("b")]
    found = placed(pool(wanted=2, gpus_per_node=1), pods, {"d": 2}, size=2)
    assert (found.assigned, found.unplaced) == ((), 2)
