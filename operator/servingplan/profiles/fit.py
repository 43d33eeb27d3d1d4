"""Checks whether a model fits GPUs at all, and says why not.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status; ``estimate`` and ``chain`` call it.
"""

from pydantic import BaseModel, ConfigDict

from servingplan.model.llm import ModelCard


class Unfit(BaseModel):
    """Why a replica cannot serve a class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    """One of ``HeadsNotDivisible``, ``BlocksNotDivisible``, ``LayersNotDivisible``, ``ContextAboveModel``,
    ``ContextTooShort``, ``Memory``, ``SloUnreachable``."""
    message: str
    """What is missing, in numbers, and what would help."""
    least_ttft_seconds: float | None = None
    """For SloUnreachable: the smallest sufficient TTFT limit with the present TPOT limit, in seconds; None if there is none."""
    least_tpot_seconds: float | None = None
    """For SloUnreachable: the smallest sufficient TPOT limit with the present TTFT limit, in seconds; None if there is none."""


def shape_refusal(
    model: ModelCard,
    tensor_parallel: int,
    pipeline_parallel: int,
    *,
    precision: str | None = None,
    expert_parallel: bool = False,
) -> Unfit | None:
    """The reason why the heads, layers or quantised weights of a model cannot be divided like this; None if they can.

    See ``divisible_shapes``.

    Args:
        precision: the precision of the weights. If it is None or the card's own, the weights have the blocks of the card.
        expert_parallel: whether whole experts are spread over the GPUs instead of being cut.
    """
    wide, narrow = max(tensor_parallel, model.kv_heads), min(tensor_parallel, model.kv_heads)
    if model.attention_heads % tensor_parallel or wide % narrow:
        good = [n for n in range(1, model.attention_heads + 1) if model.attention_heads % n == 0]
        good = [n for n in good if max(n, model.kv_heads) % min(n, model.kv_heads) == 0]
        return Unfit(
            reason="HeadsNotDivisible",
            message=f"{model.name} has {model.attention_heads} attention and {model.kv_heads} KV heads, which "
            f"{tensor_parallel} GPUs cannot share evenly; possible sizes: {', '.join(map(str, good))}",
        )
    in_blocks = precision is None or precision == model.precision
    refusal = _block_refusal(model, tensor_parallel, expert_parallel=expert_parallel) if in_blocks else None
    if refusal is not None:
        return refusal
    if pipeline_parallel > model.layers:
        return Unfit(
            reason="LayersNotDivisible",
            message=f"{model.name} has {model.layers} layers, too few for {pipeline_parallel} stages; "
            f"use at most {model.layers} stages",
        )
    return None


def _block_refusal(model: ModelCard, tensor_parallel: int, *, expert_parallel: bool) -> Unfit | None:
    """The refusal if some GPU would not get whole blocks of weights that share a scale; else None.

    A feed-forward network is cut along its width: its first weights by rows, its last by columns. vLLM does not start if a
    part is not a multiple of the block (vLLM#25292: Qwen3-30B-A3B-FP8, experts of width 768, blocks of 128, four GPUs).
    """
    if model.weight_block is None or tensor_parallel == 1:
        return None
    cut_experts = model.expert_intermediate_size if model.experts > 1 and not expert_parallel else None
    dense = model.intermediate_size if model.experts == 1 or model.dense_layers else None
    for width in (cut_experts, dense):
        if width is None:
            continue
        for block in sorted(set(model.weight_block)):
            if width % tensor_parallel or width // tensor_parallel % block:
                good = [n for n in range(1, 65) if width % n == 0 and width // n % block == 0]
                return Unfit(
                    reason="BlocksNotDivisible",
                    message=f"{model.name} has feed-forward networks of width {width}, quantised in blocks of {block}, which "
                    f"{tensor_parallel} GPUs cannot share in whole blocks; possible sizes: {', '.join(map(str, good))}"
                    + ("; or spread the experts with engine.expertParallel" if width == cut_experts else ""),
                )
    return None


def memory_refusal(
    *,
    model: ModelCard,
    tensor_parallel: int,
    kv_bytes_per_element: float,
    weight_bytes: float,
    kv_room_bytes: float,
    context_tokens: int,
    gpus: str,
) -> Unfit | None:
    """The refusal if the KV cache and the state of one longest sequence do not fit beside the weights; else None.

    Args:
        kv_bytes_per_element: 2 for 16-bit KV cache, 1 for FP8.
        kv_room_bytes: the bytes that the weights leave, over all GPUs; below 0 if the weights do not fit.
        gpus: the GPUs in words.
    """
    copies = model.kv_copies(tensor_parallel)
    sequence_bytes = model.kv_bytes(context_tokens, kv_bytes_per_element, copies)
    if kv_room_bytes >= sequence_bytes:
        return None
    room_tokens = model.longest_tokens(kv_room_bytes, kv_bytes_per_element, copies)
    needed = weight_bytes + sequence_bytes
    available = max(0.0, kv_room_bytes + weight_bytes)
    advice = "take more GPUs or a smaller precision"
    if room_tokens >= 1:
        advice += f", or lower maxModelLen to {int(room_tokens)} or less"
    return Unfit(
        reason="Memory",
        message=f"weights of {weight_bytes / 1e9:.1f} GB and the KV cache of one sequence of {context_tokens} "
        f"tokens need {needed / 1e9:.1f} GB; {gpus} leave {available / 1e9:.1f} GB; {advice}",
    )
