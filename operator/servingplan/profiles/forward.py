"""The time of one forward pass of a model on one tensor-parallel group: the sum of its kernels by kind.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status; ``steps`` computes iterations of an engine from
it. With n GPUs in the group, each holds 1/n of the heads and of the width of the feed-forward networks:

    products    per layer: queries, keys and values; output of attention; gate and up; down. Multi-head latent attention:
                down- and up-projections, absorbed products with the latent (DeepSeek-V2 technical report, section 2.1)
    experts     a mixture's routed experts; each GPU has whole experts with expert parallelism
    small       norms, positions, activations: their activations pass through memory once each
    sums        two all-reduces of tokens x hidden size per layer
    head        output head and sampling, for tokens that are sampled
    generation  attention of new tokens, by requests and mean context
    context     attention of a prompt's tokens to those before them

Everything except attention depends only on the number of tokens in the iteration. Times are stored on grids and interpolated
over logarithms. They are made never to fall with the size.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from servingplan.model.hardware import GpuType
from servingplan.model.llm import ModelCard
from servingplan.profiles.kernels import WIDE_BYTES, Array, Kernels, interpolated, kernels_of

TOKENS: Array = np.log(
    [
        *(1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0, 768.0),
        *(1024.0, 1536.0, 2048.0, 3072.0, 4096.0, 6144.0, 8192.0, 12288.0, 16384.0, 32768.0),
    ]
)
"""The grid of the tokens of an iteration, as logarithms."""
REQUESTS: Array = np.log(2.0 ** np.arange(13))
CONTEXT: Array = np.log(2.0 ** np.array([0, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 20]))

SPARSE_CONTEXT_TOKENS = 2048.0
"""The number of tokens that an indexer selects for attention (DeepSeek V3.2, GLM-5)."""
_INDEX_BYTES = 132.0
"""The bytes of the indexer's key of one token in one layer: 128 of 8 bits and a scale."""
_SIDE_BY_SIDE = 4.0
"""The assumed number of prompts that an iteration reads together; a single short prompt would not use the whole GPU."""
_VOCABULARY = 32000
"""The assumed vocabulary if the model's card does not state one."""


@dataclass(frozen=True, eq=False)
class Forward:
    """Seconds of one forward pass over all layers, by kind of kernel, on the grids."""

    products: Array
    experts: Array
    small: Array
    sums: Array
    head: Array
    generation: Array
    """The seconds by ``REQUESTS`` and ``CONTEXT``."""
    context: Array
    """The attention of a whole prompt, by ``CONTEXT``."""
    layers: int


def over_tokens(line: Array, tokens: Array) -> Array:
    """Seconds from a line on the grid ``TOKENS``, interpolated over logarithms; beyond its end proportional to the tokens."""
    return _over(TOKENS, line, tokens)


def over_context(line: Array, tokens: Array) -> Array:
    """Seconds from a line on the grid ``CONTEXT``, interpolated over logarithms; 0 for no tokens."""
    seconds: Array = np.where(tokens > 0, _over(CONTEXT, line, tokens), 0.0)
    return seconds


def over_requests(table: Array, requests: Array, context: Array) -> Array:
    """Seconds from a table over ``REQUESTS`` and ``CONTEXT``, interpolated over logarithms; proportional beyond its ends."""
    beyond = np.maximum(requests / np.exp(REQUESTS[-1]), 1.0) * np.maximum(context / np.exp(CONTEXT[-1]), 1.0)
    points = (np.log(np.maximum(requests, 1.0)), np.log(np.maximum(context, 1.0)))
    seconds: Array = beyond * np.exp(interpolated(table, (REQUESTS, CONTEXT), points))
    return seconds


def _over(axis: Array, line: Array, sizes: Array) -> Array:
    found: Array = np.exp(np.interp(np.log(np.maximum(sizes, 1.0)), axis, line))
    beyond: Array = np.maximum(sizes / np.exp(axis[-1]), 1.0)
    return found * beyond


