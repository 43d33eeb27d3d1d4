"""How long one iteration of an engine takes.

Flow: profiles -> **simulate** -> emulate. The coefficients are those of ``profiles.roofline``, corrected by the
measurements of ``profiles.measured``, so that what is emulated is what was planned. One iteration costs

    step(n sequences that get a token, their context) + share of every chunk of a prompt that is read in it

both times the correction of the time per request at the mean lengths of the running batch. The sum follows the profile, in
which every running request is prefilled once while a request runs: R = B prefill / s + o step.

The measured correction of TTFT is left out. It was taken with a fixed number of clients, whose prompts arrive in bursts
and wait for one another; here such waiting arises by itself.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

from servingplan.errors import InputError
from servingplan.model.engine import EngineSettings
from servingplan.model.hardware import GpuType
from servingplan.model.llm import ModelCard
from servingplan.profiles.estimate import estimate
from servingplan.profiles.fit import Unfit
from servingplan.profiles.measured import SHIPPED, correction
from servingplan.profiles.roofline import roofline

BLOCK_TOKENS: Final = 16
"""Tokens of a KV block, vLLM's default on GPUs."""

_GRID = math.log(1.05)
"""Lengths and batch are rounded to steps of 5 % before a correction is looked up; it varies far more slowly."""


class Pace:
    """Iteration times and KV room of one replica (model, precision, GPU, tensor and pipeline parallel size).

    Args:
        settings: of the engine. The KV cache of one sequence of ``max_model_len`` must fit beside the weights.

    Raises:
        InputError: the replica cannot exist.
    """

    def __init__(
        self,
        *,
        model: ModelCard,
        precision: str,
        gpu: GpuType,
        tensor_parallel: int = 1,
        pipeline_parallel: int = 1,
        settings: EngineSettings,
    ) -> None:
        possible = estimate(
            model=model,
            precision=precision,
            gpu=gpu,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
            settings=settings,
            input_tokens=1,
            output_tokens=1,
            ttft_seconds=None,
            tpot_seconds=None,
        )
        if isinstance(possible, Unfit):
            shape = f"{model.name} {precision} on {tensor_parallel}x{pipeline_parallel} {gpu.name}"
            raise InputError("replica", shape, possible.message)
        self._base = roofline(
            model=model,
            precision=precision,
            gpu=gpu,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
            memory_fraction=settings.gpu_memory_utilization,
            kv_bytes_per_element=settings.kv_bytes_per_element,
        )
        self._nodes = SHIPPED.nodes_for(
            model=model,
            precision=precision,
            gpu=gpu,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
        )
        self.max_model_len = settings.max_model_len
        self.stages = pipeline_parallel
        self.kv_blocks = int(self._base.kv_room_tokens) // BLOCK_TOKENS
        if self.kv_blocks * BLOCK_TOKENS < settings.max_model_len:
            raise InputError(
                "max_model_len",
                settings.max_model_len,
                f"must be at most {self.kv_blocks * BLOCK_TOKENS}, in whole KV blocks",
            )
        self._stretch_at = lru_cache(maxsize=4096)(self._stretch_on_grid)
        self._step: dict[int, tuple[float, float]] = {}

    def step_seconds(self, sequences: int, context_tokens: int) -> float:
        """Uncorrected time of one token for each of ``sequences``, with ``context_tokens`` behind all of them together."""
        terms = self._step.get(sequences)
        if terms is None:
            # The formula is linear in the context: two values tell it.
            alone = self._base.step_seconds(sequences, 0.0)
            terms = alone, (self._base.step_seconds(sequences, 1.0) - alone) / sequences
            self._step[sequences] = terms
        return terms[0] + terms[1] * context_tokens

    def prefill_seconds(self, start: int, stop: int) -> float:
        """Uncorrected time of all stages to read the tokens ``start`` to ``stop`` of a prompt."""
        whole = self._base.prefill_seconds(stop)
        return whole - self._base.prefill_seconds(start) if start else whole

    def stretch(self, sequences: int, mean_input: float, mean_output: float) -> float:
        """Measured over predicted time of a request in such a batch; 1 where nobody measured."""
        if not self._nodes:
            return 1.0
        return self._stretch_at(*(round(math.log(max(1.0, it)) / _GRID) for it in (sequences, mean_input, mean_output)))

    def _stretch_on_grid(self, ln_batch: int, ln_input: int, ln_output: int) -> float:
        batch = math.exp(ln_batch * _GRID)
        lengths = [max(1, round(math.exp(it * _GRID))) for it in (ln_input, ln_output)]
        point = self._base.at(batch, *lengths)
        corrected = correction(self._nodes, input_tokens=lengths[0], output_tokens=lengths[1]).apply(point)
        return point.requests_per_second / corrected.requests_per_second
