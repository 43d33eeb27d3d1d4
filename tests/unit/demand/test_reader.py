"""The reader of demand: what it keeps, how often it asks, whom it wakes. The real Prometheus is in tests/contract."""

import pytest

from servingplan.api.parse import parse_spec
from servingplan.demand.adopt import choose
from servingplan.errors import NotFound
from servingplan.model.names import arrivals_prefix
from servingplan.model.world import Observation, PlanObject
from servingplan.observe import demand as reader
from servingplan.observe.demand import LONGEST_PAUSE_SECONDS, POLL_SECONDS, DemandReader
from servingplan.observe.urls import NoAnswer, UrlPolicy
from servingplan.settings import SharedPrometheus

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
    if raw["demand"]["prometheus"]["url"] is None:
        del raw["demand"]["prometheus"]["url"]
    spec, errors = parse_spec(raw)
    assert not errors
    return spec


class Prometheus:
    """Answers as Envoy's counters would be at ``rate`` since ``changed``, 10/s before; scraped every 15 s."""

    def __init__(self):
        self.now = 1_700_000_000.0
        self.rate, self.changed = 10.0, 1e18
        self.away = ""
        self.asked = []
        self.sources = []

    def ask(self, source, query, now, *, reach):
        self.asked.append(query.text)
        self.sources.append(source)
        if self.away:
            raise NoAnswer(self.away)
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
    return reader_of(prometheus, "p", ring=lambda *plan: rung.append(plan))


class Services:
    """Of namespace ``llm``: a Prometheus."""

    def get(self, resource, name, *, namespace):
        if (namespace, name) != ("llm", "own"):
            raise NotFound(404, "NotFound", name)
        return {"spec": {"clusterIP": "10.96.0.9"}}


def reader_of(prometheus, *allowed, shared=None, **more):
    urls = UrlPolicy(Services(), allowed_hosts=frozenset(allowed))
    return DemandReader(urls=urls, shared=shared or SharedPrometheus(), clock=lambda: prometheus.now, **more)


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
    prometheus.away, prometheus.now = "connection refused", 1_700_000_010.0
    since = polled(reads).classes[0].failing_since
    assert since == "2023-11-14T22:13:30Z"
    prometheus.now += 100
    again = polled(reads)
    assert (again.classes[0].failing_since, again.problem) == (since, "http://p:9090 gave no answer that can be used")
    assert reads.seen(*PLAN, spec_of(rate="20")).classes[0].failing_since == since
    prometheus.away = ""
    assert polled(reads, spec_of(rate="20")).classes[0].failing_since is None


def test_the_failure_of_a_class_that_an_edit_removes_is_forgotten(reads, prometheus):
    reads.seen(*PLAN, spec_of())
    prometheus.away = "connection refused"
    assert polled(reads).classes[0].failing_since is not None
    spec = spec_of()
    model = spec.models[0]
    renamed = model.model_copy(update={"classes": (model.classes[0].model_copy(update={"name": "d"}),)})
    reads.seen(*PLAN, spec.model_copy(update={"models": (renamed,)}))
    watched = reads._plans.get(PLAN)
    assert watched.failing_since.keys() <= {"m/d"}


def test_failures_are_tried_again_later_and_later_and_a_success_is_not(reads, prometheus):
    reads.seen(*PLAN, spec_of())
    watched = reads._plans.get(PLAN)
    assert watched.pause == POLL_SECONDS
    prometheus.away = "HTTP status 500"
    pauses = []
    for _ in range(6):
        polled(reads)
        pauses.append(watched.pause)
    assert pauses == [20, 40, 80, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]
    prometheus.away = ""
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
    reader.ask = lambda source, query, now, *, reach: ask(source, query, moment, reach=reach)
    prometheus.now += 100
    assert polled(reads).classes[0].failing_since is None
    prometheus.now += 60
    seen = polled(reads)
    assert (seen.classes[0].intervals, seen.problem) == ((), "no fresh samples for m/c")


INSTALLED = SharedPrometheus(url="https://prometheus.monitoring:9090", token_file="/token", ca_file="/ca.crt")


def finding(seen, spec):
    plan = PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec=None)
    return choose(spec, Observation(now="2026-01-01T00:00:00Z", plan=plan, demand=seen), None).finding


