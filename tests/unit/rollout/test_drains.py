"""Who may leave, when, and who goes first."""

import pytest

from servingplan.api.v1alpha1 import Change
from servingplan.rollout.drains import PATIENCE_SECONDS, Coming, departures
from servingplan.rollout.placement import Assignment
from servingplan.rollout.state import Limits, Rollout
from tests.unit.rollout.builders import NOW, facts, fleet, node, placement, pod, pool, replica_set, world


def leave(*pods, surplus=(), the_fleet=None, the_facts=None, pools=None, strays=(), **more):
    parts = {key: more.pop(key) for key in ("stay", "assigned", "leaving") if key in more}
    limits = Limits(
        budget_dollars_per_hour=more.pop("budget", 100.0),
        may_grow=True,
        change=Change(drain_seconds=30, drain_deadline_seconds=more.pop("deadline_seconds", 0)),
        startup_seconds={"d": 600.0, "old": 600.0, "new": 600.0},
        gateway_follows=more.pop("gateway_follows", None),
    )
    rollout = Rollout(
        world=world(*pods, nodes=more.pop("seen_nodes", ())),
        pools=pools or (),
        fleet=the_fleet or fleet(),
        facts=the_facts or {"d": facts(), "old": facts(), "new": facts()},
        age_seconds=more.pop("age_seconds", 3600.0),
    )
    placements = {"h100": placement(surplus=tuple(surplus), **parts)}
    coming = Coming(**{"nodes": False, "replicas": False, "held_back": False, **more})
    return departures(rollout, limits, placements, tuple(strays), coming)


def drained(found):
    return [item.name for item, _ in found.drain]


def test_what_nobody_plans_for_drains_at_once():
    old = pod("old", "n1", of="old")
    assert drained(leave(old, surplus=[old])) == ["old"]


def test_an_old_replica_waits_until_its_successor_serves():
    old, new = pod("old", "n1", of="old"), pod("new", "n2", of="new", ready=False, placed_since=NOW)
    plan = fleet(replica_set("new"))
    assert drained(leave(old, new, surplus=[old], stay=(new,), the_fleet=plan)) == []
    ready = new.model_copy(update={"ready": True})
    assert drained(leave(old, ready, surplus=[old], stay=(ready,), the_fleet=plan)) == [], "no gateway knows it yet"
    reachable = ready.model_copy(update={"listed": True})
    assert drained(leave(old, reachable, surplus=[old], stay=(reachable,), the_fleet=plan)) == ["old"]


def test_a_replica_that_no_gateway_can_reach_is_not_missed():
    surplus, serving = pod("surplus", "n1", of="old", listed=False), pod("serving", "n2")
    assert drained(leave(surplus, serving, surplus=[surplus], stay=(serving,), the_fleet=fleet(replica_set()))) == [
        "surplus"
    ]


def test_a_replica_is_removed_only_when_its_drain_is_over():
    begun = pod("old", "n1", of="old", draining_since="2026-01-01T00:59:40Z")
    found = leave(begun, surplus=[begun])
    assert (found.victims, found.wake_in_seconds) == (frozenset(), 10.0)
    over = begun.model_copy(update={"draining_since": "2026-01-01T00:59:30Z"})
    assert leave(over, surplus=[over]).victims == {over.uid}


@pytest.mark.parametrize(
    ("inside", "since", "gone", "wake"),
    [
        (3, "2026-01-01T00:59:00Z", False, 2.0),
        (3, "2026-01-01T00:55:01Z", False, 1.0),
        (3, "2026-01-01T00:55:00Z", True, None),
        (0, "2026-01-01T00:59:30Z", True, None),
        (0, "2026-01-01T00:59:31Z", False, 1.0),
        (None, "2026-01-01T00:59:30Z", True, None),
    ],
)
def test_a_replica_leaves_when_its_engine_is_idle_or_the_deadline_is_over(inside, since, gone, wake):
    old = pod("old", "n1", of="old", draining_since=since, requests_inside=inside)
    found = leave(old, surplus=[old], deadline_seconds=300)
    assert (found.victims, found.wake_in_seconds) == (frozenset({old.uid} if gone else ()), wake)


def test_a_replica_whose_engine_could_not_be_asked_yet_stays_until_the_deadline():
    old = pod("old", "n1", of="old", draining_since="2026-01-01T00:59:00Z", unasked=True)
    found = leave(old, surplus=[old], deadline_seconds=300)
    assert (found.victims, found.wake_in_seconds) == (frozenset(), 2.0)
    late = old.model_copy(update={"draining_since": "2026-01-01T00:55:00Z"})
    assert leave(late, surplus=[late], deadline_seconds=300).victims == {late.uid}


