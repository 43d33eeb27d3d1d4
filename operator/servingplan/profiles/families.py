"""The differences of model families from a plain decoder that matter for weights and caches.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status; ``config_json`` uses it. Each layer of a plain
decoder (Llama) has two norms, grouped-query attention and a gated feed-forward network, all without biases; a last norm and an
output head follow. The source of every row is the family's modelling code in Hugging Face transformers. The defaults come from
its configuration class, since a ``config.json`` may omit them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

Biases = Literal["", "qkv", "qkvo"]
_NONE: Mapping[str, Any] = MappingProxyType({})


class Family(NamedTuple):
    """The differences of a ``model_type`` from a plain decoder."""

    norms: int = 2
    """Vectors of the hidden size in the norms of one layer (a layer norm with bias has two)."""
    last_norms: int = 1
    """The same for the norm before the output head."""
    qk_norm: Literal["", "head", "width"] = ""
    """Norms of queries and keys: over each head, or over the width of all heads."""
    biases: Biases = ""
    """Projections of the attention that always have a bias."""
    optional_biases: Biases = "qkvo"
    """Projections that have a bias if ``attention_bias`` is true."""
    gated: bool = True
    """Whether the feed-forward network has three matrices instead of two."""
    feed_forward_bias: bool = False
    activation: int = 0
    """Learned numbers in the activation of one layer."""
    head_bias: bool = False
    """Whether the output head has a bias."""
    tied: bool = False
    """Whether input and output share one table if ``tie_word_embeddings`` is absent."""
    sinks: bool = False
    """Whether each head of each layer has one learned number."""
    router_bias: bool = False
    """Whether the router has one further number for each expert."""
    expert_bias: bool = False
    """Whether experts have biases."""
    shared_experts: int = 0
    """The number of shared experts, each as wide as a routed one, if the configuration does not say it."""
    shared_gate: bool = False
    """Whether the shared expert has its own gate."""
    linear: Literal["", "delta", "lightning"] = ""
    """Layers of linear attention: gated delta net (Qwen3-Next), lightning attention (MiniMax-Text-01)."""
    output_gate: bool = False
    """Whether the projection of queries also gives a gate of the same width."""
    window_pattern: int = 1
    """One of this number of layers has full attention, the others have the window. With 1, all have the window, if any."""
    defaults: Mapping[str, Any] = _NONE
    """Fields that the configuration class fills in."""


_GEMMA3 = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
_GEMMA2 = {"head_dim": 256, "vocab_size": 256000, "max_position_embeddings": 8192, "sliding_window": 4096}
_LLAMA4 = {"attention_chunk_size": 8192, "interleave_moe_layer_step": 1, "num_experts_per_tok": 1}

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        # Dense.
        "apertus": Family(qk_norm="head", gated=False, activation=2),
        "cohere": Family(norms=1, tied=True),
        "cohere2": Family(norms=1, tied=True, window_pattern=4),
        "ernie4_5": Family(tied=True),
        "exaone4": Family(qk_norm="head", window_pattern=4),
        "gemma": Family(tied=True, defaults={"head_dim": 256, "max_position_embeddings": 8192}),
        "gemma2": Family(norms=4, tied=True, window_pattern=2, defaults=_GEMMA2),
        "gemma3_text": Family(norms=4, qk_norm="head", tied=True, window_pattern=6, defaults=_GEMMA3),
        "glm": Family(optional_biases="qkv", defaults={"attention_bias": True}),
        "glm4": Family(norms=4, optional_biases="qkv", defaults={"attention_bias": True}),
        "granite": Family(),
        "hunyuan_v1_dense": Family(qk_norm="head"),
        "llama": Family(),
        "mimo": Family(biases="qkv"),
        "ministral": Family(),
        "ministral3": Family(),
        "mistral": Family(),
        "nemotron": Family(norms=4, last_norms=2, gated=False),
        "olmo2": Family(qk_norm="width"),
        "olmo3": Family(qk_norm="width", window_pattern=4),
        "phi3": Family(),
        "qwen2": Family(biases="qkv"),
        "qwen2_5_vl": Family(biases="qkv"),
        "qwen2_5_vl_text": Family(biases="qkv"),
        "qwen2_vl": Family(biases="qkv"),
        "qwen2_vl_text": Family(biases="qkv"),
        "qwen3": Family(qk_norm="head", defaults={"head_dim": 128}),
        "qwen3_vl_text": Family(qk_norm="head", defaults={"head_dim": 128}),
        "seed_oss": Family(biases="qkv", defaults={"head_dim": 128}),
        "smollm3": Family(tied=True),
        "starcoder2": Family(norms=4, last_norms=2, biases="qkvo", gated=False, feed_forward_bias=True, tied=True),
        # Mixtures of experts.
        "deepseek_v2": Family(),
        "deepseek_v3": Family(router_bias=True),
        "deepseek_v32": Family(router_bias=True),
        "ernie4_5_moe": Family(router_bias=True, tied=True),
        "glm4_moe": Family(optional_biases="qkv", router_bias=True),
        "glm4v_moe_text": Family(optional_biases="qkv", router_bias=True),
        "glm4_moe_lite": Family(router_bias=True),
        "glm_moe_dsa": Family(router_bias=True),
        "gpt_oss": Family(biases="qkvo", sinks=True, router_bias=True, expert_bias=True, window_pattern=2),
        "granitemoe": Family(),
        "kimi_k2": Family(router_bias=True),
        "llama4_text": Family(shared_experts=1, window_pattern=4, defaults=_LLAMA4),
        "minimax": Family(linear="lightning"),
        "minimax_text_01": Family(linear="lightning"),
        "minimax_m1": Family(linear="lightning"),
        "minimax_m2": Family(qk_norm="width", router_bias=True),
        "mixtral": Family(),
        "olmoe": Family(qk_norm="width"),
        "phimoe": Family(norms=4, last_norms=2, head_bias=True),
        "qwen2_moe": Family(biases="qkv", shared_gate=True),
        "qwen3_moe": Family(qk_norm="head", defaults={"head_dim": 128}),
        "qwen3_vl_moe_text": Family(qk_norm="head", defaults={"head_dim": 128}),
        "qwen3_next": Family(qk_norm="head", linear="delta", output_gate=True, shared_gate=True),
        "qwen3_5_text": Family(qk_norm="head", linear="delta", output_gate=True),
        "qwen3_5_moe_text": Family(qk_norm="head", linear="delta", output_gate=True, shared_gate=True),
    }
)
"""The families that are read as a decoder, by ``model_type``. ``nemotron_h`` and ``nemotron-nas`` are read by other code,
because their layers differ from one another."""
