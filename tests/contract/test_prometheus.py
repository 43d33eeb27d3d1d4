"""The reader of demand against a real Prometheus that scrapes a small exporter, and against answers that lie."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from e2e.support.exporter import COUNTER, LABEL, Exporter
from e2e.support.waiting import wait_for
from localcluster import prometheus
from servingplan.api.parse import parse_spec
from servingplan.demand.adopt import choose
from servingplan.model.names import arrivals_prefix
from servingplan.model.world import NodeTemplate, Observation, Offered, PlanObject
from servingplan.observe import prometheus as client
from servingplan.observe.demand import DemandReader
from servingplan.observe.offerings import AVAILABLE, PRICE, Offerings
from servingplan.observe.urls import UrlPolicy
from servingplan.settings import SharedPrometheus

pytestmark = pytest.mark.cluster
PLAN = ("llm", "chat")
MODEL = "meta-llama/Llama-3.1-8B"
CLASSES = ("chat", "long.in")
CHAT = f'{COUNTER}{{{LABEL}="{arrivals_prefix("/".join(PLAN), MODEL, "chat")}"}}'


def reader_of(**more):
    """Of an installation that lets plans ask what runs beside the test."""
    return DemandReader(urls=UrlPolicy(None, allowed_hosts=frozenset({"127.0.0.1"})), **more)


def spec_of(url, **more):
    classes = [
        {"name": name, "inputTokens": length, "outputTokens": 200, "requestsPerSecond": "50"}
        for name, length in zip(CLASSES, (200, 3000), strict=True)
    ]
    raw = {
        "budget": {"dollarsPerHour": 10},
        "models": [{"name": MODEL, "classes": classes}],
        "nodePools": [{"name": "p", "nodeSelector": {"a": "b"}}],
        "demand": {"prometheus": {"url": url, "window": "1m", "lastGoodFor": "10m", **more}},
    }
    spec, errors = parse_spec(raw)
    assert errors == ()
    return spec, raw


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A Prometheus beside a busy test is no slow one."""
    monkeypatch.setattr(client, "DEADLINE_SECONDS", 60.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Prometheus, its exporter, and an Envoy of which it scrapes the counters."""
    try:
        prometheus.program()
    except prometheus.NotToBeHadError as error:
        pytest.skip(str(error))
    exporter = Exporter("/".join(PLAN), MODEL, CLASSES)
    exporter.set({"chat": 40.0, "long.in": 20.0})
    with prometheus.PrometheusProcess(tmp_path_factory.mktemp("prometheus"), {"gateway": exporter.target}) as running:
        yield running, exporter
    exporter.close()


def rates(seen):
    """Requests/s by class over the last intervals."""
    found = {}
    for item in seen.classes:
        last = item.intervals[-3:]
        found[item.name] = sum(count for *_, count in last) / sum(length for _, length, _ in last) if last else None
    return found


def planned(raw, spec, seen, now, before=None):
    world = Observation(
        now=now, plan=PlanObject(namespace="llm", name="chat", uid="u", generation=1, spec=raw), demand=seen
    )
    return choose(spec, world, before)


def test_a_life_with_prometheus(server):
    """Rates are read, a surge rings, a restart of the gateway and a lie move nothing, then Prometheus goes away."""
    running, exporter = server
    spec, raw = spec_of(running.url)
    rung = []
    demand = reader_of(ring=lambda *plan: rung.append(plan))

    def read():
        demand.poll(PLAN)
        return demand.seen(*PLAN, spec)

    first = demand.seen(*PLAN, spec)
    assert [item.name for item in first.classes] == list(CLASSES)
    wait_for("Prometheus has samples", lambda: len(read().classes[0].intervals) >= 5, seconds=30)
    seen = read()
    assert (seen.signal, seen.metrics, seen.problem) == ("envoy", (COUNTER,), None)
    assert rates(seen) == pytest.approx({"chat": 40, "long.in": 20}, rel=0.1)

    def measured():
        found = planned(raw, spec, read(), "2026-01-01T00:00:00Z")
        return found if found.finding.reason == "Measured" else None

    good = wait_for("a rate is taken", measured, seconds=40)
    assert good.rates[f"{MODEL}/chat"] == pytest.approx(40, rel=0.1)

    before = len(rung)
    exporter.set({"chat": 120.0})
    started = time.monotonic()
    wait_for("the surge rings", lambda: read() and len(rung) > before, seconds=20)
    print(f"a surge rang after {time.monotonic() - started:.1f} s of scrapes every second")
    assert rung[-1] == PLAN

    def surging():
        found = planned(raw, spec, read(), "2026-01-01T00:00:20Z", good.adopted)
        return found if found.rates[f"{MODEL}/chat"] == pytest.approx(120, rel=0.15) else None

    surge = wait_for("the surge is planned for", surging, seconds=10)

    exporter.restart()
    wait_for("the restart is scraped", lambda: running.value(f"resets({CHAT}[5m])"), seconds=20)
    after = planned(raw, spec, read(), "2026-01-01T00:00:30Z", surge.adopted)
    assert after.adopted == surge.adopted

    for lie in ("NaN", "1e12", "-5"):
        exporter.lie = lie
        wait_for("the lie is scraped", lambda lie=lie: repr(running.value(CHAT)) == repr(float(lie)), seconds=20)
        lied = planned(raw, spec, read(), "2026-01-01T00:00:40Z", surge.adopted)
        assert lied.rates == surge.rates, lie
    exporter.lie = None

    running.stop()
    away = read()
    assert away.problem == f"{running.url} gave no answer that can be used"
    last_good = planned(raw, spec, away, away.classes[0].failing_since, surge.adopted)
    assert (last_good.finding.reason, last_good.rates) == ("LastGood", surge.rates)
    declared = planned(raw, spec, away, "2100-01-01T00:00:00Z", surge.adopted)
    assert declared.finding.reason == "Declared"
    assert set(declared.rates.values()) == {50.0}
    running.start()
    exporter.set({"chat": 30.0})
    wait_for("the reader finds Prometheus again", lambda: read().problem is None, seconds=40)


def test_a_query_of_the_plan_is_used_in_place_of_the_known_metrics(server, monkeypatch):
    running, exporter = server
    monkeypatch.setattr("servingplan.demand.signals.QUERY_INTERVAL_SECONDS", 4)
    query = (
        f'sum by (model, class) (label_replace(label_replace(rate({COUNTER}{{{LABEL}=~"llm/.*"}}[$interval]), '
        f'"model", "{MODEL}", "", ""), "class", "chat", "{LABEL}", ".*/chat"))'
    )
    spec, _ = spec_of(running.url, query=query)
    exporter.set({"chat": 30.0})
    demand = reader_of(shared=SharedPrometheus(plan_queries=True))

    def found():
        demand.seen(*PLAN, spec)
        demand.poll(PLAN)
        return rates(demand.seen(*PLAN, spec))["chat"]

    wait_for("the query's rates are read", lambda: found() == pytest.approx(30, rel=0.15), seconds=60)
    assert demand.seen(*PLAN, spec).signal == "query"


def test_karpenters_offerings_are_read(server):
    running, exporter = server
    labels = 'instance_type="p5.48xlarge",capacity_type="on-demand",zone="us-east-1a"'

    def tells(available):
        exporter.other_lines = [f"{AVAILABLE}{{{labels}}} {available}", f"{PRICE}{{{labels}}} 98.32"]

    known = Offerings(SharedPrometheus(url=running.url))
    pool = NodeTemplate(instance_types=("p5.48xlarge",), capacity_type="OnDemand", zones=("us-east-1a",))

    def offered():
        known.read()
        return known.of(pool)

    for available in (1, 0):
        tells(available)
        wanted = Offered(available=bool(available), dollars_per_node_hour=98.32)
        wait_for("the offering is read", lambda wanted=wanted: offered() == wanted, seconds=40)


class Liar(ThreadingHTTPServer):
    """Answers every query in one odd way."""

    daemon_threads = True

    def __init__(self, answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer(self)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request, client_address):
        """The reader hangs up on some; that is its right."""


def says(body, status=200):
    def answer(handler):
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

    return answer


def result(*rows):
    return says({"status": "success", "data": {"resultType": "matrix", "result": list(rows)}})


def drips(handler):
    """Until the reader hangs up."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)


def falls_silent(handler):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"{")
    stays_silent(handler)


