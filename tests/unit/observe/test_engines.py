"""What the engine of a replica that drains says of the requests that it has left, and what becomes of one that is silent."""

import http.server
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from servingplan.emulate.exposition import EngineCollector
from servingplan.observe import engines
from servingplan.observe.engines import requests_in, requests_inside

OLD = '# HELP x\nvllm_num_requests_running{model_name="m"} 2.0\nvllm_num_requests_waiting 1\n'
NEW = 'vllm:num_requests_running{engine="0",model_name="m"} 3.0\nvllm:num_requests_waiting{engine="0"} 4.0\n'


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine is no silent engine."""
    monkeypatch.setattr(engines, "DEADLINE_SECONDS", 60)


@contextmanager
def engine(text, status=200):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asked(text, **more):
    with engine(text, **more) as port, ThreadPoolExecutor() as threads:
        return requests_inside({"u": "127.0.0.1"}, threads, port=port)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (OLD, 3),
        (NEW, 7),
        (NEW.replace("3.0", "0.0").replace("4.0", "0.0"), 0),
        ('vllm:num_requests_running{engine="0"} 1.0\nvllm:num_requests_running{engine="1"} 2.0\n', None),
        (NEW + 'vllm:num_requests_running{engine="1"} 2.0\n', 9),
        ("something_else 1\n", None),
        (NEW.replace("4.0", "NaN"), None),
        (NEW.replace("4.0", "many"), None),
        ("", None),
    ],
)
def test_the_running_and_the_waiting_are_counted_or_nothing_is_known(text, count):
    assert requests_in(text) == count


def test_an_emulated_engine_is_understood():
    class Idle:
        def __getattr__(self, name):
            return self if name == "tally" else 0

    registry = CollectorRegistry()
    collector = EngineCollector(Idle(), "m")
    registry.register(type("Gauges", (), {"collect": lambda self: list(islice(collector.collect(), 3))})())
    assert requests_in(generate_latest(registry).decode()) == 0


def test_engines_are_asked_and_nothing_is_known_of_those_that_do_not_tell():
    assert asked(NEW) == {"u": 7}
    assert asked(NEW, status=500) == {"u": None}
    assert asked("x" * (engines.LONGEST_ANSWER_BYTES + 1)) == {"u": None}
    with engine(NEW) as port:
        pass
    with ThreadPoolExecutor() as threads:
        assert requests_inside({"u": "127.0.0.1"}, threads, port=port) == {"u": None}


def test_those_that_a_turn_has_no_time_for_are_left_out(monkeypatch):
    monkeypatch.setattr(engines, "MOST_ENGINES", 2)
    with engine(NEW) as port, ThreadPoolExecutor() as threads:
        assert requests_inside(dict.fromkeys("cba", "127.0.0.1"), threads, port=port) == {"c": 7, "b": 7}
    monkeypatch.setattr(engines, "DEADLINE_SECONDS", 0)
    held = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as threads:
        threads.submit(held.wait)
        found = requests_inside({"u": "127.0.0.1"}, threads)
        held.set()
    assert found == {}
