"""What one replica does, end to end: refusals, measurements reproduced, order relations that must hold."""

import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from servingplan.model.engine import EngineSettings
from servingplan.model.llm import UnknownPrecisionError
from servingplan.profiles import catalogue
from servingplan.profiles.bands import Basis, band
from servingplan.profiles.estimate import (
    MAX_BATCH,
    Estimate,
    Unfit,
    divisible_shapes,
    estimate,
)

CHAT = {"input_tokens": 467, "output_tokens": 256}


def ask(
    model="Llama-3.1-70B", gpu="H100-SXM-80GB", precision="bf16", tp=4, pp=1, ttft=None, tpot=None, engine=None, **more
):
    return estimate(
        model=catalogue.find_model(model) if isinstance(model, str) else model,
        precision=precision,
        gpu=catalogue.find_gpu(gpu) if isinstance(gpu, str) else gpu,
        tensor_parallel=tp,
        pipeline_parallel=pp,
        settings=EngineSettings(**({"max_num_seqs": MAX_BATCH} | (engine or {}))),
        ttft_seconds=ttft,
        tpot_seconds=tpot,
        **(CHAT | more),
    )


def fits(**asked):
    answer = ask(**asked)
    assert isinstance(answer, Estimate), answer
    return answer


def refused(**asked):
    answer = ask(**asked)
    assert isinstance(answer, Unfit), answer
    return answer


def test_the_knee_of_a_served_model():
    # TensorRT-LLM 0.14, 70B on four H100: 12 requests/s at a mean of 175 ms to the first token; 16 is where it overloads.
    engine = {"engine": "tensorrt-llm", "version": "0.14.0"}
    knee = fits(ttft=0.35, engine=engine, confidence=0.75)
    assert knee.requests_per_second * knee.utilization[0] == pytest.approx(12, rel=0.25)
    assert knee.ttft_seconds < 0.2
    saturated = fits(engine=engine)
    assert saturated.requests_per_second == pytest.approx(16, rel=saturated.error_band)


@pytest.mark.parametrize(
    ("model", "gpu", "precision", "tp", "input_tokens", "output_tokens", "measured"),
    [
        ("Llama-3.1-8B", "A100-SXM4-80GB", "bf16", 1, 1000, 1000, None),
        ("Llama-3.1-70B", "H100-SXM-80GB", "bf16", 8, 2048, 128, None),
        ("Mixtral-8x7B", "A100-SXM4-80GB", "bf16", 4, 500, 2000, None),
    ],
)
def test_saturated_rates_reproduce(model, gpu, precision, tp, input_tokens, output_tokens, measured):
    asked = {
        "model": model,
        "gpu": gpu,
        "precision": precision,
        "tensor_parallel": str(tp),
        "input_tokens": str(input_tokens),
        "output_tokens": str(output_tokens),
    }
    cells = [row for row in catalogue.read_rows("measured_throughput.csv") if asked.items() <= row.items()]
    newest = max(cells, key=lambda row: row["engine_version"])
    got = fits(
        model=model,
        gpu=gpu,
        precision=precision,
        tp=tp,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        engine={"engine": "tensorrt-llm", "gpu_memory_utilization": 0.95, "max_num_seqs": 2048},
    )
    assert got.source == "measured"
    assert got.requests_per_second == pytest.approx(float(newest["requests_per_second"]), rel=1e-3)


def test_weights_that_do_not_fit_say_how_much_is_missing():
    answer = refused(tp=1)
    assert answer.reason == "Memory"
    assert "weights of 141.1 GB" in answer.message
    assert "143.8 GB; 1 x H100-SXM-80GB leave 75.5 GB" in answer.message


def test_weights_fit_but_the_context_does_not():
    answer = refused(tp=2, engine={"max_model_len": 40_000})  # 154.1 - 3.0 - 141.1 GB hold 30.4 thousand tokens
    assert answer.reason == "Memory"
    assert "lower maxModelLen to 304" in answer.message


def test_other_refusals():
    assert refused(tp=3).reason == "HeadsNotDivisible"
    assert "1, 2, 4, 8, 16, 32, 64" in refused(tp=3).message
    assert refused(tp=1, pp=81).reason == "LayersNotDivisible"
    assert refused(input_tokens=8000, output_tokens=300).reason == "ContextTooShort"
    late = refused(ttft=0.001, tpot=0.0001)
    assert late.reason == "SloUnreachable"
    assert "asked 0.001 s" in late.message
    assert "asked 0.0001 s" in late.message


