"""The reader of engines: what it keeps of answers and failures. The real Prometheus is in tests/contract."""

import threading
import time

import pytest

from e2e.support.waiting import wait_for
from servingplan.api.parse import parse_spec
from servingplan.observe import engine_figures as reader
from servingplan.observe import polling
from servingplan.observe.engine_figures import EngineReader
from servingplan.observe.polling import FORGOTTEN_AFTER_SECONDS
from servingplan.observe.urls import NoAnswer, UrlPolicy
from servingplan.settings import SharedPrometheus
from tests.unit.learning.test_figures import rows

PLAN = ("llm", "chat")
SHARED = SharedPrometheus(url="http://shared:9090", namespace_label="ns")


def spec_of(*, learn=True, url=None):
    raw = {
        "budget": {"dollarsPerHour": 10},
        "models": [
            {
                "name": "m",
                "classes": [{"name": "c", "inputTokens": 500, "outputTokens": 200, "requestsPerSecond": "1"}],
            }
        ],
        "nodePools": [{"name": "p", "nodeSelector": {"a": "b"}}],
        "planning": {"learn": learn},
    }
    if url is not None:
        raw["demand"] = {"prometheus": {"url": url}}
    spec, errors = parse_spec(raw)
    assert not errors
    return spec


class Prometheus:
    """Answers with the figures of one pod."""

    def __init__(self):
        self.answer = rows("a")
        self.asked = []

    def ask(self, source, query, now, *, reach):
        if "_bucket" in query.text:
            return []
        self.asked.append((source.url, query.text))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def prometheus(monkeypatch):
    made = Prometheus()
    monkeypatch.setattr(reader, "ask", made.ask)
    return made


def polled(spec, *, shared=SHARED, allowed=()):
    reads = EngineReader(
        urls=UrlPolicy(None, allowed_hosts=frozenset(allowed)), shared=shared, clock=lambda: 1_700_000_000.0
    )
    reads.seen(*PLAN, spec)
    reads.poll(PLAN)
    return reads.seen(*PLAN, spec)


def test_means_are_kept_where_the_counts_behind_percentiles_are_more_than_an_answer_may_hold(monkeypatch):
    def ask(source, query, now, *, reach):
        if "_bucket" in query.text:
            raise NoAnswer("its answer is larger than 8 MiB; narrow the query")
        return rows("a")

    monkeypatch.setattr(reader, "ask", ask)
    (engine,) = polled(spec_of()).engines
    assert engine.ttft_seconds == 0.5
    assert engine.ttft is None


def test_the_first_turn_waits_for_nothing(prometheus):
    reads = EngineReader(urls=UrlPolicy(None, allowed_hosts=frozenset()), shared=SHARED)
    seen = reads.seen(*PLAN, spec_of())
    assert (seen.at, seen.engines) == ("", ())
    assert prometheus.asked == []


def test_a_plan_that_turns_asked_for_is_read_beside_them_until_it_does_not_ask_to_learn(prometheus, monkeypatch):
    monkeypatch.setattr(polling, "LOOK_SECONDS", 0.01)
    reads = EngineReader(urls=UrlPolicy(None, allowed_hosts=frozenset()), shared=SHARED)
    reads.start()
    try:
        wait_for("it was read", lambda: reads.seen(*PLAN, spec_of()).engines, seconds=60)
        assert reads.seen(*PLAN, spec_of(learn=False)) is None
        assert reads.seen(*PLAN, spec_of()).engines == (), "nothing is kept of it"
    finally:
        reads.close()


def test_a_plan_whose_prometheus_hangs_does_not_delay_another(prometheus, monkeypatch):
    monkeypatch.setattr(polling, "LOOK_SECONDS", 0.01)
    answers, hangs = threading.Event(), threading.Event()

    def ask(source, query, now, *, reach):
        if 'ns="slow"' in query.text:
            hangs.set()
            answers.wait(60)
        return prometheus.ask(source, query, now, reach=reach)

    monkeypatch.setattr(reader, "ask", ask)
    reads = EngineReader(urls=UrlPolicy(None, allowed_hosts=frozenset()), shared=SHARED)
    for number in range(2 * polling.POLLS_AT_ONCE):
        reads.seen("slow", f"{number}", spec_of())
    reads.start()
    try:
        assert hangs.wait(60)
        reads.seen(*PLAN, spec_of())
        wait_for("the other plan was read", lambda: reads.seen(*PLAN, spec_of()).engines, seconds=30)
        assert not answers.is_set()
        assert reads.seen("slow", "0", spec_of()).engines == ()
        answers.set()
        wait_for("the last was read", lambda: reads.seen("slow", f"{number}", spec_of()).engines, seconds=30)
    finally:
        answers.set()
        reads.close()


def test_a_plan_is_read_again_after_a_while_and_forgotten_once_no_turn_asks_for_it(prometheus):
    reads = EngineReader(urls=UrlPolicy(None, allowed_hosts=frozenset()), shared=SHARED)
    reads.seen(*PLAN, spec_of())
    begun = time.monotonic()
    assert reads._plans.due(begun) == [PLAN]
    reads.poll(PLAN)
    polled_until = time.monotonic()
    assert reads._plans.due(begun) == []
    assert reads._plans.due(polled_until + reader.POLL_SECONDS) == [PLAN]
    assert reads._plans.due(polled_until + FORGOTTEN_AFTER_SECONDS + 1) == []
    assert reads.seen(*PLAN, spec_of()).engines == (), "nothing is kept of it"


def test_a_plan_that_does_not_ask_to_learn_is_not_read(prometheus):
    assert polled(spec_of(learn=False)) is None
    assert prometheus.asked == []


def test_the_installations_prometheus_is_asked_for_the_plans_namespace_alone(prometheus):
    seen = polled(spec_of())
    ((url, text),) = prometheus.asked
    assert url == SHARED.url
    assert 'ns="llm"' in text
    assert (seen.at, seen.window_seconds) == ("2023-11-14T22:13:20Z", 300)
    assert [engine.pod for engine in seen.engines] == ["a"]


def test_the_prometheus_of_the_plans_demand_is_asked_where_it_has_one(prometheus):
    polled(spec_of(url="http://allowed:9090"), allowed=["allowed"])
    assert [url for url, _ in prometheus.asked] == ["http://allowed:9090"]


@pytest.mark.parametrize(
    "answer", [NoAnswer("connection refused"), [{"metric": {}}], [{"metric": None, "value": 3}], [{"value": []}]]
)
def test_an_answer_that_is_none_is_told_in_the_same_words_whatever_the_cause(prometheus, answer):
    prometheus.answer = answer
    seen = polled(spec_of())
    assert (seen.at, seen.engines) == ("", ())
    assert seen.problem == "Prometheus gave no answer that can be used"


def test_a_url_that_is_not_allowed_and_no_prometheus_at_all_are_told(prometheus):
    refused = polled(spec_of(url="http://elsewhere:9090"))
    assert refused.refused_reason == "UrlNotAllowed"
    missing = polled(spec_of(), shared=SharedPrometheus())
    assert missing.refused_reason == "PrometheusMissing"
    assert prometheus.asked == []
