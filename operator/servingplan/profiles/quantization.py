"""Reads how published weights are stored, from ``quantization_config`` of a ``config.json``.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status; ``config_json`` and ``names`` use it. It reads the
forms that vLLM reads: vLLM's own names of methods, compressed-tensors (LLM Compressor), ModelOpt (NVIDIA) and MXFP4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from servingplan.errors import InputError

_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")


class ConfigError(InputError):
    """A configuration that cannot be read as a model."""


class Quantization(NamedTuple):
    """How published weights are stored."""

    precision: str = "bf16"
    """A key of ``model.llm.PRECISIONS``."""
    method: str | None = None
    """The value of ``ModelCard.quantization``; None if the weights are not quantised."""
    experts_only: bool = False
    """Whether the attention of all layers keeps 16 bits."""
    block: tuple[int, int] | None = None
    """Rows and columns that share one scale."""


def text_part(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The part that describes the language model, and the path to it, which is empty or ends with a dot."""
    part, prefix = config, ""
    while (key := next((key for key in _TEXT_PARTS if isinstance(part.get(key), dict)), None)) is not None:
        part, prefix = part[key], f"{prefix}{key}."
    return part, prefix


def read_quantization(config: Mapping[str, Any], *, layers: int) -> Quantization:
    """How the weights are stored, by ``quantization_config``; without it, in 16 bits.

    Raises:
        ConfigError: the method, or its number of bits, is not known.
    """
    part, _ = text_part(config)
    facts = next(
        (
            source[key]
            for source in (config, part)
            for key in ("quantization_config", "compression_config")
            if isinstance(source.get(key), dict)
        ),
        None,
    )
    if facts is None:
        return Quantization()
    field = "quantization_config.quant_method"
    method = str(facts.get("quant_method") or "").lower().replace("_", "-")
    ignored = facts.get("modules_to_not_convert") or facts.get("ignore") or facts.get("exclude_modules") or ()
    experts_only = _leaves_attention_out([str(item) for item in ignored], layers)
    match method:
        case "fp8" | "fbgemm-fp8" | "ptpc-fp8":
            block = facts.get("weight_block_size")
            return Quantization("fp8", "fp8", experts_only, (int(block[0]), int(block[1])) if block else None)
        case "mxfp4":
            return Quantization("fp4", "mxfp4", experts_only)
        case "awq" | "gptq" | "auto-round" | "awq-marlin" | "gptq-marlin":
            bits = facts.get("bits", facts.get("w_bit", 4))
            group = facts.get("group_size", facts.get("q_group_size", 128)) or 0  # null: no groups
            named = "awq" if method.startswith("awq") else "gptq"
            return Quantization(_integer_precision(bits, field), named, experts_only, (1, group) if group > 0 else None)
        case "bitsandbytes":
            return Quantization("int4" if facts.get("load_in_4bit") else "int8", "bitsandbytes", experts_only)
        case "compressed-tensors":
            return _compressed_tensors(facts, experts_only)
        case "modelopt" | "modelopt-fp4" | "":
            algorithm = str(facts.get("quant_algo") or facts.get("quantization", {}).get("quant_algo") or "").upper()
            if "NVFP4" in algorithm or algorithm == "MIXED_PRECISION":
                return Quantization("fp4", "nvfp4", experts_only, (1, int(facts.get("group_size") or 16)))
            if "FP8" in algorithm:
                return Quantization("fp8", "fp8", experts_only)
            raise ConfigError("quantization_config.quant_algo", algorithm, "is not known; known are FP8 and NVFP4")
        case _:
            raise ConfigError(
                field,
                facts.get("quant_method"),
                "is not known; known are fp8, fbgemm_fp8, awq, gptq, auto-round, bitsandbytes, compressed-tensors, "
                "modelopt and mxfp4",
            )


def _compressed_tensors(facts: Mapping[str, Any], experts_only: bool) -> Quantization:
    groups = facts.get("config_groups") or {}
    weights = next((group["weights"] for group in groups.values() if group.get("weights")), None)
    if weights is None:
        raise ConfigError("quantization_config.config_groups", groups, "has no group with weights")
    bits, kind, size = weights.get("num_bits"), weights.get("type"), weights.get("group_size")
    if (bits, kind) == (8, "float"):
        block = weights.get("block_structure")
        if isinstance(block, str):
            block = block.lower().split("x")
        return Quantization("fp8", "fp8", experts_only, (int(block[0]), int(block[1])) if block else None)
    if (bits, kind) == (4, "float"):
        if size == 32:
            return Quantization("fp4", "mxfp4", experts_only)
        return Quantization("fp4", "nvfp4", experts_only, (1, 16))
    precision = _integer_precision(bits, "quantization_config.config_groups.weights.num_bits")
    return Quantization(precision, precision, experts_only, (1, size) if size and size > 0 else None)


def _integer_precision(bits: object, field: str) -> str:
    if bits == 4:
        return "int4"
    if bits == 8:
        return "int8"
    raise ConfigError(field, bits, "integer weights of 4 and of 8 bits are known")


def _leaves_attention_out(ignored: Sequence[str], layers: int) -> bool:
    """Whether the modules that are not quantised include the attention of all layers, by a pattern or one by one."""
    whole = sum(re.search(r"self_attn(\.o_proj)?[.*$\\]*$", item) is not None for item in ignored)
    pattern = any(re.search(r"self_attn[.*$\\]*$", item) and re.search(r"re:|\*\.", item) for item in ignored)
    return pattern or whole >= layers
