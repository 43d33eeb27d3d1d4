"""A plan names measured rates: it goes on without them, counts on them once they are there, and anew when they change."""

import pytest

from e2e.cluster.nodes import A100
from e2e.support import plans
from e2e.support.waiting import wait_for
from servingplan.profiles.rows import ROWS_KEY, Row, write_csv
from servingplan.render.names import PROFILES_LABEL

pytestmark = pytest.mark.usefixtures("karpenter", "operator")

MEASURED = {"model": plans.SMALL, "gpu": "A100-SXM4-80GB", "precision": "bf16", "tp": 1, "input": 496, "output": 18}


def curve(requests_per_second):
    """A replica that has this rate at 64 running requests, and takes as long for fewer."""
    held = 64 / requests_per_second
    times = {"ttft_seconds": held / 2, "tpot_seconds": held / 2 / 17}
    rows = [MEASURED | times | {"concurrency": n, "requests_per_second": n / held} for n in (1, 8, 64)]
    return write_csv(
        Row.model_validate(row) for row in [*rows, MEASURED | {"requests_per_second": requests_per_second}]
    )


def config_map(namespace, text):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "rates", "namespace": namespace, "labels": {PROFILES_LABEL: "measured"}},
        "data": {ROWS_KEY: text},
    }


def test_a_change_of_measured_rates_is_planned_for(scene):
    def copies():
        return sum(item["spec"]["replicas"] for item in scene.deployments().values())

    pool = scene.rented(A100, price=20, most=4)
    plan = plans.plan(scene.namespace, [plans.model(rate=40)], [pool], budget=80)
    plan["spec"]["profiles"] = [{"configMap": "rates"}]
    scene.apply(plan)
    message = scene.wait_condition("ProfilesAvailable", "ProfilesMissing")
    assert "spec.profiles[rates]" in message
    wait_for("it is planned without them", lambda: scene.weights(plans.SMALL), seconds=60, shown=scene.conditions)

    scene.apply(config_map(scene.namespace, curve(6.0)))
    wait_for("slow replicas are many", lambda: copies() >= 7, seconds=60, shown=scene.conditions)
    slow = copies()
    scene.apply(config_map(scene.namespace, curve(24.0)))
    wait_for("fast ones are fewer", lambda: 0 < copies() < slow - 3, seconds=60, shown=scene.conditions)
    scene.apply(config_map(scene.namespace, curve(24.0) + "llama-3.1-8b,H100,bf16,1,0,0\n"))
    message = scene.wait_condition("ProfilesAvailable", "RowsRefused")
    assert "row 5" in message