def test_input_that_makes_no_sense_is_an_error():
    with pytest.raises(UnknownPrecisionError, match="fp6"):
        ask(precision="fp6")
    with pytest.raises(ValueError, match="output_tokens is 0"):
        ask(output_tokens=0)
    with pytest.raises(ValueError, match="percentile is 100"):
        ask(percentile=100)
    with pytest.raises(ValueError, match="confidence is 1"):
        ask(confidence=1)


def test_unmeasured_replicas_say_so_and_have_the_band_of_their_kind():
    dense, mixture = (
        fits(model="Qwen3-8B", gpu="MI300X", tp=1, engine={"max_model_len": 1024}),
        fits(model="Mixtral-8x7B", gpu="MI300X", tp=4),
    )
    for got, kind in ((dense, "dense"), (mixture, "mixture")):
        assert (got.source, got.basis) == ("datasheet", Basis("saturated", "datasheet", kind=kind))
        calibrated = band("rate", got.basis)
        assert got.low == pytest.approx(got.requests_per_second * min(1, calibrated.low))
        assert got.high == pytest.approx(got.requests_per_second * max(1, calibrated.high))
    assert "of a card with like units (h100_sxm)" in dense.evidence[0]
    assert "kernels of this card" in fits(model="Qwen3-8B", tp=1).evidence[0]
    assert fits(model="Qwen3-8B", gpu="A100-PCIE-80GB", tp=1).source == "fitted"


def test_more_confidence_plans_on_less():
    planned = [fits(confidence=confidence).planned_requests_per_second for confidence in (0.5, 0.7, 0.9, 0.95, 0.99)]
    assert planned == sorted(planned, reverse=True)
    assert len(set(planned)) == len(planned)
    assert fits(confidence=0.9).planned_requests_per_second == pytest.approx(
        fits().requests_per_second * band("rate", fits().basis).low
    )


def test_lengths_beyond_the_measured_ones_are_computed():
    assert fits(input_tokens=1200, output_tokens=18).source == "interpolated"
    assert fits(input_tokens=2455, output_tokens=4).source == "kernels"
    assert "nearest measurement" in fits(input_tokens=2455, output_tokens=4).evidence[1]


def test_an_estimate_obeys_littles_law():
    got = fits(model="Qwen3-8B", tp=1)
    assert got.slot_seconds * got.requests_per_second == pytest.approx(got.batch)
    assert got.slot_seconds == pytest.approx(got.ttft_seconds + 255 * got.tpot_seconds)


def test_limits_take_a_part_of_the_highest_rate():
    free, limited = fits(model="Qwen3-8B", tp=1), fits(model="Qwen3-8B", tp=1, ttft=0.2, tpot=0.02, percentile=99)
    part = limited.requests_per_second / free.requests_per_second
    assert 0.1 < part < 0.95
    # Copies that keep limits run below saturation, and are judged by measurements below it.
    assert (free.basis.load, limited.basis.load) == ("saturated", "concurrency")
    for name in ("low", "high"):
        ratio = getattr(band("rate", limited.basis), name)
        assert getattr(limited, name) == pytest.approx(limited.requests_per_second * ratio)
    assert limited.planned_requests_per_second <= part * free.planned_requests_per_second
    # More copies share their slack; of many copies, the whole of the rate keeps the limits.
    assert list(limited.utilization) == sorted(limited.utilization)
    assert limited.utilization[-1] == 1
    assert limited.utilization[0] < 1
    assert limited.batch < limited.most_running <= MAX_BATCH
    assert limited.ttft_seconds < limited.ttft_percentile_seconds <= 0.2 * 1.02
    assert limited.tpot_seconds < limited.tpot_percentile_seconds <= 0.02 * 1.02
    assert free.ttft_percentile_seconds is None


def test_the_batch_stays_within_kv_room_and_engine_limit():
    # 59.5 GB of KV room / (131,072 bytes x (7,000 + 0.55 x 1,000) tokens) = 60.1
    full = fits(model="Llama-3.1-8B", gpu="A100-SXM4-80GB", tp=1, input_tokens=7000, output_tokens=1000)
    assert full.batch == 60
    assert fits(model="Llama-3.1-8B", tp=1, engine={"max_num_seqs": 16}).batch <= 16


MODELS = st.sampled_from(["Llama-3.1-8B", "Llama-3.1-70B", "Mixtral-8x7B", "Qwen3-32B"])
GPUS = st.sampled_from(["H100-SXM-80GB", "H200-SXM-141GB", "A100-PCIE-80GB", "L40S", "L4"])
PROPERTY = settings(max_examples=40)


