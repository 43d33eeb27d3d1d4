"""A fleet whose engines are not as fast as their profile says, and an operator that learns it, or may not."""

import math
import random
from datetime import timedelta

import pytest

from servingplan.learning.figures import WINDOW_SECONDS as WINDOW
from servingplan.learning.learn import in_use
from servingplan.model.readings import EngineFigures, SeenEngines
from servingplan.rehearse.cluster import TICK_SECONDS
from servingplan.simulate.tally import length_bounds
from tests.simulated.driver import Driver
from tests.simulated.plans import model, operator, plan
from tests.unit.learning.test_tails import counted, drawn

LEARNING = {"planning": {"learn": True}}
LATE = {"ttft_seconds": 4.0, "tpot_seconds": 0.12}


class Engines:
    """What the engines of all ready replicas measure: requests of the class's lengths, at an equal rate each."""

    def __init__(self, driver: Driver, *, requests_per_second: float, **figures: object) -> None:
        self._cluster = driver.cluster
        self.requests_per_second = requests_per_second
        self.figures = {"ttft_seconds": 0.1, "tpot_seconds": 0.03, "least_waiting": 0.0, **figures}
        self.lengths = {"input_tokens": 500.0, "output_tokens": 250.0}
        self.away = False
        driver.cluster.engines = self._seen

    def _seen(self, now) -> SeenEngines:
        if self.away:
            return SeenEngines(problem="Prometheus gave no answer that can be used")
        engines = tuple(
            EngineFigures(
                pod=pod.name,
                requests=self.requests_per_second * WINDOW,
                running=10.0,
                **self.lengths,
                **self.figures,
            )
            for pod in self._cluster.pods.values()
            if pod.deployment is not None and pod.reports_ready
        )
        return SeenEngines(at=now.strftime("%Y-%m-%dT%H:%M:%SZ"), window_seconds=WINDOW, engines=engines)


def settled(**more) -> Driver:
    driver = operator(plan(model(rate="20"), **{**LEARNING, **more}))
    driver.settle()
    return driver


def planned(driver: Driver) -> float:
    """Requests/s that the plan counts on for one replica, full and within its limits."""
    (only,) = driver.decision.fleet.replica_sets
    return only.capacity["chat"]


def nodes(driver: Driver) -> int:
    return driver.decision.fleet.nodes["l40s"]


def message(driver: Driver, kind: str) -> str:
    found = {item["type"]: item["message"] for item in driver.cluster.status["conditions"]}
    return found[kind]


def minutes(driver: Driver, number: int) -> None:
    """Time passes, with one turn a minute."""
    for _ in range(number):
        driver.cluster.now += timedelta(seconds=60 - TICK_SECONDS)
        driver.tick()


def test_replicas_that_are_full_below_the_planned_rate_bring_more_replicas():
    driver = settled()
    before, fleet = planned(driver), nodes(driver)
    full = Engines(driver, requests_per_second=0.6 * before, least_waiting=3.0, **LATE)
    minutes(driver, 20)
    assert planned(driver) < 0.75 * before
    assert nodes(driver) > fleet  # the driver checks the budget at every write
    assert driver.conditions()["SLOAttainable"] == "ObservedLate"
    (deployment,) = driver.decision.learned
    assert float(driver.cluster.status["deployments"][0]["learned"]["rateFactor"]) < 0.75
    assert driver.decision.fleet.replica_set(deployment).source == "learned"
    # Relieved, the engines have the latencies that go with the learned rate: the plan stays as it is.
    full.requests_per_second, full.figures = 0.4 * before, {**full.figures, "least_waiting": 0.0, "ttft_seconds": 0.15}
    full.figures["tpot_seconds"] = 0.045
    minutes(driver, 15)
    grown = nodes(driver)
    minutes(driver, 20)
    assert nodes(driver) == grown
    assert driver.conditions()["SLOAttainable"] == "Predicted"
    assert "TTFT 0.15 s (predicted " in message(driver, "SLOAttainable")
    assert driver.conditions()["FleetObserved"] == "Observed"


def times_of(name: str) -> dict[str, object]:
    """What engines count whose times to the first token are drawn from a distribution with a mean of about 0.1 s."""
    chance, sigma = random.Random(3), math.sqrt(math.log1p(0.6**2))
    prompts = [chance.lognormvariate(math.log(500) - sigma**2 / 2, sigma) for _ in range(600)]
    times = drawn(name, 600, times=0.1)
    return {
        "ttft_seconds": 0.1,
        "ttft": counted(times),
        "prompts": counted(prompts, length_bounds(8192)),
    }


@pytest.mark.parametrize(("name", "more"), [("log-normal, wide", True), ("gamma, narrow", False)])
def test_a_limit_is_kept_by_the_percentile_that_engines_have_and_not_by_that_of_the_profile(name, more):
    """The means are the same: only the tails differ."""
    driver = operator(plan(model(rate="20", slo={"ttftSeconds": "0.3", "tpotSeconds": "0.1"}), **LEARNING))
    driver.settle()
    before, fleet = planned(driver), nodes(driver)
    Engines(driver, requests_per_second=0.4 * before, **times_of(name))
    minutes(driver, 30)
    told = driver.cluster.status["deployments"][0]["learned"]
    assert (nodes(driver) > fleet) == more
    assert (planned(driver) < 0.7 * before) == more
    assert (float(told["ttftTailFactor"]) > 1.4) == more
    assert told["percentile"] == "95"
    observed, predicted = (float(told["ttftPercentileSeconds"][name]) for name in ("observed", "predicted"))
    assert predicted == pytest.approx(observed, rel=0.05)
    assert (observed > 0.2) == more
    driver.cluster.edit(plan(model(rate="20", slo={"ttftSeconds": "0.3", "tpotSeconds": "0.1"})))
    driver.settle()
    assert planned(driver) == before
    assert "learned" not in driver.cluster.status["deployments"][0]


