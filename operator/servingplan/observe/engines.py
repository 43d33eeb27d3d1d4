"""Asks the engines of replicas that drain how many requests they still have.

Straight at the pod's address, as a gateway reaches it, so no right is needed for it. What cannot be reached or read is not
known, which is no error: the drain then lasts as long as it says.
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
"""How long one answer, and all answers of a turn together, may take."""
SILENT_SECONDS = 30
"""How long an engine that did not answer is not asked again."""
MOST_MISSED = 5
"""Times in a row that an engine that told of requests may not answer before it counts as one that does not: a busy one may
miss a few."""
KEPT_SECONDS = 600
"""How long what an engine told is remembered after it was asked last."""
LONGEST_ANSWER_BYTES = 2**22
MOST_ENGINES = 64
"""Asked in one turn."""
INSIDE = ("num_requests_running", "num_requests_waiting")
"""Gauges of vLLM, both of which must be there; ``vllm:`` before them, in some exporters ``vllm_``."""
_SAMPLE = re.compile(r"^vllm[:_](\w+?)(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Told:
    """What an engine told when it last answered."""

    requests: int
    at: datetime
    """When it was last asked."""
    missed: int = 0
    """Times that it has not answered since."""

    def silent(self, at: datetime) -> Told | None:
        """The same after one more time without an answer; None where it is not believed any more."""
        more = Told(self.requests, at, self.missed + 1)
        return more if self.requests and more.missed < MOST_MISSED else None


def requests_inside(addresses: Mapping[str, str], threads: Executor, *, port: int = PORT) -> dict[str, int | None]:
    """Requests that run or wait, by the keys of ``addresses`` (IP addresses of pods), asked in their order. None where the
    engine does not tell; absent where there was no time to ask it. Never raises, never waits for long."""
    asked = {key: threads.submit(_ask, address, port) for key, address in islice(addresses.items(), MOST_ENGINES)}
    wait(asked.values(), DEADLINE_SECONDS)
    found: dict[str, int | None] = {}
    for key, answer in asked.items():
        if answer.done():
            found[key] = answer.result()
        elif not answer.cancel():  # it has begun to ask
            found[key] = None
    return found


def requests_in(text: str) -> int | None:
    """Requests that run or wait by a page of metrics, all engines of the replica together; None where it does not tell."""
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
