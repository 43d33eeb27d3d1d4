"""One replica as a chain of stages over several nodes. Its stages may have GPUs of different types.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. No measurements of such replicas are published, so
every rate is computed from the iterations of each stage's GPUs (``steps``), with a wide error band.

Stage j has n GPUs of its type and l[j] of the L layers, S stages hold B running requests of i prompt and o answer tokens in
micro-batches of m = max(1, B/S); t0 is the part of an iteration that does not grow with the layers.

    prefill[j] = l[j]/L (prefill of the whole model on n GPUs of j, less t0) + t0/S + transfer of i tokens
    step[j]    = l[j]/L (step of m requests of the whole model on n GPUs of j, less t0) + t0/S + transfer of m tokens
    prefill    = sum of prefill[j]                      a prompt passes through all stages
    share      = max of prefill[j]                      the slowest stage limits the rate of prompts
    step       = max(sum of step[j], min(B, S) max of step[j])       one token, or one step of all micro-batches
    slot       = prefill + (B - 1) share + o step                    rate = B / slot (Little's law)

While one request runs, every other running request is prefilled once. The first token waits for the running step, for its own
prefill, and for other prefills as in an M/D/1 queue of utilisation u = rate x share, at most for half of the batch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from servingplan.model.engine import EngineSettings
from servingplan.model.hardware import GpuType
from servingplan.model.llm import WIDE_BYTES, ModelCard
from servingplan.profiles.kernels import Array, Numbers
from servingplan.profiles.steady import Steady
from servingplan.profiles.steps import Beside, KernelSteps, step_times

NETWORK_BYTES_PER_SECOND = 25e9 / 8
"""The assumed network between nodes: 25 Gbit/s, less than AWS states for machines with several GPUs (40 for a g5.12xlarge to
3200 for a p5.48xlarge). Hardware data has no network. Even at this rate, the transfer is a small part of a stage's time."""
_LINK_SHARE = 0.4
"""The assumed part of a link's nominal rate that a transfer inside a node reaches."""
NETWORK_LATENCY_SECONDS = 100e-6
"""The assumed latency of one transfer between nodes over TCP."""


class Stage(NamedTuple):
    """The GPUs of one stage."""

    gpu: GpuType
    node: int
    """The number of its node within the replica. Neighbours with the same number transfer inside that node."""


class StageSteps(NamedTuple):
    """One stage before layers are assigned to it."""

    whole: KernelSteps
    """The times of the whole model on this stage's GPUs."""
    usable_bytes: float
    """The memory for weights and KV over its GPUs."""
    table_bytes: float
    """The bytes of the embedding table (first stage) and of the output head (last stage)."""
    hand_over_seconds_per_token: float
    hand_over_seconds: float
    overhead_seconds: float
    """Its part of the time of an iteration that does not depend on the layers."""

    def beside_layers(self, tokens: Array) -> Array:
        """The seconds of an iteration with ``tokens`` tokens that do not depend on the layers."""
        return self.overhead_seconds + self._hand_over(tokens)

    def _hand_over(self, tokens: Array) -> Array:
        return self.hand_over_seconds_per_token * tokens + self.hand_over_seconds


type Parts = Sequence[tuple[StageSteps, float]]
"""Stages, each with its part of the layers, as a fraction."""


def prefill_seconds(parts: Parts, tokens: Numbers) -> list[Array]:
    """Seconds for prompts of ``tokens`` tokens, by stage. Stages on equal GPUs are computed once."""
    tokens = np.asarray(tokens)
    return _by_stage(parts, lambda whole: whole.prefill_seconds(tokens), tokens)


def step_seconds(parts: Parts, tokens: Array, context_tokens: Numbers) -> list[Array]:
    """Seconds of one decode step of a micro-batch of ``tokens`` requests, by stage."""
    return _by_stage(parts, lambda whole: whole.decode_seconds(tokens, context_tokens), tokens)


