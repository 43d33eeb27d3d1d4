"""Since when a replica has its node, as its annotation says it: people can write anything into it."""

import pytest

from servingplan.model.fleet import PlanRecord
from servingplan.planning.starts import look_at_starts
from tests.unit.rollout.builders import fleet, node, pod, replica_set, world


def failed_starts(placed_since):
    seen = world(pod("a", "n", ready=False, placed_since=placed_since), nodes=(node("n"),))
    record = PlanRecord(fleet=fleet(replica_set()))
    found = look_at_starts(record, seen, startup_seconds=lambda _: 600.0, has_room=lambda _: True)
    return [start for item in found.values() for start in item.starts]


def test_a_replica_that_is_late_has_failed_to_start():
    assert failed_starts("2026-01-01T00:49:00Z") == ["uid-a/late"]
    assert failed_starts("2026-01-01T00:51:00Z") == []


@pytest.mark.parametrize("written", ["", "yesterday", "2026-01-01T00:49:00"])
def test_a_time_that_cannot_be_read_says_nothing_of_the_shape(written):
    assert failed_starts(written) == []
