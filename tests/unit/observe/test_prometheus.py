"""What is sent to a Prometheus: its own token and no other credentials, to its own URL and nowhere else."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from servingplan.demand.signals import Query
from servingplan.observe import prometheus
from servingplan.observe.prometheus import Source, ask
from servingplan.observe.urls import NoAnswer

EMPTY = b'{"status": "success", "data": {"resultType": "vector", "result": []}}'


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(prometheus, "DEADLINE_SECONDS", 60)


@contextmanager
def server(status=200, **headers):
    """Gives its URL, and the headers and paths of what it is asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, dict(self.headers.items())))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(EMPTY)))
            self.end_headers()
            self.wfile.write(EMPTY)

        def log_message(self, *_):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}", asked
    finally:
        made.shutdown()
        made.server_close()


def test_the_token_is_sent_as_it_stands_in_its_file_by_then(tmp_path):
    token = tmp_path / "token"
    with server() as (url, asked):
        for text in ("first\n", "second\n"):
            token.write_text(text)
            assert ask(Source(url, token_file=str(token)), Query("up"), 0.0, reach=60) == []
        ask(Source(url), Query("up"), 0.0, reach=60)
    assert [headers.get("authorization") for _, headers in asked] == ["Bearer first", "Bearer second", None]


def test_a_token_that_cannot_be_read_asks_nothing(tmp_path):
    with server() as (url, asked), pytest.raises(NoAnswer, match="token"):
        ask(Source(url, token_file=str(tmp_path / "none")), Query("up"), 0.0, reach=60)
    assert asked == []


def test_a_redirect_is_no_answer_and_takes_no_token_elsewhere(tmp_path):
    token = tmp_path / "token"
    token.write_text("secret")
    with server() as (elsewhere, stolen), server(302, location=elsewhere) as (url, asked), pytest.raises(NoAnswer):
        ask(Source(url, token_file=str(token)), Query("up"), 0.0, reach=60)
    assert (len(asked), stolen) == (1, [])


def test_headers_that_drip_end_in_time(monkeypatch):
    monkeypatch.setattr(prometheus, "DEADLINE_SECONDS", 0.5)
    over = threading.Event()

    def drip():
        with closing(listening.accept()[0]) as connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
            while not over.wait(0.05):
                connection.sendall(b"1")

    with closing(socket.create_server(("127.0.0.1", 0))) as listening, ThreadPoolExecutor() as threads:
        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        asked = threads.submit(ask, Source(url), Query("up"), 0.0, reach=60)
        try:
            with pytest.raises(NoAnswer):
                asked.result(60)
        finally:
            over.set()


def test_the_name_goes_along_where_an_address_is_asked():
    with server() as (url, asked):
        ask(Source(url, host="prometheus.llm:9090"), Query("up"), 0.0, reach=60)
    assert asked[0][1]["host"] == "prometheus.llm:9090"


def test_neither_a_proxy_nor_a_netrc_of_the_environment_has_a_part(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login operator password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with server() as (url, asked):
        ask(Source(url), Query("up"), 0.0, reach=60)
    assert "authorization" not in {name.lower() for name in asked[0][1]}
