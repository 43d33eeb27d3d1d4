"""What the spec says of the engine's settings, as fields and as arguments."""

import pytest

from servingplan.api.models_v1alpha1 import Engine, Model
from servingplan.errors import InputError
from servingplan.planning.settings import SEQUENCES, context_refusal, unwritten, version_of, wished
from servingplan.profiles.catalogue import find_gpu, find_model

H100, A100 = find_gpu("H100-SXM-80GB"), find_gpu("A100-SXM4-80GB")


def model(engine=None, variant=None, **more):
    return Model.model_validate(
        {
            "name": "llama-3.1-8b",
            "engine": engine or {},
            "variants": [{"name": "v", "source": "hf://meta-llama/Llama-3.1-8B-Instruct", **(variant or {})}],
            **more,
        }
    )


def wish(engine=None, variant=None, card=None, drain_seconds=30, **more):
    made = model(engine, variant, **more)
    found = find_model("llama-3.1-8b").model_copy(update=card or {})
    return wished(model=made, variant=made.variants[0], card=found, drain_seconds=drain_seconds)


def arguments(*words, **engine):
    return wish({"extraArgs": list(words), **engine})


def test_what_nobody_says_is_chosen_from_a_short_ladder():
    free = wish()
    assert free.sequences() == SEQUENCES
    settings = free.settings(kv_cache_dtype="auto", max_num_seqs=64)
    assert (settings.max_num_seqs, settings.kv_cache_dtype, settings.gpu_memory_utilization) == (64, "auto", 0.9)
    assert settings.max_num_batched_tokens >= max(SEQUENCES)
    assert free.agrees(settings)


@pytest.mark.parametrize(
    ("field", "value", "flag", "setting", "told"),
    [
        ("maxNumSeqs", 1, "--max-num-seqs=1", "max_num_seqs", 1),
        ("maxNumBatchedTokens", 512, "--max_num_batched_tokens=512", "max_num_batched_tokens", 512),
        ("gpuMemoryUtilization", "0.3", "--gpu-memory-utilization=0.3", "gpu_memory_utilization", 0.3),
        ("kvCacheDtype", "fp8", "--kv-cache-dtype=fp8", "kv_cache_dtype", "fp8"),
        ("expertParallel", True, "-ep", "expert_parallel", True),
    ],
)
def test_a_setting_may_be_said_as_a_field_or_as_an_argument(field, value, flag, setting, told):
    assert wish({field: value}).said[setting] == told
    assert arguments(flag).said[setting] == told
    assert arguments(flag, **{field: value}).said[setting] == told


@pytest.mark.parametrize(
    ("words", "engine", "advice"),
    [
        (["--max-num-seqs=1"], {"maxNumSeqs": 2}, "contradicts engine.maxNumSeqs, which is 2"),
        (["--kv-cache-dtype", "auto"], {"kvCacheDtype": "fp8"}, "contradicts engine.kvCacheDtype"),
        (["--no-enable-prefix-caching"], {"prefixCacheHitShare": "0.5"}, "contradicts engine.prefixCacheHitShare"),
        (["--no-enable-chunked-prefill"], {}, "in chunks"),
        (["--dtype=float32"], {}, "32 bits"),
        (["--dtype", "float"], {}, "32 bits"),
        (["-q", "fp8"], {}, "set that to fp8"),
        (["--quantization=awq_marlin"], {}, "set that to int4"),
        (["--enforce-eager"], {}, "no rate is known"),
        (["--num-gpu-blocks-override=100"], {}, "cannot be planned with"),
        (["--max-num-batched-tokens=8"], {"maxNumSeqs": 64}, "below max-num-seqs"),
        (["--max-num-seqs=many"], {}, "whole number"),
        (["--model=other"], {}, "decided by the plan"),
        (["other"], {}, "decided by the plan"),
        (["--max-model-len=9"], {}, "maxModelLen"),
        (["-tp=8"], {}, "decided by the plan"),
        (["--data-parallel-size", "2"], {}, "decided by the plan"),
        (["--speculative-config={}"], {}, "engine.speculative"),
        (
            ['-sc={"method":"ngram","num_speculative_tokens":4}'],
            {"speculative": {"method": "ngram", "tokens": 3, "acceptance": "0.7"}},
            "contradicts engine.speculative",
        ),
    ],
)
def test_arguments_that_contradict_the_plan_are_refused_by_name(words, engine, advice):
    with pytest.raises(InputError) as refused:
        arguments(*words, **engine)
    assert refused.value.field == "spec.models[llama-3.1-8b].engine.extraArgs"
    assert advice in refused.value.advice


def test_arguments_that_change_no_rate_are_passed_on():
    assert arguments("--model-impl=vllm", "--dtype=bfloat16", "--", "-O3", "--host-cache=1").said == wish().said


