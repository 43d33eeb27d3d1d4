"""One engine on the wall clock: its states, its failures, and the requests that wait for it."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass

from servingplan.emulate.pacer import Pacer
from servingplan.emulate.wire import Problem
from servingplan.simulate.engine import Engine
from servingplan.simulate.sequence import FinishReason, Sequence


class State(enum.Enum):
    """Where an engine is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    CRASHED = "crashed"


class Mode(enum.StrEnum):
    """Ways to fail. Everything but ``NONE`` is asked for, by option or ``POST /emulator/fail``."""

    NONE = "none"
    HANG = "hang"
    """Connections are taken and nothing is answered, /health too; running streams stand still."""
    CRASH = "crash"
    """All connections are cut and the port is closed."""
    ERROR = "error"
    """New requests get status 500; /health stays good."""
    SLOW = "slow"
    """Iterations take ``factor`` times as long."""
    UNREADY = "unready"
    """/health says 503; requests are served."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What fails and how much. ``factor`` is for SLOW."""

    mode: Mode = Mode.NONE
    factor: float = 4.0


class Ticket:
    """A request in the engine, as its handler sees it."""

    __slots__ = ("_live", "_waiter", "crashed", "seen", "sequence", "stream")

    def __init__(self, live: LiveEngine, sequence: Sequence, *, stream: bool) -> None:
        self.sequence = sequence
        self.stream = stream
        self.seen = 0
        """Tokens that the handler has been told of."""
        self.crashed = False
        self._live = live
        self._waiter: asyncio.Future[None] | None = None

    async def progress(self) -> int:
        """Wait for more tokens (of a stream) or for the end, and return how many there are.

        Raises:
            ConnectionResetError: the engine crashed.
        """
        while not self._news():
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.crashed:
            raise ConnectionResetError
        self.seen = self._live.engine.generated(self.sequence)
        return self.seen

    @property
    def done(self) -> bool:
        """Whether all tokens are there."""
        return self.sequence.finished is not None

    def wake(self) -> None:
        """Let the handler look, if there is something to see."""
        if self._waiter is not None and not self._waiter.done() and self._news():
            self._waiter.set_result(None)

    def _news(self) -> bool:
        return self.crashed or self.done or (self.stream and self._live.engine.generated(self.sequence) > self.seen)


