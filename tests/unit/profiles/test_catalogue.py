"""Names to GPUs and model shapes; every packaged row is sane and tells its source."""

import pytest

from servingplan.errors import InputError
from servingplan.model.llm import PRECISIONS
from servingplan.profiles import catalogue
from tests.unit.profiles.parameter_counts import PARAMETERS


def test_parameter_counts_are_those_of_the_modelling_code():
    assert {card.name: card.parameters for card in catalogue.packaged_models()} == PARAMETERS


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # As their publishers say: model cards of Mixtral, Qwen3, DeepSeek-V3, gpt-oss (less its input table), Kimi K2.
        ("Mixtral-8x7B", 12.9),
        ("Qwen3-30B-A3B", 3.3),
        ("Qwen3-235B-A22B", 22),
        ("DeepSeek-V3", 37),
        ("Kimi-K2", 32),
        ("GLM-4.5", 32),
        ("GLM-4.5-Air", 12),
        ("Llama-4-Scout", 17),
        ("Llama-4-Maverick", 17),
        ("MiniMax-M2", 10),
        ("Qwen3-Next-80B-A3B", 3),
        ("Nemotron-3-Super-120B-A12B", 12),
        ("Nemotron-3-Nano-30B-A3B", 3.5),
    ],
)
def test_active_parameters_are_those_that_publishers_tell(name, billions):
    # Publishers leave out one or both tables of the vocabulary, or round.
    card = catalogue.find_model(name)
    tables = card.embedding_parameters
    assert card.active_parameters - tables <= billions * 1.1e9
    assert card.active_parameters >= billions * 0.9e9


def test_gpt_oss_is_as_its_model_card_has_it():
    # 116.8 and 5.1 billion, 20.9 and 3.6 billion: the input table of 201,088 x 2,880 is not counted as active.
    for name, total, active in (("gpt-oss-120b", 116.83, 5.13), ("gpt-oss-20b", 20.91, 3.61)):
        card = catalogue.find_model(name)
        assert card.parameters / 1e9 == pytest.approx(total, abs=0.01)
        assert (card.active_parameters - card.vocabulary_size * card.hidden_size) / 1e9 == pytest.approx(
            active, abs=0.01
        )


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA-H100-80GB-HBM3", "H100-SXM-80GB"),
        ("NVIDIA-H100-NVL", "H100-NVL-94GB"),
        ("NVIDIA-A100-SXM4-40GB", "A100-40GB-SXM"),
        ("NVIDIA-A100-PCIE-40GB", "A100-40GB-PCIE"),
        ("NVIDIA-A100-80GB-PCIe", "A100-PCIE-80GB"),
        ("NVIDIA-GH200-480GB", "GH200-96GB"),
        ("NVIDIA-B300-SXM6-AC", "B300-288GB"),
        ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", "RTX-PRO-6000-96GB"),
        ("Tesla-T4", "T4-16GB"),
        ("NVIDIA-L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("AMD_Instinct_MI300X_OAM", "MI300X-192GB"),
        # GKE
        ("nvidia-l4", "L4-24GB"),
        ("nvidia-tesla-a100", "A100-40GB-SXM"),
        ("nvidia-a100-80gb", "A100-SXM4-80GB"),
        ("nvidia-h100-mega-80gb", "H100-SXM-80GB"),
        ("nvidia-h200-141gb", "H200-SXM-141GB"),
        ("nvidia-gb200", "GB200-192GB"),
        # Karpenter on EKS, and instance types of AWS, Google and Azure
        ("a10g", "A10G-24GB"),
        ("h100", "H100-SXM-80GB"),
        ("g5.12xlarge", "A10G-24GB"),
        ("g6.xlarge", "L4-24GB"),
        ("g6e.48xlarge", "L40S"),
        ("p4d.24xlarge", "A100-40GB-SXM"),
        ("p4de.24xlarge", "A100-SXM4-80GB"),
        ("p5en.48xlarge", "H200-SXM-141GB"),
        ("p6-b200.48xlarge", "B200-180GB"),
        ("a3-megagpu-8g", "H100-SXM-80GB"),
        ("g2-standard-48", "L4-24GB"),
        ("Standard_ND96isr_H100_v5", "H100-SXM-80GB"),
        ("Standard_NC48ads_A100_v4", "A100-PCIE-80GB"),
        ("Standard_ND96isr_MI300X_v5", "MI300X-192GB"),
        # as people write them
        ("h200", "H200-SXM-141GB"),
        ("RTX 5090", "RTX5090"),
        ("mi355x", "MI355X-288GB"),
    ],
)
def test_node_labels_and_short_forms(product, name):
    assert catalogue.find_gpu(product).name == name


