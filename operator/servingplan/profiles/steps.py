"""The time of one iteration of an engine; rates, latencies, the simulated engine and the emulator use it.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. An engine with continuous batching works in
iterations. Each iteration gives one token to every running request, and it may also read a chunk of a prompt. Its time is the
time of its kernels (``forward``) plus the time that the engine adds (``engines``).
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np

from servingplan.model.engine import EngineSettings
from servingplan.model.hardware import GpuType
from servingplan.model.llm import WIDE_BYTES, ModelCard
from servingplan.profiles.engines import FACTORS, Engine, Factors, engine_of
from servingplan.profiles.forward import TOKENS, Forward, forward, over_context, over_requests, over_tokens
from servingplan.profiles.kernels import Array, Numbers, borrows_over_pcie, has_fast_link

RESERVED_BYTES_PER_GPU = 1.5e9
"""The memory that the engine needs on every GPU for context, graphs and activations. 1 to 1.5 GB is usual; this is the upper
end."""

_FEW_AN_EXPERT, _MANY_AN_EXPERT = 8.0, 256.0
"""Between these numbers of tokens per expert, its factor changes from that of few tokens to that of many."""


class Beside(Protocol):
    """The time of an iteration that reads prompts beside given requests, by the arguments of ``StepTimes.mixed_seconds``."""

    def __call__(self, prefill_tokens: Numbers, prefill_past: Numbers, prompts: Numbers = 1.0) -> Array:
        """Seconds."""
        ...


class StepTimes(Protocol):
    """Times of the iterations of one replica, in seconds. Arguments may be arrays and are broadcast.

    A replica with several stages works on as many micro-batches at once. The times are those of one micro-batch through
    all stages; ``batch`` counts the requests of all micro-batches.
    """

    @property
    def settings(self) -> EngineSettings:
        """The engine's settings."""
        ...

    @property
    def stages(self) -> int:
        """The number of pipeline stages."""
        ...

    @property
    def kv_room_tokens(self) -> float:
        """The tokens whose KV cache of all layers fits beside the weights, over the whole replica."""
        ...

    def held_tokens(self, tokens: Numbers) -> Array:
        """The part of ``kv_room_tokens`` that one sequence of ``tokens`` tokens takes. It is less than ``tokens`` if layers
        have a window, and more with a recurrent state."""
        ...

    def prefill_seconds(self, tokens: Numbers, past: Numbers = 0.0) -> Numbers:
        """The time of an iteration that only reads ``tokens`` tokens of a prompt after ``past`` earlier ones."""
        ...

    def decode_seconds(self, batch: Numbers, context_tokens: Numbers) -> Numbers:
        """The time of an iteration that only gives a token to each of ``batch`` requests with this mean context."""
        ...

    def mixed_seconds(
        self,
        prefill_tokens: Numbers,
        prefill_past: Numbers,
        batch: Numbers,
        context_tokens: Numbers,
        prompts: Numbers = 1.0,
    ) -> Numbers:
        """The time of an iteration that does both. The prefill tokens belong to ``prompts`` equal prompts."""
        ...

    def beside(self, batch: Numbers, context_tokens: Numbers) -> "Beside":
        """The times of iterations that read prompts beside these requests: ``mixed_seconds`` by tokens, past and prompts.

        What depends on the requests alone is computed once for all calls of the function.
        """
        ...


