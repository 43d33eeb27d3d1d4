"""Pods as facts."""

import pytest

from servingplan.observe.pods import replicas_of, seen_pod

LABELS = {"servingplan.dev/plan": "chat", "servingplan.dev/deployment": "chat-d"}


def pod(phase):
    metadata = {"namespace": "llm", "name": "a", "uid": "u", "labels": LABELS}
    return {"metadata": metadata, "spec": {"nodeName": "n", "containers": []}, "status": {"phase": phase}}


@pytest.mark.parametrize(
    ("phase", "counts"), [("Running", True), ("Pending", True), ("Failed", False), ("Succeeded", False)]
)
def test_a_pod_that_has_ended_holds_nothing(phase, counts):
    """The watch leaves such pods out, so one that came with the answer to a write of ours would stay for ever."""
    assert (seen_pod(pod(phase)) is not None) is counts


def member(rank, *, group="0", size=2, created="2026-01-01T00:00:00Z", node="n", gone=False, ready=True, gated=False):
    """A pod of a group; its uid is its name."""
    name = f"chat-d-{group}" if rank == 0 else f"chat-d-{group}-{rank}"
    labels = {
        **LABELS,
        "leaderworkerset.sigs.k8s.io/group-index": group,
        "leaderworkerset.sigs.k8s.io/worker-index": str(rank),
        **({"servingplan.dev/serving": "true"} if rank == 0 else {}),
    }
    metadata = {
        "namespace": "llm",
        "name": name,
        "uid": f"{name}@{created}",
        "labels": labels,
        "annotations": {"leaderworkerset.sigs.k8s.io/size": str(size)},
        "creationTimestamp": created,
        **({"deletionTimestamp": created} if gone else {}),
    }
    spec = {
        "containers": [{"resources": {"limits": {"nvidia.com/gpu": "8"}}}],
        "schedulingGates": [{"name": "servingplan.dev/placement"}] if gated else [],
        **({} if node is None or gated else {"nodeName": f"{node}{rank}"}),
    }
    status = {"conditions": [{"type": "Ready", "status": "True" if ready and not gated else "False"}]}
    return {"metadata": metadata, "spec": spec, "status": status}


def replicas(*items):
    return replicas_of((seen.member, seen.own) for item in items if (seen := seen_pod(item)) is not None)


def test_the_pods_of_a_group_are_one_replica_with_a_part_on_each_node():
    (found,) = replicas(member(1), member(0))
    assert (found.name, found.nodes, found.gpus) == ("chat-d-0", ("n0", "n1"), 8)
    assert (found.ready, found.placed, found.bound, found.serving) == (True, True, True, True)
    assert [part.name for part in found.parts] == ["chat-d-0", "chat-d-0-1"]


def test_groups_of_one_set_are_replicas_of_their_own_and_pods_without_a_group_too():
    found = replicas(member(0), member(1), member(0, group="1"), member(1, group="1"), pod("Running"))
    assert sorted(item.name for item in found) == ["a", "chat-d-0", "chat-d-1"]


@pytest.mark.parametrize(
    ("parts", "ready"),
    [
        ((member(0), member(1)), True),
        ((member(0, ready=False), member(1)), False),
        ((member(0), member(1, ready=False)), False),
        ((member(0),), False),
        ((member(0, size=3), member(1, size=3)), False),
    ],
)
def test_a_group_is_ready_when_its_leader_is_and_all_workers_run(parts, ready):
    assert [item.ready for item in replicas(*parts)] == [ready]


def test_a_group_that_lacks_a_pod_is_kept_back():
    (found,) = replicas(member(0, gated=True, size=3), member(1, gated=True, size=3))
    assert (found.workers_to_come, found.kept_back, found.placed, found.gated) == (1, True, False, True)
    (whole,) = replicas(member(0, gated=True), member(1, gated=True))
    assert (whole.workers_to_come, whole.kept_back) == (0, False)


def test_a_group_of_which_some_pods_were_let_go_is_not_placed():
    (found,) = replicas(member(0), member(1, gated=True))
    assert (found.placed, found.gated, found.bound, found.nodes) == (False, True, False, ("n0",))


def test_a_group_ends_with_any_of_its_pods():
    assert [item.terminating for item in replicas(member(0), member(1, gone=True))] == [True]


def test_workers_of_the_group_before_hold_their_nodes_until_they_are_gone():
    later = "2026-01-01T01:00:00Z"
    found = replicas(member(0, created=later, gated=True), member(1))
    assert [(item.name, item.terminating, item.nodes) for item in found] == [
        ("chat-d-0-1", True, ("n1",)),
        ("chat-d-0", False, ()),
    ]
    assert [(item.terminating, item.ready) for item in replicas(member(1))] == [(True, False)]


STARTED = {
    "phase": "Running",
    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:05:00Z"}],
    "containerStatuses": [{"name": "engine", "state": {"running": {"startedAt": "2026-01-01T00:02:00Z"}}}],
}


def first_start(**status):
    found = seen_pod({**pod("Running"), "status": {**STARTED, **status}}).own
    return found.running_since, found.ready_since


def test_a_first_start_is_told_by_when_the_container_ran_and_when_the_pod_was_ready():
    assert first_start() == ("2026-01-01T00:02:00Z", "2026-01-01T00:05:00Z")
    late = {"name": "proxy", "state": {"running": {"startedAt": "2026-01-01T00:03:00Z"}}}
    assert first_start(containerStatuses=[*STARTED["containerStatuses"], late])[0] == "2026-01-01T00:03:00Z"
    assert first_start(conditions=[{**STARTED["conditions"][0], "status": "False"}])[1] is None


def test_a_container_that_began_again_tells_of_no_first_start():
    again = {**STARTED["containerStatuses"][0], "restartCount": 1}
    assert first_start(containerStatuses=[again]) == (None, None)


def test_a_group_starts_when_its_last_pod_does():
    def part(rank, minute):
        item = member(rank)
        (condition,) = item["status"]["conditions"]
        return {**item, "status": {"conditions": [{**condition, "lastTransitionTime": f"2026-01-01T00:0{minute}:00Z"}]}}

    assert replicas(part(0, 3), part(1, 7))[0].ready_since == "2026-01-01T00:07:00Z"
