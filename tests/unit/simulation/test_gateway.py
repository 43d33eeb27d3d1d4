"""Replicas leave only when the gateway sends them nothing any more, however long it takes to follow, or is silent."""

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.rehearse.cluster import TICK_SECONDS
from servingplan.rollout.drains import GATEWAY_PATIENCE_SECONDS
from tests.simulated.plans import fixed, model, operator, plan

ACK = {"ackUrl": "http://gateway:8080/servingplan/revision"}
NEW_IMAGE = {"image": "vllm/vllm-openai:v0.19.0"}
DRAIN_SECONDS = 20


def with_gateway(*models, **more):
    return plan(*models, gateway=ACK, change={"drainSeconds": DRAIN_SECONDS}, **more)


def drain_times(driver, most_ticks=60):
    """Seconds from the start of its drain to its removal, of each replica that leaves."""
    begun, ended = {}, {}
    for _ in range(most_ticks):
        driver.tick()
        now = driver.cluster.now
        for pod in driver.cluster.our_pods():
            if pod.draining_since is not None:
                begun.setdefault(pod.name, datetime.fromisoformat(pod.draining_since))
                if pod.terminating:
                    ended.setdefault(pod.name, now)
    assert begun.keys() == ended.keys()
    return [(ended[name] - begun[name]).total_seconds() for name in sorted(begun)]


def halved(driver):
    driver.settle()
    driver.cluster.edit(with_gateway(model(rate="10")))
    return driver


@pytest.mark.parametrize("ticks", [0, 1, 4])
def test_the_grace_begins_when_the_gateway_has_the_weights(ticks):
    driver = halved(operator(with_gateway(model(rate="20")), gateway_ticks=ticks))
    times = drain_times(driver)
    assert len(times) == 2
    for seconds in times:
        assert ticks * TICK_SECONDS + DRAIN_SECONDS <= seconds <= (ticks + 1) * TICK_SECONDS + DRAIN_SECONDS
    assert driver.cluster.removed_early == []
    driver.settle()
    driver.check_settled()
    assert driver.conditions()["RoutingPublished"] == "Published"


def test_a_gateway_that_is_silent_is_waited_for_in_vain_and_not_for_ever():
    driver = operator(with_gateway(model(rate="20")), gateway_ticks=0)
    driver.settle()
    driver.cluster.gateway_answers = False
    driver.cluster.edit(with_gateway(model(rate="10")))
    times = drain_times(driver)
    assert len(times) == 2
    for seconds in times:
        assert 0 <= seconds - GATEWAY_PATIENCE_SECONDS - DRAIN_SECONDS <= TICK_SECONDS
    driver.settle()
    driver.check_settled()
    assert driver.conditions()["RoutingPublished"] == "NotAcknowledged"
    assert driver.conditions()["Ready"] == "NotAcknowledged"


def test_a_gateway_that_answers_again_is_believed():
    driver = operator(with_gateway(model(rate="20")), gateway_ticks=0)
    driver.settle()
    driver.cluster.gateway_answers = False
    driver.cluster.edit(with_gateway(model(rate="10")))
    for _ in range(3):
        driver.tick()
    driver.cluster.gateway_answers = True
    assert all(20 <= seconds <= 60 for seconds in drain_times(driver))


def test_without_a_gateway_to_ask_the_grace_begins_with_the_weights():
    spec = plan(model(rate="20"), change={"drainSeconds": DRAIN_SECONDS})
    driver = operator(spec)
    driver.settle()
    driver.cluster.edit(plan(model(rate="10"), change={"drainSeconds": DRAIN_SECONDS}))
    assert all(DRAIN_SECONDS <= seconds <= DRAIN_SECONDS + TICK_SECONDS for seconds in drain_times(driver))


def test_one_that_is_wanted_again_forgets_what_the_gateway_said():
    driver = halved(operator(with_gateway(model(rate="20")), gateway_ticks=0))
    for _ in range(10):
        if any(pod.unrouted_since for pod in driver.cluster.our_pods()):
            break
        driver.tick()
    else:
        pytest.fail("no grace began")
    driver.cluster.edit(with_gateway(model(rate="20")))
    driver.act()
    assert not any(pod.draining_since or pod.unrouted_since for pod in driver.cluster.our_pods())


EDITS = st.lists(
    st.tuples(st.sampled_from(["5", "10", "20", "30"]), st.booleans(), st.integers(0, 12)), min_size=1, max_size=5
)


@pytest.mark.slow
@settings(max_examples=6)
@given(edits=EDITS, ticks=st.integers(0, 6), silent=st.booleans())
def test_no_replica_is_taken_from_a_gateway_that_still_sends_to_it(edits, ticks, silent):
    driver = operator(with_gateway(model(rate="10"), pools=[fixed(gpus=4)], budget="40"), nodes=3, gateway_ticks=ticks)
    driver.settle()
    driver.cluster.gateway_answers = not silent
    for rate, new_image, wait in edits:
        engine = {"engine": NEW_IMAGE} if new_image else {}
        driver.cluster.edit(with_gateway(model(rate=rate, **engine), pools=[fixed(gpus=4)], budget="40"))
        driver.act()
        driver.tick(wait)
    driver.settle()
    driver.check_settled()
    assert driver.cluster.removed_early == []
