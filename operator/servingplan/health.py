"""EFFECT. Serves over HTTP whether the process is alive and ready: ``/healthz`` and ``/readyz``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import override

Check = Callable[[], str | None]
"""Returns None if all is well, else the problem as text for people."""


@contextmanager
def serving(address: str, *, alive: Check, ready: Check) -> Iterator[None]:
    """Serve on ``HOST:PORT`` while the context is open; if the address is empty, do not serve."""
    if not address:
        yield
        return
    host, _, port = address.rpartition(":")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            checks = {"/healthz": alive, "/readyz": ready}
            check = checks.get(self.path.partition("?")[0])
            if check is None:
                self._answer(404, "the paths are /healthz and /readyz")
                return
            problem = check()
            self._answer(200 if problem is None else 503, problem or "ok")

        def _answer(self, status: int, text: str) -> None:
            body = f"{text}\n".encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Do not log probes."""

    server = ThreadingHTTPServer((host, int(port)), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
