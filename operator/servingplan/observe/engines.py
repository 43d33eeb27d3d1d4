"""Asks the engines of draining replicas how many requests they still have.

The engine is asked directly at the pod's address, as a gateway does, so this needs no right of the API server. A failure is not
an error: the number is then unknown, and the drain lasts its full time.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from concurrent.futures import Executor, wait
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from servingplan.observe.asking import get
from servingplan.render.deployment import PORT

DEADLINE_SECONDS = 0.5
"""The longest time for one answer, and for all answers of a turn together."""
SILENT_SECONDS = 30
"""The time for which an engine that did not answer is not asked again."""
MOST_MISSED = 5
"""How often in a row an engine that reported requests may miss a poll before it counts as silent. A busy engine may miss a
few."""
KEPT_SECONDS = 600
"""How long an engine's answer is kept after it was last asked."""
LONGEST_ANSWER_BYTES = 2**22
MOST_ENGINES = 64
"""The most engines that one turn asks."""
INSIDE = ("num_requests_running", "num_requests_waiting")
"""Gauges of vLLM, which must both be present, with the prefix ``vllm:`` or, in some exporters, ``vllm_``."""
_SAMPLE = re.compile(r"^vllm[:_](\w+?)(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Told:
    """The last answer of an engine."""

    requests: int
    at: datetime
    """When the engine was last asked."""
    missed: int = 0
    """How often it has not answered since."""

    def silent(self, at: datetime) -> Told | None:
        """The same after one more missed poll; None if the answer is no longer believed."""
        more = Told(self.requests, at, self.missed + 1)
        return more if self.requests and more.missed < MOST_MISSED else None


def requests_inside(addresses: Mapping[str, str], threads: Executor, *, port: int = PORT) -> dict[str, int | None]:
    """The running and waiting requests by the keys of ``addresses`` (IP addresses of pods), asked in their order. None if the
    engine does not answer; absent if there was no time to ask it. Never raises, and waits at most ``DEADLINE_SECONDS``."""
    asked = {key: threads.submit(_ask, address, port) for key, address in islice(addresses.items(), MOST_ENGINES)}
    wait(asked.values(), DEADLINE_SECONDS)
    found: dict[str, int | None] = {}
    for key, answer in asked.items():
        if answer.done():
            found[key] = answer.result()
        elif not answer.cancel():  # it was being asked
            found[key] = None
    return found


def requests_in(text: str) -> int | None:
    """The running and waiting requests in a page of metrics, over all engines of the replica; None if it has none."""
    found: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        if name in INSIDE:
            try:
                found[name] = found.get(name, 0.0) + float(value)
            except ValueError:
                return None
    total = sum(found.values())
    return int(total) if found.keys() == set(INSIDE) and 0 <= total < float("inf") else None


def _ask(address: str, port: int) -> int | None:
    try:
        status, body = get(address, port, "/metrics", seconds=DEADLINE_SECONDS, most_bytes=LONGEST_ANSWER_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    if status != 200 or len(body) > LONGEST_ANSWER_BYTES:
        return None
    return requests_in(body.decode(errors="replace"))
