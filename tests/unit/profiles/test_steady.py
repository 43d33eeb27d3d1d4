"""Rates from kernels: what more hardware and more work must do, and what no engine can exceed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.model.engine import EngineSettings, Speculation
from servingplan.profiles import catalogue
from servingplan.profiles.steady import steady
from servingplan.profiles.steps import step_times

MODELS = st.sampled_from(
    ["Llama-3.1-8B", "Llama-3.1-70B", "Mixtral-8x7B", "Qwen3-30B-A3B", "DeepSeek-V3", "gpt-oss-20b"]
)
GPUS = st.sampled_from(
    ["A100-SXM4-80GB", "A100-PCIE-80GB", "H100-SXM-80GB", "H200-SXM-141GB", "L40S", "L4", "B200-180GB"]
)
PRECISIONS = st.sampled_from(["bf16", "fp8", "int4", "fp4"])
SIZES = st.sampled_from([1, 2, 4, 8])
BATCHES = np.array([1.0, 3.0, 16.0, 70.0, 256.0, 1024.0])
PROPERTY = settings(max_examples=60)


def replica(model, gpu, precision="bf16", tp=1, pp=1, **engine):
    return step_times(
        model=catalogue.find_model(model),
        precision=precision,
        gpu=catalogue.find_gpu(gpu) if isinstance(gpu, str) else gpu,
        tensor_parallel=tp,
        pipeline_parallel=pp,
        settings=EngineSettings(**{"max_num_seqs": 4096, **engine}),
    )


@PROPERTY
@given(
    model=MODELS, gpu=GPUS, precision=PRECISIONS, tp=SIZES, prompt=st.integers(1, 30_000), answer=st.integers(1, 5_000)
)
def test_longer_requests_are_never_faster(model, gpu, precision, tp, prompt, answer):
    times = replica(model, gpu, precision, tp)
    short = steady(times, BATCHES, prompt, answer).requests_per_second
    assert np.isfinite(short).all()
    for longer in ((prompt + 50, answer), (2 * prompt, answer), (prompt, answer + 50), (prompt, 2 * answer)):
        assert (steady(times, BATCHES, *longer).requests_per_second <= short * (1 + 1e-6)).all()


@PROPERTY
@given(
    model=MODELS,
    gpu=GPUS,
    precision=PRECISIONS,
    tp=SIZES,
    field=st.sampled_from(
        ["memory_bandwidth_gb_per_second", "bf16_dense_tflops", "fp8_dense_tflops", "link_gb_per_second_per_direction"]
    ),
    factor=st.floats(1.01, 3.0),
)
def test_a_card_with_more_of_anything_is_never_slower(model, gpu, precision, tp, field, factor):
    card = catalogue.find_gpu(gpu)
    if getattr(card, field) is None or (field.startswith("link") and card.link_gb_per_second_per_direction < 100):
        return
    better = card.model_copy(update={field: getattr(card, field) * factor})
    slow = steady(replica(model, card, precision, tp), BATCHES, 700, 300)
    fast = steady(replica(model, better, precision, tp), BATCHES, 700, 300)
    assert (fast.requests_per_second >= slow.requests_per_second * (1 - 1e-9)).all()
    assert (fast.tpot_seconds <= slow.tpot_seconds * (1 + 0.02)).all()


@PROPERTY
@given(model=MODELS, gpu=GPUS, precision=PRECISIONS, tp=SIZES, prompt=st.integers(1, 8000), answer=st.integers(1, 2000))
def test_no_rate_is_above_the_physical_limit(model, gpu, precision, tp, prompt, answer):
    card, shape = catalogue.find_gpu(gpu), catalogue.find_model(model)
    rate = steady(replica(model, gpu, precision, tp), BATCHES, prompt, answer).requests_per_second
    peak = max(card.bf16_dense_tflops, card.fp8_dense_tflops or 0, card.fp4_dense_tflops or 0) * 1e12
    active = shape.parameters_per_token - shape.embedding_parameters
    # The factors of the fit may set a kind of kernel faster than its table, never a replica faster than its peak.
    assert (rate * 2 * active * (prompt + answer) <= tp * peak).all()


@PROPERTY
@given(model=MODELS, gpu=GPUS, tp=SIZES, prompt=st.integers(1, 8000), answer=st.integers(2, 2000))
def test_a_slot_is_held_for_its_tokens(model, gpu, tp, prompt, answer):
    found = steady(replica(model, gpu, "fp8", tp), BATCHES, prompt, answer)
    held = found.batch / found.requests_per_second
    assert found.ttft_seconds + (answer - 1) * found.tpot_seconds == pytest.approx(held, rel=1e-9)
    assert (found.ttft_seconds > 0).all()
    assert (found.tpot_seconds >= 0).all()


@pytest.mark.parametrize("model", ["Llama-3.1-8B", "Llama-3.1-70B", "Mixtral-8x7B"])
def test_rates_have_no_jumps_over_batch_and_length(model):
    times = replica(model, "H100-SXM-80GB", "fp8", 2)
    batches = np.exp(np.linspace(0, np.log(1024), 400))
    over_batch = steady(times, batches, 900, 200).requests_per_second
    over_prompt = steady(times, 64.0, np.exp(np.linspace(0, np.log(30_000), 800)), 200).requests_per_second
    for rates in (over_batch, over_prompt):
        assert np.abs(np.diff(np.log(rates))).max() < 0.05


def test_stages_add_rate_but_not_speed():
    alone, staged = (
        replica("Llama-3.1-70B", "H100-SXM-80GB", tp=2),
        replica("Llama-3.1-70B", "H100-SXM-80GB", tp=2, pp=2),
    )
    one, two = steady(alone, 64.0, 500, 500), steady(staged, 128.0, 500, 500)
    assert 1.5 < two.requests_per_second / one.requests_per_second < 2
    assert steady(staged, 1.0, 500, 500).tpot_seconds >= steady(alone, 1.0, 500, 500).tpot_seconds


def test_settings_of_the_engine_count():
    plain = steady(replica("Llama-3.1-8B", "H100-SXM-80GB"), 64.0, 2000, 200)
    cached = steady(replica("Llama-3.1-8B", "H100-SXM-80GB", prefix_cache_hit_share=0.8), 64.0, 2000, 200)
    assert cached.requests_per_second > 1.3 * plain.requests_per_second
    guess = Speculation(method="eagle", tokens=3, acceptance=0.8)
    drafted = steady(replica("Llama-3.1-8B", "H100-SXM-80GB", speculation=guess), 4.0, 200, 500)
    usual = steady(replica("Llama-3.1-8B", "H100-SXM-80GB"), 4.0, 200, 500)
    assert 2 < drafted.requests_per_second / usual.requests_per_second < guess.tokens_per_step
    useless = guess.model_copy(update={"acceptance": 0.0})
    wasted = steady(replica("Llama-3.1-8B", "H100-SXM-80GB", speculation=useless), 512.0, 200, 500)
    assert (
        wasted.requests_per_second
        < steady(replica("Llama-3.1-8B", "H100-SXM-80GB"), 512.0, 200, 500).requests_per_second
    )


def test_experts_that_are_spread_read_whole_experts():
    cut = replica("Qwen3-30B-A3B", "H100-SXM-80GB", tp=4)
    spread = replica("Qwen3-30B-A3B", "H100-SXM-80GB", tp=4, expert_parallel=True)
    assert cut.decode_seconds(16.0, 500.0) != spread.decode_seconds(16.0, 500.0)


def test_latent_and_window_keep_long_contexts_cheap():
    def growth(model):
        times = replica(model, "H200-SXM-141GB", "fp8")
        return float(times.decode_seconds(32.0, 60_000.0) - times.decode_seconds(32.0, 6_000.0))

    assert growth("DeepSeek-V3") < growth("Llama-3.1-405B") / 4
    assert growth("gpt-oss-120b") < growth("Qwen3-235B-A22B") / 4
