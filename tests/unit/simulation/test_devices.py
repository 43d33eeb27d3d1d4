"""GPUs that are devices: slices and claims count, claims come before the pods that need them, and go with them."""

import pytest

from servingplan.model import names
from servingplan.rehearse.objects import PLAN_UID
from servingplan.render import deployment
from tests.simulated.plans import fixed, model, operator, plan, sized

DRA = {"dra": {"deviceClass": "gpu.nvidia.com"}}


def running(pool, *, rate="10", nodes=0, **cluster):
    driver = operator(plan(model(rate=rate), pools=[pool]), nodes=nodes, devices=True, **cluster)
    driver.settle()
    return driver


def templates(cluster):
    return {name for kind, name in cluster.objects if kind == names.CLAIM_TEMPLATE}


def deployments(cluster):
    return {name for kind, name in cluster.objects if kind == names.DEPLOYMENT}


def contradiction(driver):
    found = next(item for item in driver.cluster.status["conditions"] if item["type"] == "NodePoolsReady")
    return f"{found['reason']}: {found['message']}"


def test_a_plan_comes_to_serve_on_devices_of_nodes_that_it_rents():
    driver = running(sized(**DRA))
    driver.check_settled()
    (item,) = driver.decision.fleet.replica_sets
    assert templates(driver.cluster) == deployments(driver.cluster) == {item.deployment}
    assert driver.serving_rate("llama-3.1-8b") == pytest.approx(10)
    assert driver.spend == 2 * item.replicas
    for pod in driver.cluster.our_pods():
        assert len(pod.devices) == item.gpus
        manifest = driver.cluster.objects[names.DEPLOYMENT, item.deployment]
        (engine,) = manifest["spec"]["template"]["spec"]["containers"]
        assert engine["resources"] == {"claims": [{"name": "gpus"}]}


def test_devices_that_claims_of_others_hold_are_not_counted():
    pool = fixed(gpus=2, **DRA)
    driver = operator(plan(model(rate="20"), pools=[pool]), nodes=2, devices=True)
    stranger = driver.cluster.add_foreign_pod("l40s-0", 2)
    driver.settle()
    assert {pod.node for pod in driver.cluster.our_pods()} == {"l40s-1"}
    before = driver.serving_rate("llama-3.1-8b")
    del driver.cluster.pods[stranger]
    driver.settle()
    assert {pod.node for pod in driver.cluster.our_pods()} == {"l40s-0", "l40s-1"}
    assert driver.serving_rate("llama-3.1-8b") > before


def test_an_annotation_that_somebody_wrote_over_stops_no_turn(monkeypatch):
    """Also after an upgrade that renders otherwise: what runs is left as it is, with its claims."""
    driver = running(fixed(gpus=2, **DRA), nodes=1)
    monkeypatch.setattr(deployment, "DRAIN_SLEEP_SECONDS", 77)
    (item,) = driver.decision.fleet.replica_sets
    pods = driver.cluster.objects[names.DEPLOYMENT, item.deployment]["spec"]["template"]
    pods["metadata"]["annotations"][names.DEVICES_ANNOTATION] = "mine"
    driver.settle()
    (claim,) = driver.cluster.objects[names.DEPLOYMENT, item.deployment]["spec"]["template"]["spec"]["resourceClaims"]
    assert claim == {"name": "gpus", "resourceClaimTemplateName": item.deployment}
    assert templates(driver.cluster) == {item.deployment}
    assert driver.serving_rate("llama-3.1-8b") > 0


def test_replicas_stay_where_the_driver_publishes_nothing_for_a_while():
    driver = running(fixed(gpus=2, **DRA), nodes=1)
    before = {pod.uid for pod in driver.cluster.our_pods()}
    assert before
    driver.cluster.silent_drivers.add("l40s-0")
    driver.tick(5)
    assert {pod.uid for pod in driver.cluster.our_pods()} == before
    assert driver.serving_rate("llama-3.1-8b") > 0


def claims_come_first(cluster):
    return deployments(cluster) <= templates(cluster)


def test_another_shape_gets_its_template_before_its_deployment_and_the_old_one_goes_last():
    spec = plan(pools=[sized(**DRA)])
    driver = operator(spec, devices=True)
    driver.settle()
    moments = driver.before_each_write = []
    old = templates(driver.cluster)
    driver.cluster.edit({**spec, "models": [model(engine={"image": "vllm/vllm-openai:v0.19.0"})]})
    driver.settle()
    assert all(map(claims_come_first, moments))
    assert templates(driver.cluster) == deployments(driver.cluster)
    assert not templates(driver.cluster) & old
    assert any(templates(moment) > old for moment in moments)


def test_an_operator_that_ends_at_any_write_is_followed_by_one_that_goes_on():
    whole = running(sized(**DRA))
    for writes in range(whole.writes):
        driver = operator(plan(pools=[sized(**DRA)]), devices=True)
        driver.dies_in = writes
        while driver.dies_in is not None:
            driver.attempt()
            driver.cluster.tick()
        assert claims_come_first(driver.cluster)
        driver.settle()
        driver.check_settled()
        assert templates(driver.cluster) == deployments(driver.cluster)


def test_a_template_that_is_refused_for_a_while_is_written_later():
    driver = operator(plan(pools=[sized(**DRA)]), devices=True)
    driver.cluster.refuses = lambda manifest: manifest["kind"] == names.CLAIM_TEMPLATE
    for _ in range(8):
        driver.attempt()
        driver.pass_time()
    assert not templates(driver.cluster)
    driver.cluster.refuses = lambda manifest: False
    driver.settle()
    driver.check_settled()


def test_with_the_plan_its_templates_go():
    driver = running(sized(**DRA))
    driver.cluster.deleting_since = driver.cluster.time
    while not driver.retire():
        driver.cluster.tick()
    assert not deployments(driver.cluster)
    assert not driver.cluster.our_pods()
    for name in templates(driver.cluster):  # as its Service, by whom its owner's end is carried on
        (owner,) = driver.cluster.objects[names.CLAIM_TEMPLATE, name]["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (PLAN_UID, True)


@pytest.mark.parametrize(
    ("pool", "devices", "words"),
    [
        (fixed(**DRA), False, "the cluster has no such DeviceClass (it has none)"),
        (fixed(dra={"deviceClass": "mig.nvidia.com"}), True, "has no such DeviceClass (it has gpu.nvidia.com)"),
        (
            fixed(),
            True,
            "counts nvidia.com/gpu, node l40s-0 has devices in ResourceSlices (1 of gpu.nvidia.com type=gpu)",
        ),
        (
            fixed(dra={**DRA["dra"], "attributes": [{"name": "gpu.nvidia.com/brand", "value": "x"}]}),
            True,
            "counts devices of gpu.nvidia.com with gpu.nvidia.com/brand=x, node l40s-0 has devices",
        ),
    ],
)
def test_a_pool_whose_nodes_say_otherwise_is_told(pool, devices, words):
    driver = operator(plan(pools=[pool]), nodes=1, devices=devices)
    driver.act()
    assert contradiction(driver).startswith("FalseDeclaration: ")
    assert words in contradiction(driver)
    assert not driver.cluster.our_pods()
