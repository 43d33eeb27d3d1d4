"""A gateway's counters of requests by class, at rates that a test sets."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, override

from servingplan.model.names import arrivals_prefix

COUNTER, LABEL = "envoy_http_local_rate_limit_enabled", "envoy_local_http_ratelimit_prefix"
LOST_SECONDS = 0.5
"""The time by which a restart falls after a scrape: what came in between is counted nowhere."""


class Exporter(ThreadingHTTPServer):
    """Counters that grow with the clock; or whatever text the test wants in place of their values.

    Every sample names the moment of its count: how long the scrape takes does not change what was counted by then.
    """

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

            @override
            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.lie: str | None = None
        self.other_lines: list[str] = []
        """Samples of other metrics."""
        self._plan, self._model = plan, model
        self._rates = dict.fromkeys(classes, 0.0)
        self._counts = dict.fromkeys(classes, 0.0)
        self._moment = time.time()
        self._begins_anew = False
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def target(self) -> str:
        """Where to scrape it."""
        return f"127.0.0.1:{self.server_port}"

    def set(self, rates: Mapping[str, float]) -> None:
        """Requests/s by class, from now on."""
        with self._lock:
            self._count(time.time())
            self._rates.update(rates)

    def restart(self) -> None:
        """Count anew like a gateway that restarts, ``LOST_SECONDS`` after the present count, which nobody hears of."""
        self._begins_anew = True

    def page(self) -> str:
        """What a scrape gets."""
        with self._lock:
            now = round(time.time(), 3)  # as the format has it
            if self._begins_anew:
                self._begins_anew = False
                self._counts = dict.fromkeys(self._counts, 0.0)
                self._moment = min(now, self._moment + LOST_SECONDS)
            self._count(now)
            lines = [f"# TYPE {COUNTER} counter", f'{COUNTER}{{{LABEL}="another/plan/{self._model}/chat"}} 5']
            for name, count in self._counts.items():
                value = self.lie or f"{count:.3f}"
                lines.append(
                    f'{COUNTER}{{{LABEL}="{arrivals_prefix(self._plan, self._model, name)}"}} {value} {now * 1000:.0f}'
                )
            return "\n".join([*lines, *self.other_lines]) + "\n"

    def _count(self, now: float) -> None:
        for name, rate in self._rates.items():
            self._counts[name] += rate * max(0.0, now - self._moment)
        self._moment = max(self._moment, now)

    def close(self) -> None:
        """End it."""
        self.shutdown()
        self.server_close()
