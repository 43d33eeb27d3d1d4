"""What the Envoy beside the watcher says of its replicas, and what is made of other answers."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from localcluster.ports import free_port
from servingplan.gateway_sync import envoy
from servingplan.routing.envoy.routes import STICKY


@contextmanager
def admin(said):
    """An admin endpoint that says it; None: it is silent."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if said is None:
                over.wait(60)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            over.set()
            server.shutdown()
            thread.join()


def stats(**members):
    """``one`` and ``one_sticky`` are the clusters of Service ``one``."""
    clusters = {name.replace("_sticky", STICKY): count for name, count in members.items()}
    rows = [{"name": f"cluster.{name}.membership_healthy", "value": count} for name, count in clusters.items()]
    return json.dumps({"stats": rows}).encode()


def test_services_with_a_replica_and_none_else():
    clusters = stats(one=2, one_sticky=2, two=0, two_sticky=0, three=1, three_sticky=0, four=1, four_sticky=1)
    with admin(clusters) as port:
        assert envoy.services_with_replicas(port, {"one", "two", "three", "five"}) == {"one"}


@pytest.mark.parametrize(
    "said", [b"", b"{", b"[]", b"7", b'{"stats": [{}]}', b'{"stats": [{"name": 1, "value": null}]}']
)
def test_what_is_no_answer_tells_of_none(said):
    with admin(said) as port:
        assert envoy.services_with_replicas(port, {"one"}) == set()


def test_one_that_is_silent_tells_of_none(monkeypatch):
    monkeypatch.setattr(envoy, "DEADLINE_SECONDS", 0.1)
    with admin(None) as port:
        assert envoy.services_with_replicas(port, {"one"}) == set()


def test_where_nobody_listens_nobody_can_be_asked():
    assert envoy.services_with_replicas(free_port(), {"one"}) is None
