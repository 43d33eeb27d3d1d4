"""GPU names: whole cards by any of their names, shares never."""

import pytest
from pydantic import ValidationError

from servingplan.model.hardware import GpuType, is_share

CARD = GpuType(
    name="H100-SXM-80GB",
    memory_gb=80,
    memory_bandwidth_gb_per_second=3350,
    bf16_dense_tflops=989,
    fp8_dense_tflops=1978,
    link_gb_per_second_per_direction=450,
    nvlink=True,
    aliases=("NVIDIA-H100-80GB-HBM3",),
)


@pytest.mark.parametrize("product", ["h100-sxm-80gb", "NVIDIA-H100-80GB-HBM3", " NVIDIA H100 80GB HBM3 "])
def test_a_card_answers_to_its_names(product):
    assert CARD.answers_to(product)


@pytest.mark.parametrize(
    "product",
    [
        "NVIDIA-H100-80GB-HBM3-SHARED",
        "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb",
        "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb.me",
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
    ],
)
def test_a_share_is_not_the_card(product):
    assert is_share(product)
    assert not CARD.answers_to(product)


@pytest.mark.parametrize("product", ["NVIDIA-H100-80GB-HBM3", "NVIDIA-A100-SXM4-80GB", "NVIDIA-L4", "MIGHTY-GPU"])
def test_a_whole_card_is_no_share(product):
    assert not is_share(product)


def test_usable_memory_is_the_rule_or_what_the_node_says():
    assert CARD.usable_bytes == pytest.approx(85.6e9)
    assert CARD.model_copy(update={"memory_bytes": 81559 * 2**20}).usable_bytes == 81559 * 2**20


def test_peaks_fall_back_to_wide_arithmetic_without_fp8_units():
    assert CARD.flops("fp8") == 1978e12
    assert CARD.model_copy(update={"fp8_dense_tflops": None}).flops("fp8") == 989e12


def test_nonsense_is_refused():
    with pytest.raises(ValidationError, match="greater than 0"):
        GpuType.model_validate(CARD.model_dump() | {"memory_gb": 0})
    with pytest.raises(ValidationError, match="Extra inputs"):
        GpuType.model_validate(CARD.model_dump() | {"memory": 80})