def test_speculation_that_only_an_argument_tells_is_counted_on_for_nothing():
    config = '--speculative-config={"method":"ngram","num_speculative_tokens":4}'
    told = arguments(config).said["speculation"]
    assert (told.method, told.tokens, told.acceptance, told.tokens_per_step) == ("ngram", 4, 0.0, 1.0)
    measured = arguments(config, speculative={"method": "ngram", "tokens": 4, "acceptance": "0.5"}).said["speculation"]
    assert measured.acceptance == 0.5


def test_an_fp8_kv_cache_is_taken_only_where_the_user_lets_it_be():
    auto = {"kvCacheDtype": "auto"}
    limited = {"maxQualityLoss": "0.01"}
    assert wish().widths([H100]) == ("auto",)
    assert wish(auto).widths([H100]) == ("auto", "fp8")
    assert wish(auto).widths([H100, A100]) == ("auto",)
    assert wish(auto, **limited).widths([H100]) == ("auto",)
    assert wish(auto, {"kvCacheQualityLoss": "0.002"}, **limited).widths([H100]) == ("auto", "fp8")
    assert wish({"kvCacheDtype": "fp8"}, **limited).widths([A100]) == ("fp8",)
    assert arguments("--kv-cache-dtype=auto", **auto).widths([H100]) == ("auto",)


def test_fewer_batched_tokens_than_sequences_are_not_asked_about():
    assert wish({"maxNumBatchedTokens": 100}).sequences() == (16, 32, 64)
    assert wish({"maxNumBatchedTokens": 8}).sequences() == (8,)


@pytest.mark.parametrize(
    ("source", "precision", "stored", "told"),
    [
        ("hf://meta-llama/Llama-3.1-8B-Instruct", "fp8", None, "fp8"),
        ("hf://meta-llama/Llama-3.1-8B-Instruct", "bf16", None, None),
        ("hf://neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", "fp8", None, None),
        ("hf://org/model", "fp8", "fp8", None),
        ("pvc://claim/model", "fp8", None, None),
        ("oci://image", "fp8", None, None),
    ],
)
def test_weights_are_quantised_as_they_are_loaded_where_they_are_not_stored_so(source, precision, stored, told):
    assert (
        wish(variant={"source": source, "precision": precision}, card={"quantization": stored}).said["quantization"]
        == told
    )


def test_a_precision_that_the_engine_cannot_make_is_refused():
    with pytest.raises(InputError, match="makes no int4 as it loads"):
        wish(variant={"precision": "int4"}, card={"repository": "meta-llama/Llama-3.1-8B-Instruct"})


def test_the_context_is_at_most_what_the_model_was_made_for():
    long = {"classes": [{"name": "c", "inputTokens": 20_000, "outputTokens": 800, "requestsPerSecond": "1"}]}
    card = {"max_context_tokens": 32_768}
    assert wish(**long).said["max_model_len"] == 41_600
    assert wish(card=card, **long).said["max_model_len"] == 32_768
    assert wish({"extraArgs": ["--hf-overrides", "{}"]}, card=card, **long).said["max_model_len"] == 41_600
    limited = find_model("llama-3.1-8b").model_copy(update=card)
    assert context_refusal(model(maxModelLen=32_768), limited, tokens=32_768) is None
    assert context_refusal(model(), limited, tokens=32_769).reason == "ContextAboveModel"
    assert context_refusal(model({"extraArgs": ["--rope-scaling={}"]}), limited, tokens=99_999) is None


@pytest.mark.parametrize(
    ("engine", "version"),
    [
        ({}, "0.18.0"),
        ({"image": "vllm/vllm-openai:v0.9.2"}, "0.9.2"),
        ({"image": "registry:5000/mirror/vllm-openai:v0.20.1-cu130@sha256:0f"}, "0.20.1"),
        ({"image": "vllm/vllm-openai:latest"}, None),
        ({"image": "vllm/vllm-openai@sha256:0f"}, None),
        ({"image": "servingplan:0.1.0"}, None),
        ({"image": "servingplan:0.1.0", "version": "v0.18.0"}, "0.18.0"),
    ],
)
def test_the_version_is_a_field_and_the_images_tag_a_hint(engine, version):
    assert version_of(Engine.model_validate(engine)) == version


@pytest.mark.parametrize(
    ("engine", "drain_seconds", "told"),
    [
        ({}, 30, 300),
        ({}, 900, 900),
        ({"version": "0.17.1"}, 30, None),
        ({"image": "engine:1"}, 30, None),
        ({"image": "engine:1", "version": "1.0"}, 30, 300),
        ({"extraArgs": ["--shutdown-timeout=45"]}, 30, 45),
    ],
)
def test_running_requests_get_time_to_finish_where_the_engine_has_a_flag_for_it(engine, drain_seconds, told):
    assert wish(engine, drain_seconds=drain_seconds).said["shutdown_seconds"] == told


def test_replicas_from_before_settings_were_written_are_judged_as_they_were_planned():
    assert unwritten(model()).max_num_seqs == 1024
    assert unwritten(model({"extraArgs": ["--max-num-seqs", "64"]})).max_num_seqs == 64