def test_the_deadline_counts_from_when_the_gateway_took_the_weights():
    old = pod(
        "old",
        "n1",
        of="old",
        draining_since="2026-01-01T00:50:00Z",
        unrouted_since="2026-01-01T00:56:00Z",
        requests_inside=1,
    )
    assert leave(old, surplus=[old], deadline_seconds=300, gateway_follows=True).victims == frozenset()
    late = old.model_copy(update={"unrouted_since": "2026-01-01T00:55:00Z"})
    assert leave(late, surplus=[late], deadline_seconds=300, gateway_follows=True).victims == {late.uid}


def test_a_replica_that_serves_nobody_is_removed_at_once():
    starting = pod("old", "n1", of="old", ready=False)
    assert leave(starting, surplus=[starting]).victims == {starting.uid}


def test_a_drain_is_called_off_when_the_replica_is_wanted_again():
    back = pod("d", "n1", draining_since=NOW)
    assert leave(back, stay=(back,)).restore == (back,)


def test_a_replica_is_stuck_when_its_start_up_time_is_over_and_not_before():
    slow = pod("d", "n1", ready=False, placed_since="2026-01-01T00:50:01Z")
    found = leave(slow, stay=(slow,))
    assert (found.stuck, found.wake_in_seconds) == ((), 1.0)
    stuck = slow.model_copy(update={"placed_since": "2026-01-01T00:50:00Z"})
    assert leave(stuck, stay=(stuck,)).stuck == (stuck,)


def test_a_replica_that_has_started_is_never_stuck_and_one_that_begins_anew_has_its_time_again():
    served = pod("d", "n1", ready=False, placed_since="2025-12-31T22:00:00Z", started=True)
    found = leave(served, stay=(served,))
    assert (found.stuck, found.wake_in_seconds) == ((), None)
    anew = served.model_copy(update={"started": False, "unready_since": "2026-01-01T00:50:01Z"})
    found = leave(anew, stay=(anew,))
    assert (found.stuck, found.wake_in_seconds) == ((), 1.0)
    late = anew.model_copy(update={"unready_since": "2026-01-01T00:50:00Z"})
    assert leave(late, stay=(late,)).stuck == (late,)


def test_over_the_budget_the_lowest_priority_goes_and_no_more_than_it_takes():
    low, high = pod("low", "n1", of="old", gpus=8), pod("high", "n2", of="d", gpus=8)
    the_facts = {"old": facts(priority=1, model="a"), "d": facts(priority=5, model="b")}
    pools = (pool(node("n1"), node("n2"), pods=[low, high], wanted=2),)
    planned = fleet(replica_set("x", model="a"), replica_set("y", model="b"))  # both would wait for successors
    found = leave(low, high, surplus=[high, low], the_facts=the_facts, the_fleet=planned, pools=pools, budget=10)
    assert (found.victims, drained(found)) == ({low.uid}, []), "nobody takes over: it serves until it is removed"
    other = pod("other", "n3", of="old")
    more = (*pools, pool(node("n3"), pods=[other], name="other", wanted=1, price=0.0))
    found = leave(
        *(low, high, other),
        surplus=[high, low],
        stay=(other,),
        the_facts=the_facts,
        the_fleet=planned,
        pools=more,
        budget=10,
    )
    assert (found.victims, drained(found)) == (frozenset(), ["low"]), "another takes over: it drains first"


@pytest.mark.parametrize(
    ("already", "node_is_ready", "victims", "wake"),
    [
        ({"draining_since": "2026-01-01T00:59:50Z"}, True, [], 20.0),
        ({"terminating": True}, True, [], None),
        ({"terminating": True}, False, ["uid-high"], None),
    ],
)
def test_over_the_budget_nobody_else_leaves_where_those_that_go_already_bring_spend_down(
    already, node_is_ready, victims, wake
):
    low, high = pod("low", "n1", of="old", **already), pod("high", "n2")
    the_facts = {"old": facts(priority=1, model="a"), "d": facts(priority=5, model="b")}
    there = node("n1").model_copy(update={"ready": node_is_ready})
    pools = (pool(there, node("n2"), pods=[low, high], wanted=2),)
    planned = fleet(replica_set("x", model="a"), replica_set("y", model="b"))
    surplus = [item for item in (high, low) if not item.terminating]
    found = leave(low, high, surplus=surplus, the_facts=the_facts, the_fleet=planned, pools=pools, budget=10)
    assert (sorted(found.victims), drained(found), found.wake_in_seconds) == (victims, [], wake)


def test_over_the_budget_nobody_leaves_whose_node_is_paid_for_anyway():
    low, high = pod("low", "n1", of="old"), pod("high", "n2")
    the_facts = {"old": facts(priority=1, model="a"), "d": facts(priority=5, model="b")}
    pools = (
        pool(node("n1"), pods=[low], wanted=1),
        pool(node("n2"), pods=[high], name="other", wanted=1, price=3.0),
    )
    # The plan goes on paying for the node of the lower priority.
    planned = fleet(replica_set("x", model="a"), replica_set("y", model="b"), nodes={"h100": 1})
    found = leave(low, high, surplus=[high, low], the_facts=the_facts, the_fleet=planned, pools=pools, budget=11)
    assert found.victims == {high.uid}


