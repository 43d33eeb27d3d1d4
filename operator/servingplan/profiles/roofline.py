"""First-order formulas of a forward pass and of its memory.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. Times are polynomials of the lengths, so the sum
over many requests follows from a few sums of their lengths (``classes.work``). Rates come from ``steps`` instead.

Notation: P weights, L layers, q attention width, b bytes per weight, n GPUs of a tensor-parallel group, s pipeline
stages, F dense peak FLOP/s, W memory bandwidth, i and o input and output tokens, B running requests.

    prefill  = (2 P i + 2 L q i^2) / (MFU n F) + TP traffic of i tokens          causal attention: 4 L q i^2 / 2
    step     = max(P b / (MBU n W), 2 P B / (MFU n F)) + B (i + o/2) kv / (MBU n W) + TP traffic of B + t0
    TP traffic of t tokens = 2 L (2 (n-1)/n t d 2 bytes / (link efficiency x link) + latency)   two all-reduces a layer

These are the usual first-order terms (arithmetic, weight reads, KV reads, ring all-reduce). MFU, MBU, t0 and link
efficiency are not physical constants: they were fitted together and must be used together. Stages of a pipeline work
on s micro-batches of B/s. So one request is not faster, and the rate is that of the n x s GPUs, less the imbalance of the
layers. The transfer between stages uses the link inside a node; ``pipeline`` has stages on several nodes.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from servingplan.model.hardware import GpuType
from servingplan.model.llm import WIDE_BYTES, ModelCard, precision_of

RESERVED_BYTES_PER_GPU = 1.5e9
"""The memory that the engine needs on every GPU for context, graphs and activations. 1 to 1.5 GB is usual; this is the upper
end."""

ALL_REDUCE_LATENCY_SECONDS = 7.5e-6
"""The middle of the 5 to 10 microseconds that one small all-reduce takes inside a node."""


class Efficiency(NamedTuple):
    """The part of each peak that is reached, as fractions; and the fixed time of a step, in seconds."""

    mfu: float
    mbu: float
    link: float
    step_overhead_seconds: float
    fitted: bool


STEP_OVERHEAD_SECONDS = 0.004
"""The fixed time of one step (scheduling, launches, sampling). Saturated throughput alone cannot distinguish it from slower
memory: 11 ms with MBU up to 1 and faster KV reads fits equally well (mean error 8.8 against 9.4 % on dense models). Rates at
low concurrency can: 4 ms and MBU of at most 0.85 reduce their mean error on H100 from 23 to 8 %."""

_FITTED: dict[tuple[str, str], tuple[float, float, float]] = {
    # (GPU, compute family): MFU, MBU, link efficiency. Source: fit to the saturated rates of the TensorRT-LLM
    # performance overview, versions 0.15 and 0.17 (Llama-3.1 8B and 70B, Mistral 7B); one link factor per card.
    ("A100-PCIE-80GB", "bf16"): (0.65, 0.69, 0.30),
    ("A100-SXM4-80GB", "bf16"): (0.76, 0.84, 0.26),
    ("H100-SXM-80GB", "bf16"): (0.65, 0.85, 0.36),
    ("H100-SXM-80GB", "fp8"): (0.61, 0.85, 0.36),
    ("H200-SXM-141GB", "fp8"): (0.59, 0.80, 0.58),
    ("L40S", "fp8"): (0.51, 0.72, 0.45),
}

UNFITTED = Efficiency(mfu=0.5, mbu=0.7, link=0.4, step_overhead_seconds=STEP_OVERHEAD_SECONDS, fitted=False)
"""The efficiency of cards without saturated measurements. Expect errors of 30 % on one or two GPUs, and of 50 % on more."""


def efficiency_of(gpu: GpuType, precision: str) -> Efficiency:
    """The fitted efficiency of this card at this precision, else ``UNFITTED``."""
    found = _FITTED.get((gpu.name, precision_of(precision).compute))
    if found is None:
        return UNFITTED
    mfu, mbu, link = found
    return Efficiency(mfu, mbu, link, STEP_OVERHEAD_SECONDS, fitted=True)


@dataclass(frozen=True, slots=True)
class Roofline:
    """The coefficients of one replica (model, precision, GPU, n x s GPUs) for any class; build it with ``roofline``."""

    weight_bytes: float
    kv_bytes_per_token: float
    """Bytes over the whole replica. If the group has more GPUs than the model KV heads, heads have several copies."""
    kv_bytes_per_element: float
    kv_room_bytes: float
    """Memory for KV over the whole replica; negative if the weights alone do not fit."""
    stages: int
    flop_seconds: float
    """Seconds of the arithmetic of one token: 2 P / (MFU n F)."""
    attention_flop_seconds: float
    """Seconds of the attention per squared input token: 2 L q / (MFU n F)."""
    byte_seconds: float
    """Seconds to read one byte of weights or KV cache: 1 / (MBU n W)."""
    traffic_seconds_per_token: float
    traffic_seconds: float
    step_overhead_seconds: float
    imbalance: float
    """The layers of the largest stage divided by the mean, at least 1."""
    model: ModelCard

    @property
    def kv_room_tokens(self) -> float:
        """Tokens whose KV cache of all layers fits, without use of windows; at most 0 if the weights do not fit."""
        return self.kv_room_bytes / self.kv_bytes_per_token

    def batch_room(self, tokens: int) -> int:
        """The number of requests of ``tokens`` tokens each that fit together with their whole KV cache and state."""
        copies = self.kv_bytes_per_token / self.model.kv_bytes_per_token(self.kv_bytes_per_element)
        held = self.model.held_tokens(tokens, self.kv_bytes_per_element, copies)
        return max(0, math.floor(self.kv_room_tokens / held))

    def prefill_seconds(self, input_tokens: int) -> float:
        """The seconds to read a prompt alone."""
        arithmetic = self.flop_seconds * input_tokens + self.attention_flop_seconds * input_tokens**2
        return self.imbalance * arithmetic + self._traffic(input_tokens)

    def step_seconds(self, batch: float, context_tokens: float) -> float:
        """The seconds of one decode step of ``batch`` requests with a context of ``context_tokens`` tokens each."""
        tokens = max(1.0, batch / self.stages)
        weights = self.weight_bytes * self.model.expert_share(tokens) * self.byte_seconds
        kv_reads = tokens * context_tokens * self.kv_bytes_per_token * self.byte_seconds
        busy = max(weights, self.flop_seconds * tokens) + kv_reads
        return self.imbalance * busy + self._traffic(tokens) + self.step_overhead_seconds

    def _traffic(self, tokens: float) -> float:
        return self.traffic_seconds_per_token * tokens + self.traffic_seconds


@lru_cache(maxsize=4096)
def roofline(
    *,
    model: ModelCard,
    precision: str,
    gpu: GpuType,
    tensor_parallel: int,
    pipeline_parallel: int,
    memory_fraction: float,
    kv_bytes_per_element: float = WIDE_BYTES,
    efficiency: Efficiency | None = None,
) -> Roofline:
    """The coefficients of one replica.

    Args:
        memory_fraction: the part of each GPU's memory that the engine may use.
        kv_bytes_per_element: 2 for 16-bit KV cache, 1 for FP8.
        efficiency: an efficiency to use instead of that of ``efficiency_of``.

    Raises:
        UnknownPrecisionError: the precision is not in the table.
    """
    eta = efficiency if efficiency is not None else efficiency_of(gpu, precision)
    group, stages = tensor_parallel, pipeline_parallel
    peak = eta.mfu * group * gpu.flops(precision_of(precision).compute)
    bandwidth = eta.mbu * group * gpu.memory_bytes_per_second
    kv_bytes_per_token = model.kv_bytes_per_token(kv_bytes_per_element) * model.kv_copies(group)
    weight_bytes = model.weight_bytes(precision)
    usable = memory_fraction * gpu.usable_bytes - RESERVED_BYTES_PER_GPU
    activation_bytes = model.hidden_size * WIDE_BYTES
    link = eta.link * gpu.link_bytes_per_second
    # There are two all-reduces per layer inside a group, and one transfer between stages.
    ring = 2 * model.layers * 2 * (group - 1) / group * activation_bytes / link
    hand_over = (stages - 1) * activation_bytes / link
    return Roofline(
        weight_bytes=weight_bytes,
        kv_bytes_per_token=kv_bytes_per_token,
        kv_bytes_per_element=kv_bytes_per_element,
        kv_room_bytes=group * stages * usable - weight_bytes,
        stages=stages,
        flop_seconds=2 * model.parameters_per_token / peak,
        attention_flop_seconds=2 * model.layers * model.attention_width / peak,
        byte_seconds=1 / bandwidth,
        traffic_seconds_per_token=ring + hand_over,
        traffic_seconds=2 * model.layers * ALL_REDUCE_LATENCY_SECONDS if group > 1 else 0.0,
        step_overhead_seconds=eta.step_overhead_seconds,
        imbalance=math.ceil(model.layers / stages) * stages / model.layers,
        model=model,
    )
