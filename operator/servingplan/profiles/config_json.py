"""Reads the ``config.json`` of a published model into a ``ModelCard``.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status; ``catalogue`` calls it, and its rows are such
files with only the needed fields. Weights are counted from the architecture, exactly for the families of ``families``. An
unknown family is refused, or treated as a plain decoder on request. For models of images or sound, only the text part is read.
Layers for speculation (multi-token prediction) are left out, because engines load them only on request.

    attention        (heads + 2 kv_heads) head_dim h + heads head_dim h              h: hidden size
    latent (MLA)     h r_q + r_q heads (nope + rope) + h (r_kv + rope) + r_kv heads (nope + v) + heads v h
    feed-forward     3 h w, gated; 2 h w, not                                        w: width
    experts          E of these, a router h E, and the shared ones
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from servingplan.errors import in_words
from servingplan.model.llm import ModelCard
from servingplan.profiles.families import FAMILIES, Family
from servingplan.profiles.quantization import ConfigError, read_quantization, text_part

CONFIG_KEY = "config.json"
"""The key of such a file in a ConfigMap."""
PLAIN = "a decoder with grouped-query attention, gated feed-forward networks or experts, and no biases"
"""The architecture that is assumed for an unknown family on request."""

_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
_EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_k")
_SHARED_WIDTH = (
    "moe_shared_expert_intermediate_size",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
)
_SHARED_EXPERTS = ("n_shared_experts", "moe_num_shared_experts")
_CONTEXT = ("max_position_embeddings", "max_sequence_length", "max_seq_len", "seq_length", "n_positions")
_UNSCALED_ROPES = {"default", "llama3", "longrope", "su", "mrope", "proportional"}
"""Kinds of rope scaling whose ``max_position_embeddings`` is the scaled length already (vLLM's rule)."""
_MOST = 1_000_000
"""The largest number of layers, of heads and of the hidden size: a thousand times the published ones, but still countable."""
_CONVOLUTION_BYTES = 2
_STATE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def parse_config(text: str, *, where: str = "config.json") -> dict[str, Any]:
    """The JSON object of a ``config.json``.

    Raises:
        ConfigError: the text is not a JSON object.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(where, text[:80], f"is no JSON ({error}); give the file as it is published") from error
    if not isinstance(config, dict):
        raise ConfigError(where, config, "is no JSON object; give the file as it is published")
    return config


def read_config(
    config: Mapping[str, Any],
    *,
    name: str,
    repository: str | None = None,
    aliases: Sequence[str] = (),
    assume_plain: bool = False,
) -> ModelCard:
    """The card of the model that a ``config.json`` describes.

    Args:
        config: the parsed file.
        name: the name of the card.
        repository: where the weights are published, ``organisation/name``.
        aliases: other names of the card.
        assume_plain: whether to treat an unknown architecture as ``PLAIN`` instead of refusing it.

    Raises:
        ConfigError: a field is missing or wrong, or the architecture is unknown. Its ``field`` is the name of the field.
    """
    text, prefix = text_part(config)
    part = _Part(text, config, prefix, Family())
    kind = part.config.get("model_type") or config.get("model_type")
    if config.get("is_encoder_decoder") is True:
        raise ConfigError(
            "is_encoder_decoder", True, "only models that decode alone are planned; this one has an encoder"
        )
    try:
        if kind == "nemotron_h":
            facts = _nemotron_h(part)
        elif kind == "nemotron-nas":
            facts = _nemotron_nas(part)
        else:
            facts = _decoder(part.of(_family(kind, assume_plain)))
        quantization = read_quantization(config, layers=facts["layers"])
        return ModelCard(
            name=name,
            repository=repository,
            aliases=tuple(aliases),
            precision=quantization.precision,
            quantization=quantization.method,
            quantized_part="experts" if quantization.experts_only and facts.get("experts", 1) > 1 else "linear",
            weight_block=quantization.block,
            **facts,
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"])) or "config.json"
        raise ConfigError(field, problem.get("input"), in_words(problem)) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Some inner field has another type than in published files.
        advice = (
            f"has a field of an unexpected form ({type(error).__name__}: {error}); give the file as it is published"
        )
        raise ConfigError("config.json", kind, advice) from error


class _Part:
    """The part of a configuration that describes the language model, and its family."""

    def __init__(self, config: Mapping[str, Any], around: Mapping[str, Any], prefix: str, family: Family) -> None:
        self.config = config
        self.around = around
        self.prefix = prefix
        self.family = family

    def of(self, family: Family) -> _Part:
        return _Part(self.config, self.around, self.prefix, family)

    def get(self, *keys: str) -> Any:
        """The first of the fields that is present, else the family's default."""
        for key in keys:
            if self.config.get(key) is not None:
                return self.config[key]
        return next((self.family.defaults[key] for key in keys if key in self.family.defaults), None)

    def integer(self, *keys: str, default: int | None = None) -> int:
        value = self.get(*keys)
        if value is None:
            if default is not None:
                return default
            raise ConfigError(self.prefix + keys[0], None, "is missing; it is needed to count weights")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0 or value > 10**12:
            given = next((key for key in keys if self.config.get(key) is not None), keys[0])
            raise ConfigError(self.prefix + given, value, "is no whole number from 0 to 10^12")
        return value

    @property
    def tied(self) -> bool:
        """Whether input and output share a table."""
        for source in (self.config, self.around):
            if source.get("tie_word_embeddings") is not None:
                return bool(source["tie_word_embeddings"])
        return self.family.tied

    @property
    def context(self) -> int | None:
        """The tokens of the longest sequence; None if the configuration does not say it.

        The rule is vLLM's: YaRN multiplies the original length by its factor, linear and dynamic scaling multiply
        ``max_position_embeddings``, and for the others it is scaled already.
        """
        length = self.integer(*_CONTEXT, default=0)
        rope = self.get("rope_scaling", "rope_parameters")
        if isinstance(rope, dict) and isinstance(rope.get("full_attention"), dict):
            rope = rope["full_attention"]
        if not isinstance(rope, dict) or "gemma3" in str(self.config.get("model_type")):
            return length or None
        kind, factor = rope.get("rope_type", rope.get("type", "default")), rope.get("factor")
        if kind in _UNSCALED_ROPES or not isinstance(factor, int | float):
            return length or None
        if kind == "yarn":
            length = rope.get("original_max_position_embeddings") or length
        return int(length * factor) or None


def _family(kind: object, assume_plain: bool) -> Family:
    found = FAMILIES.get(str(kind))
    if found is not None:
        return found
    if assume_plain:
        return Family()
    raise ConfigError(
        "model_type",
        kind,
        f"is not understood; understood are {', '.join(sorted((*FAMILIES, 'nemotron_h', 'nemotron-nas')))}. Assume a plain "
        f"architecture to read it as {PLAIN}, or give the card field by field",
    )


def _decoder(part: _Part) -> dict[str, Any]:
    """The facts of a decoder whose layers are equal except for windows, linear attention and experts."""
    family, width, layers = part.family, part.integer("hidden_size"), part.integer("num_hidden_layers", "num_layers")
    heads = part.integer("num_attention_heads")
    for field, value in (("hidden_size", width), ("num_hidden_layers", layers), ("num_attention_heads", heads)):
        if not 1 <= value <= _MOST:
            raise ConfigError(part.prefix + field, value, f"is not from 1 to {_MOST}")
    facts: dict[str, Any] = {
        "layers": layers,
        "hidden_size": width,
        "attention_heads": heads,
        "kv_heads": part.integer("num_key_value_heads", default=heads) or heads,
        "head_dim": part.integer("head_dim", default=width // heads) or width // heads,
        "vocabulary_size": part.integer("vocab_size"),
        "tied_embeddings": part.tied,
        "max_context_tokens": part.context,
    }
    if part.get("kv_lora_rank") is not None:
        facts |= _latent(part)
    facts |= _windows(part, layers, facts["max_context_tokens"])
    linear = _linear_layers(part, layers)
    attention = (layers - linear) * _attention_weights(part, facts) + _indexer_weights(part, facts)
    if linear:
        weights, facts["state_bytes"] = _linear_attention(part, facts, linear)
        attention += linear * weights
        facts["attention_layers"] = layers - linear
    feed_forward, more = _feed_forward(part, width, layers)
    tables = facts["vocabulary_size"] * width * (1 if facts["tied_embeddings"] else 2)
    tables += facts["vocabulary_size"] * family.head_bias
    total = tables + family.last_norms * width + layers * family.norms * width + attention + feed_forward
    facts |= more | {"parameters": total}
    if "experts" in facts:
        matrices = 3 if family.gated else 2
        one = _network(width, facts["expert_intermediate_size"], matrices=matrices, bias=family.expert_bias)
        facts["active_parameters"] = _active(facts, one)
    return facts


def _active(facts: Mapping[str, Any], expert: int) -> int:
    """The number of weights that a token uses: all except the experts that are not chosen."""
    idle = facts["experts"] - facts["experts_per_token"]
    return int(facts["parameters"] - (facts["layers"] - facts["dense_layers"]) * idle * expert)


def _network(width: int, inner: int, *, matrices: int, bias: bool = False) -> int:
    """The number of weights of one feed-forward network, or of one expert."""
    biases = (matrices - 1) * inner + width if bias else 0
    return matrices * width * inner + biases


def _latent(part: _Part) -> dict[str, int | None]:
    return {
        "kv_lora_rank": part.integer("kv_lora_rank"),
        "q_lora_rank": part.integer("q_lora_rank", default=0) or None,
        "qk_rope_head_dim": part.integer("qk_rope_head_dim"),
        "qk_nope_head_dim": part.integer("qk_nope_head_dim"),
        "v_head_dim": part.integer("v_head_dim"),
        "index_head_dim": part.integer("index_head_dim", default=0),
        "head_dim": part.integer("qk_rope_head_dim") + part.integer("qk_nope_head_dim"),
    }


def _attention_weights(part: _Part, facts: Mapping[str, Any]) -> int:
    """The number of weights of one layer of softmax attention."""
    family, width = part.family, facts["hidden_size"]
    heads, kv_heads, head_dim = facts["attention_heads"], facts["kv_heads"], facts["head_dim"]
    if "kv_lora_rank" in facts:
        return _latent_weights(facts)
    biases = family.optional_biases if part.get("attention_bias") is True else family.biases
    if part.get("use_qk_norm") is False:
        norms = 0
    elif family.qk_norm == "width":
        norms = (heads + kv_heads) * head_dim
    elif family.qk_norm == "head" or (
        part.get("use_qk_norm") is True and not family.defaults.get("attention_chunk_size")
    ):
        norms = 2 * head_dim
    else:
        norms = 0
    queries = heads * (2 if family.output_gate else 1)
    projections = width * (queries + 2 * kv_heads) * head_dim + heads * head_dim * width
    if biases:
        projections += (queries + 2 * kv_heads) * head_dim + width * (biases == "qkvo")
    return int(projections + norms + heads * family.sinks)


def _latent_weights(facts: Mapping[str, Any]) -> int:
    width, heads = facts["hidden_size"], facts["attention_heads"]
    rank, rope, value = facts["kv_lora_rank"], facts["qk_rope_head_dim"], facts["v_head_dim"]
    queries = heads * facts["head_dim"]
    q_rank = facts["q_lora_rank"]
    total: int = width * queries if not q_rank else width * q_rank + q_rank + q_rank * queries
    total += width * (rank + rope) + rank + rank * heads * (facts["qk_nope_head_dim"] + value) + heads * value * width
    return total


def _indexer_weights(part: _Part, facts: Mapping[str, Any]) -> int:
    """The number of weights of the indexers of sparse attention. An indexer that layers share (GLM-5.2) is counted once."""
    index = facts.get("index_head_dim", 0)
    if not index:
        return 0
    width, heads = facts["hidden_size"], part.integer("index_n_heads")
    kinds = part.get("indexer_types")
    count = kinds.count("full") if isinstance(kinds, list) else facts["layers"]
    one = (facts["q_lora_rank"] or width) * heads * index + width * index + 2 * index + width * heads
    return int(count * one)


def _windows(part: _Part, layers: int, context: int | None) -> dict[str, Any]:
    """The window in tokens and the number of layers with it; empty if there is none."""
    window = part.integer("sliding_window", "attention_chunk_size", default=0)
    if part.get("use_sliding_window") is False or not window or (context is not None and window >= context):
        return {}
    kinds = part.get("layer_types")
    if isinstance(kinds, list):
        count = sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds)
    else:
        every = part.get("sliding_window_pattern", "no_rope_layer_interval") or part.family.window_pattern
        every = len(every) if isinstance(every, str) else every
        count = layers if every == 1 else layers - layers // every
        if part.get("max_window_layers") is not None:
            count = max(0, layers - part.integer("max_window_layers"))
    return {"sliding_window": window, "sliding_layers": count} if count else {}


def _linear_layers(part: _Part, layers: int) -> int:
    if not part.family.linear:
        return 0
    kinds = part.get("layer_types")
    if isinstance(kinds, list):
        return kinds.count("linear_attention")
    types = part.get("attn_type_list")
    if isinstance(types, list):
        return types.count(0)
    return layers - layers // part.integer("full_attention_interval", default=4)


def _linear_attention(part: _Part, facts: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """The number of weights of one layer of linear attention, and the bytes of state of all such layers for one sequence."""
    width, heads, head_dim = facts["hidden_size"], facts["attention_heads"], facts["head_dim"]
    element = _STATE_BYTES.get(str(part.get("mamba_ssm_dtype")), 2)
    if part.family.linear == "lightning":
        inner = heads * head_dim
        return 5 * width * inner + inner, layers * heads * head_dim * head_dim * 4
    keys, values = part.integer("linear_num_key_heads"), part.integer("linear_num_value_heads")
    key, value = part.integer("linear_key_head_dim"), part.integer("linear_value_head_dim")
    kernel = part.integer("linear_conv_kernel_dim", default=4)
    mixed = 2 * keys * key + values * value
    weights = (
        width * (mixed + values * value + 2 * values) + kernel * mixed + 2 * values + value + values * value * width
    )
    state = values * key * value * element + mixed * (kernel - 1) * _CONVOLUTION_BYTES
    return weights, layers * state


def _feed_forward(part: _Part, width: int, layers: int) -> tuple[int, dict[str, Any]]:
    """The number of weights of the feed-forward networks of all layers, and the facts for the card."""
    family = part.family
    matrices = 3 if family.gated else 2
    experts = part.integer(*_EXPERTS, default=0)
    bias = family.feed_forward_bias or part.get("mlp_bias") is True
    dense_width = part.integer("intermediate_size_mlp", "intermediate_size", default=0)
    if experts <= 1:
        inner = part.integer("intermediate_size")
        network = _network(width, inner, matrices=matrices, bias=bias) + family.activation
        return layers * network, {"intermediate_size": inner}
    with_experts = _expert_layers(part, layers)
    inner = part.integer("moe_intermediate_size", "expert_intermediate_size", "intermediate_size")
    one = _network(width, inner, matrices=matrices, bias=family.expert_bias)
    shared = part.integer(*_SHARED_WIDTH, default=0)
    shared = shared or part.integer(*_SHARED_EXPERTS, default=family.shared_experts) * inner
    layer = experts * one + width * experts + experts * family.router_bias + matrices * width * shared
    layer += width * (family.shared_gate and shared > 0)
    dense = layers - with_experts
    total = with_experts * layer + dense * _network(width, dense_width, matrices=matrices, bias=bias)
    facts = {
        "experts": experts,
        "experts_per_token": part.integer(*_EXPERTS_PER_TOKEN),
        "shared_experts": round(shared / inner) if inner else 0,
        "expert_intermediate_size": inner,
        "dense_layers": dense,
        "intermediate_size": dense_width if dense and dense_width else None,
    }
    return total, facts


def _expert_layers(part: _Part, layers: int) -> int:
    """The number of layers whose feed-forward network is a mixture of experts."""
    kinds = part.get("mlp_layer_types")
    if isinstance(kinds, list):
        return kinds.count("sparse")
    frequency = part.get("moe_layer_freq", "decoder_sparse_step", "interleave_moe_layer_step")
    if isinstance(frequency, list):
        return sum(map(bool, frequency))
    step = frequency if isinstance(frequency, int) and frequency > 0 else 1
    first = part.integer("first_k_dense_replace", "moe_layer_start_index", default=0)
    dense = set(part.get("mlp_only_layers") or ())
    offset = 0 if part.get("moe_layer_freq") is not None else 1
    return sum(index >= first and (index + offset) % step == 0 and index not in dense for index in range(layers))


def _nemotron_h(part: _Part) -> dict[str, Any]:
    """The facts of Nemotron-H and Nemotron 3. Each layer is Mamba-2 (M), attention (*), feed-forward (-) or experts (E)."""
    width, heads = part.integer("hidden_size"), part.integer("num_attention_heads")
    kinds = _nemotron_kinds(part)
    head_dim = part.integer("head_dim", "attention_head_dim")
    kv_heads, inner = part.integer("num_key_value_heads"), part.integer("intermediate_size")
    ssm_heads, ssm_dim = part.integer("mamba_num_heads"), part.integer("mamba_head_dim")
    state, groups, kernel = part.integer("ssm_state_size"), part.integer("n_groups"), part.integer("conv_kernel")
    ssm = ssm_heads * ssm_dim
    mixed = ssm + 2 * groups * state
    mamba = width * (ssm + mixed + ssm_heads) + (kernel + 1) * mixed + 3 * ssm_heads + ssm + ssm * width
    attention = width * (heads + 2 * kv_heads) * head_dim + heads * head_dim * width
    vocabulary = part.integer("vocab_size")
    total = vocabulary * width * (1 if part.tied else 2) + width + len(kinds) * width
    total += kinds.count("M") * mamba + kinds.count("*") * attention + kinds.count("-") * 2 * width * inner
    element = _STATE_BYTES.get(str(part.get("mamba_ssm_cache_dtype")), 4)
    facts: dict[str, Any] = {
        "layers": len(kinds),
        "hidden_size": width,
        "attention_heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "vocabulary_size": vocabulary,
        "tied_embeddings": part.tied,
        "max_context_tokens": part.context,
        "attention_layers": kinds.count("*"),
        "state_bytes": kinds.count("M") * (ssm * state * element + mixed * (kernel - 1) * _CONVOLUTION_BYTES),
        "intermediate_size": inner if "-" in kinds else None,
    }
    with_experts = kinds.count("E")
    if not with_experts:
        return facts | {"parameters": total}
    experts, expert_width = part.integer(*_EXPERTS), part.integer("moe_intermediate_size")
    shared, latent = part.integer(*_SHARED_WIDTH, default=0), part.integer("moe_latent_size", default=0)
    layer = experts * 2 * (latent or width) * expert_width + width * experts + experts + 2 * width * shared
    layer += 2 * width * latent
    more = {
        "experts": experts,
        "experts_per_token": part.integer(*_EXPERTS_PER_TOKEN),
        "shared_experts": round(shared / expert_width),
        "expert_intermediate_size": expert_width,
        "dense_layers": len(kinds) - with_experts,
    }
    facts |= more | {"parameters": total + with_experts * layer}
    return facts | {"active_parameters": _active(facts, _network(latent or width, expert_width, matrices=2))}


def _nemotron_kinds(part: _Part) -> str:
    pattern = part.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        return pattern
    letters = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}
    kinds = part.get("layers_block_type", "layer_types")
    if not isinstance(kinds, list) or any(kind not in letters for kind in kinds):
        raise ConfigError(part.prefix + "hybrid_override_pattern", pattern, "is missing; it says what each layer is")
    return "".join(letters[kind] for kind in kinds)


def _nemotron_nas(part: _Part) -> dict[str, Any]:
    """The facts of Nemotron by architecture search (Llama-Nemotron Super, Ultra). Layers may lack attention, and feed-forward
    networks have different widths."""
    width, heads = part.integer("hidden_size"), part.integer("num_attention_heads")
    blocks, head_dim = part.get("block_configs"), width // heads
    if not isinstance(blocks, list) or not blocks:
        raise ConfigError(part.prefix + "block_configs", blocks, "is missing; it says what each layer is")
    vocabulary = part.integer("vocab_size")
    total = vocabulary * width * (1 if part.tied else 2) + width
    groups: list[int] = []
    widths: list[int] = []
    for block in blocks:
        attention, network = block["attention"], block["ffn"]
        if attention.get("n_heads_in_group"):
            groups.append(attention["n_heads_in_group"])
            kv_heads = heads // groups[-1]
            total += width * (heads + 2 * kv_heads) * head_dim + heads * head_dim * width + width
        elif attention.get("replace_with_linear"):
            total += width * width + width
        if network.get("ffn_mult"):
            # The model's code rounds in this way: two thirds of the width times the factor, up to a multiple of 256.
            inner = int(2 * network["ffn_mult"] * width / 3)
            widths.append(-(-inner // 256) * 256)
            total += 3 * width * widths[-1] + width
        elif network.get("replace_with_linear"):
            total += width * width + width
    return {
        "layers": len(blocks),
        "hidden_size": width,
        "attention_heads": heads,
        "kv_heads": heads // min(groups),
        "head_dim": head_dim,
        "vocabulary_size": vocabulary,
        "tied_embeddings": part.tied,
        "max_context_tokens": part.context,
        "attention_layers": len(groups),
        "intermediate_size": max(widths),
        "parameters": total,
    }
