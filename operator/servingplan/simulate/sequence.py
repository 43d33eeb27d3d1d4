"""One request in an engine, with its times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "abort"]


@dataclass(slots=True, eq=False)
class Sequence:
    """One request. Times are in seconds of the engine's clock, and None until they are known."""

    prompt_tokens: int
    output_tokens: int
    arrived: float
    reason: FinishReason
    """The reason with which it ends when it has all its tokens."""
    prefix: tuple[int, ...] = ()
    """The names of the parts of its prompt, all different; empty if they are not known."""
    used_parts: tuple[int, ...] = ()
    """The parts in the prefix cache that it uses."""
    started: float | None = None
    first_token: float | None = None
    finished: float | None = None
    kept_tokens: int = 0
    """Tokens that were generated before the present decode phase; the engine counts those in it."""
    last_round: int | None = None
    """The round that generates its last token; None outside the decode phase."""
    read_tokens: int = 0
    """The tokens of the prompt, and after a preemption also of the answer, that are in the KV cache during prefill."""
    reserved_blocks: int = 0
    """The blocks that it holds during prefill."""
    spared_blocks: int = 0
    """The further blocks that its prompt would take if no layer had a window; below 0 with a recurrent state."""
    delay_seconds: float = 0.0
    """The time of its prefill in later pipeline stages, while the first stage works on the next iteration."""
    stopped_at: float = 0.0
    """The time of the last token before a preemption."""

    @property
    def time_per_output_token(self) -> float | None:
        """The mean seconds per token after the first of a finished sequence; None for a single token."""
        if self.finished is None or self.first_token is None or self.output_tokens < 2:
            return None
        return (self.finished - self.first_token) / (self.output_tokens - 1)