@dataclass(frozen=True, eq=False)
class KernelSteps:
    """``StepTimes`` from kernels; build it with ``step_times``."""

    pass_: Forward
    settings: EngineSettings
    engine: Engine
    factors: Factors
    stages: int
    group: int
    fast_link: bool
    borrowed: bool
    model: ModelCard
    weight_bytes: float
    kv_room_bytes: float
    """Memory for KV over the whole replica; negative if the weights alone do not fit."""
    imbalance: float
    """The layers of the largest stage divided by the mean, at least 1."""
    link_bytes_per_second: float

    @cached_property
    def kv_bytes_per_token(self) -> float:
        """Bytes over the whole replica. If the group has more GPUs than the model KV heads, heads have several copies."""
        return self.model.kv_bytes_per_token(self.settings.kv_bytes_per_element) * self.model.kv_copies(self.group)

    @property
    def kv_room_tokens(self) -> float:
        """The tokens of KV cache that fit; at most 0 if the weights do not fit."""
        return self.kv_room_bytes / self.kv_bytes_per_token

    def held_tokens(self, tokens: Numbers) -> Array:
        """The part of them that one sequence takes (``ModelCard.held_tokens``)."""
        asked = np.asarray(tokens, dtype=float)
        per_element, copies = self.settings.kv_bytes_per_element, self.model.kv_copies(self.group)
        held = [self.model.held_tokens(count, per_element, copies) for count in asked.ravel().tolist()]
        return np.reshape(held, asked.shape)

    @cached_property
    def overhead_seconds(self) -> float:
        """The seconds that the engine adds to every iteration, for any number of tokens."""
        return self.engine.step_seconds + self.engine.launch_seconds * self.pass_.layers

    @cached_property
    def _scale(self) -> float:
        """The factor on all kernels: the engine's pace, stages that are not equally long, and a PCIe card's power."""
        stages = self.imbalance * (1.0 + self.factors.bubble * (self.stages - 1))
        return self.engine.pace * stages * (self.factors.borrowed_over_pcie if self.borrowed else 1.0)

    @cached_property
    def token_line(self) -> Array:
        """The logarithm of the seconds of all kernels except attention and the output head, on the grid ``forward.TOKENS``."""
        kinds, fold, tokens = self.pass_, self.factors, np.exp(TOKENS)
        found = fold.products * np.exp(kinds.products) + fold.small * np.exp(kinds.small)
        if self.model.experts > 1:
            each = tokens * self.model.experts_per_token / self.model.experts
            crowded = np.clip(np.log(each / _FEW_AN_EXPERT) / math.log(_MANY_AN_EXPERT / _FEW_AN_EXPERT), 0.0, 1.0)
            factor = fold.experts + (fold.experts_of_many - fold.experts) * crowded
            found = found + factor * np.exp(kinds.experts)
        if self.group > 1:
            found = found + (fold.sums if self.fast_link else fold.sums_over_pcie) * np.exp(kinds.sums)
        hand_over = (self.stages - 1) * WIDE_BYTES * self.model.hidden_size * tokens / self.link_bytes_per_second
        line: Array = np.log(np.maximum.accumulate(self._scale * (found + hand_over)))
        return line

    @cached_property
    def head_line(self) -> Array:
        """The same for the output head and sampling."""
        line: Array = self.pass_.head + math.log(self._scale * self.factors.head)
        return line

    @cached_property
    def context_line(self) -> Array:
        """The same for the attention of a whole prompt, on the grid ``forward.CONTEXT``."""
        line: Array = self.pass_.context + math.log(self._scale * self.factors.context)
        return line

    @cached_property
    def _generation(self) -> Array:
        table: Array = self.pass_.generation + math.log(self._scale * self.factors.generation)
        return table

    def batch_room(self, input_tokens: float, output_tokens: float) -> float:
        """The number of requests of these lengths that fit with their mean KV cache, at most ``max_num_seqs``."""
        tokens = input_tokens + self.engine.reserved_share_of_output * output_tokens
        return min(float(self.settings.max_num_seqs), max(0.0, self.kv_room_tokens / float(self.held_tokens(tokens))))

    def prefill_seconds(self, tokens: Numbers, past: Numbers = 0.0) -> Numbers:
        """The time of an iteration that reads a chunk of a prompt."""
        tokens, past = np.asarray(tokens, dtype=float), np.asarray(past, dtype=float)
        busy = over_tokens(self.token_line, tokens) + self._prompt_attention(tokens, past)
        return busy + over_tokens(self.head_line, np.ones_like(tokens)) + self.overhead_seconds

    def decode_seconds(self, batch: Numbers, context_tokens: Numbers) -> Numbers:
        """The time of an iteration that gives a token to each request."""
        requests = self._micro_batch(batch)
        positions = self.settings.positions_per_step * requests
        busy = over_tokens(self.token_line, positions) + self._generation_seconds(requests, context_tokens)
        return self._with_engine(busy + over_tokens(self.head_line, positions), requests)

    def mixed_seconds(
        self,
        prefill_tokens: Numbers,
        prefill_past: Numbers,
        batch: Numbers,
        context_tokens: Numbers,
        prompts: Numbers = 1.0,
    ) -> Numbers:
        """The time of an iteration that does both; weights are read once for both."""
        return self.beside(batch, context_tokens)(prefill_tokens, prefill_past, prompts)

    def beside(self, batch: Numbers, context_tokens: Numbers) -> Beside:
        """``mixed_seconds`` beside these requests."""
        requests = self._micro_batch(batch)
        positions = self.settings.positions_per_step * requests
        attention = self._generation_seconds(requests, context_tokens)

        def seconds(prefill_tokens: Numbers, prefill_past: Numbers, prompts: Numbers = 1.0) -> Array:
            tokens, past = np.asarray(prefill_tokens, dtype=float), np.asarray(prefill_past, dtype=float)
            number = np.asarray(prompts, dtype=float)
            busy = over_tokens(self.token_line, positions + tokens)
            busy = busy + number * self._prompt_attention(tokens / number, past) + attention
            return self._with_engine(busy + over_tokens(self.head_line, positions + number), requests)

        return seconds

    def _micro_batch(self, batch: Numbers) -> Array:
        requests: Array = np.maximum(1.0, np.asarray(batch, dtype=float) / self.stages)
        return requests

    def _generation_seconds(self, requests: Array, context_tokens: Numbers) -> Array:
        return over_requests(self._generation, requests, np.asarray(context_tokens, dtype=float))

    def _with_engine(self, busy: Array, requests: Array) -> Array:
        return busy + self.overhead_seconds + self.engine.sequence_seconds * requests

    def _prompt_attention(self, tokens: Array, past: Array) -> Array:
        return over_context(self.context_line, past + tokens) - over_context(self.context_line, past)


