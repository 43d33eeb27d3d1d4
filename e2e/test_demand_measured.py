"""Demand that a real Prometheus counts triples, and then Prometheus is lost."""

import time

import pytest

from e2e.support import plans
from e2e.support.exporter import COUNTER, Exporter
from e2e.support.plans import SMALL
from e2e.support.waiting import hold, wait_for
from localcluster import prometheus
from localcluster.nodes import A100

pytestmark = pytest.mark.usefixtures("karpenter", "operator")


@pytest.fixture
def counted(scene, tmp_path):
    """The gateway's counters, at three times the declared rate, and the Prometheus that scrapes them every second."""
    try:
        prometheus.program()
    except prometheus.NotToBeHadError as error:
        pytest.skip(str(error))
    exporter = Exporter(f"{scene.namespace}/chat", SMALL, ["short"])
    exporter.set({"short": plans.scaled(60)})
    with prometheus.PrometheusProcess(tmp_path / "prometheus", {"gateway": exporter.target}) as running:
        # A few scrapes, so that the first plan is made of what is measured.
        wait_for("Prometheus has scraped", lambda: running.value(f"count_over_time({COUNTER}[5m])") >= 4, seconds=30)
        yield running, exporter
    exporter.close()


def told(scene):
    """Requests/s of the only class, as the status has it."""
    (status,) = scene.plan()["status"]["classes"]
    return float(status["requestsPerSecond"])


def test_a_surge_grows_the_fleet_within_a_minute_and_a_lost_prometheus_moves_nothing(scene, witness, counted):
    running, exporter = counted
    pool = scene.rented(A100, price=20)
    demand = {"prometheus": {"url": running.url, "window": "1m"}}
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=20)], [pool], budget=60, demand=demand))
    scene.wait_ready()
    scene.wait_condition("DemandKnown", reason="Measured")
    assert (scene.size_of(pool), len(scene.ready_pods())) == (1, 4)

    exporter.set({"short": plans.scaled(180)})
    began = time.monotonic()
    wait_for("the pool grows for three times the demand", lambda: scene.size_of(pool) == 3, seconds=60)
    print(f"the pool was asked to grow {time.monotonic() - began:.1f} s after the demand had trebled")
    wait_for(
        "the status tells the new rate", lambda: told(scene) == pytest.approx(plans.scaled(180), rel=0.15), seconds=60
    )
    scene.wait_ready()

    running.stop()
    scene.wait_condition("DemandKnown", reason="LastGood", seconds=30)
    planned = scene.plan()["status"]["planHash"]
    hold("the plan stays", lambda: scene.plan()["status"]["planHash"] == planned, seconds=12)
    assert scene.size_of(pool) == 3
    sizes = witness.sizes(pool)
    assert sizes == sorted(sizes), "the pool only ever grew"
    assert (sizes[:2], sizes[-1]) == ([0, 1], 3)
