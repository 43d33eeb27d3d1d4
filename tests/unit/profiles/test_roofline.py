"""The planning formulas against a published table and sums done by hand."""

import pytest

from servingplan.profiles import catalogue
from servingplan.profiles.roofline import UNFITTED, roofline

# MFU 0.5 and MBU 0.7 without traffic or overhead, as the table below was made.
PLAIN = UNFITTED._replace(mfu=0.5, mbu=0.7, link=1e9, step_overhead_seconds=0.0)
GPU_NAMES = {
    "A10G": "A10G",
    "L4": "L4",
    "4090": "RTX4090",
    "A40": "A40",
    "A6000": "A6000",
    "L40S": "L40S",
    "A100": "A100-SXM4-80GB",
    "H100": "H100-SXM-80GB",
    "H200": "H200-SXM-141GB",
}

# Physical limits at 16 bits, with the memory that the label promises: fewest GPUs (of 1, 2, 4, 8) with KV room,
# thousand KV tokens there, prefill tokens a
# second at MFU 0.5, milliseconds to read the weights at MBU 0.7.
TABLE = [
    ("Llama-3.1-8B", "A10G", 1, 42, 2200, 38),
    ("Llama-3.1-8B", "L4", 1, 42, 3800, 77),
    ("Llama-3.1-8B", "4090", 1, 42, 5100, 23),
    ("Llama-3.1-8B", "A40", 1, 219, 4700, 33),
    ("Llama-3.1-8B", "A6000", 1, 219, 4800, 30),
    ("Llama-3.1-8B", "L40S", 1, 219, 11300, 27),
    ("Llama-3.1-8B", "A100", 1, 454, 9700, 11),
    ("Llama-3.1-8B", "H100", 1, 454, 30800, 6.8),
    ("Llama-3.1-8B", "H200", 1, 902, 30800, 4.8),
    ("Llama-3.1-70B", "A10G", 8, 97, 2000, 42),
    ("Llama-3.1-70B", "L4", 8, 97, 3400, 84),
    ("Llama-3.1-70B", "4090", 8, 97, 4700, 25),
    ("Llama-3.1-70B", "A40", 4, 115, 2100, 73),
    ("Llama-3.1-70B", "A6000", 4, 115, 2200, 66),
    ("Llama-3.1-70B", "L40S", 4, 115, 5100, 58),
    ("Llama-3.1-70B", "A100", 2, 30, 2200, 50),
    ("Llama-3.1-70B", "H100", 2, 30, 7000, 30),
    ("Llama-3.1-70B", "H200", 2, 389, 7000, 21),
]


def replica(model="Llama-3.1-8B", gpu="H100-SXM-80GB", tp=1, pp=1, precision="bf16", efficiency=PLAIN, **more):
    return roofline(
        model=catalogue.find_model(model),
        precision=precision,
        gpu=catalogue.find_gpu(gpu).model_copy(update={"memory_bytes": None}),
        tensor_parallel=tp,
        pipeline_parallel=pp,
        memory_fraction=0.9,
        efficiency=efficiency,
        **more,
    )


@pytest.mark.parametrize(("model", "card", "gpus", "kv_thousands", "prefill_rate", "read_milliseconds"), TABLE)
def test_physical_limits(model, card, gpus, kv_thousands, prefill_rate, read_milliseconds):
    gpu = GPU_NAMES[card]
    assert min(n for n in (1, 2, 4, 8) if replica(model, gpu, n).kv_room_tokens > 0) == gpus
    at_least = replica(model, gpu, gpus)
    assert at_least.kv_room_tokens / 1000 == pytest.approx(kv_thousands, abs=1)
    # The table leaves the quadratic term and the all-reduce latency out.
    assert 1 / at_least.flop_seconds == pytest.approx(prefill_rate, rel=0.03)
    assert at_least.weight_bytes * at_least.byte_seconds * 1000 == pytest.approx(read_milliseconds, rel=0.025)


def test_a_prefill_by_hand():
    # 2 x 8.03e9 x 1000 + 2 x 32 x 4096 x 1000^2 FLOP at half of 989e12 FLOP/s
    flop = 2 * 8_030_261_248 * 1000 + 2 * 32 * 4096 * 1000**2
    assert replica().prefill_seconds(1000) == pytest.approx(flop / (0.5 * 989e12))


def test_a_memory_bound_step_by_hand():
    # Read 16.06 GB of weights and 10 x 600 x 131,072 bytes of KV cache at 0.7 x 3350 GB/s.
    read = 2 * 8_030_261_248 + 10 * 600 * 131_072
    assert replica().step_seconds(10, 600) == pytest.approx(read / (0.7 * 3350e9))


def test_a_compute_bound_step_by_hand():
    # 2 x 8.03e9 x 1000 operations take longer than reading the weights.
    busy = 2 * 8_030_261_248 * 1000 / (0.5 * 989e12)
    assert replica().step_seconds(1000, 0) == pytest.approx(busy)


def test_tensor_parallel_traffic_by_hand():
    # 70B, four GPUs, 256 tokens: 160 all-reduces of 2 x 3/4 x 256 x 8192 x 2 bytes at 450 GB/s, and 7.5 us each.
    nominal = PLAIN._replace(link=1.0)
    with_link = replica("Llama-3.1-70B", tp=4, efficiency=nominal).step_seconds(256, 0)
    without = replica("Llama-3.1-70B", tp=4).step_seconds(256, 0)
    assert with_link - without == pytest.approx(160 * 1.5 * 256 * 8192 * 2 / 450e9, rel=1e-6)
    assert with_link - without == pytest.approx(2.24e-3, rel=0.01)


def test_wider_groups_than_kv_heads_hold_heads_twice():
    # Qwen2.5-7B has 4 KV heads.
    assert replica("Qwen2.5-7B", tp=4).kv_bytes_per_token * 2 == replica("Qwen2.5-7B", tp=28).kv_bytes_per_token / 3.5
    assert replica("Llama-3.1-8B", tp=8).kv_bytes_per_token == 131_072
