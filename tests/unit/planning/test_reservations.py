"""What a reservation gives at any moment, and which of several sources of what a pool gives counts."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.cli.imagine import imagined_world
from servingplan.model.fleet import LearnedCap, PoolStock
from servingplan.model.times import later
from servingplan.planning.pools import FOREVER, Pool
from servingplan.planning.reservations import change_in_seconds, reserved

START, END = "2026-12-01T08:00:00Z", "2026-12-01T20:00:00Z"


def written(**reservation):
    return {
        "name": "h100",
        "gpu": "H100-SXM-80GB",
        "gpusPerNode": 8,
        "maxNodes": 10,
        "nodeSelector": {"pool": "h100"},
        "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "h100"},
        "reservation": reservation,
    }


def spec(**reservation):
    return NodePool.model_validate(written(**reservation))


def pool(item, now, cap=None):
    stock = None if cap is None else PoolStock(cap=cap)
    return Pool(item, None, 8, 20.0, (), None, stock=stock, reserved=reserved(item, now))


WHOLE = spec(nodes=4, start=START, end=END)


@pytest.mark.parametrize(
    ("now", "nodes", "until", "reason"),
    [
        ("2026-12-01T07:59:59Z", 0, START, "NotReservedYet"),
        (START, 4, "2026-12-01T19:45:00Z", "Reserved"),
        ("2026-12-01T19:44:59Z", 4, "2026-12-01T19:45:00Z", "Reserved"),
        ("2026-12-01T19:45:00Z", 0, FOREVER, "ReservationEnds"),
        ("2027-01-01T00:00:00Z", 0, FOREVER, "ReservationEnds"),
    ],
)
def test_before_within_and_after_its_window(now, nodes, until, reason):
    found = reserved(WHOLE, now)
    assert (found.nodes, found.until, found.reason) == (nodes, until, reason)
    assert (pool(WHOLE, now).most_nodes, pool(WHOLE, now).most_to_ask_for) == (nodes, nodes)


def test_open_ends():
    assert reserved(spec(nodes=4), START).nodes == 4
    assert reserved(spec(nodes=4), START).until == FOREVER
    assert reserved(spec(nodes=4, end=END, notice="1h"), "2026-12-01T19:00:00Z").nodes == 0
    assert reserved(NodePool.model_validate({**written(), "reservation": None}), START) is None


def test_a_notice_as_long_as_the_window_is_refused_and_one_that_is_a_second_shorter_is_not():
    hours = {"start": "2026-12-01T08:00:00Z", "end": "2026-12-01T09:00:00Z"}
    with pytest.raises(ValidationError, match="notice is as long as the reservation"):
        spec(nodes=4, **hours, notice="1h")
    short = spec(nodes=4, **hours, notice="59m59s")
    assert reserved(short, hours["start"]).reason == "Reserved"
    assert reserved(short, "2026-12-01T08:00:01Z").reason == "ReservationEnds"


def test_a_floor_does_not_ask_for_nodes_outside_the_window():
    floor = NodePool.model_validate({**written(nodes=4, start=START), "minNodes": 3})
    assert pool(floor, "2026-12-01T07:00:00Z").least_nodes == 0
    assert pool(floor, START).least_nodes == 3


def cap(nodes, *, probing=False):
    return LearnedCap(
        nodes=nodes, since=START, until=END, reason="NotComing", message="", back_off_seconds=300.0, probing=probing
    )


@given(st.integers(0, 12), st.booleans(), st.sampled_from(["2026-12-01T07:00:00Z", START, END]))
def test_the_smallest_number_of_all_sources_counts(nodes, probing, now):
    found = pool(WHOLE, now, cap(nodes, probing=probing))
    least = reserved(WHOLE, now).nodes
    assert found.most_nodes == min(10, least if probing else min(nodes, least))
    assert found.most_to_ask_for == min(10, least, nodes + 1 if probing else nodes)
    assert found.cap.nodes == (least if probing else min(nodes, least))


def test_of_equal_numbers_what_was_seen_comes_first():
    assert pool(WHOLE, START, cap(4)).cap.reason == "NotComing"
    assert pool(WHOLE, START, cap(5)).cap.reason == "Reserved"


@given(st.integers(0, 200_000))
def test_a_reservation_changes_only_when_it_said_so(seconds):
    now = later("2026-12-01T00:00:00Z", seconds)
    left = change_in_seconds([pool(WHOLE, now)], now)
    if left is None:
        assert reserved(WHOLE, later(now, 10_000_000)) == reserved(WHOLE, now)
        return
    assert left > 0
    assert reserved(WHOLE, later(now, left - 1)) == reserved(WHOLE, now)
    assert reserved(WHOLE, later(now, left)).nodes != reserved(WHOLE, now).nodes
    assert change_in_seconds([replace(pool(WHOLE, now), reserved=None)], now) is None


@pytest.mark.parametrize(
    ("reservation", "field"),
    [
        ({"nodes": 0}, "nodes"),
        ({"nodes": 4, "start": END, "end": START}, "end"),
        ({"nodes": 4, "start": START, "end": START}, "end"),
        ({"nodes": 4, "start": "2026-12-01"}, "start"),
        ({"nodes": 4, "end": "2026-02-30T00:00:00Z"}, "end"),
        ({"nodes": 4, "end": "2026-12-01T08:00:00+01:00"}, "end"),
        ({"nodes": 4, "notice": "soon"}, "notice"),
        ({}, "nodes"),
    ],
)
def test_what_is_no_reservation_is_refused_with_its_field(reservation, field):
    with pytest.raises(ValidationError) as error:
        spec(**reservation)
    (found,) = error.value.errors()
    assert field in (*found["loc"], (found.get("ctx") or {}).get("field"))


def test_fixed_nodes_have_no_reservation():
    with pytest.raises(ValidationError, match="reservation needs resize"):
        NodePool.model_validate({**written(nodes=4), "resize": None})


def test_an_offline_plan_is_made_for_a_moment_at_which_reservations_have_begun():
    pools = [{**written(nodes=4, start=START), "dollarsPerNodeHour": 20}]
    plan = {
        "metadata": {"name": "chat"},
        "spec": {"budget": {"dollarsPerHour": 100}, "models": [{"name": "llama-3.1-8b"}], "nodePools": pools},
    }
    assert imagined_world(plan).now == START
