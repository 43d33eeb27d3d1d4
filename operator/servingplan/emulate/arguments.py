"""From a command line to a replica: the engine's own arguments mean here what they mean to vLLM.

What a command line does not tell is found out: the precision from the name of the weights, the GPU from the name of the
pool, the batch limits from the GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from servingplan.errors import InputError
from servingplan.model.engine import EngineSettings, Speculation, vllm_limits
from servingplan.model.llm import PRECISIONS, ModelCard, precision_named
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.render import flags
from servingplan.simulate.pace import Pace


@dataclass(frozen=True, slots=True)
class Shape:
    """One replica and the limits of its scheduler."""

    pace: Pace
    model_names: tuple[str, ...]
    max_num_seqs: int
    max_num_batched_tokens: int
    prefix_cache_hit_share: float
    told: str
    """The meaning in words, for the log."""


def shape(
    *,
    model: str,
    card: str | None = None,
    gpu: str,
    pool: str | None = None,
    precision: str | None = None,
    quantization: str | None = None,
    kv_cache_dtype: str = "auto",
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    served_model_names: tuple[str, ...] = (),
    max_model_len: int = 8192,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    memory_fraction: float = 0.9,
    expert_parallel: bool = False,
    prefix_cache_hit_share: float = 0.0,
    speculative_config: str | None = None,
    acceptance: float = 0.0,
) -> Shape:
    """The replica that these arguments describe.

    Args:
        model: what ``--model`` names: a repository, or a path where weights lie.
        card: the model in the catalogue, where ``model`` and ``served_model_names`` do not tell it.
        gpu: a GPU, or ``POOL=GPU,POOL=GPU``, of which ``pool`` picks one.
        speculative_config: vLLM's, as JSON; ``acceptance`` is what it does not say.

    Raises:
        InputError: a name is not known, or the replica cannot exist.
    """
    found = find_model(card) if card else _find_card((model, *served_model_names))
    hardware = find_gpu(gpu_of(gpu, pool))
    weights = precision or precision_of(model, quantization) or found.precision
    if weights.lower() not in PRECISIONS:
        raise InputError("precision", weights, f"must be one of {', '.join(sorted(PRECISIONS))}")
    seqs, batched = vllm_limits(hardware)
    seqs = max_num_seqs or seqs
    for name, value in (("tensor-parallel", tensor_parallel), ("pipeline-parallel", pipeline_parallel)):
        if value < 1:
            raise InputError(name, value, "must be at least 1")
    if not 0 < memory_fraction <= 1:
        raise InputError("gpu-memory-utilization", memory_fraction, "must be above 0 and at most 1")
    if max_model_len < 2:
        raise InputError("max-model-len", max_model_len, "must be at least 2")
    tokens = max_num_batched_tokens or max(batched, seqs)
    if tokens < seqs:
        raise InputError("max-num-batched-tokens", tokens, f"must be at least max-num-seqs, {seqs}")
    pace = Pace(
        model=found,
        precision=weights,
        gpu=hardware,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        settings=EngineSettings(
            max_model_len=max_model_len,
            gpu_memory_utilization=memory_fraction,
            kv_cache_dtype="fp8" if kv_cache_dtype.startswith("fp8") else "auto",
            max_num_seqs=seqs,
            max_num_batched_tokens=tokens,
            expert_parallel=expert_parallel,
            prefix_cache_hit_share=prefix_cache_hit_share,
            speculation=None if speculative_config is None else _speculation(speculative_config, acceptance),
        ),
    )
    return Shape(
        pace=pace,
        model_names=served_model_names or (model,),
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        prefix_cache_hit_share=prefix_cache_hit_share,
        told=f"{found.name} {weights} on {tensor_parallel}x{pipeline_parallel} {hardware.name}, "
        f"{pace.kv_blocks} KV blocks, at most {seqs} sequences",
    )


def shape_of(
    arguments: Sequence[str],
    *,
    gpu: str,
    pool: str | None = None,
    acceptance: float = 0.0,
    prefix_cache_hit_share: float = 0.0,
) -> Shape:
    """The replica that a rendered Deployment's arguments describe.

    Args:
        acceptance: of speculative decoding, which the plan declares and no flag says.
        prefix_cache_hit_share: likewise.

    Raises:
        InputError: as ``shape``, or an argument has no value.
    """
    told = flags.read(arguments)
    served = told.values.get("--served-model-name")
    return shape(
        model=told.values.get("--model", ""),
        gpu=gpu,
        pool=pool,
        quantization=told.value(flags.QUANTIZATION),
        kv_cache_dtype=told.value(flags.KV_CACHE_DTYPE) or "auto",
        tensor_parallel=int(told.values.get("--tensor-parallel-size", 1)),
        pipeline_parallel=int(told.values.get("--pipeline-parallel-size", 1)),
        served_model_names=(served,) if served else (),
        max_model_len=told.value(flags.MAX_MODEL_LEN) or 8192,
        max_num_seqs=told.value(flags.MAX_NUM_SEQS),
        max_num_batched_tokens=told.value(flags.MAX_NUM_BATCHED_TOKENS),
        memory_fraction=told.value(flags.GPU_MEMORY_UTILIZATION) or 0.9,
        expert_parallel=bool(told.value(flags.EXPERT_PARALLEL)),
        prefix_cache_hit_share=prefix_cache_hit_share,
        acceptance=acceptance,
        speculative_config=None if told.speculative is None else json.dumps(told.speculative),
    )


def gpu_of(gpu: str, pool: str | None) -> str:
    """The GPU's name, picked by pool where the argument is a table."""
    if "=" not in gpu:
        return gpu
    table = dict(item.split("=", 1) for item in gpu.split(",") if "=" in item)
    if pool is None or pool not in table:
        raise InputError("gpu", gpu, f"has no GPU for the pool {pool!r}; add {pool or 'POOL'}=GPU, and name the --pool")
    return table[pool]


def precision_of(model: str, quantization: str | None) -> str | None:
    """The precision that vLLM's ``--quantization``, or the name of the weights, tells; None where neither does."""
    return precision_named(quantization or "") or precision_named(model.rsplit("/", 1)[-1])


def _speculation(config: str, acceptance: float) -> Speculation:
    told = flags.read([f"{flags.SPECULATIVE_CONFIG.name}={config}"]).speculative or {}
    try:
        return Speculation(
            method=told.get("method", "draft_model"),
            model=told.get("model"),
            tokens=told.get("num_speculative_tokens", 0),
            acceptance=acceptance,
        )
    except ValidationError as error:
        raise InputError("speculative-config", config, "needs num_speculative_tokens, from 1 to 32") from error


def _find_card(names: Iterable[str]) -> ModelCard:
    refused: InputError | None = None
    for name in names:
        try:
            return find_model(name)
        except InputError as error:
            refused = refused or error
    assert refused is not None
    raise refused
