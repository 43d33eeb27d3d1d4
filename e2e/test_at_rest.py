"""Where nothing changes, nothing is written."""

from datetime import UTC, datetime

import pytest

from e2e.support import plans
from e2e.support.operator import Operator
from e2e.support.scene import Scene
from e2e.support.waiting import wait_for
from localcluster.nodes import A100
from localcluster.proxy import WriteProxy
from servingplan.kube import NODES

pytestmark = pytest.mark.usefixtures("karpenter", "kwok")


def test_three_periods_without_a_change_are_three_periods_without_a_write(scene, witness):
    rented, fixed = scene.rented(A100, price=20), scene.fixed(A100, 1, price=5)
    with (
        WriteProxy(scene.cluster.kubeconfig, certificate=scene.cluster.certificate) as proxy,
        scene.operator(server=proxy.url) as operator,
    ):
        scene.apply(plans.plan(scene.namespace, [plans.model(rate=120)], [rented, fixed], budget=50))
        scene.wait_ready()
        assert proxy.writes
        explained = lambda: "explanation" in (scene.plan().get("status") or {})  # noqa: E731
        wait_for("the status explains the plan", explained, seconds=60)
        _wait_for_a_turn_without_a_write(scene, operator, proxy)

        written, ended = len(proxy.writes), _turns(scene, operator)

        def three_whole_turns() -> bool:
            for node in (*scene.nodes_of(rented), *scene.nodes_of(fixed)):
                _heartbeat(scene, node)
            return _turns(scene, operator) >= ended + 4  # one may have been under way

        wait_for("the turns of three periods", three_whole_turns, seconds=30)
        late = [f"{write.method} {write.path} {write.body[:400]!r}" for write in proxy.writes[written:]]
        assert late == []


def _turns(scene: Scene, operator: Operator) -> float:
    """How many turns have ended, their writes and Events included."""
    assert operator.alive()
    series = operator.metrics(scene.namespace)
    return sum(value for name, value in series.items() if name.startswith("servingplan_turns_total{"))


def _wait_for_a_turn_without_a_write(scene, operator, proxy: WriteProxy) -> None:
    """What the turn that made the plan Ready has yet to write, and whoever answers to it, is done by then."""
    began = (-1, 0.0)

    def is_over() -> bool:
        nonlocal began
        written, ended = len(proxy.writes), _turns(scene, operator)
        if len(proxy.writes) != began[0]:
            began = written, ended
        return ended >= began[1] + 2  # the first may have been under way

    wait_for("a turn without a write", is_over, seconds=30)


def _heartbeat(scene, node: str) -> None:
    """What a kubelet does every few minutes, here all the time."""
    conditions = scene.api.get(NODES, node)["status"]["conditions"]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    patch = {"status": {"conditions": [{**item, "lastHeartbeatTime": now} for item in conditions]}}
    scene.api.merge(NODES, node, patch, manager="kubelet", subresource="status")