def test_whatever_keeps_prometheus_from_answering_is_told_in_the_same_words(prometheus):
    told = set()
    for cause in ("connection refused", "HTTP status 401", "did not answer within 5 s", "is not JSON"):
        prometheus.away = cause
        told.add(reader_of(prometheus, "p").seen(*PLAN, spec_of()).problem)
    told.add(
        reader_of(prometheus).seen(*PLAN, spec_of(url="http://nobody.llm:9090")).problem.replace("nobody.llm", "p")
    )
    assert told == {"http://p:9090 gave no answer that can be used"}


@pytest.mark.parametrize("url", ["http://169.254.169.254", "http://kubernetes.default", "http://own.other:9090"])
def test_a_url_that_may_not_be_asked_is_not_and_says_what_to_do(prometheus, url):
    spec = spec_of(url=url)
    seen = reader_of(prometheus).seen(*PLAN, spec)
    assert prometheus.asked == []
    found = finding(seen, spec)
    assert (found.condition, found.reason, found.holds) == ("DemandKnown", "UrlNotAllowed", False)
    assert found.message.startswith(f"spec.demand.prometheus.url: '{url}': is not asked")
    assert "NAME.llm" in found.message
    assert "declared: m/c 10/s" in found.message


def test_the_installations_prometheus_gets_the_token_and_no_other_does(prometheus):
    reads = reader_of(prometheus, "listed", shared=INSTALLED)
    assert reads.seen(*PLAN, spec_of(url=None)).problem is None
    assert {(item.url, item.token_file, item.ca_file) for item in prometheus.sources} == {
        (INSTALLED.url, "/token", "/ca.crt")
    }
    for url in ("http://listed:9090", "http://own.llm:9090", INSTALLED.url.replace("prometheus", "own")):
        prometheus.sources.clear()
        reads.seen(*PLAN, spec_of(url=url))
        assert not any(item.token_file or item.ca_file for item in prometheus.sources)


def test_a_service_of_the_namespace_is_asked_at_its_address_under_its_name(prometheus):
    reader_of(prometheus).seen(*PLAN, spec_of(url="http://own.llm:9090/base"))
    assert {(item.url, item.host) for item in prometheus.sources} == {("http://10.96.0.9:9090/base", "own.llm:9090")}


def test_without_a_prometheus_of_the_installation_a_plan_is_told_to_name_one(prometheus):
    spec = spec_of(url=None)
    found = finding(reader_of(prometheus).seen(*PLAN, spec), spec)
    assert (found.reason, prometheus.asked) == ("PrometheusMissing", [])
    assert found.message.startswith("spec.demand.prometheus.url is not set")


@pytest.mark.parametrize("url", [None, "http://listed:9090"])
def test_a_plans_own_query_is_not_asked_where_others_measure_too(prometheus, url):
    spec = spec_of(url=url, query="sum(other_tenants_secret)")
    reads = reader_of(prometheus, "listed", shared=INSTALLED)
    found = finding(reads.seen(*PLAN, spec), spec)
    assert (found.reason, prometheus.asked) == ("QueryNotAllowed", [])
    assert found.message.startswith("spec.demand.prometheus.query")


def test_a_plans_own_query_is_asked_of_its_own_prometheus_and_where_the_installation_lets_it(prometheus):
    reader_of(prometheus).seen(*PLAN, spec_of(url="http://own.llm", query="mine"))
    lets = SharedPrometheus(url="http://shared", plan_queries=True)
    reader_of(prometheus, shared=lets).seen(*PLAN, spec_of(url=None, query="mine"))
    assert prometheus.asked == ["mine", "mine"]


def test_engines_are_counted_in_the_plans_namespace_where_others_measure_too(prometheus):
    shared = SharedPrometheus(url="http://shared", namespace_label="scraped_in")
    prometheus.rate = 0
    reader_of(prometheus, shared=shared).seen(*PLAN, spec_of(url=None, window="1m").model_copy())
    reads = reader_of(prometheus, shared=shared)
    prometheus.ask = lambda *args, **more: prometheus.asked.append(args[1].text) or []
    reader.ask = prometheus.ask
    reads.seen(*PLAN, spec_of(url=None))
    engines = [text for text in prometheus.asked if "vllm" in text]
    assert len(engines) == 3
    assert all('scraped_in="llm"' in text for text in engines)
    prometheus.asked.clear()
    reader_of(prometheus).seen(*PLAN, spec_of(url="http://own.llm"))
    assert not any("scraped_in" in text or "namespace=" in text for text in prometheus.asked)
