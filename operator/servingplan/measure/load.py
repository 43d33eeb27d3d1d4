"""Sends Poisson arrivals at one rate: which requests wait or fail, and when to stop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from servingplan.measure.request import Endpoint, Sample, Trouble

FAILED_IN_A_ROW = 5
"""After this many failures in a row the endpoint counts as broken."""
FAILED_SHARE = 0.1
"""After this share of failures in twenty requests or more it counts as broken too."""


@dataclass
class Spent:
    """The limits of a run, and what it has used."""

    requests: int
    tokens: int
    until: float
    """The end, in the event loop's time."""
    used_requests: int = 0
    used_tokens: int = 0
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    """It is set by the user (Ctrl-C)."""

    def exhausted(self) -> str | None:
        """The text of the limit that is reached; None if none is."""
        if self.stopped.is_set():
            return "ended by the user"
        if self.used_requests >= self.requests:
            return f"ended by --max-requests {self.requests}"
        if self.used_tokens >= self.tokens:
            return f"ended by --max-tokens {self.tokens}"
        if asyncio.get_running_loop().time() >= self.until:
            return "ended by --max-seconds"
        return None


@dataclass
class Outcome:
    """The result of one load."""

    started: float
    """When the first request was due."""
    arrivals_end: float = 0.0
    """When the last request was sent."""
    samples: list[Sample] = field(default_factory=list)
    """The requests that ended, in the order of their ends."""
    sent: int = 0
    left: int = 0
    """The requests in flight when the load was ended."""
    broken: str | None = None
    """The text of why the endpoint was given up; None if it was not."""
    ended: str | None = None
    """The text of the limit that ended the load; None if none did."""

    @property
    def served(self) -> list[Sample]:
        """The requests that were answered in full."""
        return [sample for sample in self.samples if sample.served]

    @property
    def failed(self) -> int:
        """The number of requests that ended without a full answer."""
        return len(self.samples) - len(self.served)


@dataclass
class Load:
    """Open arrivals: a request is sent when it is due, independent of earlier requests.

    Args:
        prompts: the text of each request, by its number.
        answer_tokens: the length of each answer to ask for.
        most_in_flight: with this number of requests in flight, the next one waits, so that no side runs out of memory.
    """

    endpoint: Endpoint
    spent: Spent
    prompts: Callable[[], str]
    answer_tokens: int
    most_in_flight: int = 2048
    report: Callable[[int, int], None] = lambda _done, _all: None

    async def run(
        self,
        requests_per_second: float,
        random_numbers: random.Random,
        *,
        requests: int,
        enough: Callable[[Outcome], bool] = lambda _outcome: False,
        drain: bool = True,
    ) -> Outcome:
        """The outcome of ``requests`` requests, or of fewer if it is ``enough``. At the end it waits for the answers; without
        ``drain`` it cancels them."""
        loop = asyncio.get_running_loop()
        outcome = Outcome(started=loop.time())
        due = outcome.started
        running: set[asyncio.Task[None]] = set()
        row = 0

        async def one(due: float) -> None:
            nonlocal row
            sample = await self.endpoint.ask(self.prompts(), self.answer_tokens, due)
            self.spent.used_tokens += sample.prompt_tokens + sample.answer_tokens
            outcome.samples.append(sample)
            row = 0 if sample.served else row + 1
            outcome.broken = outcome.broken or _broken(outcome, sample, row)

        def silent() -> str | None:
            since = max(self.endpoint.heard, outcome.started)
            if not running or loop.time() - since <= self.endpoint.stall_seconds:
                return None
            return f"{Trouble.STALLED.value}: nothing came for {self.endpoint.stall_seconds:g} s"

        try:
            while outcome.sent < requests and outcome.broken is None and not enough(outcome):
                outcome.ended = self.spent.exhausted()
                outcome.broken = silent()
                if outcome.ended is not None or outcome.broken is not None:
                    break
                await self._sleep(due - loop.time())
                if len(running) >= self.most_in_flight:
                    await asyncio.wait(running, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                    if len(running) >= self.most_in_flight:
                        continue
                    due = max(due, loop.time())
                task = asyncio.create_task(one(due))
                running.add(task)
                task.add_done_callback(running.discard)
                outcome.sent += 1
                self.spent.used_requests += 1
                outcome.arrivals_end = loop.time()
                self.report(outcome.sent, requests)
                due += random_numbers.expovariate(requests_per_second)
            while drain and running and outcome.broken is None and outcome.ended is None:
                outcome.ended, outcome.broken = self.spent.exhausted(), outcome.broken or silent()
                await asyncio.wait(running, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
        finally:
            outcome.left = len(running)
            for task in tuple(running):
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return outcome

    async def _sleep(self, seconds: float) -> None:
        """Sleep until the next request is due, or the user stops the run."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiting = asyncio.ensure_future(self.spent.stopped.wait())
        try:
            await asyncio.wait((waiting,), timeout=seconds)
        finally:
            waiting.cancel()


def _broken(outcome: Outcome, sample: Sample, row: int) -> str | None:
    """The reason to give the endpoint up after this answer; None if there is none."""
    if sample.trouble is None:
        return None
    told = f"{sample.trouble.value}: {sample.message}" if sample.message else sample.trouble.value
    if sample.trouble in (Trouble.LIMITED, Trouble.OTHER_MODEL, Trouble.STALLED):
        return told  # another request does not help against these
    many = len(outcome.samples) >= 20 and outcome.failed > FAILED_SHARE * len(outcome.samples)
    return told if row >= FAILED_IN_A_ROW or many else None
