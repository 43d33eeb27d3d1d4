"""Which rates are planned for: measured, last good or declared; and that lies are not."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.api.parse import parse_spec
from servingplan.demand.adopt import LARGEST_RISE, at_rates, choose, declared_rates, most_believable
from servingplan.demand.counts import believable
from servingplan.model.fleet import AdoptedDemand
from servingplan.model.readings import Arrivals, SeenDemand
from servingplan.model.world import Observation, PlanObject
from tests.unit.demand.arrivals import counted

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY, OTHER = "m/chat", "m/long"
PROPERTY = settings(max_examples=60)


def spec_of(declared="10", **prometheus):
    classes = [
        {"name": name, "inputTokens": 500, "outputTokens": 200, "requestsPerSecond": declared}
        for name in ("chat", "long")
    ]
    raw = {
        "budget": {"dollarsPerHour": 10},
        "models": [{"name": "m", "classes": classes}],
        "nodePools": [{"name": "p", "nodeSelector": {"a": "b"}}],
        "demand": {"prometheus": {"url": "http://p:9090", **prometheus}},
    }
    spec, errors = parse_spec(raw)
    assert not errors
    return spec


SPEC = spec_of()


def text(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def stream(rate, seed=1, scrape=15, seconds=300):
    """A Poisson stream that ends now."""
    found = counted(rate if callable(rate) else lambda _: rate, scrape=scrape, seconds=seconds, seed=seed)
    shift = NOW.timestamp() - found[-1][0]
    return tuple((end + shift, length, count) for end, length, count in found)


def chosen(
    intervals, *, spec=SPEC, before=None, now=NOW, failing_since=None, history=(), admitted=None, metric="requests"
):
    classes = [
        Arrivals(model="m", name="chat", intervals=intervals, failing_since=failing_since, history=history),
        Arrivals(model="m", name="long", intervals=stream(10, seed=9)),
    ]
    seen = SeenDemand(signal="envoy", metrics=(metric,), classes=tuple(classes))
    plan = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={})
    return choose(spec, Observation(now=text(now), plan=plan, demand=seen), before, admitted)


def adopted(rate, minutes_ago=1.0):
    return AdoptedDemand(at=text(NOW - timedelta(minutes=minutes_ago)), rates={KEY: rate, OTHER: 10.0})


def test_nothing_is_chosen_where_nothing_is_asked_for():
    plan = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec={})
    assert choose(SPEC.model_copy(update={"demand": None}), Observation(now=text(NOW), plan=plan), None) is None


def test_what_is_measured_takes_the_place_of_what_is_declared():
    found = chosen(stream(30))
    assert found.rates[KEY] == pytest.approx(30, rel=0.1)
    assert declared_rates(at_rates(SPEC, found.rates)) == found.rates
    assert (found.finding.reason, found.finding.holds) == ("Measured", True)
    assert "counted by requests" in found.finding.message


def test_a_drift_waits_for_the_next_window_and_a_small_one_for_ever():
    assert chosen(stream(12), before=adopted(10.0, 1)).rates[KEY] == 10
    assert chosen(stream(12), before=adopted(10.0, 6)).rates[KEY] == pytest.approx(12, rel=0.1)
    assert chosen(stream(100, seed=2), before=adopted(98.0, 600)).rates[KEY] == 98


@pytest.mark.parametrize(
    ("declared", "rate", "seconds", "told"),
    [
        pytest.param("10", 14, 15, False, id="a reading that may be chance"),
        pytest.param("10", 14, 60, True, id="enough requests"),
        pytest.param("10", 90, 15, True, id="too many to be chance"),
        pytest.param("0.1", 0.2, 60, False, id="few requests"),
        pytest.param("0.1", 0.2, 285, True, id="few requests over the window"),
    ],
)
def test_first_counts_replace_what_is_declared_once_they_tell(declared, rate, seconds, told):
    found = chosen(stream(rate, seconds=seconds), spec=spec_of(declared))
    assert found.sources[KEY] == ("Measured" if told else "Declared")
    assert (f"{KEY}: too few requests were counted yet" in found.finding.message) == (not told)


@pytest.mark.parametrize(
    ("rate", "metric", "taken"),
    [
        pytest.param(10, "vllm:request_success_total", 30, id="as many as are admitted, the others unseen"),
        pytest.param(6, "vllm:request_success_total", 6, id="fewer than are admitted"),
        pytest.param(40, "vllm:request_success_total", 40, id="more than are planned for"),
        pytest.param(10, "envoy_http_local_rate_limit_enabled", 10, id="all are seen"),
    ],
)
def test_a_rate_does_not_fall_by_what_is_turned_away(rate, metric, taken):
    found = chosen(stream(rate), before=adopted(30.0, 6), admitted={KEY: 10.0}, metric=metric)
    assert found.rates[KEY] == pytest.approx(taken, rel=0.1)


def test_a_surge_does_not_wait():
    surge = stream(lambda moment: 30 if moment >= 255 else 10)
    assert chosen(surge, before=adopted(10.0, 0.5)).rates[KEY] == pytest.approx(30, rel=0.15)


def test_a_class_that_is_missing_keeps_its_last_good_rate_and_then_the_declared_one():
    since = text(NOW - timedelta(minutes=30))
    found = chosen((), before=adopted(25.0), failing_since=since)
    assert (found.rates[KEY], found.finding.reason) == (25.0, "LastGood")
    assert since in found.finding.message
    found = chosen((), before=adopted(25.0), failing_since=since, spec=spec_of(lastGoodFor="20m"))
    assert (found.rates[KEY], found.finding.reason) == (10.0, "Declared")
    assert found.adopted == adopted(25.0)


def test_the_floor_is_a_part_of_what_is_declared():
    assert chosen(stream(0)).rates[KEY] == 1.0
    assert chosen(stream(0), spec=spec_of(floor="0.5")).rates[KEY] == 5.0
    assert chosen(stream(0), spec=spec_of(floor=0)).rates[KEY] == 0.0


def with_lie(intervals, index, rate):
    lied = list(intervals)
    end, length, _ = lied[index]
    lied[index] = (end, length, rate * length)
    return tuple(lied)


@PROPERTY
@given(index=st.integers(-20, -1), rate=st.floats(0, 1e13), seed=st.integers(0, 50))
def test_one_interval_that_lies_moves_no_adopted_rate_at_once(index, rate, seed):
    lied = believable(with_lie(stream(10, seed=seed), index, rate), most_believable(10.0))
    before = adopted(10.0, 1)
    assert chosen(lied, before=before).adopted == before


@PROPERTY
@given(
    counts=st.lists(st.floats(0, 1e15), min_size=1, max_size=25),
    known=st.floats(0.001, 1000),
    history=st.lists(st.floats(0, 1e15), max_size=60),
)
def test_no_reading_raises_a_rate_more_than_the_largest_rise(counts, known, history):
    end = NOW.timestamp()
    intervals = tuple((end - 15.0 * (len(counts) - 1 - index), 15.0, count) for index, count in enumerate(counts))
    days = tuple((end - 3600.0 * index, rate) for index, rate in enumerate(history))
    limit = most_believable(10.0)
    found = chosen(
        believable(intervals, limit),
        before=adopted(known, 60),
        history=tuple(item for item in days if item[1] <= limit),
        failing_since=None if believable(intervals, limit) else text(NOW),
    )
    # The trend and the daily pattern come on top of what is believed of the counts.
    assert found.rates[KEY] <= 3.0 * 1.5 * LARGEST_RISE * max(10.0, known)


def test_a_rise_beyond_belief_is_taken_step_by_step_once_it_has_lasted_the_window():
    young = stream(lambda moment: 500 if moment >= 240 else 10)
    found = chosen(young, before=adopted(10.0, 60))
    assert (found.rates[KEY], found.finding.reason) == (10.0, "LastGood")
    assert "10 times 10/s" in found.finding.message
    assert chosen(stream(500), before=adopted(10.0, 60)).rates[KEY] == pytest.approx(100, rel=0.01)
    assert chosen(stream(500), before=adopted(100.0, 60)).rates[KEY] == pytest.approx(500, rel=0.1)


def test_the_message_does_not_change_from_reading_to_reading():
    before = adopted(10.0, 1)
    assert chosen(stream(10, seed=1), before=before).finding == chosen(stream(10, seed=2), before=before).finding
