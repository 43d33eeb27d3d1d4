"""How long one iteration of an engine takes: what latency, the simulated engine and the emulator build on.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. An engine with continuous batching works in
iterations. Each gives one token to every running request, and may read a chunk of a prompt beside that.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from servingplan.model.engine import EngineSettings
from servingplan.model.hardware import GpuType
from servingplan.model.llm import ModelCard
from servingplan.profiles.roofline import Roofline, roofline

type Numbers = npt.NDArray[np.float64] | float
"""Numbers, or arrays of them that are broadcast against each other."""


class StepTimes(Protocol):
    """Times of the iterations of one replica, in seconds. Arguments may be arrays and are broadcast.

    A replica with several stages works on as many micro-batches at once. The times are those of one micro-batch through
    all stages; ``batch`` counts the requests of all of them.
    """

    @property
    def settings(self) -> EngineSettings:
        """How the engine runs."""
        ...

    @property
    def stages(self) -> int:
        """Pipeline stages."""
        ...

    @property
    def kv_room_tokens(self) -> float:
        """Tokens whose KV cache fits beside the weights, over the whole replica."""
        ...

    def prefill_seconds(self, tokens: Numbers, past: Numbers = 0.0) -> Numbers:
        """One iteration that reads ``tokens`` tokens of a prompt after ``past`` ones, and does nothing else."""
        ...

    def decode_seconds(self, batch: Numbers, context_tokens: Numbers) -> Numbers:
        """One iteration that gives one token to each of ``batch`` requests, with so many tokens behind each on average."""
        ...

    def mixed_seconds(
        self, prefill_tokens: Numbers, prefill_past: Numbers, batch: Numbers, context_tokens: Numbers
    ) -> Numbers:
        """One iteration that does both."""
        ...


@dataclass(frozen=True)
class RooflineSteps:
    """``StepTimes`` of a roofline: what a chunk of a prompt adds to a step is its arithmetic and its traffic."""

    base: Roofline
    settings: EngineSettings

    @property
    def stages(self) -> int:
        """Pipeline stages."""
        return self.base.stages

    @property
    def kv_room_tokens(self) -> float:
        """Tokens whose KV cache fits beside the weights."""
        return self.base.kv_room_tokens

    def prefill_seconds(self, tokens: Numbers, past: Numbers = 0.0) -> Numbers:
        """The arithmetic of the chunk, or one read of the weights if that takes longer, and the fixed time of a step."""
        read = self.base.imbalance * self._weight_seconds(tokens)
        busy: npt.NDArray[np.float64] = np.maximum(self._chunk_seconds(tokens, past), read)
        return busy + self.base.step_overhead_seconds

    def decode_seconds(self, batch: Numbers, context_tokens: Numbers) -> Numbers:
        """See ``Roofline.step_seconds``."""
        base = self.base
        tokens = np.maximum(1.0, np.asarray(batch) / base.stages)
        reads = tokens * context_tokens * base.kv_bytes_per_token * base.byte_seconds
        busy = np.maximum(self._weight_seconds(tokens), base.flop_seconds * tokens) + reads
        traffic = base.traffic_seconds_per_token * tokens + base.traffic_seconds
        return base.imbalance * busy + traffic + base.step_overhead_seconds

    def mixed_seconds(
        self, prefill_tokens: Numbers, prefill_past: Numbers, batch: Numbers, context_tokens: Numbers
    ) -> Numbers:
        """The chunk rides on the step, whose weights are read once for both."""
        return self.decode_seconds(batch, context_tokens) + self._chunk_seconds(prefill_tokens, prefill_past)

    def _weight_seconds(self, tokens: Numbers) -> Numbers:
        share = np.vectorize(self.base.model.expert_share, otypes=[float])
        shares: npt.NDArray[np.float64] = share(tokens)
        return self.base.weight_bytes * self.base.byte_seconds * shares

    def _chunk_seconds(self, tokens: Numbers, past: Numbers) -> Numbers:
        base = self.base
        squares = tokens * (tokens + 2.0 * np.asarray(past))
        arithmetic = base.flop_seconds * tokens + base.attention_flop_seconds * squares
        return base.imbalance * arithmetic + base.traffic_seconds_per_token * tokens + base.traffic_seconds


def step_times(
    *,
    model: ModelCard,
    precision: str,
    gpu: GpuType,
    tensor_parallel: int,
    pipeline_parallel: int,
    settings: EngineSettings,
) -> StepTimes:
    """The times of one replica, uncorrected by measurements.

    Raises:
        UnknownPrecisionError: the precision is not in the table.
    """
    base = roofline(
        model=model,
        precision=precision,
        gpu=gpu,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        memory_fraction=settings.gpu_memory_utilization,
        kv_bytes_per_element=settings.kv_bytes_per_element,
    )
    return RooflineSteps(base, settings)
