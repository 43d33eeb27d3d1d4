"""The engine's settings: what the spec says, and what it leaves to the planner.

A setting may be given twice, as a field of ``engine`` and as a flag in ``engine.extraArgs``; both must agree. A setting that
neither gives is chosen from a few values, or keeps the planner's default. Flags of ``extraArgs`` stay where the user wrote
them and are not written again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from servingplan.api.models_v1alpha1 import Engine, Model, Variant
from servingplan.errors import InputError
from servingplan.model.engine import EngineSettings, Speculation
from servingplan.model.hardware import GpuType
from servingplan.model.llm import ModelCard, precision_named
from servingplan.profiles.fit import Unfit
from servingplan.render import flags

SEQUENCES = (16, 32, 64, 128, 256, 512, 1024)
"""The values of ``max_num_seqs`` that are considered. They are few and fixed, so that a small change of rates or limits
does not change the value, and with it the running pods."""
BATCHED_TOKENS = 8192
"""``max_num_batched_tokens`` if the spec gives none: vLLM's own value on large GPUs, with which most rates were measured."""
MEMORY_SHARE = 0.9
"""``gpu_memory_utilization`` if the spec gives none: vLLM's own value."""
STOP_SECONDS = 300
"""The least time that running requests have to finish after SIGTERM. The longest answers take minutes, and an engine
without requests ends at once."""
SHUTDOWN_TIMEOUT_SINCE = (0, 18)
"""First version of vLLM with ``--shutdown-timeout`` (pull request 36666)."""

SPANS_NODES_SINCE = (0, 11, 1)
"""First version of vLLM with ``--nnodes``, by which one engine spans nodes without Ray (pull request 23691)."""

_FIELDS = {
    "max_num_seqs": ("maxNumSeqs", flags.MAX_NUM_SEQS),
    "max_num_batched_tokens": ("maxNumBatchedTokens", flags.MAX_NUM_BATCHED_TOKENS),
    "gpu_memory_utilization": ("gpuMemoryUtilization", flags.GPU_MEMORY_UTILIZATION),
    "kv_cache_dtype": ("kvCacheDtype", flags.KV_CACHE_DTYPE),
    "expert_parallel": ("expertParallel", flags.EXPERT_PARALLEL),
}
"""The settings that are both fields of the spec and flags of the engine."""

_PRECISIONS_BY_METHOD = {
    "fp8": ("fp8",),
    "fbgemm_fp8": ("fp8",),
    "ptpc_fp8": ("fp8",),
    "modelopt": ("fp8",),
    "modelopt_fp4": ("fp4",),
    "mxfp4": ("mxfp4",),
    "awq": ("int4",),
    "awq_marlin": ("int4",),
    "gptq": ("int4", "int8"),
    "gptq_marlin": ("int4", "int8"),
    "bitsandbytes": ("int4", "int8"),
    "experts_int8": ("int8",),
}
"""The meaning of vLLM's ``--quantization`` for weights. Methods that are not listed are passed on unchecked."""

_CONTEXT_FLAGS = ("--hf-overrides", "--rope-scaling", "--rope-theta")
"""Arguments by which users give a model a longer context than it was made for."""


@dataclass(frozen=True)
class Wish:
    """What the spec says of the settings of one variant's replicas."""

    said: Mapping[str, Any]
    """The fields of ``EngineSettings`` that are fixed."""
    takes_fp8_kv: bool
    """Whether the planner may take an FP8 KV cache on GPUs with FP8 arithmetic."""

    def agrees(self, settings: EngineSettings) -> bool:
        """Whether settings agree with everything that is fixed. The time to stop does not count, because it is no reason to
        restart a replica."""
        return all(getattr(settings, name) == value for name, value in self.said.items() if name != "shutdown_seconds")

    def widths(self, gpus: Iterable[GpuType]) -> tuple[str, ...]:
        """The values of ``kv_cache_dtype`` to consider on these GPUs, the narrowest last."""
        if "kv_cache_dtype" in self.said:
            return (self.said["kv_cache_dtype"],)
        narrow = self.takes_fp8_kv and all(gpu.fp8_dense_tflops is not None for gpu in gpus)
        return ("auto", "fp8") if narrow else ("auto",)

    def sequences(self) -> tuple[int, ...]:
        """The values of ``max_num_seqs`` to consider, ascending."""
        if "max_num_seqs" in self.said:
            return (self.said["max_num_seqs"],)
        most = self.said.get("max_num_batched_tokens", SEQUENCES[-1])
        return tuple(count for count in SEQUENCES if count <= most) or (most,)

    def settings(self, *, kv_cache_dtype: str, max_num_seqs: int) -> EngineSettings:
        """The settings with these two values, which must be among those to consider."""
        chosen = {
            "kv_cache_dtype": kv_cache_dtype,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max(BATCHED_TOKENS, max_num_seqs),
            "gpu_memory_utilization": MEMORY_SHARE,
        }
        return EngineSettings(**{**chosen, **self.said})


