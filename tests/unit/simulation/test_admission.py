"""What is admitted follows what is ready, tick by tick; the driver checks at every rest that no replica gets too much."""

from datetime import datetime

import pytest

from servingplan.model.readings import Arrivals, SeenDemand
from tests.simulated.plans import fixed, model, operator, plan, sized

LLAMA, QWEN = "llama-3.1-8b", "qwen3-8b"
SLOW = {"boot_ticks": 2, "start_ticks": 3}
MEASURED = {
    "demand": {"prometheus": {"url": "http://prometheus:9090", "window": "2m"}},
    "change": {"minLifetime": "4m", "resolveEvery": "2m"},
}
SCRAPE, SCRAPES = 10, 12


class Traffic:
    """As many requests as the rates say, counted every ten seconds."""

    def __init__(self) -> None:
        self.rates: dict[str, float] = {}
        self._counted: dict[tuple[str, float], float] = {}

    def seen(self, now: datetime) -> SeenDemand:
        ends = [now.timestamp() - SCRAPE * index for index in range(SCRAPES)][::-1]
        classes = []
        for name, rate in sorted(self.rates.items()):
            counts = [(end, self._counted.setdefault((name, end), rate * SCRAPE)) for end in ends]
            intervals = tuple((end, float(SCRAPE), count) for end, count in counts)
            classes.append(Arrivals(model=name, name="chat", intervals=intervals))
        return SeenDemand(signal="envoy", metrics=("requests",), classes=tuple(classes))


def measured(*models, **more):
    """A plan whose rates come as declared, at rest, and its traffic."""
    models = models or (model(),)
    driver = operator(plan(*models, **MEASURED, **more), **SLOW)
    traffic = Traffic()
    traffic.rates = {item["name"]: float(item["classes"][0]["requestsPerSecond"]) for item in models}
    driver.cluster.demand = traffic.seen
    return driver, driver.settle(), traffic


def admitted(driver, name=LLAMA):
    (entry,) = driver.routing()["models"][name]["classes"]
    return entry["admitRequestsPerSecond"]


def seen(driver, ticks, name=LLAMA):
    """What was admitted after each tick, with the replicas that were ready; one value per count of replicas."""
    found = []
    for _ in range(ticks):
        driver.tick()
        ready = sum(driver.ready(deployment) for deployment in driver.deployments())
        found.append((ready, admitted(driver, name)))
    return list(dict.fromkeys(found))


def test_a_surge_is_shed_until_the_replicas_for_it_are_ready():
    driver, _, traffic = measured()
    assert admitted(driver) is None
    revision = driver.routing()["revision"]
    traffic.rates[LLAMA] = 30.0
    rates = seen(driver, 16)
    assert rates[0] == (2, None), "it was not seen yet"
    shed = [(ready, rate) for ready, rate in rates if rate is not None]
    assert shed[0][0] == 2
    assert 10 <= shed[0][1] < 15
    counts = [ready for ready, _ in shed]
    assert counts == sorted(set(counts)), "one rate for each count of ready replicas"
    assert shed == sorted(shed)
    assert shed[-1][1] < 30
    assert rates[-1][1] is None
    driver.settle()
    driver.check_settled()
    # One write for the new plan, one for each time that more is ready.
    assert driver.routing()["revision"] - revision <= len(rates)


def test_what_is_declared_may_not_come_and_nothing_is_shed_for_it():
    driver = operator(plan(), **SLOW)
    driver.settle()
    driver.cluster.edit(plan(model(rate="30")))
    assert {rate for _, rate in seen(driver, 12)} == {None}


def test_after_a_loss_what_is_left_carries_what_it_can():
    driver, _, _ = measured()
    driver.cluster.lose_node("l40s-1")
    driver.act()
    assert 4 < admitted(driver) < 10
    driver.settle()
    assert admitted(driver) is None


def test_a_plan_that_survives_the_loss_of_a_node_sheds_nothing_after_it():
    driver, fleet, _ = measured(resilience={"survive": [{"event": "AnyNode"}]})
    assert fleet.nodes == {"l40s": 3}
    driver.cluster.lose_node("l40s-1")
    driver.act()
    assert {rate for _, rate in seen(driver, 8)} == {None}


def test_models_do_not_pay_for_each_other():
    """Where one model lost its replicas, those of another, of lower priority, go on."""
    both = [model(priority=100), model(QWEN, rate="10", priority=1)]
    driver, _, _ = measured(*both, budget="40", pools=[sized(maxNodes=8)])
    lost = next(pod.node for pod in driver.cluster.our_pods() if driver.facts(pod.deployment).model == QWEN)
    driver.cluster.lose_node(lost)
    driver.act()
    assert admitted(driver, QWEN) is not None
    assert admitted(driver, LLAMA) is None


@pytest.mark.parametrize("nodes", [1, 2])
def test_what_the_plan_sheds_for_want_of_nodes_is_admitted_as_planned(nodes):
    driver = operator(plan(model(rate="20"), pools=[fixed()]), nodes=nodes)
    fleet = driver.settle()
    (service,) = fleet.classes
    assert service.planned_requests_per_second < 20
    assert admitted(driver) == pytest.approx(service.planned_requests_per_second)


def test_replicas_of_the_old_and_of_the_new_image_count_together():
    driver, _, traffic = measured()
    traffic.rates[LLAMA] = 20.0
    driver.cluster.edit(plan(model(engine={"image": "vllm/vllm-openai:v0.19.0"}), **MEASURED))
    rates = [rate for _, rate in seen(driver, 24) if rate is not None]
    assert rates
    assert min(rates) >= 10
    driver.settle()
    assert admitted(driver) is None


def test_the_status_says_what_is_admitted_meanwhile():
    driver, _, traffic = measured()
    traffic.rates[LLAMA] = 30.0
    while admitted(driver) is None:
        driver.tick()
    (message,) = (item["message"] for item in driver.cluster.status["conditions"] if item["type"] == "RoutingPublished")
    assert driver.conditions()["RoutingPublished"] == "Transitional"
    assert message.endswith(f"; admitted meanwhile, requests/s: {LLAMA}/chat {admitted(driver):g}")
    driver.settle()
    assert driver.conditions()["RoutingPublished"] == "Published"
