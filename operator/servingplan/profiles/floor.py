"""The time to the first token that is not part of any iteration: the request's way through the server.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. It includes HTTP, the tokenizer, scheduling, the
transfer to the workers, and the launches of a prompt's kernels, which run without captured graphs. It has a constant part, and
a part for each layer.

Source: mean TTFT by concurrency of aiconfigurator-core 0.12.0, groups of the fitting part (``split``), at most 8 GPUs. The
floor is the measured time less that of the formulas of ``latency_model`` at the measured rate. vLLM: 295 points of 23 groups,
median error 16 % with this floor, 61 % without it. TensorRT-LLM 0.14 behind Triton has one group, the 70B model on 4 H100.
"""

from typing import NamedTuple

from servingplan.model.engine import EngineSettings
from servingplan.model.llm import ModelCard


class _Floor(NamedTuple):
    seconds: float
    seconds_per_layer: float
    latent_seconds_per_layer: float
    """Further seconds per layer for multi-head latent attention."""


_FLOORS = {
    "vllm": _Floor(0.020, 0.0002, 0.0005),
    "sglang": _Floor(0.060, 0.0020, 0.0020),
    "tensorrt-llm": _Floor(0.040, 0.0004, 0.0020),
}
_TRITON = _Floor(0.003, 0.0001, 0.0)
"""The floor of TensorRT-LLM before 1.0, whose server was Triton's, in C++."""


def first_token_seconds(settings: EngineSettings, model: ModelCard) -> float:
    """The seconds to the first token outside all iterations; for an unknown engine those of vLLM."""
    floor = _FLOORS.get(settings.engine.lower(), _FLOORS["vllm"])
    if settings.engine.lower() == "tensorrt-llm" and (settings.version or "").startswith("0."):
        floor = _TRITON
    latent = floor.latent_seconds_per_layer if model.kv_lora_rank is not None else 0.0
    return floor.seconds + (floor.seconds_per_layer + latent) * model.layers
