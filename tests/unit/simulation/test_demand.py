"""A fleet that follows what Prometheus counts, and one whose Prometheus is away or lies."""

import json
from datetime import datetime

import numpy
import pytest

from servingplan.decide.decide import decide
from servingplan.model.readings import Arrivals, SeenDemand
from servingplan.model.world import Observation
from servingplan.planning.situation import Situation
from tests.simulated.driver import Driver, exact
from tests.simulated.plans import model, operator, plan, sized

LLAMA = "llama-3.1-8b"
SCRAPE = 10
WINDOW = 120
MEASURED = {
    "demand": {"prometheus": {"url": "http://prometheus:9090", "window": "2m", "lastGoodFor": "10m"}},
    "change": {"minLifetime": "4m", "resolveEvery": "2m"},
}
TICKS_PER_MINUTE = 6


class Traffic:
    """A Poisson stream, counted every ten seconds since an hour before the cluster's time began."""

    def __init__(self, rate: float, seed: int = 1) -> None:
        self.rate = rate
        self.away_since: datetime | None = None
        self.lie: float | None = None
        self._chance = numpy.random.default_rng(seed)
        self._counted: dict[float, float] = {}

    def seen(self, now: datetime) -> SeenDemand:
        moment = now.timestamp()
        if self.away_since is not None:
            gone = Arrivals(model=LLAMA, name="chat", failing_since=self.away_since.strftime("%Y-%m-%dT%H:%M:%SZ"))
            return SeenDemand(problem="http://prometheus:9090: it cannot be reached", classes=(gone,))
        ends = [moment - SCRAPE * index for index in range(WINDOW // SCRAPE)][::-1]
        for end in ends:
            if end not in self._counted:
                fresh = float(self._chance.poisson(self.rate * SCRAPE))
                self._counted[end] = fresh if self.lie is None else self.lie * SCRAPE
        intervals = tuple((end, float(SCRAPE), self._counted[end]) for end in ends)
        counted = Arrivals(model=LLAMA, name="chat", intervals=intervals)
        return SeenDemand(signal="envoy", metrics=("requests",), classes=(counted,))


def measured(rate: float = 10, declared: str = "10", **more) -> tuple[Driver, Traffic]:
    driver = operator(plan(model(rate=declared), **MEASURED, **more))
    traffic = Traffic(rate)
    driver.cluster.demand = traffic.seen
    driver.settle()
    return driver, traffic


def minutes(driver: Driver, number: float) -> int:
    """Time passes; how many writes there were."""
    before = len([line for line in driver.history if not line.startswith("--")])
    driver.tick(round(number * TICKS_PER_MINUTE))
    return len([line for line in driver.history if not line.startswith("--")]) - before


def nodes(driver: Driver) -> int:
    return driver.decision.fleet.nodes["l40s"]


def demand_known(driver: Driver) -> str:
    return driver.conditions()["DemandKnown"]


def test_the_plan_is_made_for_what_comes_not_for_what_is_declared():
    driver, _ = measured(rate=20, declared="10")
    assert nodes(driver) == 4
    assert demand_known(driver) == "Measured"
    assert driver.serving_rate(LLAMA) == pytest.approx(20, rel=0.15)


@pytest.mark.slow
def test_equal_demand_makes_no_writes():
    driver, _ = measured()
    minutes(driver, 5)  # past the least lifetime of the first plan
    assert minutes(driver, 30) == 0


def test_three_times_the_demand_grows_the_fleet_at_once_and_within_the_budget():
    driver, traffic = measured()
    minutes(driver, 1)
    traffic.rate = 30
    minutes(driver, 1)
    assert nodes(driver) >= 5  # the driver checks the budget at every write
    minutes(driver, 5)
    assert nodes(driver) >= 5
    assert driver.serving_rate(LLAMA) == pytest.approx(30, rel=0.1)
    assert driver.conditions()["Ready"] == "Ready"


def test_a_budget_that_does_not_hold_the_demand_is_used_up_and_not_more():
    driver, traffic = measured(budget="8")
    traffic.rate = 40
    minutes(driver, 3)
    assert nodes(driver) == 4
    assert driver.conditions()["SLOAttainable"] == "BelowTarget"


def test_a_fall_gives_nodes_back_once_the_plan_is_old_enough_and_no_sooner():
    driver, traffic = measured(rate=30)
    assert nodes(driver) == 6
    traffic.rate = 10
    minutes(driver, 2)
    assert driver.decision.fleet.classes[0].requests_per_second == pytest.approx(10, rel=0.15)
    assert nodes(driver) == 6
    minutes(driver, 3)
    assert nodes(driver) == 2


def test_a_rate_that_swings_within_what_runs_moves_no_node():
    driver, traffic = measured(rate=19)
    assert nodes(driver) == 4
    for rate in (18.5, 20, 19, 20):
        traffic.rate = rate
        minutes(driver, 3)
        assert nodes(driver) == 4


@pytest.mark.slow
def test_prometheus_away_moves_nothing_until_the_last_good_rates_are_too_old():
    driver, traffic = measured(rate=20)
    minutes(driver, 5)
    traffic.away_since = driver.cluster.now
    assert minutes(driver, 9.5) == 0
    assert demand_known(driver) == "LastGood"
    minutes(driver, 5)
    assert (demand_known(driver), nodes(driver)) == ("Declared", 2)
    traffic.away_since = None
    minutes(driver, 3)
    assert (demand_known(driver), nodes(driver)) == ("Measured", 4)


def test_prometheus_that_was_never_there_leaves_the_declared_rates():
    driver = operator(plan(model(rate="20"), **MEASURED))
    assert driver.settle().nodes == {"l40s": 4}
    assert demand_known(driver) == "Declared"
    assert "DemandKnown" not in driver.conditions()["Ready"]


def test_an_operator_that_starts_anew_goes_on_from_the_rates_that_were_adopted():
    driver, traffic = measured(rate=20)
    traffic.away_since = driver.cluster.now
    again = Driver(driver.cluster)
    again.tick(30)
    assert nodes(again) == 4
    assert demand_known(again) == "LastGood"


@pytest.mark.parametrize("lie", [1e12, 1e4, 101.0])
def test_a_lie_moves_nothing_while_it_is_young(lie):
    driver, traffic = measured()
    minutes(driver, 5)
    traffic.lie = lie
    assert minutes(driver, 1) == 0
    assert demand_known(driver) == "LastGood"
    traffic.lie = None
    assert minutes(driver, 5) == 0
    assert demand_known(driver) == "Measured"


def test_zero_for_ever_leaves_the_floor():
    driver, traffic = measured(rate=30)
    traffic.rate = 0
    minutes(driver, 8)
    assert nodes(driver) == 1
    assert driver.decision.fleet.classes[0].requests_per_second == pytest.approx(1)


@pytest.mark.parametrize("mode", ["Approve", "Preview"])
def test_a_mode_that_asks_is_asked_once(mode):
    driver = operator(plan(model(), **MEASURED, mode=mode))
    traffic = Traffic(10)
    driver.cluster.demand = traffic.seen
    driver.act()
    waiting = driver.decision.waiting.hash
    driver.tick(40)
    assert driver.decision.waiting.hash == waiting


@pytest.mark.slow
def test_a_plan_that_was_approved_follows_in_weights_alone():
    driver, traffic = measured(rate=18)
    driver.cluster.edit(plan(model(), **MEASURED, mode="Approve"))
    minutes(driver, 5)
    traffic.rate = 14
    minutes(driver, 8)
    assert nodes(driver) == 4  # fewer nodes would be a new plan, which waits
    assert driver.decision.waiting is not None


def test_a_world_with_demand_decides_the_same_when_it_is_read_again():
    driver, traffic = measured()
    traffic.rate = 30
    minutes(driver, 0.5)
    for _ in range(4):
        driver.cluster.tick()
        world = driver.cluster.observe()
        again = Observation.model_validate_json(json.dumps(json.loads(world.model_dump_json())))
        assert again == world
        assert decide(Situation(again), exact).model_dump_json() == decide(Situation(world), exact).model_dump_json()


def test_a_world_of_before_there_was_demand_still_reads():
    driver, _ = measured()
    raw = json.loads(driver.cluster.observe().model_dump_json())
    del raw["demand"]
    assert Observation.model_validate(raw).demand is None


def test_measured_rates_outlast_an_edit():
    driver, traffic = measured(rate=20)
    traffic.away_since = driver.cluster.now
    driver.cluster.edit(plan(model(), **MEASURED, budget="18"))
    driver.tick(12)
    assert nodes(driver) == 4


def test_without_demand_in_the_spec_the_declared_rates_take_over():
    driver, _ = measured(rate=20)
    driver.cluster.edit(plan(model(), pools=[sized()]))
    assert driver.settle().nodes == {"l40s": 2}


@pytest.mark.slow
def test_the_largest_multiple_of_a_measured_mix_is_served():
    driver, _ = measured(objective="MaximizeService", budget="8")
    assert nodes(driver) == 4
    minutes(driver, 5)
    assert minutes(driver, 10) == 0
