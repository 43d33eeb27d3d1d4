"""Parses the names of models: the repository, the quantisation of the weights, and what the model was tuned for.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status; ``catalogue`` uses it. Publishers write the
quantisation at the end of a repository's name (``-FP8-dynamic``, ``-NVFP4``, ``-AWQ``, ``-GPTQ-Int4``,
``-quantized.w4a16``). A name without one means the weights as their author first published them, mostly in 16 bits.
"""

import re
from typing import NamedTuple

from servingplan.profiles.quantization import Quantization

_QUANTIZED: tuple[tuple[str, Quantization], ...] = (
    (r"fp8[-_.]block", Quantization("fp8", "fp8", block=(128, 128))),
    (r"(fbgemm[-_])?fp8([-_.](dynamic|static|pertensor|per-tensor|kv|e4m3|torchao|w8a8))*", Quantization("fp8", "fp8")),
    (r"(nvfp4|fp4)([-_.](v2|kv8|fp8-kv|w4a16|a16))*", Quantization("fp4", "nvfp4", block=(1, 16))),
    (r"mxfp4", Quantization("fp4", "mxfp4")),
    (r"awq([-_.](int4|4bit|marlin|g128|w4a16))*", Quantization("int4", "awq", block=(1, 128))),
    (r"gptq[-_.](int8|8bit)", Quantization("int8", "gptq", block=(1, 128))),
    (r"(gptq|autoround|auto-round)([-_.](int4|4bit|g128|w4a16|b4))*", Quantization("int4", "gptq", block=(1, 128))),
    (r"(quantized[-_.])?w4a16(_?g128)?", Quantization("int4", "int4", block=(1, 128))),
    (r"(quantized[-_.])?w8a(8|16)", Quantization("int8", "int8")),
    (r"(unsloth[-_.])?(bnb[-_.])?4bit", Quantization("int4", "bitsandbytes")),
    (r"(bnb[-_.])?8bit", Quantization("int8", "bitsandbytes")),
    (r"int4", Quantization("int4", "int4", block=(1, 128))),
    (r"int8", Quantization("int8", "int8")),
    (r"(bf16|bfloat16|fp16|f16)", Quantization()),
)
"""Ends of names with their meanings. The block of 128 rows and columns is DeepSeek's, groups of 128 are usual for AWQ and GPTQ,
and groups of 16 belong to NVFP4."""
_ENDS = tuple((re.compile(rf"[-_.]{pattern}$", re.IGNORECASE), meaning) for pattern, meaning in _QUANTIZED)
_TUNING = re.compile(r"[-_.](instruct|it|chat|base|pt|hf|thinking|reasoning|preview)$", re.IGNORECASE)
_PUBLISHER = re.compile(r"^(meta|nvidia|mistralai|deepseek-ai|qwen|google|openai|microsoft)[-_](?=.)", re.IGNORECASE)


class ModelName(NamedTuple):
    """The parts of a model's name."""

    repository: str | None
    """``organisation/name`` as it was written, without scheme and revision; None if there is no organisation."""
    tail: str
    """The last part."""
    quantization: Quantization | None
    """The quantisation that the end of the name says; None if it says none."""
    plain: str
    """The tail without that end."""


def take_apart(identifier: str) -> ModelName:
    """The parts of a name as people write it: ``hf://org/name@revision``, ``org/name``, ``name``. Spaces count as dashes."""
    whole = re.sub(r"^[a-z0-9+]+://", "", identifier.strip(), flags=re.IGNORECASE).rstrip("/")
    whole = re.sub(r"\s+", "-", whole.partition("@")[0])
    parts = [part for part in whole.split("/") if part]
    tail = parts[-1] if parts else ""
    plain, quantization = tail, None
    while True:
        found = next(((end, what) for pattern, what in _ENDS if (end := pattern.search(plain))), None)
        if found is None:
            break
        # The last end of the name is found first. An end before it replaces it: in -AWQ-INT4 the last end only refines AWQ.
        plain = plain[: found[0].start()]
        quantization = found[1] if quantization is None or found[1].method is not None else quantization
    return ModelName("/".join(parts) if len(parts) == 2 else None, tail, quantization, plain)


def looser(plain: str) -> list[str]:
    """Other spellings under which a model may be known, closest first: without the tuning, and without the publisher."""
    found = [plain]
    shorter = plain
    while (match := _TUNING.search(shorter)) is not None:
        shorter = shorter[: match.start()]
        found.append(shorter)
    found += [_PUBLISHER.sub("", name) for name in found]
    return list(dict.fromkeys(found))