def wished(*, model: Model, variant: Variant, card: ModelCard, drain_seconds: int) -> Wish:
    """What the spec says of the settings of one variant.

    Raises:
        InputError: an argument of ``extraArgs`` is decided by the plan, contradicts it, or cannot be planned with.
    """
    engine = model.engine
    line = command_line(model)
    version = version_of(engine)
    said: dict[str, Any] = {
        "engine": engine.name,
        "version": version,
        "max_model_len": context_tokens(model, card),
        "prefix_cache_hit_share": float(engine.prefix_cache_hit_share or 0),
        "speculation": _speculation(model, line),
        "quantization": _quantization(model, variant, card, line),
        "shutdown_seconds": None,
    }
    if knows_shutdown_timeout(version):
        said["shutdown_seconds"] = max(STOP_SECONDS, drain_seconds)
    said.update(_fields(engine))
    for name, value in line.settings.items():
        if name in _FIELDS and name in said and said[name] != value:
            field, flag = _FIELDS[name]
            raise _refused(
                model, line, flag, f"contradicts engine.{field}, which is {said[name]}; remove one of the two"
            )
        said[name] = value
    tokens, sequences = said.get("max_num_batched_tokens"), said.get("max_num_seqs")
    if tokens is not None and sequences is not None and tokens < sequences:
        flag = flags.MAX_NUM_SEQS if flags.MAX_NUM_SEQS.name in line.values else flags.MAX_NUM_BATCHED_TOKENS
        raise _refused(
            model,
            line,
            flag,
            f"max-num-batched-tokens {tokens} is below max-num-seqs {sequences}; the engine refuses that",
        )
    takes_fp8_kv = engine.kv_cache_dtype == "auto" and (
        model.max_quality_loss is None or variant.kv_cache_quality_loss is not None
    )
    return Wish(said, takes_fp8_kv)


def unwritten(model: Model) -> EngineSettings:
    """The settings with which a replica was planned before settings were written as flags, and its ``extraArgs``.

    It was planned with up to 1,024 running requests whatever the engine's own limit. Running replicas are judged as they were
    planned, so that a new version does not replace them only because it has better knowledge.
    """
    line = command_line(model)
    planned = {
        "engine": model.engine.name,
        "version": version_of(model.engine),
        "max_num_seqs": SEQUENCES[-1],
        "max_num_batched_tokens": BATCHED_TOKENS,
        "gpu_memory_utilization": MEMORY_SHARE,
        "max_model_len": model.effective_max_model_len,
        "prefix_cache_hit_share": float(model.engine.prefix_cache_hit_share or 0),
        "speculation": _speculation(model, line),
    }
    return EngineSettings(**{**planned, **line.settings})


def command_line(model: Model) -> flags.CommandLine:
    """What ``extraArgs`` say.

    Raises:
        InputError: an argument is decided by the plan, or cannot be planned with.
    """
    try:
        line = flags.read(model.engine.extra_args)
    except InputError as error:
        raise InputError(_field(model), error.value, f"{error.field}: {error.advice}") from error
    for flag in (*flags.IDENTITY, flags.MAX_MODEL_LEN):
        if flag.name in line.words:
            raise _refused(
                model, line, flag, "is decided by the plan; remove it (maxModelLen and variants set what may be set)"
            )
    for flag, why in flags.UNPLANNED.items():
        if flag.name in line.words:
            raise _refused(model, line, flag, f"cannot be planned with: {why}; remove it")
    if line.value(flags.CHUNKED_PREFILL) is False:
        raise _refused(
            model, line, flags.CHUNKED_PREFILL, "contradicts the plan: prompts are read in chunks; remove it"
        )
    if line.value(flags.PREFIX_CACHING) is False and model.engine.prefix_cache_hit_share:
        share = model.engine.prefix_cache_hit_share
        raise _refused(
            model, line, flags.PREFIX_CACHING, f"contradicts engine.prefixCacheHitShare {share}; remove one of the two"
        )
    dtype = line.value(flags.DTYPE)
    if dtype is not None and dtype.lower() in ("float", "float32"):
        raise _refused(
            model,
            line,
            flags.DTYPE,
            "contradicts the plan: weights and activations of no variant are 32 bits wide; remove it",
        )
    return line


def context_tokens(model: Model, card: ModelCard) -> int:
    """The longest sequence that replicas admit, in tokens: the given one, else twice the longest class, at most the model's
    limit."""
    limit = None if stretched(model) else card.max_context_tokens
    if model.max_model_len is not None or limit is None:
        return model.effective_max_model_len
    return min(model.effective_max_model_len, limit)


