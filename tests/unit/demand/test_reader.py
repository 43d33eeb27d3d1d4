"""The reader of demand: what it keeps, how often it asks, whom it wakes. The real Prometheus is in tests/contract."""

import pytest

from servingplan.api.parse import parse_spec
from servingplan.observe import demand as reader
from servingplan.observe.demand import LONGEST_PAUSE_SECONDS, POLL_SECONDS, DemandReader
from servingplan.observe.prometheus import ReadingError
from servingplan.render.names import arrivals_prefix

PLAN = ("llm", "chat")
LABEL = "envoy_local_http_ratelimit_prefix"


def spec_of(rate="10", **prometheus):
    raw = {
        "budget": {"dollarsPerHour": 10},
        "models": [
            {
                "name": "m",
                "classes": [{"name": "c", "inputTokens": 500, "outputTokens": 200, "requestsPerSecond": rate}],
            }
        ],
        "nodePools": [{"name": "p", "nodeSelector": {"a": "b"}}],
        "demand": {"prometheus": {"url": "http://p:9090", **prometheus}},
    }
    spec, errors = parse_spec(raw)
    assert not errors
    return spec


class Prometheus:
    """Answers as Envoy's counters would be at ``rate`` since ``changed``, 10/s before; scraped every 15 s."""

    def __init__(self):
        self.now = 1_700_000_000.0
        self.rate, self.changed = 10.0, 1e18
        self.away = False
        self.asked = []

    def ask(self, url, query, now, *, reach):
        self.asked.append(query.text)
        if self.away:
            raise ReadingError("it cannot be reached")
        if "rate_limit_enabled" not in query.text or query.step_seconds:
            return []
        ends = [now - now % 15 - 15 * index for index in range(24)][::-1]
        counts = [10 * end + (self.rate - 10) * max(0.0, end - self.changed) for end in ends]
        values = [[end, str(round(count))] for end, count in zip(ends, counts, strict=True)]
        return [{"metric": {LABEL: arrivals_prefix("llm/chat", "m", "c")}, "values": values}]


@pytest.fixture
def prometheus(monkeypatch):
    made = Prometheus()
    monkeypatch.setattr(reader, "ask", made.ask)
    return made


@pytest.fixture
def rung():
    return []


@pytest.fixture
def reads(prometheus, rung):
    return DemandReader(ring=lambda *plan: rung.append(plan), clock=lambda: prometheus.now)


def polled(reads, spec=None):
    reads.poll(PLAN)
    return reads.seen(*PLAN, spec or spec_of())


def test_a_turn_is_told_what_the_last_poll_read_and_asks_nothing_itself(reads, prometheus):
    first = reads.seen(*PLAN, spec_of())
    asked = len(prometheus.asked)
    assert reads.seen(*PLAN, spec_of()) is first
    assert len(prometheus.asked) == asked
    assert (first.signal, first.problem, len(first.classes[0].intervals)) == ("envoy", None, 19)


def test_a_plan_without_demand_is_not_read(reads, prometheus):
    assert reads.seen(*PLAN, spec_of().model_copy(update={"demand": None})) is None
    assert reads.seen(*PLAN, None) is None
    assert prometheus.asked == []
    reads.poll(PLAN)  # one that went while its poll was due


def test_what_cannot_be_read_is_dated_from_its_first_failure_over_edits_too(reads, prometheus):
    reads.seen(*PLAN, spec_of())
    prometheus.away, prometheus.now = True, 1_700_000_010.0
    since = polled(reads).classes[0].failing_since
    assert since == "2023-11-14T22:13:30Z"
    prometheus.now += 100
    again = polled(reads)
    assert (again.classes[0].failing_since, again.problem) == (since, "http://p:9090: it cannot be reached")
    assert reads.seen(*PLAN, spec_of(rate="20")).classes[0].failing_since == since
    prometheus.away = False
    assert polled(reads, spec_of(rate="20")).classes[0].failing_since is None


def test_failures_are_tried_again_later_and_later_and_a_success_is_not(reads, prometheus):
    reads.seen(*PLAN, spec_of())
    watched = reads._plans[PLAN]
    assert watched.pause == POLL_SECONDS
    prometheus.away = True
    pauses = []
    for _ in range(6):
        polled(reads)
        pauses.append(watched.pause)
    assert pauses == [20, 40, 80, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]
    prometheus.away = False
    polled(reads)
    assert watched.pause == POLL_SECONDS


def test_a_surge_rings_once(reads, prometheus, rung):
    reads.seen(*PLAN, spec_of())
    for _ in range(6):
        prometheus.now += 10
        polled(reads)
    assert rung == []
    prometheus.rate, prometheus.changed = 30.0, prometheus.now
    for _ in range(12):
        prometheus.now += 10
        polled(reads)
    assert rung == [PLAN]


def test_the_signal_that_matched_is_asked_first(reads, prometheus):
    reads.seen(*PLAN, spec_of())
    prometheus.asked.clear()
    polled(reads)
    assert len(prometheus.asked) == 1
    assert prometheus.asked[0].startswith("envoy_http_local_rate_limit_enabled{")


def test_samples_that_grow_old_are_no_longer_fresh(reads, prometheus):
    reads.seen(*PLAN, spec_of())
    ask, moment = prometheus.ask, prometheus.now
    reader.ask = lambda url, query, now, *, reach: ask(url, query, moment, reach=reach)
    prometheus.now += 100
    assert polled(reads).classes[0].failing_since is None
    prometheus.now += 60
    seen = polled(reads)
    assert (seen.classes[0].intervals, seen.problem) == ((), "no fresh samples for m/c")