def test_what_was_learned_survives_a_restart_and_is_dropped_with_the_switch():
    driver = settled()
    before = planned(driver)
    Engines(driver, requests_per_second=0.6 * before, least_waiting=3.0, **LATE)
    minutes(driver, 20)
    learned = planned(driver)
    driver.operator = driver._begin()
    driver.settle()
    assert planned(driver) == pytest.approx(learned, rel=0.03)
    driver.cluster.edit(plan(model(rate="20")))
    driver.settle()
    assert planned(driver) == before
    assert "FleetObserved" not in driver.conditions()


def test_with_approval_what_is_learned_is_proposed_and_moves_nothing_before():
    driver = operator(plan(model(rate="20"), mode="Approve", **LEARNING))
    driver.settle()
    driver.cluster.approved = driver.cluster.status["proposed"]["hash"]
    driver.settle()
    before, fleet = planned(driver), nodes(driver)
    Engines(driver, requests_per_second=0.6 * before, least_waiting=3.0, **LATE)
    minutes(driver, 15)
    assert nodes(driver) == fleet
    assert driver.decision.waiting.nodes["l40s"] > fleet
    driver.cluster.approved = driver.cluster.status["proposed"]["hash"]
    minutes(driver, 10)
    assert nodes(driver) > fleet


def test_nothing_is_learned_if_the_spec_does_not_ask_for_it():
    driver = settled(planning={})
    before, fleet = planned(driver), nodes(driver)
    Engines(driver, requests_per_second=0.6 * before, least_waiting=3.0, **LATE)
    minutes(driver, 20)
    assert (planned(driver), nodes(driver)) == (before, fleet)
    assert driver.decision.learned == {}


@pytest.mark.parametrize(
    "lengths", [{"input_tokens": 900.0, "output_tokens": 250.0}, {"input_tokens": 500.0, "output_tokens": 9.0}]
)
def test_requests_of_other_lengths_move_nothing_and_the_condition_says_so(lengths):
    driver = settled()
    before, fleet = planned(driver), nodes(driver)
    engines = Engines(driver, requests_per_second=0.6 * before, least_waiting=3.0)
    engines.lengths = lengths
    minutes(driver, 20)
    assert (planned(driver), nodes(driver)) == (before, fleet)
    assert driver.conditions()["FleetObserved"] == "NothingLearned"
    assert "tokens in the mean" in message(driver, "FleetObserved")


def test_a_prometheus_that_is_away_stops_nothing_and_what_was_learned_fades():
    driver = settled()
    before = planned(driver)
    engines = Engines(driver, requests_per_second=0.6 * before, least_waiting=3.0, **LATE)
    minutes(driver, 20)
    (kind,) = driver.decision.learned.values()
    engines.away = True
    minutes(driver, 35)
    assert driver.conditions()["FleetObserved"] == "NotObserved"
    (faded,) = driver.decision.learned.values()
    assert 0 < faded.rate.requests < kind.rate.requests
    driver.cluster.edit(plan(model(rate="5"), **LEARNING))
    driver.settle()
    assert driver.conditions()["Ready"] == "Ready"


def test_steady_noise_moves_no_node_and_asks_no_new_question():
    driver = settled()
    engines = Engines(driver, requests_per_second=0.5 * planned(driver))
    minutes(driver, 25)
    asked, fleet = driver.decision.asked, driver.decision.fleet.hash
    for turn in range(6):
        engines.figures["tpot_seconds"] = 0.03 * math.exp(0.02 * (-1) ** turn)
        engines.figures["ttft_seconds"] = 0.1 * math.exp(0.03 * (-1) ** turn)
        minutes(driver, 5)
        assert (driver.decision.asked, driver.decision.fleet.hash) == (asked, fleet)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_whatever_engines_say_no_write_is_over_the_budget_and_the_fleet_comes_to_rest(seed):
    """The driver checks budget and routing at every write."""
    chance = random.Random(seed)
    driver = settled()
    engines = Engines(driver, requests_per_second=1.0)
    for _ in range(24):
        engines.requests_per_second = chance.lognormvariate(1.0, 1.5)
        engines.figures = {
            "ttft_seconds": chance.lognormvariate(-2.0, 2.0),
            "tpot_seconds": chance.lognormvariate(-3.5, 1.0),
            "least_waiting": float(chance.random() < 0.3) * 2,
        }
        engines.away = chance.random() < 0.1
        minutes(driver, 5)
        for kind in driver.decision.learned.values():
            assert all(1 / 3 <= math.exp(factor.shift) <= 3 for factor in in_use(kind))
    engines.away = True
    driver.settle()
    assert driver.conditions()["WithinBudget"] == "WithinBudget"