def _by_stage(parts: Parts, seconds: Callable[[KernelSteps], Numbers], tokens: Array) -> list[Array]:
    distinct = {stage.whole for stage, _ in parts}
    layers = {whole: np.asarray(seconds(whole)) - whole.engine.step_seconds for whole in distinct}
    return [part * layers[stage.whole] + stage.beside_layers(tokens) for stage, part in parts]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages with the layers that are assigned to them."""

    stages: tuple[StageSteps, ...]
    layers: tuple[int, ...]
    body_bytes: float
    """The bytes of the weights of all layers, without embedding table and output head."""

    def parts(self) -> list[tuple[StageSteps, float]]:
        """The stages, each with its part of the layers."""
        total = sum(self.layers)
        return [(stage, held / total) for stage, held in zip(self.stages, self.layers, strict=True)]

    def kv_room_tokens(self) -> float:
        """The tokens whose KV cache fits. The stage with the least room decides, since each stage keeps its layers' part of
        every token."""
        total = sum(self.layers)
        return min(
            (stage.usable_bytes - stage.table_bytes - self.body_bytes * held / total)
            / (stage.whole.kv_bytes_per_token * held / total)
            for stage, held in zip(self.stages, self.layers, strict=True)
        )

    def at(self, batch: Array, input_tokens: int, output_tokens: int) -> Steady:
        """The steady state for each of these batches, if that many requests of one class always run."""
        count, parts = len(self.stages), self.parts()
        tokens = np.maximum(1.0, batch / count)
        context = input_tokens + output_tokens / 2
        prefills = [float(seconds) for seconds in prefill_seconds(parts, input_tokens)]
        steps = step_seconds(parts, tokens, context)
        prefill, share = math.fsum(prefills), max(prefills)
        step = np.maximum(np.sum(steps, axis=0), np.minimum(batch, count) * np.max(steps, axis=0))
        others = (batch - 1) * share
        wait = np.minimum(others / 2, share * share * batch / (2 * output_tokens * step))
        ttft = prefill + step + wait
        if output_tokens == 1:
            return Steady(batch, 1 / (share + step / batch), ttft, np.zeros_like(step))
        tpot = step + (others - wait) / (output_tokens - 1)
        return Steady(batch, batch / (ttft + (output_tokens - 1) * tpot), ttft, tpot)


@dataclass(frozen=True, slots=True)
class PipelineSteps:
    """``StepTimes`` of a pipeline. An iteration takes the time of one token through all stages, or of one step of all
    micro-batches, whichever is longer."""

    pipeline: Pipeline
    settings: EngineSettings

    @property
    def stages(self) -> int:
        """The number of pipeline stages."""
        return len(self.pipeline.stages)

    @property
    def kv_room_tokens(self) -> float:
        """The tokens whose KV cache fits in the stage with the least room."""
        return self.pipeline.kv_room_tokens()

    def held_tokens(self, tokens: Numbers) -> Array:
        """The part of them that one sequence takes. Layers with windows and state count as evenly distributed over stages."""
        return self.pipeline.stages[0].whole.held_tokens(tokens)

    def prefill_seconds(self, tokens: Numbers, past: Numbers = 0.0) -> Numbers:
        """The time of a prompt through all stages."""
        tokens, past = np.asarray(tokens, dtype=float), np.asarray(past, dtype=float)
        before = np.where(past > 0, self._up_to(past), 0.0)
        return np.where(tokens > 0, self._up_to(past + tokens) - before, 0.0)

    def decode_seconds(self, batch: Numbers, context_tokens: Numbers) -> Numbers:
        """The time of one token through all stages, or of one step of all micro-batches, whichever is longer."""
        batch = np.asarray(batch, dtype=float)
        tokens = np.maximum(1.0, batch / self.stages)
        steps = step_seconds(self.pipeline.parts(), tokens, context_tokens)
        seconds: Array = np.maximum(np.sum(steps, axis=0), np.minimum(batch, self.stages) * np.max(steps, axis=0))
        return seconds

    def mixed_seconds(
        self,
        prefill_tokens: Numbers,
        prefill_past: Numbers,
        batch: Numbers,
        context_tokens: Numbers,
        prompts: Numbers = 1.0,
    ) -> Numbers:
        """The time of both, one after the other."""
        return self.beside(batch, context_tokens)(prefill_tokens, prefill_past, prompts)

    def beside(self, batch: Numbers, context_tokens: Numbers) -> Beside:
        """``mixed_seconds`` beside these requests."""
        step = np.asarray(self.decode_seconds(batch, context_tokens))

        def seconds(prefill_tokens: Numbers, prefill_past: Numbers, prompts: Numbers = 1.0) -> Array:
            each = np.asarray(prefill_tokens, dtype=float) / prompts
            return step + prompts * np.asarray(self.prefill_seconds(each, prefill_past))

        return seconds

    def _up_to(self, count: Array) -> Array:
        """The seconds for the first ``count`` tokens of a prompt."""
        seconds: Array = np.sum(prefill_seconds(self.pipeline.parts(), np.round(count)), axis=0)
        return seconds


def stage_steps(
    *, model: ModelCard, precision: str, stages: Sequence[Stage], tensor_parallel: int, settings: EngineSettings
) -> tuple[StageSteps, ...]:
    """The stages before layers are assigned to them."""
    table_bytes = model.vocabulary_size * model.hidden_size * WIDE_BYTES
    out = []
    for number, stage in enumerate(stages):
        whole = step_times(
            model=model,
            precision=precision,
            gpu=stage.gpu,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=1,
            settings=settings,
        )
        last = number + 1 == len(stages)
        per_token = latency = 0.0
        if not last:
            inside = stages[number + 1].node == stage.node
            link = _LINK_SHARE * stage.gpu.link_bytes_per_second
            per_token = model.hidden_size * WIDE_BYTES / (link if inside else NETWORK_BYTES_PER_SECOND)
            latency = 0.0 if inside else NETWORK_LATENCY_SECONDS
        out.append(
            StageSteps(
                whole=whole,
                usable_bytes=whole.kv_room_bytes + whole.weight_bytes,
                table_bytes=table_bytes * ((number == 0) + last),
                hand_over_seconds_per_token=per_token,
                hand_over_seconds=latency,
                overhead_seconds=whole.engine.step_seconds / len(stages),
            )
        )
    return tuple(out)


def most_layers(layers: int, stages: Sequence[StageSteps], body_bytes: float, *, kv_tokens: float) -> tuple[int, ...]:
    """The most layers of each stage whose weights fit together with their part of the KV cache of ``kv_tokens`` tokens."""
    return tuple(
        max(
            0,
            min(
                layers,
                math.floor(
                    (stage.usable_bytes - stage.table_bytes)
                    * layers
                    / (body_bytes + kv_tokens * stage.whole.kv_bytes_per_token)
                ),
            ),
        )
        for stage in stages
    )


def body_bytes_of(model: ModelCard, precision: str) -> float:
    """The bytes of the weights of all layers, without embedding table and output head."""
    return model.weight_bytes(precision) - model.embedding_parameters * WIDE_BYTES
