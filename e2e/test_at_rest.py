"""Where nothing changes, nothing is written."""

import time
from datetime import UTC, datetime

import pytest

from e2e.cluster.nodes import A100
from e2e.cluster.proxy import WriteProxy
from e2e.support import plans
from e2e.support.operator import PERIOD_SECONDS
from e2e.support.waiting import hold, wait_for
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
        _settle(proxy)

        written = len(proxy.writes)
        began = time.monotonic()

        def quiet() -> bool:
            for node in (*scene.nodes_of(rented), *scene.nodes_of(fixed)):
                _heartbeat(scene, node)
            return operator.alive() and len(proxy.writes) == written

        what = f"no write in {3 * PERIOD_SECONDS} s"
        late = [f"{write.method} {write.path} {write.body[:400]!r}" for write in proxy.writes[written:]]
        hold(what, quiet, seconds=3 * PERIOD_SECONDS + 1, shown=lambda: late)
        assert time.monotonic() - began > 3 * PERIOD_SECONDS


def _settle(proxy: WriteProxy) -> None:
    """The turn that made the plan Ready may post its Event after its status."""
    seen = [-1, time.monotonic()]

    def settled() -> bool:
        if len(proxy.writes) != seen[0]:
            seen[:] = [len(proxy.writes), time.monotonic()]
        return time.monotonic() - seen[1] > 1

    wait_for("the last write of the last turn", settled, seconds=10)


def _heartbeat(scene, node: str) -> None:
    """What a kubelet does every few minutes, here all the time."""
    conditions = scene.api.get(NODES, node)["status"]["conditions"]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    patch = {"status": {"conditions": [{**item, "lastHeartbeatTime": now} for item in conditions]}}
    scene.api.merge(NODES, node, patch, manager="kubelet", subresource="status")
