"""The card of every variant, and the sources and precisions that a spec leaves out."""

import pytest

from servingplan.api.parse import parse_spec
from servingplan.model.engine import EngineSettings
from servingplan.planning.cards import cards_of, with_sources
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.estimate import estimate
from servingplan.render.deployment import replica_template

WIRE = {
    "parameters": 8_030_261_248,
    "layers": 32,
    "hiddenSize": 4096,
    "attentionHeads": 32,
    "kvHeads": 8,
    "headDim": 128,
}


def manifest(name, **model):
    pool = {
        "name": "a",
        "gpu": "H100-SXM-80GB",
        "gpusPerNode": 8,
        "dollarsPerNodeHour": "20",
        "maxNodes": 4,
        "nodeSelector": {"pool": "a"},
        "resize": {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "name": "a"},
    }
    spec = {"budget": {"dollarsPerHour": "200"}, "models": [{"name": name, **model}], "nodePools": [pool]}
    return {"metadata": {"name": "chat", "namespace": "llm"}, "spec": spec}


def spec_of(name, **model):
    spec, errors = parse_spec(manifest(name, **model)["spec"])
    assert errors == ()
    return spec


def only(spec):
    found, errors = cards_of(spec)
    assert errors == []
    ((_, variant, card),) = found
    return variant, card


def refusal(spec):
    found, (error,) = cards_of(spec)
    assert found == []
    return error


@pytest.mark.parametrize(
    ("name", "source", "precision"),
    [
        ("mistral-7b", "hf://mistralai/Mistral-7B-Instruct-v0.3", "bf16"),
        ("Qwen/Qwen3-8B", "hf://Qwen/Qwen3-8B", "bf16"),
        ("qwen3-30b-a3b-fp8", "hf://Qwen/Qwen3-30B-A3B-FP8", "fp8"),
        ("deepseek-r1", "hf://deepseek-ai/DeepSeek-R1", "fp8"),
        ("gpt-oss-120b", "hf://openai/gpt-oss-120b", "fp4"),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "hf://RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "fp8"),
    ],
)
def test_a_name_alone_finds_its_repository_and_precision(name, source, precision):
    variant, _ = only(spec_of(name))
    assert (variant.source, variant.precision, variant.name) == (source, precision, precision)
    assert with_sources(spec_of(name)).models[0].variants == (variant,)


def test_what_is_rolled_out_is_a_repository_that_exists():
    spec = with_sources(spec_of("mistral-7b"))
    model = spec.models[0]
    template = replica_template(
        model=model,
        variant=model.variants[0],
        pool=spec.node_pools[0],
        tensor_parallel=1,
        pipeline_parallel=1,
        settings=EngineSettings(),
    )
    assert "--model=mistralai/Mistral-7B-Instruct-v0.3" in template["spec"]["containers"][0]["args"]


def test_a_variant_without_a_source_takes_that_of_the_model():
    variant, _ = only(spec_of("llama-3.1-8b-instruct", variants=[{"name": "eight", "precision": "fp8"}]))
    assert (variant.source, variant.precision) == ("hf://meta-llama/Llama-3.1-8B-Instruct", "fp8")


def test_a_name_that_is_no_repository_needs_a_source():
    for spec in (spec_of("llama-3.1-70b-w4a16"), spec_of("mine", card=WIRE)):
        error = refusal(spec)
        assert error.field.endswith(".source")
        assert "is no repository" in error.advice
        assert "hf://organisation/name" in error.advice


def test_a_name_that_nobody_knows_is_told_with_near_ones():
    error = refusal(spec_of("llama-3.1-7b"))
    assert error.field == "spec.models[llama-3.1-7b].name"
    assert "Llama-3.1-8B" in error.advice
    assert "add-model" in error.advice
    assert "give its card" in error.advice


