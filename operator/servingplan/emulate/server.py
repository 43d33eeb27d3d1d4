"""The HTTP side of one emulated engine."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from servingplan.emulate import wire
from servingplan.emulate.exposition import registry
from servingplan.emulate.live import Failure, LiveEngine, Mode
from servingplan.emulate.wire import Problem, Reply
from servingplan.simulate.sequence import FinishReason

LARGEST_BODY_BYTES = 64 * 2**20
"""Room for a prompt of some millions of tokens."""

ENGINE_HEADER = "x-emulator-engine"
"""A header of every answer: the name of the engine that gave it."""
OUTPUT_HEADER = "x-emulator-output-tokens"
"""A header of a request: after how many tokens the model would stop by itself."""

_log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Service:
    """What the handlers need: the engine and how it presents itself."""

    live: LiveEngine
    model_names: tuple[str, ...]
    """Names that clients may ask for; the first is told."""
    default_output_tokens: int = 128
    """Length of an answer whose request says nothing about it."""
    created: int = field(default_factory=lambda: int(time.time()))
    numbers: count[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.registry = registry(self.live.engine, self.model_names[0])

    def application(self) -> web.Application:
        """Run it with ``handler_cancellation``, so that a client that goes away frees its slot."""
        application = web.Application(client_max_size=LARGEST_BODY_BYTES, middlewares=[self._guard])
        application.router.add_post("/v1/chat/completions", self._chat)
        application.router.add_post("/v1/completions", self._text)
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/health", self._health)
        application.router.add_get("/ping", self._health)
        application.router.add_get("/version", self._version)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/emulator/state", self._state)
        application.router.add_post("/emulator/fail", self._fail)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every refusal in OpenAI's form; nothing that a client sends ends in a traceback."""
        if not request.path.startswith("/emulator/"):
            await self.live.answerable()
        try:
            response = await handler(request)
        except Problem as problem:
            response = self._refusal(problem)
        except web.HTTPException as error:
            response = self._refusal(Problem(error.status, f"{request.method} {request.path}: {error.reason}."))
        except ConnectionResetError:  # the client went away, or the engine crashed: nothing more is said
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        except Exception:
            _log.exception("%s %s", request.method, request.path)
            response = self._refusal(Problem(500, "The emulator failed; its log says how."))
        if not response.prepared:
            response.headers[ENGINE_HEADER] = self.live.name
        return response

    def _refusal(self, problem: Problem) -> web.Response:
        response = web.json_response(problem.body(), status=problem.status)
        if problem.status == 503:
            response.headers["Retry-After"] = "1"
            response.force_close()  # so that clients and gateways look for another engine
        return response

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, chat=True)

    async def _text(self, request: web.Request) -> web.StreamResponse:
        return await self._complete(request, chat=False)

    async def _complete(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        ask = wire.parse(await request.read(), chat=chat)
        if ask.model is not None and ask.model not in self.model_names:
            raise Problem(404, f"The model {ask.model!r} is not served here; see /v1/models.", "model")
        limit = self.live.engine.pace.max_model_len
        natural = _natural(request, self.default_output_tokens if ask.max_tokens is None else limit)
        tokens, cut = wire.output_tokens(ask, max_model_len=limit, natural=natural)
        reason: FinishReason = "length" if cut else "stop"
        ticket = self.live.admit(ask.prompt_tokens, tokens, stream=ask.stream, reason=reason)
        try:
            identifier = f"{'chatcmpl' if chat else 'cmpl'}-{self.live.name}-{next(self.numbers)}"
            reply = Reply(ask, identifier, int(time.time()), self.model_names[0])
            if not ask.stream:
                return web.json_response(reply.whole(await ticket.progress(), reason))
            response = web.StreamResponse(
                headers={
                    "Content-Type": "text/event-stream; charset=utf-8",
                    "Cache-Control": "no-cache",
                    ENGINE_HEADER: self.live.name,
                }
            )
            await response.prepare(request)
            sent = 0
            while not ticket.done:
                now = await ticket.progress()
                await response.write(reply.part(sent, now, reason if ticket.done else None))
                sent = now
            if sent < tokens:  # the last ones came while the client was slow to read
                await response.write(reply.part(sent, tokens, reason))
            await response.write(reply.end(tokens))
            await response.write_eof()
            return response
        finally:
            self.live.release(ticket)

    async def _models(self, _: web.Request) -> web.Response:
        length = self.live.engine.pace.max_model_len
        models: list[wire.Json] = [
            {
                "id": name,
                "object": "model",
                "created": self.created,
                "owned_by": "servingplan",
                "root": self.model_names[0],
                "parent": None,
                "max_model_len": length,
                "permission": [],
            }
            for name in self.model_names
        ]
        return web.json_response({"object": "list", "data": models})

    async def _health(self, _: web.Request) -> web.Response:
        if not self.live.healthy:
            raise Problem(503, f"The engine is {self.live.state.value}; failure mode {self.live.failure.mode}.")
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "servingplan emulator"})

    async def _metrics(self, _: web.Request) -> web.Response:
        self.live.catch_up()
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _state(self, _: web.Request) -> web.Response:
        self.live.catch_up()
        engine = self.live.engine
        return web.json_response(
            {
                "name": self.live.name,
                "state": self.live.state.value,
                "failure": self.live.failure.mode.value,
                "engineSeconds": self.live.now,
                "running": engine.running,
                "waiting": engine.waiting,
                "kvBlocks": engine.pace.kv_blocks,
                "kvBlocksFree": engine.free_blocks,
                "maxModelLen": engine.pace.max_model_len,
                "maxNumSeqs": engine.max_num_seqs,
                "iterations": engine.tally.iterations,
                "busySeconds": engine.tally.busy_seconds,
                "loop": self.live.loop_state(),
            }
        )

    async def _fail(self, request: web.Request) -> web.Response:
        try:
            document: Any = json.loads(await request.read() or b"{}")
        except (ValueError, RecursionError) as error:
            raise Problem(400, "The body is not JSON.") from error
        if not isinstance(document, dict):
            raise Problem(400, "The body must be a JSON object.")
        try:
            mode = Mode(document.get("mode", "none"))
        except ValueError as error:
            raise Problem(400, f"mode must be one of {', '.join(Mode)}.", "mode") from error
        factor = _number(document, "factor", 4.0)
        after = _number(document, "after_seconds", 0.0)
        lasting = None if document.get("for_seconds") is None else _number(document, "for_seconds", 0.0)
        if factor <= 0:
            raise Problem(400, "factor must be above 0.", "factor")
        self.live.fail(Failure(mode, factor), after_seconds=after, for_seconds=lasting)
        return web.json_response({"mode": mode.value})


def _natural(request: web.Request, default: int) -> int:
    given = request.headers.get(OUTPUT_HEADER)
    if given is None:
        return default
    if not (given.isascii() and given.isdigit() and len(given) < 10 and int(given) > 0):
        raise Problem(400, f"{OUTPUT_HEADER} must be a whole number of at least 1.", OUTPUT_HEADER)
    return int(given)


def _number(document: dict[str, Any], name: str, default: float) -> float:
    value = document.get(name, default)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not 0 <= value < 1e9
    ):
        raise Problem(400, f"{name} must be a number of seconds, or a factor, from 0 to a billion.", name)
    return float(value)
