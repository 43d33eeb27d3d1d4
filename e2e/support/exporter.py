"""A gateway's counters of requests by class, at rates that a test sets."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from servingplan.render.names import arrivals_prefix

COUNTER, LABEL = "envoy_http_local_rate_limit_enabled", "envoy_local_http_ratelimit_prefix"


class Exporter(ThreadingHTTPServer):
    """Counters that grow with the clock; or whatever text the test wants in place of their values."""

    daemon_threads = True

    def __init__(self, plan: str, model: str, classes: Sequence[str]) -> None:
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exporter.page().encode()
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.lie: str | None = None
        self._plan, self._model = plan, model
        self._rates = dict.fromkeys(classes, 0.0)
        self._counts = dict.fromkeys(classes, 0.0)
        self._moment = time.monotonic()
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def target(self) -> str:
        """Where to scrape it."""
        return f"127.0.0.1:{self.server_port}"

    def set(self, rates: Mapping[str, float]) -> None:
        """Requests/s by class, from now on."""
        self.page()
        self._rates.update(rates)

    def restart(self) -> None:
        """As a gateway that begins anew."""
        self._counts = dict.fromkeys(self._counts, 0.0)

    def page(self) -> str:
        """What a scrape gets."""
        with self._lock:
            now = time.monotonic()
            for name, rate in self._rates.items():
                self._counts[name] += rate * (now - self._moment)
            self._moment = now
            lines = [f"# TYPE {COUNTER} counter", f'{COUNTER}{{{LABEL}="another/plan/{self._model}/chat"}} 5']
            for name, count in self._counts.items():
                value = self.lie or f"{count:.3f}"
                lines.append(f'{COUNTER}{{{LABEL}="{arrivals_prefix(self._plan, self._model, name)}"}} {value}')
            return "\n".join(lines) + "\n"

    def close(self) -> None:
        """End it."""
        self.shutdown()
        self.server_close()