class LiveEngine:
    """An engine that a server stands in front of.

    Args:
        name: told in headers and metrics of the emulator, to tell copies apart.
        on_crash: called when the engine crashes, and ``on_restart`` when it comes back.
        startup_seconds: engine seconds until it is ready.
    """

    def __init__(
        self,
        engine: Engine,
        pacer: Pacer,
        *,
        name: str,
        startup_seconds: float = 0.0,
        on_crash: Callable[[], None] = lambda: None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine = engine
        self.name = name
        self.failure = Failure()
        self.state = State.STARTING
        self.startup_seconds = startup_seconds
        self.on_crash = on_crash
        self.on_restart = on_restart
        self._pacer = pacer
        self._tickets: dict[Sequence, Ticket] = {}
        self._lost_seconds = 0.0
        self._hung_at: float | None = None
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._empty = asyncio.Event()
        self._startup: asyncio.TimerHandle | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._start()

    @property
    def now(self) -> float:
        """The engine's time in seconds; it stands still while the engine hangs."""
        return (self._pacer.clock.now() if self._hung_at is None else self._hung_at) - self._lost_seconds

    @property
    def healthy(self) -> bool:
        """What /health says."""
        return self.state is State.READY and self.failure.mode is not Mode.UNREADY

    def admit(self, prompt_tokens: int, output_tokens: int, *, stream: bool, reason: FinishReason) -> Ticket:
        """Take a request.

        Raises:
            Problem: 503 while it starts or drains, 500 in the mode ``error``.
        """
        if self.state is not State.READY:
            raise Problem(503, f"The engine is {self.state.value}; try another or later.")
        if self.failure.mode is Mode.ERROR:
            raise Problem(500, "The engine fails as it was asked to.")
        self.catch_up()
        sequence = self.engine.admit(prompt_tokens, output_tokens, self.now, reason)
        ticket = self._tickets[sequence] = Ticket(self, sequence, stream=stream)
        self._pacer.wake(self)
        return ticket

    def release(self, ticket: Ticket) -> None:
        """The handler is through with a request; if its tokens are not, the client went away."""
        if self._tickets.pop(ticket.sequence, None) is not None and not ticket.crashed:
            self.catch_up()
            self.engine.abort(ticket.sequence, self.now)
        self._note_empty()

    async def answerable(self) -> None:
        """Wait while the engine hangs."""
        await self._resumed.wait()

    def due(self) -> float | None:
        """When its iteration ends, by the pacer's clock."""
        if self._hung_at is not None or self.engine.next_time is None:
            return None
        return self.engine.next_time + self._lost_seconds

    def catch_up(self) -> None:
        """Let the engine do what is due by now, and wake the requests that got something."""
        for sequence in self.engine.advance(self.now):
            ticket = self._tickets.pop(sequence, None)
            if ticket is not None:
                ticket.wake()
        for ticket in self._tickets.values():
            if ticket.stream:
                ticket.wake()
        self._note_empty()

    def fail(self, failure: Failure, *, after_seconds: float = 0.0, for_seconds: float | None = None) -> None:
        """Begin to fail after a time, and get well again after another. What was asked before is forgotten."""
        self._forget_timers()
        if after_seconds > 0:
            self._later(after_seconds, lambda: self._set_failure(failure))
        else:
            self._set_failure(failure)
        if for_seconds is not None:
            self._later(after_seconds + for_seconds, lambda: self._set_failure(Failure()))

    def loop_state(self) -> dict[str, float]:
        """How the process keeps up: mean lateness of its timer and the present interval, in seconds of the wall clock."""
        lag = self._pacer.lag
        return {"passes": lag.count, "meanLagSeconds": lag.mean, "intervalSeconds": self._pacer.interval_seconds}

    async def drain(self, limit_seconds: float) -> bool:
        """Take no more requests and wait for those that run, ``limit_seconds`` engine seconds at most; cut the others.

        Returns whether all of them came to their end.
        """
        if self.state is State.CRASHED:
            return True
        self.state = State.DRAINING
        self._forget_timers()
        self._note_empty()
        if self._empty.is_set():
            return True
        try:
            await asyncio.wait_for(self._empty.wait(), limit_seconds / self._pacer.clock.speed)
        except TimeoutError:
            self._cut()
            return False
        return True

    def close(self) -> None:
        """Cut what still runs and stop all timers."""
        self._forget_timers()
        if self._startup is not None:
            self._startup.cancel()
        self._cut()

    def _start(self) -> None:
        self.state = State.STARTING
        if self.startup_seconds > 0:
            self._startup = self._pacer.clock.call_after(self.startup_seconds, self._ready)
        else:
            self._ready()

    def _ready(self) -> None:
        if self.state is State.STARTING:
            self.state = State.READY

    def _set_failure(self, failure: Failure) -> None:
        before, self.failure = self.failure, failure
        self.engine.slowdown = failure.factor if failure.mode is Mode.SLOW else 1.0
        if failure.mode is Mode.HANG and self._hung_at is None:
            self.catch_up()
            self._hung_at = self._pacer.clock.now()
            self._resumed.clear()
        elif failure.mode is not Mode.HANG and self._hung_at is not None:
            self._lost_seconds += self._pacer.clock.now() - self._hung_at
            self._hung_at = None
            self._resumed.set()
            self._pacer.wake(self)
        if failure.mode is Mode.CRASH and before.mode is not Mode.CRASH:
            self.state = State.CRASHED
            self._cut()
            self.on_crash()
        elif before.mode is Mode.CRASH and failure.mode is not Mode.CRASH:
            self.on_restart()
            self._start()

    def _cut(self) -> None:
        for ticket in list(self._tickets.values()):
            ticket.crashed = True
            ticket.wake()
            self.engine.abort(ticket.sequence, self.now)
        self._tickets.clear()
        self._note_empty()

    def _note_empty(self) -> None:
        if self.state is State.DRAINING and not self._tickets:
            self._empty.set()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._timers.append(self._pacer.clock.call_after(seconds, action))

    def _forget_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