@pytest.mark.parametrize(
    ("source", "precision"),
    [
        ("hf://acme/our-own-llama-FP8-dynamic", "fp8"),
        ("hf://acme/our-own-llama", "bf16"),
        ("hf://Qwen/Qwen3-8B-AWQ", "int4"),
        ("pvc://weights/llama", "bf16"),
        ("oci://registry.example/llama:1", "bf16"),
    ],
)
def test_precision_comes_from_the_name_of_the_weights(source, precision):
    variant, _ = only(spec_of("llama-3.1-8b", variants=[{"name": "v", "source": source}]))
    assert (variant.source, variant.precision) == (source, precision)


def test_wide_weights_cannot_be_asked_of_a_quantised_repository():
    error = refusal(spec_of("x", variants=[{"name": "v", "source": "hf://Qwen/Qwen3-8B-FP8", "precision": "bf16"}]))
    assert error.field == "spec.models[x].variants[v].precision"
    assert "set fp8" in error.advice


def rate(card):
    found = estimate(
        model=card,
        precision="bf16",
        gpu=find_gpu("H100-SXM-80GB"),
        tensor_parallel=1,
        pipeline_parallel=1,
        settings=EngineSettings(),
        input_tokens=128,
        output_tokens=128,
        ttft_seconds=None,
        tpot_seconds=None,
    )
    return found.requests_per_second


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"vocabularySize": 128256, "intermediateSize": 14336, "maxContextTokens": 16384},
        {"parameters": 8_000_000_000},
    ],
)
def test_an_inline_card_of_a_known_shape_keeps_its_measurements(more):
    _, card = only(spec_of("mine", card=WIRE | more, variants=[{"name": "v", "source": "pvc://weights/mine"}]))
    assert card.name == "mine"
    assert rate(card) == rate(find_model("Llama-3.1-8B"))
    assert card.max_context_tokens == more.get("maxContextTokens")


def test_an_inline_card_of_another_shape_has_none():
    for more in ({"layers": 31}, {"vocabularySize": 128000}, {"parameters": 7_000_000_000}):
        _, card = only(spec_of("mine", card=WIRE | more, variants=[{"name": "v", "source": "pvc://weights/mine"}]))
        assert card.vocabulary_size in (0, 128000)
        assert rate(card) != rate(find_model("Llama-3.1-8B"))


def test_every_fact_of_a_card_can_be_given_inline():
    known = find_model("deepseek-ai/DeepSeek-V3")
    wire = {
        "parameters": known.parameters,
        "activeParameters": known.active_parameters,
        "experts": 256,
        "expertsPerToken": 8,
        "sharedExperts": 1,
        "denseLayers": 3,
        "layers": 61,
        "hiddenSize": 7168,
        "attentionHeads": 128,
        "kvHeads": 128,
        "headDim": 192,
        "vocabularySize": 129280,
        "intermediateSize": 18432,
        "expertIntermediateSize": 2048,
        "kvLoraRank": 512,
        "qLoraRank": 1536,
        "qkRopeHeadDim": 64,
        "qkNopeHeadDim": 128,
        "vHeadDim": 128,
        "maxContextTokens": 163840,
        "quantization": "fp8",
        "weightBlock": [128, 128],
    }
    _, card = only(spec_of("mine", card=wire, variants=[{"name": "v", "source": "pvc://weights/mine"}]))
    assert (
        card.model_copy(update={"name": known.name, "repository": known.repository, "aliases": known.aliases}) == known
    )
    # Nor does it need to be in the catalogue for that.
    own = wire | {"parameters": known.parameters + 10**11, "activeParameters": 40 * 10**9}
    _, card = only(spec_of("mine", card=own, variants=[{"name": "v", "source": "pvc://weights/mine"}]))
    assert card.kv_bytes_per_token() == known.kv_bytes_per_token()
    assert (card.precision, card.weight_block) == ("fp8", (128, 128))


def test_a_card_that_contradicts_itself_is_refused_by_field():
    error = refusal(
        spec_of("mine", card=WIRE | {"attentionLayers": 40}, variants=[{"name": "v", "source": "pvc://w/x"}])
    )
    assert error.field == "spec.models[mine].card"
    assert "above layers" in error.advice
