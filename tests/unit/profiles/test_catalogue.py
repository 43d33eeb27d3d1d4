"""Names to GPUs and model shapes; every packaged row is sane and tells its source."""

import pytest

from servingplan.errors import InputError
from servingplan.profiles import catalogue

# Feed-forward width, query/key norms, attention biases: what parameter counts follow from besides the card.
PARTS = {
    "Llama-3.1-8B": (14336, False, False),
    "Llama-3.1-70B": (28672, False, False),
    "Llama-3.1-405B": (53248, False, False),
    "Llama-3.2-1B": (8192, False, False),
    "Llama-3.2-3B": (8192, False, False),
    "Mistral-7B": (14336, False, False),
    "Mixtral-8x7B": (14336, False, False),
    "Mixtral-8x22B": (16384, False, False),
    "Qwen2.5-0.5B": (4864, False, True),
    "Qwen2.5-1.5B": (8960, False, True),
    "Qwen2.5-3B": (11008, False, True),
    "Qwen2.5-7B": (18944, False, True),
    "Qwen2.5-14B": (13824, False, True),
    "Qwen2.5-32B": (27648, False, True),
    "Qwen2.5-72B": (29568, False, True),
    "Qwen3-4B": (9728, True, False),
    "Qwen3-8B": (12288, True, False),
    "Qwen3-14B": (17408, True, False),
    "Qwen3-32B": (25600, True, False),
    "Qwen3-30B-A3B": (768, True, False),
}


@pytest.mark.parametrize("name", PARTS)
def test_parameter_counts_follow_from_the_architecture(name):
    card = catalogue.find_model(name)
    feed_forward, norms, biases = PARTS[name]
    width, heads = card.hidden_size, card.attention_heads + 2 * card.kv_heads
    attention = width * card.head_dim * (heads + card.attention_heads)
    attention += heads * card.head_dim * biases + 2 * card.head_dim * norms
    router = width * card.experts if card.experts > 1 else 0
    rest = card.layers * (attention + router + 2 * width) + card.embedding_parameters + width
    one_expert = card.layers * 3 * width * feed_forward
    assert card.parameters == rest + card.experts * one_expert
    assert card.parameters_per_token == rest + card.experts_per_token * one_expert


def test_every_model_is_checked():
    assert {card.name for card in catalogue.packaged_models()} == set(PARTS)


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA-H100-80GB-HBM3", "H100-SXM-80GB"),
        ("NVIDIA-A100-SXM4-40GB", "A100-40GB-SXM"),
        ("NVIDIA-A100-80GB-PCIe", "A100-PCIE-80GB"),
        ("NVIDIA-L40S", "L40S"),
        ("nvidia-l4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("h200", "H200-SXM-141GB"),
    ],
)
def test_node_label_products(product, name):
    assert catalogue.find_gpu(product).name == name


def test_no_product_names_two_cards():
    for gpu in catalogue.packaged_gpus():
        for name in (gpu.name, *gpu.aliases):
            assert [other.name for other in catalogue.packaged_gpus() if other.answers_to(name)] == [gpu.name]


@pytest.mark.parametrize("product", ["NVIDIA-L40S-SHARED", "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"])
def test_a_share_is_refused_with_its_reason(product):
    with pytest.raises(catalogue.UnknownGpuError, match="MIG slice or a time-shared card"):
        catalogue.find_gpu(product)


def test_a_share_may_be_declared_under_its_own_name():
    name = "NVIDIA-A30-MIG-2g.12gb"
    declared = catalogue.find_gpu("A30").model_copy(update={"name": name, "memory_gb": 12.0, "aliases": ()})
    assert catalogue.find_gpu(name, inline=[declared]) is declared


@pytest.mark.parametrize(
    "identifier",
    [
        "hf://meta-llama/Llama-3.1-70B-Instruct",
        "neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8",
        "llama-3.1-70b",
        "meta-llama/Llama-3.1-70B@0123abc",
    ],
)
def test_repository_identifiers(identifier):
    assert catalogue.find_model(identifier).name == "Llama-3.1-70B"


def test_a_miss_names_close_ones_and_is_an_input_error():
    with pytest.raises(LookupError, match=r"close: .*H100-SXM-80GB") as miss:
        catalogue.find_gpu("H100")
    assert isinstance(miss.value, InputError)
    with pytest.raises(catalogue.UnknownModelError, match=r"close: .*Llama-3.1-8B"):
        catalogue.find_model("meta-llama/Llama-3.1-7B")


def test_inline_definitions_win_also_under_the_aliases_of_the_catalogue():
    slow = catalogue.find_gpu("L4").model_copy(update={"memory_bandwidth_gb_per_second": 1.0, "aliases": ()})
    assert catalogue.find_gpu("NVIDIA-L4", inline=[slow]) is slow
    tiny = catalogue.find_model("Qwen3-8B").model_copy(update={"layers": 1, "aliases": ()})
    assert catalogue.find_model("Qwen/Qwen3-8B-FP8", inline=[tiny]) is tiny


def test_every_row_tells_its_source_and_names_what_is_catalogued():
    assert all(row["source"] for name in ("gpus.csv", "models.csv") for row in catalogue.read_rows(name))
    for name in ("measured_throughput.csv", "measured_latency.csv"):
        for row in catalogue.read_rows(name):
            assert row["engine_version"]
            assert catalogue.find_gpu(row["gpu"]).name == row["gpu"]
            assert catalogue.find_model(row["model"]).name == row["model"]
