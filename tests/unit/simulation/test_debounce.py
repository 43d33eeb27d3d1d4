"""What makes a plan anew, and what does not: the rows of "When a plan is made anew" in `docs/capacity.md`."""

from datetime import datetime, timedelta

import pytest

from servingplan.rehearse.cluster import TICK_SECONDS
from tests.simulated.plans import fixed, model, operator, plan, sized
from tests.unit.simulation.test_demand import MEASURED, Traffic

LLAMA = "llama-3.1-8b"
FLAP_TICKS = 3
"""30 s."""
LIFETIME_SECONDS = 600


class Watched:
    """Every plan that was in force, with what it cost, as the status told it turn by turn."""

    def __init__(self, driver):
        self.driver = driver
        self.taken = list(reversed(driver.cluster.status["history"]))

    def tick(self, count=1):
        for _ in range(count):
            self.driver.tick()
            newest = self.driver.cluster.status["history"][0]
            if newest != self.taken[-1]:
                self.taken.append(newest)

    def of(self, reason):
        """Pairs of plans: the one before, and the one that took over for this reason."""
        pairs = zip(self.taken, self.taken[1:], strict=False)
        return [(before, after) for before, after in pairs if after["reason"] == reason]


def age_seconds(before, after):
    return (datetime.fromisoformat(after["time"]) - datetime.fromisoformat(before["time"])).total_seconds()


def served(driver):
    return driver.serving_rate(LLAMA)


