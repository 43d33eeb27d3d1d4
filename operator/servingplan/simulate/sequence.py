"""One request in an engine, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "abort"]


@dataclass(slots=True, eq=False)
class Sequence:
    """One request. Times in seconds of the engine's clock, None until they come."""

    prompt_tokens: int
    output_tokens: int
    arrived: float
    reason: FinishReason
    """How it ends when it has all of its tokens."""
    started: float | None = None
    first_token: float | None = None
    finished: float | None = None
    kept_tokens: int = 0
    """Tokens generated before the present decode phase; the engine knows those since."""
    last_round: int | None = None
    """Round that makes its last token; None outside the decode phase."""
    read_tokens: int = 0
    """Of the prompt, and after a preemption of what was generated, how much is in the KV cache."""
    reserved_blocks: int = 0
    """Blocks held while it is prefilled."""
    spared_blocks: int = 0
    """Blocks that its prompt would take beyond those, had no layer a window; below 0 for a recurrent state."""
    delay_seconds: float = 0.0
    """Time that its prefill spends in later pipeline stages, while the first goes on."""
    stopped_at: float = 0.0
    """Time of the last token before a preemption."""

    @property
    def time_per_output_token(self) -> float | None:
        """Mean time per further token of a finished sequence; None for a single token."""
        if self.finished is None or self.first_token is None or self.output_tokens < 2:
            return None
        return (self.finished - self.first_token) / (self.output_tokens - 1)
