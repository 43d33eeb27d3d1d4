"""A published config.json becomes a card; one that is not understood is refused by the field that is in the way."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servingplan.errors import InputError
from servingplan.profiles.config_json import parse_config, read_config
from servingplan.profiles.quantization import ConfigError

CONFIGS = Path(__file__).parent / "configs"
"""Files as they are published."""


def published(name):
    return parse_config((CONFIGS / f"{name}.json").read_text())


def read(config, **more):
    return read_config(config, name="m", **more)


PLAIN = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}


def test_a_plain_decoder_is_counted_by_hand():
    card = read(PLAIN)
    attention = 4096 * (32 + 2 * 8) * 128 + 32 * 128 * 4096
    assert card.parameters == 32 * (attention + 3 * 4096 * 14336 + 2 * 4096) + 2 * 128256 * 4096 + 4096 == 8_030_261_248
    assert (card.layers, card.kv_heads, card.head_dim, card.tied_embeddings) == (32, 8, 128, False)
    assert card.kv_bytes_per_token() == 2 * 32 * 8 * 128 * 2


def test_latent_attention_keeps_one_latent_a_layer_and_not_one_a_head():
    card = read(published("DeepSeek-V3"))
    assert card.parameters == 671_026_419_200
    assert card.kv_bytes_per_token() == 61 * (512 + 64) * 2
    assert card.kv_copies(8) == 8  # every GPU of a tensor-parallel group holds the latent
    assert (card.experts, card.experts_per_token, card.shared_experts, card.dense_layers) == (256, 8, 1, 3)
    assert (card.precision, card.quantization, card.weight_block) == ("fp8", "fp8", (128, 128))
    # YaRN: 4,096 tokens, stretched forty times.
    assert card.max_context_tokens == 163_840


def test_windows_bound_the_cache_of_a_sequence():
    card = read(published("gpt-oss-120b"))
    layer = 2 * 8 * 64 * 2
    assert (card.sliding_layers, card.sliding_window) == (18, 128)
    assert card.kv_bytes(10_000) == layer * (18 * 10_000 + 18 * 128)
    assert card.kv_bytes(100) == layer * 36 * 100 == 100 * card.kv_bytes_per_token()
    assert (card.precision, card.quantized_part) == ("fp4", "experts")
    # 116.83 billion weights: the routed experts at 4.25 bits, all else at 16. The published files hold 65 GB.
    assert card.weight_bytes("fp4") / 1e9 == pytest.approx(65, rel=0.02)


def test_layers_with_recurrent_state_keep_no_cache():
    card = read(published("Qwen3.5-397B-A17B"))
    assert (card.layers, card.attention_layers) == (60, 15)
    assert card.kv_bytes_per_token() == 15 * 2 * 2 * 256 * 2
    convolution = 2 * 16 * 128 + 64 * 128
    assert card.state_bytes == 45 * (64 * 128 * 128 * 4 + convolution * 3 * 2)
    assert card.kv_bytes(0) == card.state_bytes


def test_a_wrapper_of_several_modalities_is_read_for_its_text_part():
    card = read(published("Kimi-K2.5"))
    assert card.parameters == 1_026_408_232_448
    assert (card.precision, card.quantized_part, card.weight_block) == ("int4", "experts", (1, 32))
    # The files of moonshotai/Kimi-K2.5 hold 595 GB, 1 of them the eyes.
    assert card.weight_bytes("int4") / 1e9 == pytest.approx(594, rel=0.02)


def test_experts_that_are_all_used_divide_nothing_by_zero():
    card = read(PLAIN | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 4})
    assert card.active_parameters == card.parameters
    assert card.expert_share(1) == 1.0


def test_shared_experts_and_dense_layers_are_always_read():
    card = read(published("DeepSeek-V3"))
    routed = 58 * 256 * 3 * 7168 * 2048
    assert card.routed_parameters == pytest.approx(routed)
    one = card.expert_share(1)
    assert one == pytest.approx((card.parameters - routed * (1 - 8 / 256)) / card.parameters)
    assert one == pytest.approx(card.active_parameters / card.parameters)
    assert card.expert_share(10_000) == pytest.approx(1)


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        ({}, 8192),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}}, 8192),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 32768),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 16384),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, 131072),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 32768),
        ({"rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}}, 8192),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}}, 16384),
        ({"max_position_embeddings": None}, None),
    ],
)
def test_context_is_what_the_engine_takes_it_for(more, tokens):
    assert read(PLAIN | more).max_context_tokens == tokens


@pytest.mark.parametrize(
    ("facts", "precision", "method", "block"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", "fp8", (128, 128)),
        ({"quant_method": "fbgemm_fp8"}, "fp8", "fp8", None),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "int4", "awq", (1, 64)),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4", "gptq", (1, 128)),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", "gptq", None),
        ({"quant_method": "gptq", "bits": 8, "group_size": None}, "int8", "gptq", None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", "bitsandbytes", None),
        ({"quant_method": "mxfp4"}, "fp4", "mxfp4", None),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", "fp8", None),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, "fp4", "nvfp4", (1, 16)),
    ],
)
def test_quantisation(facts, precision, method, block):
    card = read(PLAIN | {"quantization_config": facts})
    assert (card.precision, card.quantization, card.weight_block) == (precision, method, block)


@pytest.mark.parametrize(
    ("weights", "precision", "method", "block"),
    [
        ({"num_bits": 8, "type": "float", "strategy": "channel"}, "fp8", "fp8", None),
        ({"num_bits": 8, "type": "float", "block_structure": [128, 128]}, "fp8", "fp8", (128, 128)),
        ({"num_bits": 8, "type": "int", "strategy": "channel"}, "int8", "int8", None),
        ({"num_bits": 4, "type": "int", "group_size": 128}, "int4", "int4", (1, 128)),
        ({"num_bits": 4, "type": "float", "group_size": 16}, "fp4", "nvfp4", (1, 16)),
        ({"num_bits": 4, "type": "float", "group_size": 32}, "fp4", "mxfp4", None),
    ],
)
def test_compressed_tensors(weights, precision, method, block):
    facts = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}
    card = read(PLAIN | {"quantization_config": facts})
    assert (card.precision, card.quantization, card.weight_block) == (precision, method, block)


@pytest.mark.parametrize(
    ("more", "field", "advice"),
    [
        ({"model_type": "martian"}, "model_type", "grouped-query attention"),
        ({"model_type": None}, "model_type", "is not understood"),
        ({"hidden_size": None}, "hidden_size", "is missing"),
        ({"num_hidden_layers": 0}, "num_hidden_layers", "is not from 1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers", "is not from 1"),
        ({"vocab_size": "many"}, "vocab_size", "whole number"),
        ({"num_attention_heads": 30}, "config.json", "multiple of kv_heads"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder", "decode alone"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "quantization_config.quant_method", "known are fp8"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 3}},
            "quantization_config.quant_method",
            "4 and of 8",
        ),
        ({"model_type": "nemotron-nas"}, "block_configs", "what each layer is"),
        ({"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 8}, "config.json", "above experts"),
    ],
)
def test_what_cannot_be_read_is_refused_by_field(more, field, advice):
    with pytest.raises(ConfigError, match=advice) as refused:
        read({key: value for key, value in (PLAIN | more).items() if value is not None})
    assert refused.value.field == field


def test_an_unknown_architecture_is_read_as_a_plain_one_if_one_insists():
    strange = PLAIN | {"model_type": "martian"}
    assert read(strange, assume_plain=True) == read(PLAIN)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(ConfigError, match="JSON"):
        parse_config(text)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    name=st.sampled_from(["DeepSeek-V3", "gpt-oss-120b", "Qwen3.5-397B-A17B", "Kimi-K2.5", "Nemotron-3-Nano-30B-A3B"]),
    data=st.data(),
)
def test_no_field_of_any_form_crashes_the_reader(name, data):
    config = published(name)
    part = config.get("text_config", config)
    key = data.draw(st.sampled_from(sorted(part)))
    part[key] = data.draw(ODD)
    try:
        card = read(json.loads(json.dumps(config)))
    except InputError:
        return  # refused, by name
    assert card.parameters > 0