def flapping(driver, watched, name, labels, *, seconds):
    """A node is added and lost every 30 s. Returns the number of losses of nodes with our replicas. Each of them must be
    answered at once."""
    losses = 0
    for number in range(seconds // (2 * FLAP_TICKS * TICK_SECONDS)):
        driver.cluster.add_node(f"{name}-{number}", labels, 1)
        watched.tick(FLAP_TICKS)
        used = any(pod.node == f"{name}-{number}" and driver.cluster.is_ready(pod) for pod in driver.cluster.our_pods())
        driver.cluster.lose_node(f"{name}-{number}")
        if used:
            driver.act()
            driver.check_routing_at_rest()
            losses += 1
        watched.tick(FLAP_TICKS)
    return losses


def test_stock_that_flaps_each_30_seconds_moves_nothing_before_the_plan_is_old_enough():
    """Nodes at a quarter of the price are added and lost: worth it, but not for a plan that is younger than `minLifetime`."""
    driver = operator(plan(model(rate="5"), pools=[sized("l40s"), fixed("a100", price="0.5")]), start_ticks=1)
    driver.settle()
    watched = Watched(driver)
    flapping(driver, watched, "a100", {"pool": "a100"}, seconds=1800)
    moves = watched.of("Improvement")
    assert moves, "half an hour is longer than the lifetime"
    for before, after in moves:
        assert age_seconds(before, after) >= LIFETIME_SECONDS
        gain = 1 - float(after["dollarsPerHour"]) / float(before["dollarsPerHour"])
        assert gain >= 0.05
    # Each of the moves is to a node that goes after 30 s: that is answered with a plan that needs none.
    assert len(watched.of("NoLongerHeld")) == len(moves)


def test_stock_that_flaps_moves_nothing_for_less_than_the_least_gain():
    driver = operator(plan(model(rate="5"), pools=[sized("l40s"), fixed("a100", price="1.92")]))
    driver.settle()
    watched = Watched(driver)
    flapping(driver, watched, "a100", {"pool": "a100"}, seconds=1800)
    assert len(watched.taken) == 1


def test_stock_that_flaps_serves_at_once_what_is_turned_away():
    """Requests that are turned away do not wait for the plan to grow old."""
    driver = operator(plan(model(rate="10"), pools=[fixed("l40s")]), nodes=1, start_ticks=1)
    driver.settle()
    watched = Watched(driver)
    losses = flapping(driver, watched, "more", {"pool": "l40s"}, seconds=600)
    assert losses == 10
    assert len(watched.of("Improvement")) == len(watched.of("NoLongerHeld")) == 10
    assert all(
        float(after["served"].rstrip("%")) > float(before["served"].rstrip("%"))
        for before, after in watched.of("Improvement")
    )


@pytest.mark.parametrize("young", [True, False])
def test_a_loss_is_answered_in_the_same_moment_at_any_age(young):
    driver = operator(plan(pools=[fixed("l40s")]), nodes=4)
    driver.settle()
    if not young:
        driver.tick(LIFETIME_SECONDS // TICK_SECONDS + 6)
    for _ in range(2):
        lost = next(pod.node for pod in driver.cluster.our_pods())
        driver.cluster.lose_node(lost)
        driver.act()
        driver.check_routing_at_rest()
        assert all(pod.must_be_on != lost for pod in driver.cluster.our_pods() if pod.node is None)
        driver.settle()
        assert served(driver) == pytest.approx(10)


def swinging(base, *, seconds, more):
    """An operator whose measured rate is 10 % above and below a base, in turns of 30 s."""
    driver = operator(plan(model(rate=str(base)), pools=[sized(maxNodes=20)], budget="60", **{**MEASURED, **more}))
    traffic = Traffic(base, seed=7)
    driver.cluster.demand = traffic.seen
    driver.settle()
    watched = Watched(driver)
    for number in range(seconds // (FLAP_TICKS * TICK_SECONDS)):
        traffic.rate = base * (1.1 if number % 2 else 0.9)
        watched.tick(FLAP_TICKS)
    return driver, watched


@pytest.mark.parametrize("base", [10, *(pytest.param(base, marks=pytest.mark.slow) for base in (24, 50))])
def test_rates_that_swing_by_ten_percent_each_30_seconds_save_nothing_before_the_plan_is_old_enough(base):
    lifetime = {"change": {"minLifetime": "10m", "resolveEvery": "2m"}}
    driver, watched = swinging(base, seconds=3600, more=lifetime)
    nodes = len(driver.cluster.nodes_of("l40s"))
    cheaper = [
        (before, after)
        for before, after in zip(watched.taken, watched.taken[1:], strict=False)
        if float(after["dollarsPerHour"]) < float(before["dollarsPerHour"])
    ]
    for before, after in cheaper:
        assert age_seconds(before, after) >= LIFETIME_SECONDS
        assert 1 - float(after["dollarsPerHour"]) / float(before["dollarsPerHour"]) >= 0.05
    assert len(cheaper) <= 6
    assert nodes >= 1


def test_an_edit_counts_at_once_however_little_it_brings():
    driver = operator(plan(model(rate="5"), pools=[fixed("l40s", price="2"), fixed("a100", price="2.5")]), nodes=2)
    driver.settle()
    assert driver.decision.fleet.nodes == {"a100": 0, "l40s": 1}
    watched = Watched(driver)
    driver.cluster.edit(plan(model(rate="5"), pools=[fixed("l40s", price="2"), fixed("a100", price="1.96")]))
    watched.tick(10)
    assert driver.decision.fleet.nodes == {"a100": 1, "l40s": 0}
    assert watched.taken[-1]["reason"] == "SpecChanged"


def test_the_time_of_the_last_plan_counts_from_when_it_took_over():
    driver = operator(plan(model(rate="5"), pools=[sized("l40s"), fixed("a100", price="0.5")]))
    driver.settle()
    started = driver.cluster.now
    driver.cluster.add_node("a100-0", {"pool": "a100"}, 1)
    watched = Watched(driver)
    while driver.cluster.now < started + timedelta(seconds=LIFETIME_SECONDS) and len(watched.taken) == 1:
        watched.tick()
    watched.tick(2)
    (move,) = watched.of("Improvement")
    assert LIFETIME_SECONDS <= age_seconds(*move) <= LIFETIME_SECONDS + TICK_SECONDS
