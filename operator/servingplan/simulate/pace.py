"""How long one iteration of an engine takes.

Flow: profiles -> **simulate** -> emulate. The times are those of ``profiles.steps``, corrected by the measurements of
``profiles.measured``, so that the emulation has the same times as the plan. One iteration takes

    (step(n sequences that get a token, their context) + the time that each chunk of a prompt adds) x correction

where the correction is that of the time per request at the mean lengths of the running batch.

The measured correction of TTFT is not used. It was measured with a fixed number of clients, whose prompts arrive in bursts and
wait for one another; here the simulation itself produces such waiting.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import lru_cache, partial
from typing import Final

import numpy as np

from servingplan.errors import InputError
from servingplan.model.engine import EngineSettings
from servingplan.model.hardware import GpuType
from servingplan.model.llm import ModelCard
from servingplan.profiles.estimate import estimate
from servingplan.profiles.fit import Unfit
from servingplan.profiles.forward import CONTEXT, TOKENS
from servingplan.profiles.measured import SHIPPED, correction
from servingplan.profiles.steady import steady
from servingplan.profiles.steps import step_times

BLOCK_TOKENS: Final = 16
"""Tokens of a KV block; this is vLLM's default on GPUs."""

_GRID = math.log(1.05)
"""Lengths and batch are rounded to steps of 5 % before a correction is looked up, because it varies far more slowly."""

_TOKENS = [float(it) for it in TOKENS]
_CONTEXT = [float(it) for it in CONTEXT]


class Pace:
    """Iteration times and KV room of one replica (model, precision, GPU, tensor and pipeline parallel size).

    Args:
        settings: the engine's settings. The KV cache of one sequence of ``max_model_len`` must fit beside the weights.

    Raises:
        InputError: the replica does not fit its GPUs, or ``max_model_len`` does not fit beside the weights.
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
        self._base = step_times(
            model=model,
            precision=precision,
            gpu=gpu,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
            settings=settings,
        )
        self._engine = settings.engine
        self._nodes = SHIPPED.nodes_for(
            model=model,
            precision=precision,
            gpu=gpu,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
        )
        self.max_model_len = settings.max_model_len
        self.stages = pipeline_parallel
        self.tokens_per_step = settings.tokens_per_step
        """The mean tokens that an iteration gives a sequence; more than one with speculation."""
        self.positions_per_step = settings.positions_per_step
        """The tokens that an iteration computes for each decoding sequence."""
        self.kv_blocks = int(self._base.kv_room_tokens) // BLOCK_TOKENS
        copies = model.kv_copies(tensor_parallel)
        self._held_tokens = partial(
            model.held_tokens, kv_bytes_per_element=settings.kv_bytes_per_element, copies=copies
        )
        if self.blocks(settings.max_model_len) > self.kv_blocks:
            room_bytes = self.kv_blocks * BLOCK_TOKENS * self._base.kv_bytes_per_token
            most = int(model.longest_tokens(room_bytes, settings.kv_bytes_per_element, copies))
            raise InputError("max_model_len", settings.max_model_len, f"must be at most {most}, in whole KV blocks")
        self._stretch_at = lru_cache(maxsize=4096)(self._stretch_on_grid)
        self._step: dict[int, list[float]] = {}
        self._tokens = [float(it) for it in self._base.token_line]
        self._prompts = [float(it) for it in self._base.context_line]

    def blocks(self, tokens: int) -> int:
        """The KV blocks of one sequence of ``tokens`` tokens; fewer if layers have a window, more with a recurrent state."""
        return math.ceil(self._held_tokens(tokens) / BLOCK_TOKENS)

    def step_seconds(self, sequences: int, context_tokens: int) -> float:
        """The uncorrected seconds of one token for each of ``sequences`` with a total context of ``context_tokens``."""
        line = self._step.get(sequences)
        if line is None:
            seconds = np.asarray(self._base.decode_seconds(float(sequences), np.exp(CONTEXT)))
            line = self._step[sequences] = [float(it) for it in np.log(seconds)]
        return _on_grid(_CONTEXT, line, context_tokens / sequences)

    def prefill_seconds(self, start: int, stop: int, before: int) -> float:
        """The uncorrected seconds, summed over stages, that the tokens ``start`` to ``stop`` of a prompt add to an iteration
        with ``before`` other tokens."""
        beside = before / self.stages
        more = _on_grid(_TOKENS, self._tokens, beside + stop - start)
        more += _on_grid(_CONTEXT, self._prompts, stop)
        if start:
            more -= _on_grid(_CONTEXT, self._prompts, start)
        return more - _on_grid(_TOKENS, self._tokens, beside) if beside else more

    def stretch(self, sequences: int, mean_input: float, mean_output: float) -> float:
        """The ratio of measured to predicted time of a request in such a batch; 1 without measurements."""
        if not self._nodes:
            return 1.0
        return self._stretch_at(*(round(math.log(max(1.0, it)) / _GRID) for it in (sequences, mean_input, mean_output)))

    def _stretch_on_grid(self, ln_batch: int, ln_input: int, ln_output: int) -> float:
        batch = math.exp(ln_batch * _GRID)
        lengths = [max(1, round(math.exp(it * _GRID))) for it in (ln_input, ln_output)]
        points = steady(self._base, np.array([batch]), *lengths)
        seen = correction(self._nodes, input_tokens=lengths[0], output_tokens=lengths[1], engine=self._engine)
        return float((points.requests_per_second / seen.apply(points).requests_per_second)[0])


def _on_grid(axis: list[float], line: list[float], size: float) -> float:
    """exp of a line that is interpolated over an axis of logarithms; beyond the end it is proportional to the size."""
    at = math.log(max(size, 1.0))
    low = min(max(bisect_right(axis, at) - 1, 0), len(axis) - 2)
    part = min((at - axis[low]) / (axis[low + 1] - axis[low]), 1.0)
    return math.exp(line[low] + part * (line[low + 1] - line[low]) + max(at - axis[-1], 0.0))
