"""Which sizes a model can be cut into."""

import pytest

from servingplan.profiles.catalogue import find_model
from servingplan.profiles.fit import shape_refusal


def refused(model, tensor_parallel, **more):
    refusal = shape_refusal(find_model(model), tensor_parallel, 1, **more)
    return refusal and refusal.reason


@pytest.mark.parametrize(
    ("model", "tensor_parallel", "reason"),
    [
        # vLLM#25292: experts of width 768, blocks of 128.
        ("Qwen/Qwen3-30B-A3B-FP8", 2, None),
        ("Qwen/Qwen3-30B-A3B-FP8", 4, "BlocksNotDivisible"),
        ("Qwen/Qwen3-30B-A3B", 4, None),
        # vLLM#17604: experts of width 1536, groups of 128.
        ("Qwen/Qwen3-235B-A22B-GPTQ-Int4", 4, None),
        ("Qwen/Qwen3-235B-A22B-GPTQ-Int4", 8, "BlocksNotDivisible"),
        # vLLM#12256: dense layers of width 18432, blocks of 128.
        ("deepseek-ai/DeepSeek-V3", 16, None),
        ("deepseek-ai/DeepSeek-V3", 32, "BlocksNotDivisible"),
        ("Qwen/Qwen3-32B-FP8", 8, None),
        ("Qwen/Qwen3-32B-FP8", 3, "HeadsNotDivisible"),
    ],
)
def test_each_gpu_gets_whole_blocks_of_quantised_weights(model, tensor_parallel, reason):
    assert refused(model, tensor_parallel) == reason


def test_experts_that_are_spread_are_not_cut():
    assert refused("Qwen/Qwen3-30B-A3B-FP8", 4, expert_parallel=True) is None
    assert refused("deepseek-ai/DeepSeek-V3", 32, expert_parallel=True) == "BlocksNotDivisible"


def test_the_refusal_names_the_sizes_that_do():
    message = shape_refusal(find_model("Qwen/Qwen3-30B-A3B-FP8"), 4, 1).message
    assert "width 768, quantised in blocks of 128, which 4 GPUs" in message
    assert "possible sizes: 1, 2, 3, 6; or spread the experts with engine.expertParallel" in message
