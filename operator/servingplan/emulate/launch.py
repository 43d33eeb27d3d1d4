"""A process with emulated engines: one port each, slow start, drain on SIGTERM."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from servingplan.emulate.arguments import Shape
from servingplan.emulate.live import Failure, LiveEngine
from servingplan.emulate.pacer import Clock, Pacer
from servingplan.emulate.server import Service
from servingplan.errors import InputError
from servingplan.simulate.engine import Engine

CRASHED = 1
"""Exit status of a process whose only engine crashed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How engines run. Seconds are engine seconds: ``speed`` of them pass in one second."""

    host: str = "127.0.0.1"
    speed: float = 1.0
    startup_seconds: float = 0.0
    shutdown_seconds: float = 0.0
    """Time that running requests get when the process is told to end, as vLLM's ``--shutdown-timeout``; 0: none."""
    default_output_tokens: int = 128


class Copy:
    """One engine behind one port."""

    def __init__(self, shape: Shape, pacer: Pacer, options: Options, *, name: str, port: int) -> None:
        engine = Engine(
            shape.pace,
            max_num_seqs=shape.max_num_seqs,
            max_num_batched_tokens=shape.max_num_batched_tokens,
            prefix_cache_hit_share=shape.prefix_cache_hit_share,
        )
        self.live = LiveEngine(
            engine,
            pacer,
            name=name,
            startup_seconds=options.startup_seconds,
            on_crash=self._crashed,
            on_restart=self._restarted,
        )
        self.port = port
        self.crashed = asyncio.Event()
        self._host = options.host
        service = Service(self.live, shape.model_names, options.default_output_tokens)
        self._runner = web.AppRunner(
            service.application(), access_log=None, handler_cancellation=True, shutdown_timeout=5.0
        )
        self._site: web.TCPSite | None = None
        self._change: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Listen.

        Raises:
            InputError: the port cannot be had.
        """
        await self._runner.setup()
        await self._listen()

    async def close(self) -> None:
        """Stop listening; what still runs is cut."""
        self.live.close()
        await self.settled()
        await self._runner.cleanup()

    async def settled(self) -> None:
        """Wait until the port is closed, or open again, after a crash or its end."""
        if self._change is not None:
            await asyncio.gather(self._change, return_exceptions=True)

    async def _listen(self) -> None:
        site = web.TCPSite(self._runner, self._host, self.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise InputError("port", self.port, f"cannot be listened on: {error.strerror or error}") from error
        self._site = site
        self.port = site.port

    def _crashed(self) -> None:
        self.crashed.set()
        self._change = asyncio.create_task(self._stop_listening())

    def _restarted(self) -> None:
        self.crashed.clear()
        self._change = asyncio.create_task(self._listen())

    async def _stop_listening(self) -> None:
        if self._site is not None:
            site, self._site = self._site, None
            await site.stop()
        server = self._runner.server
        for connection in server.connections if server is not None else ():
            connection.force_close()


class Emulation:
    """Engines in this process. Use it as an asynchronous context.

    Args:
        shapes: one a copy.
        first_port: of consecutive ports; 0 takes any that are free.
    """

    def __init__(
        self, shapes: list[Shape], options: Options, *, first_port: int = 0, names: list[str] | None = None
    ) -> None:
        self._shapes = shapes
        self._options = options
        self._first_port = first_port
        self._names = names
        self._stack = AsyncExitStack()
        self.copies: list[Copy] = []

    async def __aenter__(self) -> Self:
        self.pacer = Pacer(Clock(self._options.speed))
        self._stack.callback(self.pacer.close)
        host = socket.gethostname()
        try:
            for index, shape in enumerate(self._shapes):
                name = self._names[index] if self._names else host if len(self._shapes) == 1 else f"{host}-{index}"
                port = self._first_port + index if self._first_port else 0
                copy = Copy(shape, self.pacer, self._options, name=name, port=port)
                self._stack.push_async_callback(copy.close)
                await copy.open()
                self.copies.append(copy)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def drain(self) -> bool:
        """Take no more requests and give those that run their time; whether all came to their end."""
        done = await asyncio.gather(*(copy.live.drain(self._options.shutdown_seconds) for copy in self.copies))
        return all(done)


async def serve(
    shapes: list[Shape],
    options: Options,
    *,
    first_port: int,
    ports_file: str | None = None,
    failure: Failure | None = None,
    fail_after_seconds: float = 0.0,
) -> int:
    """Run until SIGTERM or SIGINT, then drain; a second signal cuts the drain short. Returns the exit status."""
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def signalled() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    async with Emulation(shapes, options, first_port=first_port) as emulation:
        copies = emulation.copies
        if ports_file:
            lines = [{"name": copy.live.name, "port": copy.port} for copy in copies]
            await asyncio.to_thread(Path(ports_file).write_text, json.dumps(lines) + "\n")
        last = f" to {copies[-1].port}" if len(copies) > 1 else ""
        _log.info("%s; listening on %s:%d%s", shapes[0].told, options.host, copies[0].port, last)
        if failure is not None:
            for copy in copies:
                copy.live.fail(failure, after_seconds=fail_after_seconds)
        events: list[Coroutine[Any, Any, object]] = [stop.wait()]
        if len(copies) == 1:
            events.append(copies[0].crashed.wait())
        await _first(events)
        if not stop.is_set():
            _log.error("crashed, as it was asked to")
            logging.shutdown()
            os._exit(CRASHED)  # abruptly: that is what a crash is
        _log.info("draining, %g s at most", options.shutdown_seconds)
        await _first([emulation.drain(), hurry.wait()])
    return 0


async def _first(waits: list[Coroutine[Any, Any, object]]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
