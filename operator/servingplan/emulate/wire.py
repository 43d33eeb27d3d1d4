"""OpenAI's bodies in and out: chat and text completions as vLLM takes and gives them.

What shapes the work is read: prompt, ``max_tokens`` or ``max_completion_tokens``, ``stream``, ``stream_options``, ``n``.
Sampling parameters, ``stop``, tools and all that is unknown are accepted and ignored.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

from servingplan.emulate import text

Json = dict[str, Any]

MOST_TOKENS = 2**31
"""Larger counts are refused as vLLM's are, whose counts have 32 bits."""


class Problem(Exception):  # noqa: N818 (an answer, not a fault)
    """A request that is answered by an error body."""

    def __init__(self, status: int, message: str, param: str | None = None, kind: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.kind = kind or {404: "NotFoundError", 503: "ServiceUnavailableError"}.get(
            status, "InternalServerError" if status >= 500 else "BadRequestError"
        )

    def body(self) -> Json:
        """The error in OpenAI's form."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks for."""

    chat: bool
    model: str | None
    prompt_tokens: int
    max_tokens: int | None
    stream: bool
    include_usage: bool
    seed: int


def parse(body: bytes, *, chat: bool) -> Ask:
    """Read a request.

    Raises:
        Problem: 400, naming the parameter.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"The body is not JSON: {type(error).__name__}; send a JSON object.") from error
    if not isinstance(document, dict):
        raise Problem(400, "The body must be a JSON object.")
    model = document.get("model")
    if model is not None and not isinstance(model, str):
        raise Problem(400, "model must be a string.", "model")
    prompt_tokens = _chat_tokens(document.get("messages")) if chat else _prompt_tokens(document.get("prompt"))
    limit = _count(document, "max_completion_tokens") if chat else None
    limit = _count(document, "max_tokens") if limit is None else limit
    if _count(document, "n") not in (None, 1):
        raise Problem(400, "n must be 1: one answer a request.", "n")
    stream = _flag(document, "stream", "stream")
    options = document.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise Problem(400, "stream_options must be an object.", "stream_options")
    if options and not stream:
        raise Problem(400, "stream_options needs stream to be true.", "stream_options")
    return Ask(
        chat=chat,
        model=model,
        prompt_tokens=prompt_tokens,
        max_tokens=limit,
        stream=stream,
        include_usage=_flag(options or {}, "include_usage", "stream_options.include_usage"),
        seed=zlib.crc32(body),
    )


def output_tokens(ask: Ask, *, max_model_len: int, natural: int) -> tuple[int, bool]:
    """How many tokens the answer has, and whether a limit cut it there.

    Args:
        natural: tokens after which the model would stop by itself.

    Raises:
        Problem: 400, the context is too short.
    """
    wanted = ask.max_tokens
    if ask.prompt_tokens + (wanted or 1) > max_model_len:
        raise Problem(
            400,
            f"The context has {max_model_len} tokens; the prompt has {ask.prompt_tokens} and the answer may have "
            f"{wanted or 'at least 1'}. Shorten the prompt or lower max_tokens.",
            "max_tokens" if wanted else "messages" if ask.chat else "prompt",
        )
    limit = min(max_model_len - ask.prompt_tokens, wanted or max_model_len)
    return min(limit, natural), natural >= limit


@dataclass(frozen=True, slots=True)
class Reply:
    """Builds what is answered to one request."""

    ask: Ask
    identifier: str
    created: int
    model: str

    def whole(self, tokens: int, reason: str) -> Json:
        """The answer to a request without ``stream``."""
        content = text.answer(self.ask.seed, 0, tokens)
        choice: Json = {"index": 0, "logprobs": None, "finish_reason": reason, "stop_reason": None}
        if self.ask.chat:
            choice["message"] = {"role": "assistant", "content": content, "tool_calls": []}
        else:
            choice["text"] = content
        return {**self._head(""), "choices": [choice], "usage": self.usage(tokens)}

    def usage(self, tokens: int) -> Json:
        """Tokens of prompt and answer."""
        prompt = self.ask.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}

    def part(self, start: int, stop: int, reason: str | None) -> bytes:
        """Server-sent events for the tokens ``start`` to ``stop``; the last ones come with the reason to finish."""
        content = text.answer(self.ask.seed, start, stop)
        if not self.ask.chat:
            return self._event({"index": 0, "text": content, "logprobs": None, "finish_reason": reason})
        role = b""
        if start == 0:
            role = self._event({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})
        delta = {"content": content}
        return role + self._event({"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason})

    def end(self, tokens: int) -> bytes:
        """The events after the last token."""
        if not self.ask.include_usage:
            return b"data: [DONE]\n\n"
        return event({**self._head(".chunk"), "choices": [], "usage": self.usage(tokens)}) + b"data: [DONE]\n\n"

    def _event(self, choice: Json) -> bytes:
        return event({**self._head(".chunk"), "choices": [choice]})

    def _head(self, suffix: str) -> Json:
        kind = "chat.completion" + suffix if self.ask.chat else "text_completion"
        return {"id": self.identifier, "object": kind, "created": self.created, "model": self.model}


def event(document: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def _chat_tokens(messages: object) -> int:
    if not isinstance(messages, list) or not messages:
        raise Problem(400, "messages must be a list of at least one message.", "messages")
    characters = 0
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Problem(400, "A message must be an object with a role.", "messages")
        content = message.get("content")
        if isinstance(content, str):
            characters += len(content)
        elif isinstance(content, list):
            for part in content:
                if not isinstance(part, dict) or not isinstance(part.get("text"), str):
                    raise Problem(400, "A part of a message's content must be text.", "messages")
                characters += len(part["text"])
        elif content is not None:
            raise Problem(400, "A message's content must be a string or a list of parts.", "messages")
    return text.tokens_of(characters)


def _prompt_tokens(prompt: object) -> int:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]  # a batch of one
    if isinstance(prompt, str):
        return text.tokens_of(len(prompt))
    if isinstance(prompt, list) and prompt and all(type(token) is int and token >= 0 for token in prompt):
        return len(prompt)
    raise Problem(400, "prompt must be one string or one list of tokens.", "prompt")


def _count(document: Json, name: str) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value < MOST_TOKENS:
        raise Problem(400, f"{name} must be a whole number of at least 1.", name)
    return value


def _flag(document: Json, name: str, param: str) -> bool:
    value = document.get(name)
    if value is not None and not isinstance(value, bool):
        raise Problem(400, f"{param} must be true or false.", param)
    return bool(value)
