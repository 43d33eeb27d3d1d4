"""Iteration times: what the formulas say, for numbers and for arrays alike."""

import numpy as np
import pytest

from servingplan.model.engine import EngineSettings
from servingplan.profiles import catalogue
from servingplan.profiles.steps import step_times


def steps(model="Llama-3.1-8B", gpu="H100-SXM-80GB", precision="bf16", tp=1, pp=1, **engine):
    return step_times(
        model=catalogue.find_model(model),
        precision=precision,
        gpu=catalogue.find_gpu(gpu),
        tensor_parallel=tp,
        pipeline_parallel=pp,
        settings=EngineSettings(**engine),
    )


@pytest.mark.parametrize("model", ["Llama-3.1-8B", "Mixtral-8x7B"])
def test_arrays_are_broadcast(model):
    times = steps(model)
    batch, context = np.array([1.0, 16.0, 256.0])[:, None], np.array([100.0, 2000.0])
    got = times.decode_seconds(batch, context)
    assert got.shape == (3, 2)
    assert got[1, 1] == pytest.approx(float(times.decode_seconds(16.0, 2000.0)))
    mixed = times.mixed_seconds(512.0, 0.0, batch, context)
    assert (mixed > got).all()
    assert times.prefill_seconds(np.array([1.0, 512.0]), 0.0).shape == (2,)


def test_a_prompt_read_in_chunks_takes_no_less_than_at_once():
    times = steps()
    whole = times.prefill_seconds(4096.0)
    parts = sum(times.prefill_seconds(1024.0, past) for past in (0.0, 1024.0, 2048.0, 3072.0))
    assert whole <= parts <= 2 * whole


def test_more_tokens_and_longer_contexts_take_longer():
    times = steps(tp=2)
    sizes = np.arange(1.0, 5000.0, 50.0)
    assert (np.diff(times.prefill_seconds(sizes)) >= 0).all()
    assert (np.diff(times.prefill_seconds(512.0, sizes)) > 0).all()
    assert (np.diff(times.decode_seconds(sizes, 500.0)) > 0).all()
    assert (np.diff(times.decode_seconds(64.0, sizes)) > 0).all()


def test_a_narrower_kv_cache_leaves_more_room_and_is_read_faster():
    wide, narrow = steps(), steps(kv_cache_dtype="fp8")
    assert narrow.kv_room_tokens == pytest.approx(2 * wide.kv_room_tokens)
    assert narrow.decode_seconds(64.0, 2000.0) < wide.decode_seconds(64.0, 2000.0)
