"""What a turn tells is what the simulated cluster has; what it cannot know it does not tell."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from servingplan.decide.decide import decide
from servingplan.decide.retirement import retire
from servingplan.metrics import families
from servingplan.metrics.families import FAMILIES, PLAN_LABELS
from servingplan.metrics.samples import _around, samples, trigger
from servingplan.model.outcome import Outcome
from servingplan.model.readings import Arrivals, SeenDemand
from servingplan.model.world import Failure
from servingplan.planning.situation import Situation
from servingplan.simulate.tally import FIRST_TOKEN_BOUNDS
from servingplan.status.conclude import conclude
from tests.simulated.driver import exact
from tests.simulated.plans import fixed, model, operator, plan, sized

LLAMA = "llama-3.1-8b"
L40S = ("l40s", "L40S", "OnDemand")


def told(world, decision=None):
    decision = decision or decide(Situation(world), exact)
    return samples(Situation(world), decision, Outcome(), conclude(Situation(world), decision, Outcome()).conditions)


def of(found, family):
    return {labels: value for (which, labels), value in found.items() if which is family}


@pytest.fixture(scope="module")
def served():
    driver = operator(plan())
    driver.settle()
    return driver


def test_a_plan_at_rest_is_told_as_it_stands(served):
    found = told(served.cluster.observe())
    fleet = served.decision.fleet
    assert of(found, families.BUDGET) == {(): 20.0}
    assert of(found, families.SPEND) == {(): pytest.approx(served.spend)} == of(found, families.PLANNED_COST)
    assert of(found, families.POOL_SPEND) == {L40S: pytest.approx(4.0)}
    states = {"planned": 2, "wanted": 2, "ready": 2, "cap": 6}
    assert of(found, families.NODES) == {(*L40S, state): count for state, count in states.items()}
    assert of(found, families.GPUS) == of(found, families.NODES)  # one GPU each
    (replicas,) = fleet.replica_sets
    where = (LLAMA, "l40s", replicas.deployment)
    assert of(found, families.REPLICAS) == {(*where, "planned"): 2, (*where, "ready"): 2}
    assert of(found, families.ROUTE_WEIGHT) == {(LLAMA, "chat", replicas.deployment): 1.0}
    assert of(found, families.ROUTE_TARGETS) == {(LLAMA, "chat"): 1}
    assert of(found, families.DEMAND) == {(LLAMA, "chat", "declared"): 10.0}
    assert of(found, families.PLANNED_RATE) == {(LLAMA, "chat"): pytest.approx(10.0)}
    assert of(found, families.PREDICTED_SLO) == {(LLAMA,): pytest.approx(1.0)}
    assert of(found, families.PLAN_INFO) == {(fleet.hash, "applied", "Auto", fleet.method): 1.0}
    assert of(found, families.CONDITION)["Ready", "True"] == 1.0
    assert of(found, families.CONDITION)["Ready", "False"] == 0.0
    assert of(found, families.CONDITION_REASON)["Ready", "Ready"] == 1.0
    assert of(found, families.SLO_LIMIT) == {(LLAMA, "chat", "ttft"): 2.0, (LLAMA, "chat", "tpot"): 0.1}
    assert of(found, families.SLO_OBJECTIVE) == {
        (LLAMA, "chat", "ttft", "at_least", "1.0"): 0.95,
        (LLAMA, "chat", "ttft", "at_most", "2.5"): 0.95,
        (LLAMA, "chat", "tpot", "at_least", "0.1"): 0.95,
        (LLAMA, "chat", "tpot", "at_most", "0.1"): 0.95,
    }
    assert of(found, families.OBSERVED_DEMAND) == {}


def test_samples_fit_their_families(served):
    for family, labels in told(served.cluster.observe()):
        assert family in FAMILIES
        assert family.kind == "gauge"
        assert len(labels) == len(family.labels)


def test_names_and_labels_are_bounded_and_leave_room_for_those_of_a_scrape():
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert not set(family.labels) & {"namespace", "pod", "service", "container", "job", "instance", *PLAN_LABELS}
        assert family.name.endswith("_total") == (family.kind == "counter")


@pytest.mark.parametrize("source", ["nodes", "pods", "objects"])
def test_what_could_not_be_read_is_not_told(served, source):
    seen = served.cluster.observe()
    failure = Failure(source=source, reason="ReadForbidden", message="no")
    found = told(seen.model_copy(update={"failures": (failure,), "nodes": (), "pods": ()}))
    for family in (families.SPEND, families.POOL_SPEND, families.NODES, families.GPUS, families.REPLICAS):
        assert of(found, family) == {}
    assert of(found, families.ROUTE_WEIGHT) == of(found, families.ROUTE_TARGETS) == of(found, families.DEMAND) == {}
    assert of(found, families.PLANNED_COST) == {(): pytest.approx(4.0)}
    assert of(found, families.CONDITION)["InventoryAvailable", "False"] == 1.0


def test_spend_is_unknown_while_a_pool_cannot_be_read(served):
    seen = served.cluster.observe()
    pools = tuple(
        pool.model_copy(update={"problem_reason": "ReadFailed", "problem": "500", "wanted": None})
        for pool in seen.pools
    )
    found = told(seen.model_copy(update={"pools": pools}))
    assert of(found, families.SPEND) == of(found, families.POOL_SPEND) == {}
    assert (*L40S, "wanted") not in of(found, families.NODES)


def test_spend_is_unknown_without_a_price():
    driver = operator(plan(pools=[sized(price=None, minNodes=1)]))
    driver.cluster.add_node("l40s-0", {"pool": "l40s"}, 1)
    found = told(driver.cluster.observe())
    assert of(found, families.SPEND) == of(found, families.POOL_SPEND) == {}
    assert of(found, families.CONDITION_REASON)["WithinBudget", "PriceUnknown"] == 1.0


def test_a_spec_that_cannot_be_read_tells_its_conditions_alone():
    driver = operator(plan())
    driver.cluster.edit({"modles": []})
    found = told(driver.cluster.observe())
    assert {family for family, _ in found} == {families.CONDITION, families.CONDITION_REASON}


def test_a_lost_node_leaves_a_class_without_target():
    driver = operator(plan(pools=[fixed()]), nodes=2)
    driver.settle()
    for name in ("l40s-0", "l40s-1"):
        driver.cluster.lose_node(name)
    driver.turn()
    found = told(driver.cluster.observe())
    assert of(found, families.ROUTE_TARGETS) == {(LLAMA, "chat"): 0}
    assert of(found, families.ROUTE_WEIGHT) == {}
    assert of(found, families.NODES)[*L40S, "ready"] == 0
    assert of(found, families.NODES)[*L40S, "planned"] == 2


def test_weights_of_a_class_sum_to_one_while_a_fleet_grows():
    driver = operator(plan(model(rate="40"), pools=[sized(), sized("h100", price="8")]))
    targets = 0.0
    for _ in range(30):
        driver.tick()
        found = told(driver.cluster.observe(), driver.decision)
        for where, number in of(found, families.ROUTE_TARGETS).items():
            weights = [value for labels, value in of(found, families.ROUTE_WEIGHT).items() if labels[:2] == where]
            assert len(weights) == number
            assert not weights or sum(weights) == pytest.approx(1.0)
            targets = max(targets, number)
        assert of(found, families.SPEND) == {(): pytest.approx(driver.spend)}
    assert targets > 0


def test_a_retired_plan_still_tells_its_spend_and_no_plan(served):
    world = served.cluster.observe()
    deleted = world.plan.model_copy(update={"deleting_since": world.now})
    decision = retire(Situation(world.model_copy(update={"plan": deleted}))).decision
    found = samples(Situation(world), decision, Outcome())
    assert of(found, families.SPEND) == {(): pytest.approx(4.0)}
    assert of(found, families.PLAN_INFO) == of(found, families.CONDITION) == of(found, families.PLANNED_COST) == {}
    assert {labels[-1]: value for labels, value in of(found, families.REPLICAS).items()} == {"planned": 0, "ready": 2}


MEASURED = {"demand": {"prometheus": {"url": "http://prometheus:9090", "window": "2m", "lastGoodFor": "10m"}}}


def counted(rate, end=1_767_225_600.0):
    return tuple((end - 10 * index, 10.0, rate * 10) for index in range(12))[::-1]


def test_measured_demand_is_told_with_its_source_and_what_was_counted_only_while_it_is_fresh():
    driver = operator(plan(**MEASURED))
    seen = Arrivals(model=LLAMA, name="chat", intervals=(*counted(20.0)[:-6], *counted(8.0)[-6:]))
    world = driver.cluster.observe()
    fresh = world.model_copy(update={"demand": SeenDemand(signal="envoy", classes=(seen,))})
    found = told(fresh)
    assert of(found, families.OBSERVED_DEMAND) == {(LLAMA, "chat"): pytest.approx(8.0)}
    ((labels, _),) = of(found, families.DEMAND).items()
    assert labels == (LLAMA, "chat", "measured")
    away = Arrivals(model=LLAMA, name="chat", intervals=seen.intervals, failing_since=world.now)
    stale = told(world.model_copy(update={"demand": SeenDemand(problem="away", classes=(away,))}))
    assert of(stale, families.OBSERVED_DEMAND) == {}
    assert of(stale, families.DEMAND) == {(LLAMA, "chat", "declared"): 10.0}
    assert of(stale, families.CONDITION)["DemandKnown", "False"] == 1.0


def test_the_trigger_is_what_changed(served):
    world = served.cluster.observe()
    decision = decide(Situation(world), exact)
    empty = operator(plan()).cluster.observe()
    assert trigger(Situation(empty), decide(Situation(empty), exact)) == "first"
    assert trigger(Situation(world), decision) == "cluster"
    edited = world.model_copy(update={"plan": world.plan.model_copy(update={"generation": 9})})
    assert trigger(Situation(edited), None) == "edit"
    adopted = decision.demand[0].model_copy(update={"requests_per_second": 99.0, "source": "Measured"})
    assert trigger(Situation(world), decision.model_copy(update={"demand": (adopted,)})) == "demand"


@given(some.floats(min_value=1e-4, max_value=1e4))
def test_the_bounds_around_a_limit_are_the_nearest(limit):
    around = dict(_around(limit, FIRST_TOKEN_BOUNDS))
    assert around.get("at_least") == max((bound for bound in FIRST_TOKEN_BOUNDS if bound <= limit), default=None)
    assert around.get("at_most") == min((bound for bound in FIRST_TOKEN_BOUNDS if bound >= limit), default=None)