@lru_cache(maxsize=1024)
def forward(
    *, model: ModelCard, precision: str, gpu: GpuType, tensor_parallel: int, kv_name: str, expert_parallel: bool
) -> Forward:
    """The times of a forward pass. ``kv_name`` is the format of the KV cache, ``bf16`` or ``fp8``."""
    kernels = kernels_of(gpu)
    tokens = np.exp(TOKENS)
    sizes = _Sizes(model, tensor_parallel)
    plain, experts_format = _formats(model, precision)
    products = model.layers * _attention_products(kernels, plain, model, sizes, tokens)
    routed = np.zeros_like(tokens)
    mixture = model.experts > 1
    dense = model.dense_layers if mixture else model.layers
    width = _feed_forward_width(model)
    if dense and width:
        products += dense * _feed_forward(kernels, plain, model, width / tensor_parallel, tokens)
    if mixture:
        layers = model.layers - dense
        expert_width = model.expert_intermediate_size or _expert_width(model, layers)
        products += layers * kernels.gemm("bf16", tokens, model.experts, model.hidden_size)
        if model.shared_experts:
            shared = model.shared_experts * expert_width / tensor_parallel
            products += layers * _feed_forward(kernels, plain, model, shared, tokens)
        routed += layers * kernels.experts(
            experts_format,
            tokens,
            chosen=model.experts_per_token,
            experts=model.experts,
            spread_over=min(tensor_parallel, model.experts) if expert_parallel else 1,
            hidden=model.hidden_size,
            width=expert_width if expert_parallel else expert_width / tensor_parallel,
        )
    elements = 10.0 * model.hidden_size + 4.0 * (sizes.heads + 2.0 * sizes.kv_heads) * model.head_dim
    elements += 0.0 if mixture else 3.0 * width / tensor_parallel
    vocabulary = model.vocabulary_size or _VOCABULARY
    logits = 3.0 * 4.0 * tokens * vocabulary / kernels.peaks.bandwidth
    generation, context = _attention(kernels, kv_name, model, sizes)
    return Forward(
        products=_rising(products),
        experts=_rising(routed),
        small=_rising(model.layers * WIDE_BYTES * tokens * elements / kernels.peaks.bandwidth),
        sums=_rising(2.0 * model.layers * kernels.all_reduce(tensor_parallel, WIDE_BYTES * tokens * model.hidden_size)),
        head=_rising(kernels.gemm("bf16", tokens, vocabulary / tensor_parallel, model.hidden_size) + logits),
        generation=_rising(_rising(generation, log=False), 1),
        context=_rising(context),
        layers=model.layers,
    )


class _Sizes:
    """The heads on one GPU of a group. If there are more GPUs than KV heads, several GPUs hold copies of a head."""

    def __init__(self, model: ModelCard, tensor_parallel: int) -> None:
        self.heads = max(1.0, model.attention_heads / tensor_parallel)
        self.kv_heads = max(1.0, model.kv_heads / tensor_parallel)
        self.value_dim = float(model.v_head_dim or model.head_dim)


def _formats(model: ModelCard, precision: str) -> tuple[str, str]:
    """The kernel formats of ordinary matrices and of routed experts."""
    name = "bf16" if precision.lower() == "fp16" else precision.lower()
    if name == "fp8" and model.weight_block == (128, 128):
        name = "fp8_block"
    return ("bf16" if model.quantized_part == "experts" or name == "mxfp4" else name), name


def _attention_products(kernels: Kernels, name: str, model: ModelCard, sizes: _Sizes, tokens: Array) -> Array:
    hidden, heads = model.hidden_size, sizes.heads
    if model.kv_lora_rank is None:
        columns = (heads + 2.0 * sizes.kv_heads) * model.head_dim
        out = kernels.gemm(name, tokens, hidden, heads * sizes.value_dim)
        return kernels.gemm(name, tokens, columns, hidden) + out
    latent, position, plain = model.kv_lora_rank, model.qk_rope_head_dim, model.qk_nope_head_dim or model.head_dim
    queries = model.q_lora_rank or 0
    return (
        kernels.gemm(name, tokens, queries + latent + position, hidden)
        + kernels.gemm(name, tokens, heads * (plain + position), queries or hidden)
        + kernels.gemm("bf16", tokens, heads * latent, plain)
        + kernels.gemm("bf16", tokens, heads * sizes.value_dim, latent)
        + kernels.gemm(name, tokens, hidden, heads * sizes.value_dim)
    )


