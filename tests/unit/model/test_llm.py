"""Bytes and weights of models, against figures worked out by hand."""

import pytest
from pydantic import ValidationError

from servingplan.model.llm import ModelCard, UnknownPrecisionError, precision_of

LLAMA_8B = ModelCard(
    name="Llama-3.1-8B",
    parameters=8_030_261_248,
    layers=32,
    hidden_size=4096,
    attention_heads=32,
    kv_heads=8,
    head_dim=128,
    vocabulary_size=128_256,
)
MIXTRAL = ModelCard(
    name="Mixtral-8x7B",
    parameters=46_702_792_704,
    layers=32,
    hidden_size=4096,
    attention_heads=32,
    kv_heads=8,
    head_dim=128,
    active_parameters=12_879_925_248,
    experts=8,
    experts_per_token=2,
)


def test_kv_cache_of_one_token():
    # 2 (keys, values) x 32 layers x 8 heads x 128 x 2 bytes
    assert LLAMA_8B.kv_bytes_per_token() == 131_072
    assert LLAMA_8B.kv_bytes_per_token(1) == 65_536


def test_weights_keep_wide_embeddings():
    embeddings = 2 * 128_256 * 4096
    assert LLAMA_8B.weight_bytes("bf16") == 2 * 8_030_261_248
    assert LLAMA_8B.weight_bytes("FP8") == 8_030_261_248 + embeddings  # 9.1 GB, as published FP8 checkpoints
    # Published AWQ checkpoints of this model are 5.7 GB.
    assert LLAMA_8B.weight_bytes("int4") == pytest.approx(5.7e9, rel=0.02)


def test_tied_embeddings_count_once():
    tied = LLAMA_8B.model_copy(update={"tied_embeddings": True})
    assert tied.embedding_parameters * 2 == LLAMA_8B.embedding_parameters


def test_unknown_precision_lists_the_known_ones():
    with pytest.raises(UnknownPrecisionError, match=r"'fp6'.*bf16, fp16, fp4, fp8, int4, int8"):
        precision_of("fp6")


def test_one_token_reads_its_own_experts_and_a_large_batch_reads_all():
    assert MIXTRAL.expert_share(1) * MIXTRAL.parameters == pytest.approx(MIXTRAL.active_parameters)
    # Two tokens leave an expert idle with probability (3/4)^2; eight experts of 5.637e9 weights each.
    one_expert = (46_702_792_704 - 12_879_925_248) / 6
    assert MIXTRAL.expert_share(2) * MIXTRAL.parameters == pytest.approx(46_702_792_704 - 8 * one_expert * 9 / 16)
    assert MIXTRAL.expert_share(512) == pytest.approx(1)
    assert LLAMA_8B.expert_share(1) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 5}, "multiple of kv_heads"),
        ({"active_parameters": 10}, "mixture of experts"),
        ({"experts": 8}, "mixture of experts"),
        ({"experts_per_token": 2}, "above experts"),
        ({"experts": 8, "active_parameters": 10**12}, "above parameters"),
        ({"vocabulary_size": 10**7}, "embeddings alone"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        ModelCard.model_validate(LLAMA_8B.model_dump() | change)
