"""What the replicas of a gateway say, and what becomes of those that say nothing."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from servingplan.observe import gateway
from servingplan.observe.gateway import NO_ANSWER, ask_gateway
from servingplan.observe.urls import UrlPolicy

PLAN = "llm/chat"


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine is no silent gateway."""
    monkeypatch.setattr(gateway, "DEADLINE_SECONDS", 60)


@contextmanager
def server(*bodies, status="200 OK", host="127.0.0.1", port=0):
    """Answers one connection with each body; None leaves it without an answer."""
    with closing(socket.create_server((host, port))) as listening:
        kept = []

        def serve():
            for body in bodies:
                connection, _ = listening.accept()
                kept.append(connection)
                connection.recv(4096)
                if body is not None:
                    content = body if isinstance(body, bytes) else json.dumps(body).encode()
                    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"
                    connection.sendall(head.encode() + content)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        for connection in kept:
            connection.close()


def asked(port, host="127.0.0.1", allowed=None):
    policy = UrlPolicy(None, allowed_hosts=allowed)
    with ThreadPoolExecutor(4) as threads:
        return ask_gateway(f"http://{host}:{port}/servingplan/revision", PLAN, threads, policy)


def test_the_revision_of_this_plan():
    with server({"plan": PLAN, "revision": 7}) as port:
        found = asked(port)
    assert (found.revisions, found.taken, found.problem) == ((7,), 7, None)


@pytest.mark.parametrize(
    "said",
    [
        {"plan": "llm/other", "revision": 7},
        {"plan": PLAN, "revision": "7"},
        {"plan": PLAN, "revision": True},
        {"plan": PLAN},
        [7],
        b"<html>",
        b"\xff\xfe",
        b'{"plan": "llm/chat", "revision": 7' + b" " * 9000 + b"}",
    ],
)
def test_anything_else_is_no_answer(said):
    with server(said) as port:
        found = asked(port)
    assert (found.revisions, found.taken, found.problem) == ((), None, NO_ANSWER)


def test_another_status_is_no_answer():
    with server({"plan": PLAN, "revision": 7}, status="503 No") as port:
        assert asked(port).problem == NO_ANSWER


def test_a_redirect_is_no_answer_and_is_not_followed():
    with server({"plan": PLAN, "revision": 7}, status="302 Found\r\nlocation: http://127.0.0.1:1/") as port:
        assert asked(port).problem == NO_ANSWER


def test_every_address_is_asked_and_all_must_have_it(monkeypatch):
    monkeypatch.setattr(gateway, "_addresses", lambda host, port: ["127.0.0.1", "127.0.0.2", "127.0.0.3"])
    with (
        server({"plan": PLAN, "revision": 7}) as port,
        server({"plan": PLAN, "revision": 6}, host="127.0.0.2", port=port),
    ):
        found = asked(port)
    assert found.revisions == (7, 6, None)
    assert found.taken is None
    assert found.answers


def test_one_that_is_silent_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(gateway, "DEADLINE_SECONDS", 0.2)
    with server(None) as port:  # it is silent for as long as it is asked
        assert asked(port).problem == NO_ANSWER


def test_a_name_that_nobody_knows_and_a_port_where_nobody_listens_are_told_alike():
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        free = listening.getsockname()[1]
    assert asked(80, host="nobody.invalid") == asked(free) == gateway.GatewayFacts(problem=NO_ANSWER)


def test_an_api_server_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(gateway, "DEADLINE_SECONDS", 0.2)
    answered = threading.Event()

    class Slow:
        def get(self, *_, **__):
            answered.wait(60)
            return {}

    with ThreadPoolExecutor(2) as threads:
        policy = UrlPolicy(Slow(), allowed_hosts=frozenset())
        found = ask_gateway("http://gateway.llm:8080/", PLAN, threads, policy)
        answered.set()
    assert found == gateway.GatewayFacts(problem=NO_ANSWER)


@pytest.mark.parametrize(("host", "port"), [("169.254.169.254", 80), ("127.0.0.1", 8080), ("gateway.other", 8080)])
def test_what_the_installation_does_not_allow_is_not_asked_and_says_what_to_do(host, port):
    found = asked(port, host=host, allowed=frozenset())
    assert (found.revisions, found.problem) == ((), None)
    assert found.refused.startswith("spec.gateway.ackUrl: ")
    assert "write NAME.llm as its host, or ask for the host in the chart's allowedHosts" in found.refused


def test_a_host_that_the_installation_lists_is_asked():
    with server({"plan": PLAN, "revision": 7}) as port:
        assert asked(port, allowed=frozenset({"127.0.0.1"})).taken == 7
