"""How long replicas take to start: what is counted, what is kept, and what it is good for."""

import pytest

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.fleet import PlanRecord, PodNeeds, StartTimes
from servingplan.planning.cold_starts import (
    FIXED_SECONDS,
    LOADING_BYTES_PER_SECOND,
    MARGIN,
    STARTS_KEPT,
    longest_start,
    look_at_cold_starts,
    start_limit_seconds,
    start_limits,
)
from tests.unit.rollout.builders import fleet, pod, replica_set, world

SPEC = PlanSpec.model_validate(
    {
        "budget": {"dollarsPerHour": "10"},
        "models": [{"name": "m", "variants": [{"name": "bf16", "precision": "bf16"}]}],
        "nodePools": [{"name": "h100", "gpu": "H100-SXM-80GB", "nodeSelector": {"pool": "h100"}}],
    }
)
KEY = "m/bf16/h100"


def started(name, minute, ready_minute, ran_minute=None, **more):
    ran = None if ran_minute is None else f"2026-01-01T00:{ran_minute:02}:00Z"
    times = {"placed_since": f"2026-01-01T00:{minute:02}:00Z", "ready_since": f"2026-01-01T00:{ready_minute:02}:00Z"}
    return pod(name, "n", **{**times, "running_since": ran, **more})


def look(*pods, before=None, **parts):
    record = PlanRecord(fleet=fleet(replica_set(**parts)), start_times=before or {})
    return look_at_cold_starts(record, world(*pods), SPEC)


def test_a_start_lasts_from_the_node_until_the_replica_is_ready_and_is_counted_once():
    first = look(started("a", 0, 5, 2))
    assert first == {KEY: StartTimes(seconds=(300.0,), image_seconds=(120.0,), counted=("uid-a",))}
    again = look(started("a", 0, 5, 2), started("b", 1, 5), before=first)
    assert again[KEY].seconds == (300.0, 240.0)
    assert longest_start(again[KEY]) == 300.0


def test_the_last_starts_are_kept_and_pods_that_are_gone_are_forgotten():
    times = {}
    for number in range(STARTS_KEPT + 2):
        times = look(started(f"p{number}", 0, number + 1), before=times)
    assert times[KEY].seconds == tuple(60.0 * (number + 1) for number in range(2, STARTS_KEPT + 2))
    assert times[KEY].counted == (f"uid-p{STARTS_KEPT + 1}",)
    assert look(before=times)[KEY] == times[KEY].model_copy(update={"counted": ()})


@pytest.mark.parametrize(
    "pod_of_no_start",
    [
        started("a", 0, 5, ready=False),
        started("a", 0, 5, ready_since=None),
        started("a", 0, 31),
        started("a", 5, 0),
        started("a", 0, 5, placed_since="yesterday"),
        started("a", 0, 5, of="another"),
    ],
    ids=["not ready", "began again", "later than allowed", "ready before", "unreadable", "of no plan"],
)
def test_what_is_no_start_is_not_counted(pod_of_no_start):
    assert look(pod_of_no_start) == {}


def test_starts_on_a_pool_that_the_spec_no_longer_has_are_forgotten():
    gone = {"m/bf16/a100": StartTimes(seconds=(60.0,), image_seconds=(9.0,))}
    assert look(before=gone) == {}


def test_the_limit_grows_with_the_weights_and_with_what_was_seen_and_gives_way_to_what_is_declared():
    small, large = start_limit_seconds(None, 16e9, None), start_limit_seconds(None, 810e9, None)
    assert FIXED_SECONDS + 16e9 / LOADING_BYTES_PER_SECOND <= small < large
    assert start_limit_seconds(None, 16e9, small) >= MARGIN * small
    assert start_limit_seconds(None, 16e9, 1.0) == small
    assert start_limit_seconds(77, 810e9, 5000.0) == 77


def test_a_replica_that_runs_keeps_the_limit_that_it_was_made_with():
    made = replica_set().model_copy(update={"needs": PodNeeds(start_limit_seconds=4200)})
    assert start_limits(fleet(made), SPEC) == {"d": 4200}
    assert start_limits(fleet(replica_set()), SPEC) == {"d": 1800}
