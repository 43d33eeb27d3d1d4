"""Engines that start, and those that end before they are ready, as the kubelet tells of them."""

import pytest

from servingplan.observe.pods import pod_of

ENDED = {"reason": "OOMKilled", "exitCode": 137, "message": "loading weights\nCUDA out of memory\n"}
SINCE = "2026-01-01T00:00:00Z"
WORDS = "OOMKilled (exit code 137): loading weights\nCUDA out of memory"


def seen(*containers, ready="False"):
    labels = {"servingplan.dev/plan": "chat", "servingplan.dev/deployment": "chat-m-1"}
    item = {
        "metadata": {"namespace": "llm", "name": "p", "uid": "u", "labels": labels},
        "spec": {"nodeName": "n"},
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": SINCE}],
            "containerStatuses": list(containers),
        },
    }
    return pod_of(item, plan_label="chat", namespace="llm", nodes=None, endpoints=())


@pytest.mark.parametrize(
    ("container", "crashes"),
    [
        ({"state": {"terminated": ENDED}, "restartCount": 0}, 1),
        (
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": ENDED},
                "restartCount": 2,
            },
            3,
        ),
        ({"state": {"running": {}}, "lastState": {"terminated": ENDED}, "restartCount": 2}, 2),
    ],
)
def test_every_start_that_failed_counts_once(container, crashes):
    pod = seen(container)
    assert (pod.crashes, pod.last_words) == (crashes, WORDS)


def test_what_is_ready_now_or_ended_in_order_has_not_crashed():
    back = {"state": {"running": {}}, "lastState": {"terminated": ENDED}, "restartCount": 2}
    assert seen(back, ready="True").crashes == 0
    assert seen({"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}).crashes == 0
    assert seen({"state": {"waiting": {"reason": "ImagePullBackOff"}}}).crashes == 0
    assert seen().crashes == 0


def test_a_replica_has_started_when_all_its_containers_have():
    assert seen({"started": True}).started
    assert not seen({"started": True}, {"started": False}).started
    assert not seen({"state": {"running": {}}}).started
    assert not seen().started


def test_since_when_a_replica_is_not_ready_is_known():
    assert seen().unready_since == SINCE
    assert seen(ready="True").unready_since is None
