"""Pods as facts."""

import pytest

from servingplan.observe.pods import seen_pod

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
