"""How a model server runs: the settings that its rate, its memory and its latency depend on.

Flow: observe -> **model** -> solve -> render -> apply -> status. One value for the planner, which chooses what the user
leaves open; for the profiles, which rate a replica that runs like this; for the rendering, which writes it as flags; and
for the plan record, from which a running replica is rendered again.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from servingplan.model.hardware import GpuType
from servingplan.model.llm import WIDE_BYTES

KV_BYTES: dict[str, float] = {"auto": WIDE_BYTES, "bf16": WIDE_BYTES, "fp16": WIDE_BYTES, "fp8": 1.0}
"""Bytes of one element of the KV cache, by ``kv_cache_dtype``. ``auto`` is the width of the activations, 16 bits."""

ENGINES = ("vllm", "sglang", "tensorrt-llm")
"""Engines whose rates are known."""

_LARGE_GPU_BYTES = 70 * 2**30

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Speculation(BaseModel):
    """Speculative decoding, as declared: how many tokens are proposed, and what share of them is accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(min_length=1)
    """Such as ``ngram``, ``eagle`` or ``mtp``; passed to the engine."""
    model: str | None = None
    """Draft model, for methods that have one; passed to the engine."""
    tokens: int = Field(ge=1, le=32)
    """Tokens that are proposed in each step."""
    acceptance: _Share
    """Probability that a proposed token is accepted, given that those before it were."""

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens that one step yields: ``1 + a + a^2 + ... + a^n``, Leviathan et al., ICML 2023, equation 1."""
        return sum(self.acceptance**step for step in range(self.tokens + 1))


class EngineSettings(BaseModel):
    """Every setting of a replica's engine that the plan counts on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str = "vllm"
    """One of ``ENGINES``."""
    version: str | None = None
    """Version of the engine; None where nothing tells it."""
    kv_cache_dtype: str = "auto"
    """A key of ``KV_BYTES``."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Requests that run at the same time at most."""
    max_num_batched_tokens: int = Field(default=8192, ge=1)
    """Tokens of one iteration at most: prompts longer than this are read in chunks."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1, allow_inf_nan=False)
    """Part of each GPU's memory that the engine may take."""
    max_model_len: int = Field(default=8192, ge=1)
    """Longest sequence that is admitted, tokens."""
    prefix_cache_hit_share: _Share = 0.0
    """Share of the prompt's tokens that are found in the prefix cache, as declared; 0: prefix caching is not counted on."""
    speculation: Speculation | None = None
    """Speculative decoding; None: none."""
    expert_parallel: bool = False
    """Whether the experts of a mixture are spread over the tensor-parallel group instead of being cut."""
    quantization: str | None = None
    """How the engine quantises 16-bit weights as it loads them, such as ``fp8``; None: it takes them as they are stored."""
    shutdown_seconds: int | None = Field(default=None, ge=0)
    """Time that running requests get after SIGTERM; None: the engine is not told, and vLLM then aborts them at once."""

    @property
    def kv_bytes_per_element(self) -> float:
        """Bytes of one element of the KV cache."""
        return KV_BYTES[self.kv_cache_dtype]

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens that one iteration gives each running request: one, more with speculation."""
        return 1.0 if self.speculation is None else self.speculation.tokens_per_step

    @property
    def positions_per_step(self) -> int:
        """Tokens that an iteration works on for each running request: with speculation also those that were proposed."""
        return 1 if self.speculation is None else 1 + self.speculation.tokens


def vllm_limits(gpu: GpuType) -> tuple[int, int]:
    """``max_num_seqs`` and ``max_num_batched_tokens`` of a vLLM server that is given neither: larger from 70 GiB on, but on
    no A100 (``EngineArgs.get_batch_defaults``)."""
    large = gpu.usable_bytes >= _LARGE_GPU_BYTES and "a100" not in gpu.name.lower()
    return (1024, 8192) if large else (256, 2048)