def test_the_cards_that_are_served_on_are_there():
    wanted = """
        A10G-24GB L4-24GB T4-16GB A10-24GB A40-48GB L40-48GB L40S A100-40GB-SXM A100-40GB-PCIE A100-PCIE-80GB A100-SXM4-80GB
        H100-PCIE-80GB H100-NVL-94GB H100-SXM-80GB GH200-96GB H200-SXM-141GB H200-NVL-141GB B200-180GB B300-288GB
        GB200-192GB GB300-288GB RTX-PRO-6000-96GB RTX4090 RTX5090 MI300X-192GB MI325X-256GB MI355X-288GB"""
    assert set(wanted.split()) <= {gpu.name for gpu in catalogue.packaged_gpus()}
    assert {gpu.name for gpu in catalogue.packaged_gpus() if gpu.vendor == "amd"} == {
        "MI300X-192GB",
        "MI325X-256GB",
        "MI355X-288GB",
    }


def test_figures_of_cards_are_dense_and_agree_with_each_other():
    for gpu in catalogue.packaged_gpus():
        # Each halving of the width doubles a peak on the cards that have units for it, up to what their makers cut.
        if gpu.fp8_dense_tflops is not None:
            assert gpu.fp8_dense_tflops / gpu.bf16_dense_tflops == pytest.approx(2, rel=0.03)
        if gpu.fp4_dense_tflops is not None:
            assert 1.99 <= gpu.fp4_dense_tflops / gpu.fp8_dense_tflops <= 4
        # What the driver reports is from 7 % below the label's GiB (cards that keep ECC bits there) up to the label.
        assert 0.93 * gpu.memory_gb * 2**30 <= gpu.usable_bytes <= gpu.memory_gb * 2**30


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
    ("identifier", "name", "precision", "quantization", "repository"),
    [
        ("hf://meta-llama/Llama-3.1-70B-Instruct", "Llama-3.1-70B", "bf16", None, "meta-llama/Llama-3.1-70B-Instruct"),
        (
            "neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8",
            "Llama-3.1-70B",
            "fp8",
            "fp8",
            "neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8",
        ),
        ("llama-3.1-70b", "Llama-3.1-70B", "bf16", None, "meta-llama/Llama-3.1-70B"),
        ("meta-llama/Llama-3.1-70B@0123abc", "Llama-3.1-70B", "bf16", None, "meta-llama/Llama-3.1-70B"),
        ("Llama 3.3 70B", "Llama-3.1-70B", "bf16", None, "meta-llama/Llama-3.3-70B-Instruct"),
        ("mistral-7b", "Mistral-7B", "bf16", None, "mistralai/Mistral-7B-Instruct-v0.3"),
        ("Qwen/Qwen3-30B-A3B-FP8", "Qwen3-30B-A3B", "fp8", "fp8", "Qwen/Qwen3-30B-A3B-FP8"),
        ("RedHatAI/Qwen3-32B-FP8-dynamic", "Qwen3-32B", "fp8", "fp8", "RedHatAI/Qwen3-32B-FP8-dynamic"),
        ("nvidia/DeepSeek-R1-0528-NVFP4-v2", "DeepSeek-V3", "fp4", "nvfp4", "nvidia/DeepSeek-R1-0528-NVFP4-v2"),
        ("deepseek-ai/DeepSeek-R1", "DeepSeek-V3", "fp8", "fp8", "deepseek-ai/DeepSeek-R1"),
        ("Qwen/Qwen2.5-72B-Instruct-AWQ", "Qwen2.5-72B", "int4", "awq", "Qwen/Qwen2.5-72B-Instruct-AWQ"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen2.5-7B", "int4", "gptq", "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", "Qwen2.5-7B", "int8", "gptq", "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8"),
        (
            "RedHatAI/gemma-3-27b-it-quantized.w4a16",
            "Gemma-3-27B",
            "int4",
            "int4",
            "RedHatAI/gemma-3-27b-it-quantized.w4a16",
        ),
        ("Llama-3.1-8B-Instruct-w4a16", "Llama-3.1-8B", "int4", "int4", None),
        ("unsloth/Llama-3.3-70B-Instruct", "Llama-3.1-70B", "bf16", None, "unsloth/Llama-3.3-70B-Instruct"),
        (
            "unsloth/Llama-3.3-70B-Instruct-bnb-4bit",
            "Llama-3.1-70B",
            "int4",
            "bitsandbytes",
            "unsloth/Llama-3.3-70B-Instruct-bnb-4bit",
        ),
        ("openai/gpt-oss-120b", "gpt-oss-120b", "fp4", "mxfp4", "openai/gpt-oss-120b"),
        ("unsloth/gpt-oss-20b-BF16", "gpt-oss-20b", "bf16", None, "unsloth/gpt-oss-20b-BF16"),
        ("moonshotai/Kimi-K2.5", "Kimi-K2", "int4", "int4", "moonshotai/Kimi-K2.5"),
        ("zhipuai/GLM-5", "GLM-5", "bf16", None, "zhipuai/GLM-5"),
    ],
)
def test_names_of_models_as_people_write_them(identifier, name, precision, quantization, repository):
    card = catalogue.find_model(identifier)
    assert (card.name, card.precision, card.quantization, card.repository) == (
        name,
        precision,
        quantization,
        repository,
    )