@lru_cache(maxsize=4096)
def step_times(
    *,
    model: ModelCard,
    precision: str,
    gpu: GpuType,
    tensor_parallel: int,
    pipeline_parallel: int,
    settings: EngineSettings,
) -> KernelSteps:
    """The times of one replica, without corrections by measurements.

    Raises:
        UnknownPrecisionError: the precision is not in the table.
    """
    weight_bytes = model.weight_bytes(precision)
    usable = settings.gpu_memory_utilization * gpu.usable_bytes - RESERVED_BYTES_PER_GPU
    return KernelSteps(
        pass_=forward(
            model=model,
            precision=precision,
            gpu=gpu,
            tensor_parallel=tensor_parallel,
            kv_name="fp8" if settings.kv_bytes_per_element < WIDE_BYTES else "bf16",
            expert_parallel=settings.expert_parallel,
        ),
        settings=settings,
        engine=engine_of(settings.engine),
        factors=FACTORS,
        stages=pipeline_parallel,
        group=tensor_parallel,
        fast_link=has_fast_link(gpu),
        borrowed=borrows_over_pcie(gpu),
        model=model,
        weight_bytes=weight_bytes,
        kv_room_bytes=tensor_parallel * pipeline_parallel * usable - weight_bytes,
        imbalance=math.ceil(model.layers / pipeline_parallel) * pipeline_parallel / model.layers,
        link_bytes_per_second=gpu.link_bytes_per_second,
    )
