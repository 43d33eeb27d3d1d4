"""GPUs that are devices of Dynamic Resource Allocation: plans count slices and claims, and the scheduler allocates."""

from collections import Counter

import pytest

from e2e.support import devices, plans
from e2e.support.plans import SMALL
from e2e.support.waiting import wait_for
from localcluster.nodes import A100

pytestmark = pytest.mark.usefixtures("kwok", "operator")


@pytest.fixture
def driver(scene):
    with devices.driver(scene) as made:
        yield made


def test_replicas_serve_on_devices_that_nobody_else_holds(scene, driver, witness):
    whole = driver.device_class("gpu")
    pool = driver.fixed(A100, 3, price=20, device_class=whole)
    taken, *free = scene.nodes_of(pool)
    for node in (taken, *free):
        driver.whole_gpus(A100, node)
    strangers = scene.new_namespace("strangers")
    driver.take("training", devices=4, device_class=whole, node=taken, namespace=strangers)

    scene.apply(plans.plan(scene.namespace, [plans.model(rate=150)], [pool], budget=60))
    status = scene.wait_ready()
    # Eight replicas of one GPU would carry the rate; the two nodes without the stranger have as many.
    ready = scene.ready_pods()
    assert driver.held(scene.namespace) == Counter(pod["spec"]["nodeName"] for pod in ready)
    assert {pod["spec"]["nodeName"] for pod in ready} == set(free)
    assert (status["served"], float(status["cost"]["spendPerHour"])) == ("100%", 40)
    assert sum(scene.weights(SMALL).values()) == 10_000
    for pod in ready:
        (engine,) = pod["spec"]["containers"]
        assert engine["resources"]["claims"]
        assert not {"nvidia.com/gpu"} & {
            name for part in ("limits", "requests") for name in engine["resources"].get(part, ())
        }
    assert driver.templates() == scene.deployments().keys()

    # More is asked for than these devices can carry: the stranger's are not counted, until it leaves.
    scene.edit("chat", {"models": [plans.model(rate=220)]})
    wait_for("the rest is not served", lambda: scene.plan()["status"]["served"] != "100%", seconds=30)
    assert driver.held(scene.namespace).keys() == set(free)
    scene.cluster.kubectl("delete", "pod", "training", "-n", strangers, "--wait=false")
    status = scene.wait_ready(such=lambda status: status["served"] == "100%")
    assert driver.held(scene.namespace).keys() == {taken, *free}
    assert float(status["cost"]["spendPerHour"]) == 60

    # With the plan all of its claims and their templates go.
    scene.cluster.kubectl("delete", "lsp", "chat", "-n", scene.namespace, "--wait=false")
    wait_for("nothing of the plan is left", lambda: not driver.templates() and not scene.pods(), seconds=60)
    wait_for("its devices are free", lambda: driver.held(scene.namespace) == {}, seconds=30)


def test_a_shape_that_goes_takes_its_template_with_it(scene, driver):
    pool = driver.fixed(A100, 1, price=20, device_class=driver.device_class("gpu"))
    (node,) = scene.nodes_of(pool)
    driver.whole_gpus(A100, node)
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=60, image="engine:1")], [pool], budget=20))
    scene.wait_ready()
    (old,) = driver.templates()
    scene.edit("chat", {"models": [plans.model(rate=60, image="engine:2")]})
    scene.wait_ready(seconds=90)
    wait_for("only the new template is there", lambda: driver.templates() == scene.deployments().keys(), seconds=60)
    assert old not in driver.templates()


def test_slices_of_one_profile_are_a_gpu_of_their_own(scene, driver, witness):
    pool = driver.fixed(A100, 1, price=20, device_class=driver.device_class("mig"))
    (node,) = scene.nodes_of(pool)
    product = "NVIDIA A100-SXM4-80GB"
    large = {f"large-{index}": {"type": "mig", "profile": "3g.40gb", "productName": product} for index in range(2)}
    small = {f"small-{index}": {"type": "mig", "profile": "1g.10gb", "productName": product} for index in range(4)}
    driver.publish(node, {**small, **large, "whole-0": {"type": "gpu", "productName": product}})
    pool |= {
        "gpu": "A100-MIG-3g.40gb",
        "gpusPerNode": 2,
        "gpuSpec": {
            "memoryGb": 40,
            "memoryBandwidthGbPerSecond": 1019,
            "bf16DenseTflops": 133,
            "linkGbPerSecond": 32,
        },
    }
    pool["dra"]["attributes"] = [{"name": "gpu.nvidia.com/profile", "value": "3g.40gb"}]
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=1000)], [pool], budget=60))
    wait_for(
        "both slices are held", lambda: driver.held(scene.namespace) == {node: 2}, seconds=60, shown=scene.conditions
    )
    assert {item["device"] for item in driver.results(scene.namespace)} == set(large)
    wait_for("both replicas are ready", lambda: len(scene.ready_pods()) == 2, seconds=30)


@pytest.mark.usefixtures("karpenter")
def test_a_rented_node_serves_once_its_driver_has_published_its_devices(scene, driver):
    pool = scene.rented(A100, price=20) | {"dra": {"deviceClass": driver.device_class("gpu")}}
    scene.apply(plans.plan(scene.namespace, [plans.model(rate=60)], [pool], budget=20))
    (node,) = wait_for("a node is rented", lambda: scene.nodes_of(pool), seconds=60, shown=scene.conditions)
    driver.whole_gpus(A100, node)
    status = scene.wait_ready(seconds=90)
    assert driver.held(scene.namespace) == {node: 4}
    assert (status["served"], float(status["cost"]["spendPerHour"])) == ("100%", 20)