@PROPERTY
@given(
    model=MODELS,
    gpu=GPUS,
    precision=st.sampled_from(["bf16", "fp8"]),
    tp=st.sampled_from([1, 2, 4, 8]),
    input_tokens=st.integers(1, 6000),
    output_tokens=st.integers(1, 2000),
    ttft=st.one_of(st.none(), st.floats(0.01, 5)),
    tpot=st.one_of(st.none(), st.floats(0.005, 0.3)),
)
def test_the_slo_is_met_and_a_tighter_one_is_never_faster(ttft, tpot, **asked):
    free = ask(**asked)
    got = ask(ttft=ttft, tpot=tpot, **asked)
    assume(isinstance(got, Estimate))
    assert ttft is None or got.ttft_percentile_seconds <= ttft * 1.02 or got.utilization[0] < 0.01
    assert tpot is None or got.tpot_percentile_seconds <= tpot * 1.02 or got.utilization[0] < 0.01
    assert got.requests_per_second <= free.requests_per_second * (1 + 1e-9)
    tighter = ask(ttft=ttft and ttft * 0.8, tpot=tpot and tpot * 0.8, **asked)
    if isinstance(tighter, Estimate):
        assert tighter.requests_per_second <= got.requests_per_second * (1 + 1e-9)


@PROPERTY
@given(
    gpu=st.sampled_from(["L4", "A10G", "H100-SXM-80GB", "B200-180GB"]),
    tp=st.sampled_from([1, 2, 4]),
    input_tokens=st.integers(1, 3000),
    output_tokens=st.integers(1, 2000),
    more=st.integers(1, 3000),
    ttft=st.one_of(st.none(), st.floats(0.05, 5)),
    tpot=st.one_of(st.none(), st.floats(0.02, 0.3)),
)
def test_longer_requests_are_never_faster_where_derived(gpu, tp, input_tokens, output_tokens, more, ttft, tpot):
    asked = {"model": "Qwen3-8B", "gpu": gpu, "tp": tp, "precision": "fp8"}
    short = {"input_tokens": input_tokens, "output_tokens": output_tokens}

    def rate(answer):
        return answer.requests_per_second if isinstance(answer, Estimate) else 0.0

    slack = 1.02 if ttft or tpot else 1 + 1e-9  # with limits, the load is found between points
    longer_input = short | {"input_tokens": input_tokens + more}
    assert (
        rate(ask(ttft=ttft, tpot=tpot, **asked, **longer_input))
        <= rate(ask(ttft=ttft, tpot=tpot, **asked, **short)) * slack
    )
    longer_output = short | {"output_tokens": output_tokens + more}
    assert rate(ask(**asked, **longer_output)) <= rate(ask(**asked, **short)) * slack


@PROPERTY
@given(
    model=MODELS,
    gpu=GPUS,
    tp=st.sampled_from([1, 2, 4, 8]),
    input_tokens=st.integers(1, 6000),
    output_tokens=st.integers(1, 2000),
    extra=st.floats(1, 80),
)
def test_more_memory_is_never_worse_where_derived(model, gpu, tp, extra, **lengths):
    card = catalogue.find_gpu(gpu).model_copy(update={"name": "unmeasured"})
    larger = card.model_copy(update={"memory_gb": card.memory_gb + extra})
    small = ask(model=model, gpu=card, tp=tp, precision="fp8", ttft=3.0, tpot=0.1, **lengths)
    big = ask(model=model, gpu=larger, tp=tp, precision="fp8", ttft=3.0, tpot=0.1, **lengths)
    if isinstance(small, Estimate):
        assert isinstance(big, Estimate)
        assert big.requests_per_second >= small.requests_per_second * 0.98  # the load is found on a grid


def test_shapes_of_a_node():
    shapes = divisible_shapes(catalogue.find_model("Llama-3.1-70B"), 4)
    assert shapes == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (4, 1)]
    # 28 attention heads, 4 KV heads: 7 divides the former only, 8 the latter only.
    sizes = {size for size, _ in divisible_shapes(catalogue.find_model("Qwen2.5-7B"), 8)}
    assert sizes == {1, 2, 4}


def test_an_estimate_is_fast():
    fits(precision="fp8", ttft=1.0)  # the first reads the packaged data
    started = time.process_time()
    for length in range(200):
        ask(precision="fp8", ttft=1.0, input_tokens=500 + length)
    assert (time.process_time() - started) / 200 < 30e-3  # forty times what it takes: an accident would be more
