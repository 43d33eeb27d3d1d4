"""Every planned replica has a place, and those that serve keep theirs."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from servingplan.rollout.placement import Spread, Wanted, place
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


def test_nodes_of_replicas_beyond_the_plan_are_not_kept_in_the_place_of_others():
    leaving = pod("b", "n2", of="big", gpus=8, draining_since="2026-01-01T00:59:00Z")
    pods = [pod("a", "n1", of="big", gpus=8), leaving, pod("small", "n3")]
    found = placed(pool(node("n1"), node("n2"), node("n3"), pods=pods), pods, {"big": 1, "d": 1}, size=2)
    assert (names(found.stay), names(found.surplus), found.movers) == (["a", "small"], ["b"], ())


def test_nodes_of_replicas_that_drain_are_left_before_those_of_replicas_that_serve():
    first = pod("a", "n1", of="big", gpus=8, draining_since="2026-01-01T00:59:00Z")
    second = pod("b", "n2", of="big", gpus=8)
    found = placed(pool(node("n1"), node("n2"), pods=[first, second]), [first, second], {"big": 1}, size=1)
    assert (names(found.stay), names(found.surplus)) == (["b"], ["a"])


# --- replicas over several nodes -----------------------------------------------------------------------------------------


def group(name, *on, of="wide", gpus=8, **more):
    """A replica with a pod on each of these nodes; None: that pod is gated."""
    parts = [pod(f"{name}-{index}", place, of=of, gpus=gpus, **more) for index, place in enumerate(on)]
    leader = parts[0].model_copy(update={"name": name, "uid": f"uid-{name}", "workers": tuple(parts[1:])})
    whole = all(place is not None for place in on)
    return leader.model_copy(update={"gated": not whole, "ready": whole and leader.ready, "bound": whole})


def pool_with(*nodes, groups=(), **more):
    """A pool whose nodes hold the parts of groups, and single pods."""
    parts = [
        item.model_copy(update={"node": place, "workers": ()})
        for item in (*groups, *more.pop("pods", ()))
        for place in item.nodes
    ]
    return pool(*nodes, pods=parts, **more)


def placed_wide(the_pool, pods, replicas, *, size=None, groups=(), each=2):
    wanted = Wanted(
        replicas=replicas,
        gpus={"wide": 8, "d": 1},
        nodes=len(the_pool.nodes) if size is None else size,
        groups=fleet(groups=groups).groups,
        pods={"wide": each},
    )
    return place(the_pool, tuple(pods), wanted)


def zoned(name, zone):
    return node(name).model_copy(update={"labels": {"pool": "h100", "topology.kubernetes.io/zone": zone}})


def test_a_group_gets_all_of_its_nodes_in_one_step():
    found = placed_wide(pool_with(node("n1"), node("n2")), [group("new", None, None)], {"wide": 1})
    assert [(item.pod.name, item.nodes, item.free_now) for item in found.assigned] == [("new", ("n1", "n2"), True)]


def test_or_none_while_one_of_them_is_still_to_come():
    found = placed_wide(pool_with(node("n1")), [group("new", None, None)], {"wide": 1}, size=2)
    assert (found.assigned, found.unplaced, found.kept) == ((), 1, {"n1"})


def test_a_node_that_is_kept_for_a_group_takes_nobody_else():
    pods = [group("new", None, None), pod("small")]
    found = placed_wide(pool_with(node("n1"), node("n2")), pods, {"wide": 1, "d": 1}, size=3)
    assert [(item.pod.name, item.nodes) for item in found.assigned] == [("new", ("n1", "n2"))]
    assert found.unplaced == 1


def test_or_none_while_somebody_holds_a_part_of_one():
    small = pod("a", "n2")
    found = placed_wide(
        pool_with(node("n1"), node("n2"), pods=[small]), [group("new", None, None), small], {"wide": 1}, size=2
    )
    assert [(item.nodes, item.free_now) for item in found.assigned] == [(("n1", "n2"), False)]
    assert (found.kept, names(found.surplus)) == ({"n1"}, ["a"])


def test_all_nodes_of_a_group_are_in_one_zone():
    nodes = [zoned("n1", "a"), zoned("n2", "b"), zoned("n3", "b")]
    found = placed_wide(pool_with(*nodes), [group("new", None, None)], {"wide": 1})
    assert [item.nodes for item in found.assigned] == [("n2", "n3")]
    nowhere = placed_wide(pool_with(*nodes[:2]), [group("new", None, None)], {"wide": 1})
    assert not any(item.free_now for item in nowhere.assigned)


def test_a_group_of_which_some_pods_were_let_go_gets_the_rest():
    begun = group("new", "n2", None)
    nodes = [node("n1"), node("n2"), node("n3")]
    found = placed_wide(pool_with(*nodes, groups=[begun]), [begun], {"wide": 1})
    assert [(item.nodes, item.free_now) for item in found.assigned] == [(("n2", "n1"), True)]


def test_a_group_that_began_on_a_node_that_takes_nobody_any_more_begins_anew():
    begun = group("new", "gone", None)
    found = placed_wide(pool_with(node("n1"), node("n2"), groups=[begun]), [begun], {"wide": 1})
    assert (names(found.movers), found.assigned) == (["new"], ())


def test_a_group_that_has_to_leave_one_node_moves_as_a_whole_and_others_take_no_part_of_it():
    old, nodes = group("old", "n1", "n2"), [node("n1", schedulable=False), node("n2"), node("n3"), node("n4")]
    new = group("new", None, None, created="2026-01-01T00:30:00Z")
    found = place(
        pool_with(*nodes, groups=[old]),
        (old, new),
        Wanted({"wide": 1}, {"wide": 8}, 2, (), {"wide": 2}),
        frozenset({"n1"}),
    )
    assert [(item.pod.name, item.nodes, item.free_now) for item in found.assigned] == [("new", ("n3", "n4"), True)]
    assert names(found.surplus) == ["old"]


def test_a_whole_group_is_preferred_to_one_that_lacks_pods():
    lacking = group("a", None).model_copy(update={"workers_to_come": 1})
    whole = group("b", None, None, created="2026-01-01T00:30:00Z")
    found = placed_wide(pool_with(node("n1"), node("n2")), [lacking, whole], {"wide": 1})
    assert ([item.pod.name for item in found.assigned], names(found.surplus)) == (["b"], ["a"])


def test_by_the_plans_contents_a_group_takes_nodes_of_its_own():
    scattered = [pod(f"a{index}", f"n{index}") for index in (1, 2, 3)]
    pods = [*scattered, group("new", None, None)]
    found = placed_wide(
        pool_with(node("n1"), node("n2"), node("n3"), pods=scattered),
        pods,
        {"wide": 1, "d": 3},
        groups=[(2, {"wide": 1}), (1, {"d": 3})],
    )
    (item,) = found.assigned
    assert (item.pod.name, len(item.nodes), item.free_now) == ("new", 2, False)
    assert len(found.movers) == 2


# --- replicas that are spread --------------------------------------------------------------------------------------------


ZONE = "topology.kubernetes.io/zone"


def placed_apart(the_pool, pods, replicas, *, size=None, elsewhere=None, each=1, gpus=None, keys=None):
    """The placement of a model that is spread over zones; all Deployments are of it unless ``keys`` says otherwise."""
    spread = Spread("m", ZONE, elsewhere or {})
    wanted = Wanted(
        replicas=replicas,
        gpus=gpus or {"d": 1, "half": 4, "big": 8, "wide": 8},
        nodes=len(the_pool.nodes) if size is None else size,
        groups=(),
        pods={"wide": each},
        spread=dict.fromkeys(replicas if keys is None else keys, spread),
    )
    return place(the_pool, tuple(pods), wanted)


def test_new_replicas_of_a_model_that_is_spread_take_zones_in_turn():
    pods = [pod(f"new-{index}") for index in range(4)]
    the_pool = pool(zoned("n1", "a"), zoned("n2", "a"), zoned("n3", "b"))
    found = placed_apart(the_pool, pods, {"d": 4})
    assert Counter(item.nodes[0] for item in found.assigned) == {"n1": 2, "n3": 2}, "in a zone, a node is filled"
    filled = placed(the_pool, pods, {"d": 4})
    assert {item.nodes for item in filled.assigned} == {("n1",)}, "others fill nodes"


def test_what_serves_stays_and_counts_where_it_is_in_this_pool_and_in_others():
    there = pod("there", "n1")
    pools = pool(zoned("n1", "a"), zoned("n2", "b"), zoned("n3", "c"), pods=[there])
    found = placed_apart(pools, [there, pod("new")], {"d": 2}, elsewhere={"b": 1})
    assert names(found.stay) == ["there"]
    assert [item.nodes for item in found.assigned] == [("n3",)]


def test_two_deployments_of_one_model_are_spread_together():
    found = placed_apart(
        pool(zoned("n1", "a"), zoned("n2", "b")),
        [pod("one", of="half", gpus=4), pod("two")],
        {"half": 1, "d": 1},
    )
    assert len({item.nodes for item in found.assigned}) == 2


def test_a_plan_that_needs_the_room_is_packed_all_the_same():
    pods = [pod("a", of="half", gpus=4), pod("b", of="half", gpus=4), pod("big", of="big", gpus=8)]
    found = placed_apart(pool(zoned("n1", "a"), zoned("n2", "b")), pods, {"half": 2, "big": 1}, keys=["half"])
    where = {item.pod.name: item.nodes for item in found.assigned}
    assert where["a"] == where["b"] != where["big"]


def test_of_more_nodes_than_the_plan_takes_those_are_taken_that_are_apart():
    pods = [pod("one", of="big", gpus=8), pod("two", of="big", gpus=8)]
    the_pool = pool(zoned("n1", "a"), zoned("n2", "a"), zoned("n3", "b"))
    found = placed_apart(the_pool, pods, {"big": 2}, size=2)
    assert {item.nodes for item in found.assigned} == {("n1",), ("n3",)}
    assert found.leaving == ("n2",)


def test_a_group_goes_where_the_fewest_are_and_stays_in_one_zone():
    nodes = [zoned("n1", "a"), zoned("n2", "a"), zoned("n3", "b"), zoned("n4", "b")]
    found = placed_apart(pool(*nodes), [group("new", None, None)], {"wide": 1}, elsewhere={"a": 1}, each=2)
    assert [item.nodes for item in found.assigned] == [("n3", "n4")]


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=6),
    st.dictionaries(st.sampled_from(["d", "half", "big"]), st.integers(1, 3), min_size=1),
    st.integers(1, 6),
)
def test_to_be_spread_costs_nobody_a_place_and_splits_evenly_where_every_zone_has_room(zones, replicas, size):
    the_pool = pool(*(zoned(f"n{index}", zone) for index, zone in enumerate(zones)))
    gpus = {"d": 1, "half": 4, "big": 8}
    pods = [
        pod(f"{name}-{index}", of=name, gpus=gpus[name]) for name, count in replicas.items() for index in range(count)
    ]
    apart = placed_apart(the_pool, pods, replicas, size=size)
    filled = placed(the_pool, pods, replicas, size=size)
    assert (len(apart.assigned), apart.unplaced) == (len(filled.assigned), filled.unplaced)
    used = Counter()
    for item in apart.assigned:
        used[item.nodes[0]] += item.pod.gpus
    assert max(used.values(), default=0) <= 8
    if set(replicas) == {"d"} and size >= len(zones):
        count = Counter(zones[int(item.nodes[0][1:])] for item in apart.assigned)
        assert max(count.values()) - min(count.get(zone, 0) for zone in zones) <= 1


def test_all_nodes_of_a_group_are_kept_before_those_of_one_beyond_the_plan():
    first = group("first", "n1", "n2", draining_since="2026-01-01T00:59:00Z")
    second, small = group("second", "n3", "n4"), pod("small", "n5")
    there = pool_with(*(node(f"n{index}") for index in range(1, 6)), groups=[first, second], pods=[small])
    found = placed_wide(there, [first, second, small], {"wide": 1, "d": 1}, size=3)
    assert (names(found.stay), names(found.surplus)) == (["small", "second"], ["first"])