def test_repositories_of_one_shape_differ_in_context_and_block():
    assert catalogue.find_model("meta-llama/Meta-Llama-3-8B-Instruct").max_context_tokens == 8192
    assert catalogue.find_model("meta-llama/Llama-3.1-8B-Instruct").max_context_tokens == 131072
    assert catalogue.find_model("Qwen/Qwen2.5-32B-Instruct").max_context_tokens == 32768
    assert catalogue.find_model("Qwen/Qwen3-30B-A3B-FP8").weight_block == (128, 128)
    assert catalogue.find_model("RedHatAI/Qwen3-30B-A3B-FP8-dynamic").weight_block is None
    # Padded by its publisher so that eight GPUs can share it in groups of 128.
    assert catalogue.find_model("Qwen/Qwen2.5-72B-Instruct-AWQ").intermediate_size == 29696


def test_every_repository_of_every_row_resolves_to_its_row():
    for row in catalogue.shipped().models:
        assert row.repositories, row.name
        for repository in row.repositories:
            card = catalogue.find_model(f"hf://{repository}")
            assert (card.name, card.repository) == (row.name, repository)
            assert card.precision in PRECISIONS
            assert card.max_context_tokens


def test_a_miss_names_close_ones_and_how_to_add_one():
    with pytest.raises(LookupError, match=r"close: .*A100-SXM4-80GB.*add a row") as miss:
        catalogue.find_gpu("A100")
    assert isinstance(miss.value, InputError)
    with pytest.raises(catalogue.UnknownModelError, match=r"close: .*Llama-3.1-8B.*add-model"):
        catalogue.find_model("meta-llama/Llama-3.1-7B")
    with pytest.raises(catalogue.UnknownModelError, match="add it"):
        catalogue.find_model("")


def test_inline_definitions_win_also_under_the_aliases_of_the_catalogue():
    slow = catalogue.find_gpu("L4").model_copy(update={"memory_bandwidth_gb_per_second": 1.0, "aliases": ()})
    assert catalogue.find_gpu("NVIDIA-L4", inline=[slow]) is slow
    tiny = catalogue.find_model("Qwen3-8B").model_copy(update={"layers": 1, "aliases": ()})
    assert catalogue.find_model("Qwen/Qwen3-8B-FP8", inline=[tiny]) is tiny


def test_rows_of_an_installation_come_before_the_shipped_ones():
    row = catalogue.shipped().models[0]
    own = row.model_copy(update={"name": "house-model", "repositories": {"house/Llama-3.1-8B": {}}})
    known = catalogue.shipped().with_rows([own], [catalogue.find_gpu("L4").model_copy(update={"name": "H100"})])
    assert catalogue.find_model("llama-3.1-8b", catalogue=known).repository == "meta-llama/Llama-3.1-8B"
    assert catalogue.find_model("house/Llama-3.1-8B", catalogue=known).name == "house-model"
    assert catalogue.find_gpu("h100", catalogue=known).name == "H100"
    assert catalogue.find_model("qwen3-8b", catalogue=known).name == "Qwen3-8B"


def test_measurements_belong_to_a_shape_whatever_its_name():
    card = catalogue.find_model("Llama-3.1-8B")
    renamed = card.model_copy(update={"name": "mine", "aliases": (), "repository": None, "max_context_tokens": 4096})
    assert catalogue.measured_name(renamed.shape) == "Llama-3.1-8B"
    assert catalogue.measured_name(card.model_copy(update={"layers": 31}).shape) is None


def test_every_row_tells_its_source_and_names_what_is_catalogued():
    assert all(row["source"] for row in catalogue.read_rows("gpus.csv"))
    assert len({row.name.lower() for row in catalogue.shipped().models}) == len(catalogue.shipped().models)
    for name in ("measured_throughput.csv", "measured_latency.csv"):
        for row in catalogue.read_rows(name):
            assert row["engine_version"]
            assert catalogue.find_gpu(row["gpu"]).name == row["gpu"]
            assert catalogue.find_model(row["model"]).name == row["model"]