def blocked_by_old(**more):
    old, new = pod("old", "n1", of="old", gpus=8), pod("new", of="new", gpus=8)
    pools = (pool(node("n1"), pods=[old], wanted=more.pop("wanted", 1)),)
    return leave(
        old,
        new,
        surplus=[old],
        assigned=(Assignment(new, ("n1",), free_now=False),),
        the_fleet=fleet(replica_set("new", gpus=8), nodes={"h100": 1}),
        pools=pools,
        **more,
    )


def test_a_replica_makes_room_where_its_successor_has_nowhere_else_to_go():
    assert drained(blocked_by_old()) == ["old"]


@pytest.mark.parametrize("coming", [{"nodes": True}, {"wanted": 2}])
def test_a_replica_waits_for_nodes_that_are_coming_but_not_for_ever(coming):
    found = blocked_by_old(age_seconds=PATIENCE_SECONDS - 5, **coming)
    assert (drained(found), found.wake_in_seconds) == ([], 5.0)
    assert drained(blocked_by_old(age_seconds=PATIENCE_SECONDS, **coming)) == ["old"]


def test_a_replica_waits_for_the_room_of_nodes_that_are_given_back_at_any_age_of_the_plan():
    assert drained(blocked_by_old(age_seconds=PATIENCE_SECONDS)) == ["old"]
    found = blocked_by_old(age_seconds=PATIENCE_SECONDS, room=True)
    assert (drained(found), found.wake_in_seconds) == ([], 2.0)


def test_a_node_is_cleared_at_a_time_when_the_budget_holds_growth_back():
    pods = [pod("a", "n1", of="old"), pod("b", "n1", of="old"), pod("c", "n2", of="old")]
    pools = (pool(node("n1"), node("n2"), pods=pods, wanted=2),)
    planned = fleet(replica_set("new", 3))
    found = leave(*pods, surplus=pods, the_fleet=planned, pools=pools, leaving=("n1", "n2"), held_back=True)
    assert drained(found) == ["c"]


def test_replicas_of_a_pool_that_the_spec_no_longer_has_leave_like_others():
    stray = pod("old", "elsewhere", of="old")
    assert drained(leave(stray, strays=[stray])) == ["old"]


def facts_by_class(planned, capacity=None):
    return facts().model_copy(update={"planned": planned, "capacity": capacity or planned})


def test_a_class_keeps_its_replicas_while_those_planned_for_it_are_away():
    """Others of the model carry as much in total, but not this class."""
    old, chat = pod("old", "n1", of="old"), pod("chat", "n2", of="chat")
    plan = fleet(
        replica_set("chat").model_copy(update={"planned": {"chat": 5.0}}),
        replica_set("long").model_copy(update={"planned": {"long": 2.0}}),
    )
    known = {
        "old": facts_by_class({"long": 2.0, "chat": 1.0}),
        "chat": facts_by_class({"chat": 8.0}),
        "long": facts_by_class({"long": 2.0}),
    }
    assert drained(leave(old, chat, surplus=[old], the_fleet=plan, the_facts=known)) == []
    new = pod("new", "n3", of="long")
    assert drained(leave(old, chat, new, surplus=[old], the_fleet=plan, the_facts=known)) == ["old"]


def test_the_last_replica_that_can_take_a_class_stays_also_where_it_was_planned_for_others():
    old, chat = pod("old", "n1", of="old"), pod("chat", "n2", of="chat")
    plan = fleet(
        replica_set("chat").model_copy(update={"planned": {"chat": 5.0}}),
        replica_set("long").model_copy(update={"planned": {"long": 2.0}}),
    )
    known = {
        "old": facts_by_class({"chat": 1.0}, {"chat": 1.0, "long": 0.5}),
        "chat": facts_by_class({"chat": 8.0}),
        "long": facts_by_class({"long": 2.0}),
    }
    assert drained(leave(old, chat, surplus=[old], the_fleet=plan, the_facts=known)) == []


@pytest.mark.parametrize(("silent", "makes_room"), [(False, False), (True, True)])
def test_a_replica_that_ends_on_a_silent_node_is_not_waited_for(silent, makes_room):
    """Nobody ends it while its node is silent, so a rollout that must make room would wait for ever."""
    old, new = pod("old", "n1", of="old", gpus=8), pod("new", of="new", gpus=8)
    dead = pod("dead", "n3", of="old", gpus=8, terminating=True, ready=False)
    nodes = (node("n1"), node("n3").model_copy(update={"ready": not silent}))
    found = leave(
        old,
        new,
        dead,
        seen_nodes=nodes,
        surplus=[old],
        assigned=(Assignment(new, ("n1",), free_now=False),),
        the_fleet=fleet(replica_set("new", gpus=8)),
        pools=(pool(*nodes, pods=[old, dead]),),
    )
    assert (drained(found) == ["old"]) is makes_room
