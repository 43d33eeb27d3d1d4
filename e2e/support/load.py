"""A steady load on a gateway: so many requests a second, whole answers and streams, each looked at to its last token."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from e2e.support.gateway import read_answer, request

MOST_IN_FLIGHT = 200
"""A machine that is too slow for the load gets less of it."""
ANSWER_SECONDS = 600
"""An answer that takes longer does not come."""


@dataclass(frozen=True)
class Kind:
    """Requests of one sort."""

    model: str
    output_tokens: int
    stream: bool
    requests_per_second: float
    prompt_tokens: int = 50
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Lost:
    """A request without its whole answer."""

    kind: Kind
    sent: float
    """Seconds since the load began."""
    seconds: float
    why: str


class Load:
    """Sends from entering to leaving the context; leaving waits for what is under way. Arrivals are Poisson; those that a
    machine that stood still has missed are not made up for."""

    def __init__(self, port: int, kinds: Sequence[Kind], *, seed: int = 1) -> None:
        self._port, self._kinds, self._chance = port, kinds, random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)
        self.sent: Counter[Kind] = Counter(dict.fromkeys(kinds, 0))
        self.complete: Counter[Kind] = Counter()
        self.lost: list[Lost] = []
        self.most_in_flight = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(ANSWER_SECONDS + 60)
        assert not self._thread.is_alive(), "requests are under way that have no end"

    def until_sent(self, number: int) -> Callable[[], bool]:
        """Condition: so many more requests have been sent."""
        wanted = self.sent.total() + number
        return lambda: self.sent.total() >= wanted

    async def _run(self) -> None:
        began = time.monotonic()
        rates = [kind.requests_per_second for kind in self._kinds]
        tasks: set[asyncio.Task[None]] = set()
        due = began
        while not self._stop.is_set():
            due = max(due, time.monotonic() - 0.1) + self._chance.expovariate(sum(rates))
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if len(tasks) >= MOST_IN_FLIGHT:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            kind = self._chance.choices(self._kinds, rates)[0]
            self.sent[kind] += 1
            task = asyncio.create_task(self._one(kind, began))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            self.most_in_flight = max(self.most_in_flight, len(tasks))
        await asyncio.gather(*tasks)

    async def _one(self, kind: Kind, began: float) -> None:
        sent = time.monotonic()
        why = await self._why_lost(kind)
        if why is None:
            self.complete[kind] += 1
        else:
            self.lost.append(Lost(kind, sent - began, time.monotonic() - sent, why))

    async def _why_lost(self, kind: Kind) -> str | None:
        """None for an answer with status 200 and all of its tokens."""
        asked = {
            "model": kind.model,
            "messages": [{"role": "user", "content": "word" * kind.prompt_tokens}],
            "max_tokens": kind.output_tokens,
            **({"stream": True, "stream_options": {"include_usage": True}} if kind.stream else {}),
        }
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                writer.write(request(json.dumps(asked).encode(), kind.headers))
                answer, _ = await asyncio.wait_for(read_answer(reader), ANSWER_SECONDS)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()  # or the loop may end before the connection does
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            return repr(error)
        if answer.status != 200:
            return f"{answer.status} {answer.text[:300]}"
        if not kind.stream:
            tokens = json.loads(answer.body)["usage"]["completion_tokens"]
        else:
            *events, last = answer.text.removesuffix("\n\n").split("\n\n")
            if last != "data: [DONE]":
                return f"the stream ends with {last[-200:]!r}"
            tokens = json.loads(events[-1].removeprefix("data: "))["usage"]["completion_tokens"]
        return None if tokens == kind.output_tokens else f"{tokens} of {kind.output_tokens} tokens"
