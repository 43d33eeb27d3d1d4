"""Whether a model fits GPUs at all, and why not.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status; called by ``estimate`` and ``chain``.
"""

from pydantic import BaseModel, ConfigDict

from servingplan.model.llm import ModelCard


class Unfit(BaseModel):
    """Why a replica cannot serve a class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    """One of ``HeadsNotDivisible``, ``LayersNotDivisible``, ``ContextTooShort``, ``Memory``, ``SloUnreachable``."""
    message: str
    """What is missing, in numbers, and what would do."""
    least_ttft_seconds: float | None = None
    """SloUnreachable: the smallest TTFT limit that would do with the TPOT limit as it is, seconds; absent: none would."""
    least_tpot_seconds: float | None = None
    """SloUnreachable: the smallest TPOT limit that would do with the TTFT limit as it is, seconds; absent: none would."""


def shape_refusal(model: ModelCard, tensor_parallel: int, pipeline_parallel: int) -> Unfit | None:
    """Why the heads or layers of a model cannot be shared like this; see ``divisible_shapes``."""
    wide, narrow = max(tensor_parallel, model.kv_heads), min(tensor_parallel, model.kv_heads)
    if model.attention_heads % tensor_parallel or wide % narrow:
        good = [n for n in range(1, model.attention_heads + 1) if model.attention_heads % n == 0]
        good = [n for n in good if max(n, model.kv_heads) % min(n, model.kv_heads) == 0]
        return Unfit(
            reason="HeadsNotDivisible",
            message=f"{model.name} has {model.attention_heads} attention and {model.kv_heads} KV heads, which "
            f"{tensor_parallel} GPUs cannot share evenly; possible sizes: {', '.join(map(str, good))}",
        )
    if pipeline_parallel > model.layers:
        return Unfit(
            reason="LayersNotDivisible",
            message=f"{model.name} has {model.layers} layers, too few for {pipeline_parallel} stages; "
            f"use at most {model.layers} stages",
        )
    return None


def memory_refusal(
    *, weight_bytes: float, kv_bytes_per_token: float, kv_room_bytes: float, context_tokens: int, gpus: str
) -> Unfit | None:
    """Whether the KV cache of one longest sequence fits beside the weights.

    Args:
        kv_room_bytes: what the weights leave, over all GPUs; below 0 where they do not fit.
        gpus: the GPUs in words.
    """
    room_tokens = kv_room_bytes / kv_bytes_per_token
    if room_tokens >= context_tokens:
        return None
    needed = weight_bytes + context_tokens * kv_bytes_per_token
    available = max(0.0, kv_room_bytes + weight_bytes)
    advice = "take more GPUs or a smaller precision"
    if room_tokens >= 1:
        advice += f", or lower maxModelLen to {int(room_tokens)} or less"
    return Unfit(
        reason="Memory",
        message=f"weights of {weight_bytes / 1e9:.1f} GB and the KV cache of one sequence of {context_tokens} "
        f"tokens need {needed / 1e9:.1f} GB; {gpus} leave {available / 1e9:.1f} GB; {advice}",
    )