def stays_silent(handler):
    """Until the reader hangs up."""
    handler.rfile.read(1)


def floods(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(400):
        handler.wfile.write(b" " * 2**16)


def redirects(handler):
    handler.send_response(302)
    handler.send_header("location", "http://169.254.169.254/")
    handler.end_headers()


OURS = {LABEL: arrivals_prefix("/".join(PLAN), MODEL, "chat")}
LIES = {
    "status 500": says({"status": "error", "error": "<secret>"}, 500),
    "status 401": says(b"<secret>", 401),
    "a redirect": redirects,
    "no JSON": says(b"<html>"),
    "JSON of another shape": says([1, 2]),
    "no data": says({"status": "success"}),
    "rows that are none": result(1, "a", None),
    "values that are none": result({"metric": OURS, "values": 7}),
    "labels that are none": result({"metric": [], "values": [[1, "1"]]}),
    "nothing": result(),
    "a single sample": result({"metric": OURS, "values": [[time.time(), "1"]]}),
    "samples of the future": result({"metric": OURS, "values": [[1e18, "1"], [2e18, "5"]]}),
    "old samples": result({"metric": OURS, "values": [[1, "1"], [16, "5"]]}),
    "other labels": result({"metric": {LABEL: "x"}, "values": [[time.time() - 15, "1"], [time.time(), "9"]]}),
    "deep nesting": says(b"[" * 100_000),
    "no end": drips,
    "no more": falls_silent,
    "no word": stays_silent,
    "too much": floods,
}


NO_SAMPLES, NOT_FRESH = "no samples of any of", "no fresh samples"
SAYS = {
    "labels that are none": NO_SAMPLES,
    "nothing": NO_SAMPLES,
    "a single sample": NO_SAMPLES,
    "samples of the future": NOT_FRESH,
    "old samples": NOT_FRESH,
    "other labels": NO_SAMPLES,
}
"""Of answers of Prometheus. Whatever else is told in the same words."""
SILENT = ("no end", "no more", "no word")


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_is_none_leaves_what_is_known(lie, monkeypatch):
    if lie in SILENT:
        monkeypatch.setattr(client, "DEADLINE_SECONDS", 0.6)
    liar = Liar(LIES[lie])
    try:
        spec, raw = spec_of(f"http://127.0.0.1:{liar.server_port}")
        seen = reader_of().seen(*PLAN, spec)
    finally:
        liar.shutdown()
        liar.server_close()
    assert all(item.failing_since and not item.intervals for item in seen.classes)
    assert SAYS.get(lie, " gave no answer that can be used") in seen.problem
    assert "secret" not in seen.problem
    assert set(planned(raw, spec, seen, "2026-01-01T00:00:00Z").rates.values()) == {50.0}
