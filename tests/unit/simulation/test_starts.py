"""Shapes that do not start: another one is planned, and the first is tried again later and later."""

import pytest

from servingplan.rehearse.cluster import TICK_SECONDS
from tests.simulated.plans import model, operator, plan, sized
from tests.unit.simulation.test_stories import LLAMA, conditions_that_fail, serves_at_least, settled

OUT_OF_MEMORY = "OOMKilled (exit code 137): CUDA out of memory"
CHEAP, OTHER = sized(), sized("a100", price="5")
QUICK = {"startupSeconds": 60}


def failing(words, *, pools=(CHEAP, OTHER), **spec):
    """Engines on L40S nodes end as soon as they have begun."""
    driver = operator(plan(model(engine=QUICK), pools=list(pools), **spec))
    driver.cluster.crashes = lambda pod: words if pod.selector == {"pool": "l40s"} else None
    return driver


def left_out(driver):
    return {item["pool"]: item for item in driver.cluster.status.get("failedShapes", ())}


def test_after_three_crashes_another_shape_is_planned():
    driver = failing(OUT_OF_MEMORY)
    fleet = settled(driver)
    assert fleet.nodes == {"a100": 1, "l40s": 0}
    assert driver.serving_rate(LLAMA) == pytest.approx(10)
    assert left_out(driver)["l40s"]["message"] == OUT_OF_MEMORY
    assert conditions_that_fail(driver) == {}
    row = next(item for item in driver.cluster.status["conditions"] if item["type"] == "WorkloadsReady")
    assert "is left out until" in row["message"]


def test_replicas_that_are_late_count_as_well():
    driver = operator(plan(model(engine=QUICK), pools=[CHEAP, OTHER]))
    cluster = driver.cluster
    on_l40s = lambda pod: pod.selector == {"pool": "l40s"}  # noqa: E731
    cluster.never_ready = lambda serial: any(pod.serial == serial and on_l40s(pod) for pod in cluster.our_pods())
    fleet = settled(driver)
    assert fleet.nodes["l40s"] == 0
    assert "not ready within 60 s" in left_out(driver)["l40s"]["message"]


def test_an_image_that_cannot_be_pulled_is_not_the_fault_of_the_shape():
    driver = failing("ImagePullBackOff: no such image")
    driver.act()
    driver.tick(120)
    assert left_out(driver) == {}
    assert driver.decision.fleet.nodes["l40s"] == 2


def test_a_replica_that_serves_forgives_the_others():
    driver = operator(plan(model(engine=QUICK), pools=[CHEAP, OTHER]))
    driver.cluster.crashes = lambda pod: OUT_OF_MEMORY if pod.serial == 1 else None
    driver.act()
    driver.tick(60)
    assert left_out(driver) == {}


def test_it_is_tried_again_and_left_out_twice_as_long():
    driver = failing(OUT_OF_MEMORY)
    settled(driver)
    serves_at_least(driver)
    first = left_out(driver)["l40s"]
    driver.tick(1500 // TICK_SECONDS)
    second = left_out(driver)["l40s"]
    assert second["since"] > first["until"]
    record = driver.decision.failed_shapes[second["name"]]
    assert record.back_off_seconds == 1200


def test_an_edit_clears_it():
    driver = failing(OUT_OF_MEMORY)
    settled(driver)
    driver.cluster.crashes = lambda pod: None
    driver.cluster.edit(plan(model(engine=QUICK), pools=[CHEAP, OTHER], budget="21"))
    fleet = settled(driver)
    assert fleet.nodes == {"a100": 0, "l40s": 2}
    assert left_out(driver) == {}


def test_where_there_is_no_other_shape_nothing_is_paid_for_until_it_is_tried_again():
    driver = failing(OUT_OF_MEMORY, pools=[CHEAP])
    driver.act()
    driver.tick(20)
    assert driver.spend == 0
    assert conditions_that_fail(driver)["PlanSolved"] == "ShapeFailed"
    driver.cluster.crashes = lambda pod: None
    driver.tick(80)
    settled(driver)
    assert driver.serving_rate(LLAMA) == pytest.approx(10)


def test_a_shape_is_the_same_once_it_is_known_what_its_nodes_have():
    driver = failing(OUT_OF_MEMORY)
    driver.cluster.allocatable = {"cpu": "48", "memory": "200Gi"}
    assert settled(driver).nodes == {"a100": 1, "l40s": 0}
    (first,) = driver.decision.failed_shapes.values()
    assert first.until is not None
    driver.tick(int(first.back_off_seconds) // TICK_SECONDS + 120)
    (again,) = driver.decision.failed_shapes.values()
    assert again.back_off_seconds == 2 * first.back_off_seconds
