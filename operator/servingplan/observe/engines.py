"""Asks the engines of replicas that drain how many requests they still have.

Straight at the pod's address, as a gateway reaches it, so no right is needed for it. What cannot be reached or read is not
known, which is no error: the drain then lasts as long as it says.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from concurrent.futures import Executor, wait

from servingplan.observe.asking import get
from servingplan.render.deployment import PORT

DEADLINE_SECONDS = 0.5
"""For all answers together, and for each."""
SILENT_SECONDS = 30
"""How long an engine that did not answer is not asked again."""
LONGEST_ANSWER_BYTES = 2**22
MOST_ENGINES = 64
"""Asked in one turn."""
INSIDE = ("num_requests_running", "num_requests_waiting")
"""Gauges of vLLM, both of which must be there; ``vllm:`` before them, in some exporters ``vllm_``."""
_SAMPLE = re.compile(r"^vllm[:_](\w+?)(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)


def requests_inside(addresses: Mapping[str, str], threads: Executor, *, port: int = PORT) -> dict[str, int]:
    """Requests that run or wait, by the keys of ``addresses`` (IP addresses of pods); those that are not known are absent.
    Never raises, never waits for long."""
    asked = {key: threads.submit(_ask, address, port) for key, address in sorted(addresses.items())[:MOST_ENGINES]}
    wait(asked.values(), DEADLINE_SECONDS)
    found = {}
    for key, answer in asked.items():
        if not answer.done():
            answer.cancel()
        elif (count := answer.result()) is not None:
            found[key] = count
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
