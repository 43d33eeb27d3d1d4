"""A server that drips its answer holds a thread for its time and no longer, and one namespace never holds them all."""

import itertools
import socket
import ssl
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from servingplan.observe import engines, gateway
from servingplan.observe.asking import SharedThreads, ends_within, get
from servingplan.observe.urls import UrlPolicy

LONG_SECONDS = 60
"""Ends what hangs."""
HEADERS = b"HTTP/1.1 200 OK\r\nx: "
BODY = b"HTTP/1.1 200 OK\r\n\r\nvllm:num_requests_running 0\nvllm:num_requests_waiting 1"


@contextmanager
def dripping(start=HEADERS, host="127.0.0.1"):
    """Gives the port of a server whose answers never end, and an event that is set once something is asked."""
    over, asked = threading.Event(), threading.Event()

    def drip(connection):
        with closing(connection):
            try:
                connection.recv(4096)
                connection.sendall(start)
                asked.set()
                while not over.wait(0.05):
                    connection.sendall(b"1")
            except OSError:
                pass  # the reader hung up

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=[connection], daemon=True).start()

    with closing(socket.create_server((host, 0), backlog=64)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        try:
            yield listening.getsockname()[1], asked
        finally:
            over.set()


@pytest.mark.parametrize(
    "start",
    [
        HEADERS,
        BODY,
        b"",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        BODY.replace(b"\r\n\r\n", b"\r\ncontent-length: 9999999\r\n\r\n"),
    ],
)
def test_an_answer_that_drips_ends_in_time_and_is_none(start, monkeypatch):
    monkeypatch.setattr(engines, "DEADLINE_SECONDS", 0.3)
    monkeypatch.setattr(gateway, "DEADLINE_SECONDS", 0.3)
    with dripping(start) as (port, _), ThreadPoolExecutor() as threads:
        of_engine = threads.submit(engines._ask, "127.0.0.1", port)
        of_gateway = threads.submit(gateway._revision, "127.0.0.1", port, "/", "h", "llm/chat")
        try:
            assert of_engine.result(LONG_SECONDS) is None
            assert of_gateway.result(LONG_SECONDS) is None
        finally:
            threads.shutdown(wait=False)


def test_dripping_replicas_of_one_namespace_leave_the_gateways_of_others_heard(monkeypatch):
    monkeypatch.setattr(gateway, "DEADLINE_SECONDS", LONG_SECONDS)
    monkeypatch.setattr(gateway, "_addresses", lambda host, port: [host] * (32 if host == "127.0.0.2" else 1))
    threads = SharedThreads(16, share=4, name="t")
    policy = UrlPolicy(None, allowed_hosts=None)

    def ask(host, port, plan):
        return gateway.ask_gateway(f"http://{host}:{port}/", plan, threads.of(plan.partition("/")[0]), policy)

    with (
        ThreadPoolExecutor() as turns,
        dripping(host="127.0.0.2") as (dripped, asked),
        closing(socket.create_server(("127.0.0.1", 0))) as listening,
    ):

        def answer():
            said = b'{"plan": "llm/chat", "revision": 7}'
            with closing(listening.accept()[0]) as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + said)

        threading.Thread(target=answer, daemon=True).start()
        turns.submit(ask, "127.0.0.2", dripped, "greedy/p")
        assert asked.wait(LONG_SECONDS)
        heard = turns.submit(ask, "127.0.0.1", listening.getsockname()[1], "llm/chat")
        try:
            assert heard.result(LONG_SECONDS / 2).taken == 7
        finally:
            threads.shutdown()


def test_a_connection_with_tls_is_shut_as_well():
    ours, theirs = socket.socketpair()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with closing(theirs), closing(context.wrap_socket(ours, do_handshake_on_connect=False)) as wrapped:
        theirs.settimeout(LONG_SECONDS)
        with ends_within(wrapped, 0.01):
            assert theirs.recv(1) == b""


def test_an_answer_that_came_in_time_is_whole():
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve():
            with closing(listening.accept()[0]) as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nhello")

        threading.Thread(target=serve, daemon=True).start()
        port = listening.getsockname()[1]
        assert get("127.0.0.1", port, "/", seconds=LONG_SECONDS, most_bytes=4) == (200, b"hell")


def test_a_namespace_holds_no_more_than_its_share():
    threads = SharedThreads(3, share=2, name="t")
    release, running = threading.Event(), itertools.count()
    most = threading.Semaphore(2)

    def hold():
        next(running)
        assert most.acquire(blocking=False)
        release.wait(LONG_SECONDS)
        most.release()

    try:
        held = [threads.of("greedy").submit(hold) for _ in range(8)]
        assert threads.of("other").submit(lambda: 7).result(LONG_SECONDS) == 7
        release.set()
        for item in held:
            item.result(LONG_SECONDS)
        assert next(running) == 8
    finally:
        release.set()
        threads.shutdown()


def test_what_a_call_raises_reaches_who_asked_and_the_next_call_is_made():
    threads = SharedThreads(1, share=1, name="t")
    try:
        failed = threads.of("a").submit(int, "x")
        assert threads.of("a").submit(int, "7").result(LONG_SECONDS) == 7
        with pytest.raises(ValueError, match="invalid literal"):
            failed.result(LONG_SECONDS)
    finally:
        threads.shutdown()


def test_what_waits_when_the_threads_go_is_cancelled():
    threads = SharedThreads(1, share=1, name="t")
    release, begun = threading.Event(), threading.Event()
    first = threads.of("a").submit(lambda: (begun.set(), release.wait(LONG_SECONDS)))
    assert begun.wait(LONG_SECONDS)
    waits = threads.of("a").submit(int, "7")
    threads.shutdown()
    release.set()
    with pytest.raises(CancelledError):
        waits.result(LONG_SECONDS)
    assert first.result(LONG_SECONDS)[1]
