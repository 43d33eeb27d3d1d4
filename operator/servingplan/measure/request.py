"""Sends one streamed request, and handles everything that can go wrong with it.

The server's ``usage`` counts the tokens. Times are those of the event loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import aiohttp

from servingplan.errors import InputError

LONGEST_MESSAGE = 160


class Trouble(StrEnum):
    """Why a request has no figures."""

    REFUSED = "the endpoint refuses connections"
    CUT = "the endpoint cut the connection"
    STALLED = "the endpoint stalled"
    LIMITED = "the endpoint limits its rate"
    STATUS = "the endpoint answered with an error"
    GARBAGE = "the endpoint answered what is no stream of completions"
    OTHER_MODEL = "the endpoint answered as another model"


@dataclass(slots=True)
class Sample:
    """The result of one request. Times are in seconds of the event loop."""

    due: float
    """When it was due."""
    sent: float = 0.0
    first: float | None = None
    """When the first token came; None if none did."""
    end: float | None = None
    """When the last token came; None if the answer did not end."""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    model: str = ""
    trouble: Trouble | None = None
    message: str = ""
    retry_after_seconds: float | None = None

    @property
    def served(self) -> bool:
        """Whether it was answered in full."""
        return self.trouble is None and self.end is not None


@dataclass
class Endpoint:
    """A server with OpenAI's API.

    Args:
        url: the server's URL, with or without ``/v1`` at its end.
        model: the model to ask for.
        key: the bearer token to send.
        chat: whether to use ``/chat/completions`` instead of ``/completions``.
        stall_seconds: the longest silence of the whole server; one request may wait longer, in a queue.
    """

    url: str
    model: str
    session: aiohttp.ClientSession
    key: str | None = None
    chat: bool = False
    stall_seconds: float = 60.0
    options: dict[str, Any] = field(default_factory=lambda: {"ignore_eos": True})
    """Options beyond OpenAI's API; they are dropped if the server refuses them."""
    answers_as: str | None = None
    """The model's name in the first answer; another name later is an error."""
    heard: float = 0.0
    """When the server last sent anything on any connection."""

    @property
    def base(self) -> str:
        """The URL with ``/v1`` at its end."""
        root = self.url.rstrip("/")
        return root if root.endswith("/v1") else f"{root}/v1"

    async def models(self) -> list[str]:
        """The models that the server lists.

        Raises:
            InputError: it does not answer, or not with a list of models.
        """
        wait = aiohttp.ClientTimeout(total=self.stall_seconds)
        try:
            async with self.session.get(f"{self.base}/models", headers=self._headers(), timeout=wait) as answer:
                if answer.status != 200:
                    raise InputError(
                        "--url", self.url, f"answered {answer.status} to GET /v1/models; check URL and key"
                    )
                found = await answer.json(content_type=None)
                return [str(item["id"]) for item in found["data"]]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise InputError("--url", self.url, f"cannot be reached: {_told(error)}") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(
                "--url", self.url, "has no list of models at /v1/models; name an OpenAI-compatible server"
            ) from None

    async def ask_alone(self, prompt: str, answer_tokens: int) -> Sample:
        """``ask`` while no other request runs, so that silence is the server's."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            return await asyncio.wait_for(self.ask(prompt, answer_tokens, due), self.stall_seconds)
        except TimeoutError:
            return Sample(
                due=due, sent=due, trouble=Trouble.STALLED, message=f"nothing came for {self.stall_seconds:g} s"
            )

    async def ask(self, prompt: str, answer_tokens: int, due: float) -> Sample:
        """Send one request and read its answer. It raises only cancellation; an error is in the sample."""
        loop = asyncio.get_running_loop()
        sample = Sample(due=due, sent=loop.time())
        path = "chat/completions" if self.chat else "completions"
        try:
            async with self.session.post(
                f"{self.base}/{path}",
                json=self._body(prompt, answer_tokens),
                headers=self._headers(),
                timeout=self._timeout(),
            ) as answer:
                self.heard = loop.time()
                if answer.status != 200:
                    await _refused(answer, sample)
                    return sample
                await self._read(answer, sample, loop)
        except aiohttp.ClientConnectorError as error:
            sample.trouble, sample.message = Trouble.REFUSED, _told(error)
        except TimeoutError:
            sample.trouble, sample.message = Trouble.STALLED, f"nothing came for {self.stall_seconds:g} s"
        except (aiohttp.ClientError, OSError) as error:
            sample.trouble, sample.message = Trouble.CUT, _told(error)
        except ValueError as error:
            sample.trouble, sample.message = Trouble.GARBAGE, _told(error)
        return sample

    async def _read(self, answer: aiohttp.ClientResponse, sample: Sample, loop: asyncio.AbstractEventLoop) -> None:
        pieces, done = 0, False
        async for line in answer.content:
            self.heard = loop.time()
            text = line.decode("utf-8", errors="replace").strip()
            if not text or text.startswith(":") or not text.startswith("data:"):
                if text and not text.startswith((":", "event:", "id:", "retry:")):
                    raise ValueError(f"{text[:60]!r} instead of data:")
                continue
            data = text.removeprefix("data:").strip()
            if data == "[DONE]":
                done = True
                break
            item = json.loads(data)
            if not isinstance(item, dict):
                raise ValueError(f"{data[:60]!r} instead of an object")
            if item.get("error"):
                sample.trouble, sample.message = Trouble.STATUS, str(item["error"])[:LONGEST_MESSAGE]
                return
            if item.get("model"):
                sample.model = str(item["model"])
            if _content(item):
                pieces += 1
                sample.end = loop.time()
                sample.first = sample.first if sample.first is not None else sample.end
            usage = item.get("usage")
            if isinstance(usage, dict):
                sample.prompt_tokens = int(usage.get("prompt_tokens") or 0)
                sample.answer_tokens = int(usage.get("completion_tokens") or 0)
        if sample.end is None:
            raise ValueError("the stream ended without a token" if done else "the answer was no stream")
        if not done:
            sample.trouble, sample.message = Trouble.CUT, "the stream ended early"
            return
        sample.answer_tokens = sample.answer_tokens or pieces
        if self.answers_as is not None and sample.model != self.answers_as:
            sample.trouble = Trouble.OTHER_MODEL
            sample.message = f"{sample.model!r} instead of {self.answers_as!r}"

    def _body(self, prompt: str, answer_tokens: int) -> dict[str, Any]:
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        return {
            "model": self.model,
            **asked,
            "max_tokens": answer_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.options,
        }

    def _headers(self) -> dict[str, str]:
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}

    def _timeout(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=None, sock_connect=self.stall_seconds)


async def _refused(answer: aiohttp.ClientResponse, sample: Sample) -> None:
    sample.trouble = Trouble.LIMITED if answer.status == 429 else Trouble.STATUS
    text = (await answer.content.read(2 * LONGEST_MESSAGE)).decode("utf-8", errors="replace")
    sample.message = f"{answer.status} {' '.join(text.split())[:LONGEST_MESSAGE]}".strip()
    if answer.status == 429:
        sample.retry_after_seconds = _retry_after(answer.headers)
        if sample.retry_after_seconds is not None:
            sample.message = f"429, Retry-After {sample.retry_after_seconds:g} s"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of Retry-After; a date is not read, since the loop's clock has no dates."""
    try:
        return max(0.0, float(headers.get("Retry-After", "")))
    except ValueError:
        return None


def _content(item: dict[str, Any]) -> bool:
    """Whether an event contains a token."""
    choices = item.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return False
    delta = choices[0].get("delta")
    if isinstance(delta, dict):
        return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls"))
    return bool(choices[0].get("text"))


def _told(error: BaseException) -> str:
    return " ".join(str(error).split())[:LONGEST_MESSAGE] or type(error).__name__