def _feed_forward(kernels: Kernels, name: str, model: ModelCard, width: float, tokens: Array) -> Array:
    up = kernels.gemm(name, tokens, 2.0 * width, model.hidden_size)
    return up + kernels.gemm(name, tokens, model.hidden_size, width)


def _attention(kernels: Kernels, kv_name: str, model: ModelCard, sizes: _Sizes) -> tuple[Array, Array]:
    """Seconds of the attention of new tokens, by (requests, context), and of whole prompts, by length."""
    requests, context = np.exp(REQUESTS)[:, None], np.exp(CONTEXT)[None, :]
    prompt = np.exp(CONTEXT)
    full = model.kv_layers - model.sliding_layers
    if model.kv_lora_rank is not None:
        # All heads use one latent vector as key and as value.
        half = (model.kv_lora_rank + model.qk_rope_head_dim) / 2.0
        seen = np.minimum(context, SPARSE_CONTEXT_TOKENS) if model.index_head_dim else context
        of_new = full * kernels.generation(kv_name, requests, seen, kv_heads=1.0, group=sizes.heads, width=half)
        if model.index_head_dim:
            of_new = of_new + full * requests * context * _INDEX_BYTES / kernels.peaks.bandwidth
        mean_width = (model.head_dim + sizes.value_dim) / 2.0
        return of_new, full * _prompt_attention(kernels, prompt, heads=sizes.heads, width=mean_width)
    group = max(1.0, sizes.heads / sizes.kv_heads)
    shape = {"kv_heads": sizes.kv_heads, "group": group, "width": float(model.head_dim)}
    of_new = full * kernels.generation(kv_name, requests, context, **shape)
    of_prompt = full * _prompt_attention(kernels, prompt, heads=sizes.heads, width=model.head_dim)
    if model.sliding_window is not None:
        window, layers = float(model.sliding_window), model.sliding_layers
        of_new = of_new + layers * kernels.generation(kv_name, requests, np.minimum(context, window), **shape)
        seen = np.minimum(prompt, window)
        # Beyond the window each token attends to a full window, which is twice the mean of the tokens inside it.
        times = np.maximum(1.0, 2.0 * prompt / window - 1.0)
        within = _prompt_attention(kernels, seen, heads=sizes.heads, width=model.head_dim)
        of_prompt = of_prompt + layers * times * within
    return of_new, of_prompt


def _prompt_attention(kernels: Kernels, tokens: Array, *, heads: float, width: float) -> Array:
    """Seconds that one prompt of each length adds to a kernel that reads several prompts together.

    A token of a longer prompt never takes less time than one of a shorter prompt, because it attends to more tokens.
    """
    a_token = kernels.context(tokens, 0.0, heads=_SIDE_BY_SIDE * heads, width=width) / _SIDE_BY_SIDE / tokens
    never_less: Array = np.minimum.accumulate(a_token[::-1])[::-1]
    return tokens * never_less


def _feed_forward_width(model: ModelCard) -> float:
    """The width of a dense layer. If the card does not state it, it follows from the parameters without attention and
    embeddings."""
    if model.intermediate_size is not None:
        return float(model.intermediate_size)
    if model.experts > 1:
        return 0.0
    attention = model.hidden_size * model.head_dim * (2 * model.attention_heads + 2 * model.kv_heads)
    layer = (model.parameters - model.embedding_parameters) / model.layers - attention
    return max(1.0, layer / (3.0 * model.hidden_size))


def _expert_width(model: ModelCard, layers: int) -> float:
    return max(1.0, model.routed_parameters / model.experts / layers / (3.0 * model.hidden_size))


def _rising(values: Array, axis: int = 0, *, log: bool = True) -> Array:
    """The running maximum along an axis; with ``log`` as logarithms, where a time of 0 becomes 1e-15 s."""
    found: Array = np.maximum.accumulate(values, axis=axis)
    return np.log(np.maximum(found, 1e-15)) if log else found
