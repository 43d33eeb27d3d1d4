"""Which pods KWOK is reminded of."""

from datetime import UTC, datetime, timedelta

from localcluster.reminder import LATE_SECONDS, is_late

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def pod(*, late_by: float, node: str | None = "node-1", **metadata):
    ends = (NOW - timedelta(seconds=LATE_SECONDS + late_by)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "metadata": {"name": "a", "deletionTimestamp": ends, **metadata},
        "spec": {"nodeName": node} if node else {},
    }


def test_a_pod_is_late_once_its_grace_is_over_for_a_while():
    assert is_late(pod(late_by=1), NOW)
    assert not is_late(pod(late_by=-1), NOW)


def test_a_pod_that_is_not_deleted_or_has_no_node_or_is_held_by_others_is_not():
    assert not is_late({"metadata": {"name": "a"}, "spec": {"nodeName": "node-1"}}, NOW)
    assert not is_late(pod(late_by=1, node=None), NOW)
    assert not is_late(pod(late_by=1, finalizers=["somebody/holds"]), NOW)
