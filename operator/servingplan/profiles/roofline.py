"""The first-order formulas of a forward pass: linear in the tokens, so that sums over many requests can be had from sums of
their lengths (``classes.work``), and memory. Rates come from ``steps``.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status.

Notation: P weights, L layers, q attention width, b bytes per weight, n GPUs of a tensor-parallel group, s pipeline
stages, F dense peak FLOP/s, W memory bandwidth, i and o input and output tokens, B running requests.

    prefill  = (2 P i + 2 L q i^2) / (MFU n F) + TP traffic of i tokens          causal attention: 4 L q i^2 / 2
    step     = max(P b / (MBU n W), 2 P B / (MFU n F)) + B (i + o/2) kv / (MBU n W) + TP traffic of B + t0
    TP traffic of t tokens = 2 L (2 (n-1)/n t d 2 bytes / (link efficiency x link) + latency)   two all-reduces a layer

These are the usual first-order terms (arithmetic, weight reads, KV reads, ring all-reduce). MFU, MBU, t0 and link
efficiency are not physical constants: they were fitted together and must be used together. Stages of a pipeline work
on s micro-batches of B/s, so one request is no faster and the rate is that of the n x s GPUs, less the imbalance of the
layers. Hand-over between stages is charged at the link inside a node; ``pipeline`` has stages on several nodes.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from servingplan.model.hardware import GpuType
from servingplan.model.llm import WIDE_BYTES, ModelCard, precision_of

RESERVED_BYTES_PER_GPU = 1.5e9
"""Kept by the engine on every GPU (context, graphs, activations): 1 to 1.5 GB is usual; the upper end is taken."""

ALL_REDUCE_LATENCY_SECONDS = 7.5e-6
"""Middle of the 5 to 10 microseconds that one small all-reduce takes inside a node."""


class Efficiency(NamedTuple):
    """How much of each peak is reached. Fractions, except the fixed time of a step."""

    mfu: float
    mbu: float
    link: float
    step_overhead_seconds: float
    fitted: bool


STEP_OVERHEAD_SECONDS = 0.004
"""Fixed time of one step (scheduling, launches, sampling). Saturated throughput alone does not tell it from slower
memory: 11 ms with MBU up to 1 and faster KV reads fits it as well (mean error 8.8 against 9.4 % on dense models). Rates
at low concurrency do: 4 ms and MBU of at most 0.85 bring their mean error on H100 from 23 to 8 %."""

_FITTED: dict[tuple[str, str], tuple[float, float, float]] = {
    # (GPU, compute family): MFU, MBU, link efficiency. Source: fit to the saturated rates of the TensorRT-LLM
    # performance overview, versions 0.15 and 0.17 (Llama-3.1 8B and 70B, Mistral 7B); one link factor a card.
    # `servingplan profile check` prints the error that is left, by card.
    ("A100-PCIE-80GB", "bf16"): (0.65, 0.69, 0.30),
    ("A100-SXM4-80GB", "bf16"): (0.76, 0.84, 0.26),
    ("H100-SXM-80GB", "bf16"): (0.65, 0.85, 0.36),
    ("H100-SXM-80GB", "fp8"): (0.61, 0.85, 0.36),
    ("H200-SXM-141GB", "fp8"): (0.59, 0.80, 0.58),
    ("L40S", "fp8"): (0.51, 0.72, 0.45),
}

UNFITTED = Efficiency(mfu=0.5, mbu=0.7, link=0.4, step_overhead_seconds=STEP_OVERHEAD_SECONDS, fitted=False)
"""The rule for cards without saturated measurements: to be trusted within 30 % on one or two GPUs, 50 % beyond."""


def efficiency_of(gpu: GpuType, precision: str) -> Efficiency:
    """The fitted efficiency of this card at this precision, or the rule for cards without measurements."""
    found = _FITTED.get((gpu.name, precision_of(precision).compute))
    if found is None:
        return UNFITTED
    mfu, mbu, link = found
    return Efficiency(mfu, mbu, link, STEP_OVERHEAD_SECONDS, fitted=True)


@dataclass(frozen=True, slots=True)
class Roofline:
    """One replica (model, precision, GPU, n x s GPUs) before any class of requests; build it with ``roofline``."""

    weight_bytes: float
    kv_bytes_per_token: float
    """Over the whole replica: where the group is wider than the KV heads, heads are held more than once."""
    kv_bytes_per_element: float
    kv_room_bytes: float
    """Memory left for KV over the whole replica; negative where the weights alone do not fit."""
    stages: int
    flop_seconds: float
    """Seconds for one weight-token multiplication of the whole model: 2 P / (MFU n F)."""
    attention_flop_seconds: float
    """Seconds for 2 L q, per squared input token."""
    byte_seconds: float
    """Seconds for one byte of weights or KV cache read: 1 / (MBU n W)."""
    traffic_seconds_per_token: float
    traffic_seconds: float
    step_overhead_seconds: float
    imbalance: float
    """Largest stage over the mean stage, at least 1."""
    model: ModelCard

    @property
    def kv_room_tokens(self) -> float:
        """Tokens of KV cache that fit, in the layers of all windows; not above zero where the weights do not."""
        return self.kv_room_bytes / self.kv_bytes_per_token

    def batch_room(self, tokens: int) -> int:
        """Requests of ``tokens`` tokens each that run together with their whole KV cache and state reserved."""
        copies = self.kv_bytes_per_token / self.model.kv_bytes_per_token(self.kv_bytes_per_element)
        held = self.model.held_tokens(tokens, self.kv_bytes_per_element, copies)
        return max(0, math.floor(self.kv_room_tokens / held))

    def prefill_seconds(self, input_tokens: int) -> float:
        """Time to read a prompt alone, in seconds."""
        arithmetic = self.flop_seconds * input_tokens + self.attention_flop_seconds * input_tokens**2
        return self.imbalance * arithmetic + self._traffic(input_tokens)

    def step_seconds(self, batch: float, context_tokens: float) -> float:
        """Time of one decode step of ``batch`` requests with ``context_tokens`` tokens behind each, in seconds."""
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
    """Fold the constants of one replica into a few coefficients.

    Args:
        memory_fraction: part of each GPU's memory that the engine may take.
        kv_bytes_per_element: 2 for 16-bit KV cache, 1 for FP8.
        efficiency: instead of the one that ``efficiency_of`` finds.

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
    # Two all-reduces a layer inside a group; one hand-over between stages.
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
