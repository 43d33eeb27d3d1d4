"""Asks the engines of draining replicas how many requests they still have.

The engine is asked directly at the pod's address, as a gateway does, so this needs no right of the API server. A failure is not
an error: the number is then unknown, and the drain lasts its full time.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from servingplan.model.times import seconds_since
from servingplan.model.world import Pod
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


class EngineRequests:
    """The requests that the engines of draining replicas still have, and what is remembered of their answers."""

    def __init__(self, ask: Callable[[str, Mapping[str, str]], Mapping[str, int | None]]) -> None:
        """``ask`` returns what ``requests_inside`` does, for addresses by pod in a namespace."""
        self._ask = ask
        self._silent: dict[str, datetime] = {}
        """Until when the engines of pods that did not answer are not asked again, by pod."""
        self._told: dict[str, Told] = {}
        """The last answers of engines, by pod."""

    def told(self, now: str, namespace: str, pods: tuple[Pod, ...], drain_seconds: int) -> tuple[Pod, ...]:
        """The pods. Those whose drain would be over come with the number of requests that their engines still have. A turn
        waits for the answers, so an engine that is silent is not asked for a while. An engine that reported requests is
        believed until it has been silent several times in a row."""
        moment = datetime.fromisoformat(now)
        kept = moment - timedelta(seconds=KEPT_SECONDS)
        self._silent = {uid: until for uid, until in list(self._silent.items()) if until > moment}
        self._told = {uid: told for uid, told in list(self._told.items()) if told.at > kept}
        draining = {
            pod.uid: pod.address
            for pod in pods
            if pod.ready
            and pod.address is not None
            and pod.uid not in self._silent
            and seconds_since(pod.unrouted_since or pod.draining_since, now) >= drain_seconds
        }
        if not draining:
            return pods
        told = {uid: self._told[uid] for uid in draining if uid in self._told}
        longest_ago_first = sorted(draining, key=lambda uid: (told[uid].at if uid in told else kept, uid))
        found = self._ask(namespace, {uid: draining[uid] for uid in longest_ago_first})
        for uid, count in found.items():
            before = told.pop(uid, None)
            self._told.pop(uid, None)
            after = Told(count, moment) if count is not None else before and before.silent(moment)
            if after is not None:
                told[uid] = self._told[uid] = after
            else:
                self._silent[uid] = moment + timedelta(seconds=SILENT_SECONDS)
        return tuple(
            pod.model_copy(
                update={
                    "requests_inside": told[pod.uid].requests if pod.uid in told else None,
                    "unasked": pod.uid in draining and pod.uid not in found and pod.uid not in told,
                }
            )
            for pod in pods
        )


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
