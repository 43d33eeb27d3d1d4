"""Users of a gateway: requests in a Poisson stream, some whole and some streamed, each followed to its last token."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from e2e.real.ground import chat
from e2e.support.gateway import read_answer, request

_DEADLINE_SECONDS = 600
"""An answer that takes longer does not come."""
_MADE_UP_FOR_SECONDS = 1.0
"""Of what a machine that stood still has missed; more of it at once, gateways may turn away."""


@dataclass(frozen=True)
class Outcome:
    """Of one request; times are monotonic."""

    sent: float
    ended: float
    engine: str
    lost: str
    """Why there is no whole answer; empty where there is one."""


class Traffic:
    """From entering to leaving the block; leaving waits for what is in flight."""

    def __init__(self, address: str, *, requests_per_second: float, tokens: tuple[int, ...], port: int = 8080) -> None:
        """``tokens``: lengths of answers, in turn; half of them are streamed."""
        self.requests_per_second = requests_per_second
        self._address, self._port, self._tokens = address, port, tokens
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="traffic", daemon=True)
        self.outcomes: list[Outcome] = []
        self.in_flight = 0
        self._sent: list[float] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(_DEADLINE_SECONDS + 60)
        assert not self._thread.is_alive(), "requests are under way that have no end"
        if self._failure is not None:
            raise self._failure

    @property
    def lost(self) -> list[Outcome]:
        """Requests without a whole answer."""
        return [outcome for outcome in self.outcomes if outcome.lost]

    def offered(self, *, since: float) -> float:
        """Requests/s that were sent since then."""
        return sum(sent >= since for sent in self._sent) / (time.monotonic() - since)

    def engines(self, *, since: float) -> set[str]:
        """Who answered requests that were sent since then."""
        return {outcome.engine for outcome in self.outcomes if outcome.sent >= since and not outcome.lost}

    def _work(self) -> None:
        try:
            asyncio.run(self._send())
        except BaseException as error:
            self._failure = error

    async def _send(self) -> None:
        chance = random.Random(1)
        due, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not self._stopped.is_set():
                due = max(due, time.monotonic() - _MADE_UP_FOR_SECONDS)
                due += chance.expovariate(self.requests_per_second)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(self._ask(self._tokens[number % len(self._tokens)], stream=number % 2 == 0))
                number += 1

    async def _ask(self, tokens: int, *, stream: bool) -> None:
        sent = time.monotonic()
        self._sent.append(sent)
        self.in_flight += 1
        try:
            engine, lost = await asyncio.wait_for(self._exchange(tokens, stream=stream), _DEADLINE_SECONDS)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            engine, lost = "", repr(error)
        self.in_flight -= 1
        self.outcomes.append(Outcome(sent, time.monotonic(), engine, lost))

    async def _exchange(self, tokens: int, *, stream: bool) -> tuple[str, str]:
        reader, writer = await asyncio.open_connection(self._address, self._port)
        try:
            writer.write(request(json.dumps(chat(tokens=tokens, stream=stream)).encode()))
            answer, _ = await read_answer(reader)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        engine = answer.headers.get("x-emulator-engine", "")
        if answer.status != 200:
            return engine, f"status {answer.status}: {answer.text[:200]}"
        if stream:
            whole = answer.text.rstrip().endswith("data: [DONE]") and _words(answer.text) == tokens
        else:
            whole = json.loads(answer.body)["usage"]["completion_tokens"] == tokens
        return engine, "" if whole else f"cut short: {answer.text[-200:]}"


def _words(events: str) -> int:
    """Of a streamed answer; the emulator's tokens are words."""
    pieces = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    text = "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces if piece["choices"])
    return len(text.split())


def until_sent(traffic: Traffic, number: int) -> Callable[[], bool]:
    """Condition: so many more requests have ended."""
    wanted = len(traffic.outcomes) + number
    return lambda: len(traffic.outcomes) >= wanted
