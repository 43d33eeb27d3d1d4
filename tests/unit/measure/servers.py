"""A server with OpenAI's API and known queueing: so many slots, each held for the time that a request's tokens take."""

import asyncio
import json
import random
from contextlib import asynccontextmanager

from aiohttp import web


class Queue:
    """``slots`` servers and one queue, first come first served.

    Capacity is ``slots / mean service seconds``, by the event loop's clock.
    """

    def __init__(self, *, slots=4, service_seconds=0.4, exponential=False, tokens=2, seed=1, model="m"):
        self.slots = asyncio.Semaphore(slots)
        self.count = slots
        self.service_seconds = service_seconds
        self.tokens = tokens
        self.model = model
        self.asked = 0
        self.fail_after = None
        """Number of requests after which ``failure`` answers."""
        self.failure = None
        self._random = random.Random(seed)
        self._exponential = exponential

    @property
    def capacity(self):
        return self.count / self.service_seconds

    def _service(self):
        return self._random.expovariate(1 / self.service_seconds) if self._exponential else self.service_seconds

    async def complete(self, request):
        body = await request.json()
        self.asked += 1
        if self.fail_after is not None and self.asked > self.fail_after:
            failed = await self.failure(request, self.asked - self.fail_after)
            if failed is not None:
                return failed
        chat = request.path.endswith("chat/completions")
        text = body["messages"][0]["content"] if chat else body["prompt"]
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        service = self._service()
        async with self.slots:
            await asyncio.sleep(service / 2)  # reading the prompt
            await answer.prepare(request)
            for number in range(self.tokens):
                if number:
                    await asyncio.sleep(service / 2 / (self.tokens - 1))
                piece = {"delta": {"content": "x"}} if chat else {"text": "x"}
                await self._event(answer, {"model": self.model, "choices": [{"index": 0, **piece}]})
        usage = {"prompt_tokens": 2 * len(text.split()) + 3, "completion_tokens": self.tokens}
        await self._event(answer, {"model": self.model, "choices": [], "usage": usage})
        await answer.write(b"data: [DONE]\n\n")
        return answer

    @staticmethod
    async def _event(answer, item):
        await answer.write(f"data: {json.dumps(item)}\n\n".encode())

    async def models(self, request):
        return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"}]})


@asynccontextmanager
async def served(queue):
    """The URL under which it answers, on loopback."""
    application = web.Application()
    application.add_routes(
        [
            web.get("/v1/models", queue.models),
            web.post("/v1/completions", queue.complete),
            web.post("/v1/chat/completions", queue.complete),
        ]
    )
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        queue.runner = runner
        yield f"http://127.0.0.1:{site.port}"
    finally:
        await runner.cleanup()