def context_refusal(model: Model, card: ModelCard, *, tokens: int) -> Unfit | None:
    """Why a model cannot have a context, or a class, of this many tokens."""
    limit = card.max_context_tokens
    if limit is None or tokens <= limit or stretched(model):
        return None
    return Unfit(
        reason="ContextAboveModel",
        message=f"{card.name} was made for at most {limit} tokens, asked are {tokens}: lower maxModelLen or shorten the "
        "class, take another model, or give engine.extraArgs the --hf-overrides that stretch this one",
    )


def stretched(model: Model) -> bool:
    """Whether the user's arguments give the model another context than it was made for."""
    names = [word.partition("=")[0].replace("_", "-").partition(".")[0] for word in model.engine.extra_args]
    return any(name in _CONTEXT_FLAGS for name in names)


def version_of(engine: Engine) -> str | None:
    """Version of the engine as given, else as the image's tag says; None where neither tells."""
    if engine.version is not None:
        return engine.version.removeprefix("v")
    repository, _, tag = engine.image.partition("@")[0].rpartition(":")
    said = re.match(r"v?(\d+\.\d+(\.\d+)?)", tag)
    return said[1] if said and "vllm" in repository.lower() else None


def knows_shutdown_timeout(version: str | None) -> bool:
    """Whether this version of vLLM has ``--shutdown-timeout``; False if the version is not known."""
    return flags.is_since(version, SHUTDOWN_TIMEOUT_SINCE)


def spans_nodes(engine: Engine) -> bool:
    """Whether this engine can span several nodes without Ray; False if its version is not known."""
    return flags.is_since(version_of(engine), SPANS_NODES_SINCE)


def _fields(engine: Engine) -> dict[str, Any]:
    """Settings that are given as fields of the spec."""
    given = {
        "max_num_seqs": engine.max_num_seqs,
        "max_num_batched_tokens": engine.max_num_batched_tokens,
        "gpu_memory_utilization": None
        if engine.gpu_memory_utilization is None
        else float(engine.gpu_memory_utilization),
        "kv_cache_dtype": None if engine.kv_cache_dtype == "auto" else engine.kv_cache_dtype,
        "expert_parallel": engine.expert_parallel,
    }
    return {name: value for name, value in given.items() if value is not None}


def _speculation(model: Model, line: flags.CommandLine) -> Speculation | None:
    """The speculation that the field states, else the one that the flag states. The latter counts as accepting nothing,
    because no flag states the acceptance."""
    wire = model.engine.speculative
    config = line.speculative
    field = None
    if wire is not None:
        field = Speculation(method=wire.method, model=wire.model, tokens=wire.tokens, acceptance=float(wire.acceptance))
    if config is None:
        return field
    try:
        told = Speculation(
            method=config.get("method", "draft_model" if config.get("model") else ""),
            model=config.get("model"),
            tokens=config.get("num_speculative_tokens", 0),
            acceptance=0.0 if field is None else field.acceptance,
        )
    except ValidationError as error:
        advice = "give method and num_speculative_tokens (1 to 32), or engine.speculative in its place"
        raise _refused(model, line, flags.SPECULATIVE_CONFIG, advice) from error
    if field is not None and told != field.model_copy(update={"model": field.model or told.model}):
        raise _refused(
            model, line, flags.SPECULATIVE_CONFIG, "contradicts engine.speculative; make method, model and tokens equal"
        )
    return told


def _quantization(model: Model, variant: Variant, card: ModelCard, line: flags.CommandLine) -> str | None:
    """What the engine must be told so that weights have the variant's precision."""
    precision = variant.precision.lower()
    method = line.value(flags.QUANTIZATION)
    if method is not None:
        good = _PRECISIONS_BY_METHOD.get(method.lower())
        if good is not None and precision not in good:
            raise _refused(
                model,
                line,
                flags.QUANTIZATION,
                f"contradicts the precision {variant.precision} of variants[{variant.name}]: set that to "
                f"{' or '.join(good)}, or remove the argument",
            )
        return str(method)
    if not _stored_wide(variant, card) or precision in ("bf16", "fp16"):
        return None
    if precision == "fp8":
        return "fp8"
    if variant.source == f"hf://{card.repository}":
        raise InputError(
            f"spec.models[{model.name}].variants[{variant.name}].source",
            variant.source,
            f"has 16-bit weights, of which the engine makes no {variant.precision} as it loads them; name a repository that "
            f"has {variant.precision} weights",
        )
    return None


def _stored_wide(variant: Variant, card: ModelCard) -> bool:
    """Whether the weights are stored in 16 bits, as far as the repository's name and the card tell. The contents of a
    volume or an image are not known, so its weights count as stored in the stated precision."""
    scheme, _, repository = (variant.source or "").partition("://")
    return scheme == "hf" and card.quantization is None and precision_named(repository.rsplit("/", 1)[-1]) is None


def _field(model: Model) -> str:
    return f"spec.models[{model.name}].engine.extraArgs"


def _refused(model: Model, line: flags.CommandLine, flag: flags.Flag, advice: str) -> InputError:
    return InputError(_field(model), line.words.get(flag.name, flag.name), advice)
