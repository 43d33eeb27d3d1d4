"""A plan names measured rates: it goes on without them, counts on them once they are there, and anew when they change."""

import pytest

from e2e.support import plans
from e2e.support.waiting import wait_for
from localcluster.nodes import A100
from servingplan.model.names import PROFILES_LABEL
from servingplan.profiles.rows import ROWS_KEY, Row, write_csv

pytestmark = pytest.mark.usefixtures("karpenter", "operator")

MEASURED = {"model": plans.SMALL, "gpu": "A100-SXM4-80GB", "precision": "bf16", "input": 496, "output": 18}


def curves(requests_per_second):
    """Replicas that have this rate at 64 running requests, and take as long for fewer, whatever GPUs they have."""
    held = 64 / requests_per_second
    times = {"ttft_seconds": held / 2, "tpot_seconds": held / 2 / 17}
    rows = []
    for tp in (1, 2, 4):
        at = MEASURED | {"tp": tp}
        rows += [at | times | {"concurrency": count, "requests_per_second": count / held} for count in (1, 8, 64)]
        rows.append(at | {"requests_per_second": requests_per_second})
    return write_csv(Row.model_validate(row) for row in rows)


def config_map(namespace, text):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "rates", "namespace": namespace, "labels": {PROFILES_LABEL: "measured"}},
        "data": {ROWS_KEY: text},
    }


def test_a_change_of_measured_rates_is_planned_for(scene):
    # One node of four GPUs cannot serve all of this by the shipped rates, whatever the shape.
    pool = scene.rented(A100, price=20, most=1)
    plan = plans.plan(scene.namespace, [plans.model_at(requests_per_second=130)], [pool], budget=20)
    plan["spec"] |= {"profiles": [{"configMap": "rates"}], "change": {"minLifetime": "1s", "drainSeconds": 0}}
    scene.apply(plan)
    message = scene.wait_condition("ProfilesAvailable", "ProfilesMissing")
    assert "spec.profiles[rates]" in message
    wait_for("it is planned without them", lambda: scene.weights(plans.SMALL), seconds=60, shown=scene.conditions)

    # Fast single GPUs are taken, and counted on as measured; once they are slow, others that nobody measured are better.
    scene.apply(config_map(scene.namespace, curves(40.0)))
    scene.wait_condition("ProfilesAvailable", "Measured", seconds=60)
    scene.apply(config_map(scene.namespace, curves(6.0)))
    scene.wait_condition("ProfilesAvailable", "Derived", seconds=60)
    scene.apply(config_map(scene.namespace, curves(6.0) + f"{plans.SMALL},no-such-card,bf16,1,1,1,vllm,,1,,\n"))
    message = scene.wait_condition("ProfilesAvailable", "RowsRefused", seconds=60)
    assert "row 13" in message
    assert "no-such-card" in message
