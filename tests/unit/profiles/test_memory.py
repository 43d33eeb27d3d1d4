"""Windows and recurrent state count wherever memory is computed: the formulas against the same card without them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.model.engine import EngineSettings
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.fit import memory_refusal
from servingplan.profiles.latency import Spread, tabulate
from servingplan.profiles.pipeline import Pipeline, Stage, body_bytes_of, stage_steps
from servingplan.profiles.roofline import roofline
from servingplan.profiles.steps import step_times
from servingplan.simulate.engine import Engine
from servingplan.simulate.pace import Pace

WINDOWED = ("gpt-oss-20b", "gpt-oss-120b", "google/gemma-3-12b-it", "google/gemma-2-9b-it")
STATEFUL = ("Qwen/Qwen3-Next-80B-A3B-Instruct", "nvidia/NVIDIA-Nemotron-Nano-9B-v2")
GPU = find_gpu("H200")
LONG = 200_000
PROPERTY = settings(max_examples=60)


def plain(model):
    """The card without windows and state."""
    return model.model_copy(update={"sliding_window": None, "sliding_layers": 0, "state_bytes": 0})


def engine(**more):
    return EngineSettings(**{"max_model_len": LONG, "max_num_seqs": 100_000} | more)


def replica(model, tp=1, kv="auto"):
    return step_times(
        model=model,
        precision="bf16",
        gpu=GPU,
        tensor_parallel=tp,
        pipeline_parallel=1,
        settings=engine(kv_cache_dtype=kv),
    )


def rooms(model, prompt, answer, tp, kv):
    """Requests that run together, wherever that is computed."""
    steps = replica(model, tp, kv)
    first_order = roofline(
        model=model,
        precision="bf16",
        gpu=GPU,
        tensor_parallel=tp,
        pipeline_parallel=1,
        memory_fraction=0.9,
        kv_bytes_per_element=1 if kv == "fp8" else 2,
    )
    staged = stage_steps(
        model=model,
        precision="bf16",
        stages=(Stage(GPU, 0), Stage(GPU, 0)),
        tensor_parallel=tp,
        settings=engine(kv_cache_dtype=kv),
    )
    half = model.layers // 2
    pipeline = Pipeline(staged, (half, model.layers - half), body_bytes_of(model, "bf16"))
    return (
        steps.batch_room(prompt, answer),
        first_order.batch_room(prompt + answer),
        float(tabulate(steps, float(prompt), float(answer), Spread(0.0, 0.0)).kv_requests[0]),
        pipeline.kv_room_tokens() / float(staged[0].whole.held_tokens(prompt + answer)),
    )


@PROPERTY
@given(
    name=st.sampled_from(WINDOWED),
    prompt=st.integers(1, 20_000),
    answer=st.integers(1, 4_000),
    tp=st.sampled_from([2, 4, 8]),
    kv=st.sampled_from(["auto", "fp8"]),
)
def test_a_window_never_leaves_room_for_fewer(name, prompt, answer, tp, kv):
    model = find_model(name)
    with_window, without = rooms(model, prompt, answer, tp, kv), rooms(plain(model), prompt, answer, tp, kv)
    for more, less in zip(with_window, without, strict=True):
        assert more >= less * (1 - 1e-12)


@pytest.mark.parametrize("name", WINDOWED)
def test_of_long_requests_a_window_leaves_room_for_more(name):
    model = find_model(name)
    # Half of the layers or more have a window of at most 4,096 tokens; of 60,000 tokens they keep next to nothing.
    for more, less in zip(
        rooms(model, 59_000, 1000, 2, "auto"), rooms(plain(model), 59_000, 1000, 2, "auto"), strict=True
    ):
        assert more > 1.7 * less


@pytest.mark.parametrize("name", STATEFUL)
def test_a_state_takes_room_from_short_requests_and_hardly_from_long_ones(name):
    model = find_model(name)
    assert model.state_bytes > 0
    for prompt, least, most in ((50, 0.0, 0.5), (100_000, 0.9, 1.0)):
        found = zip(rooms(model, prompt, 50, 2, "auto"), rooms(plain(model), prompt, 50, 2, "auto"), strict=True)
        for less, more in found:
            assert least * more <= less < most * more


@PROPERTY
@given(name=st.sampled_from((*WINDOWED, *STATEFUL, "Llama-3.1-8B", "DeepSeek-V3")), tokens=st.integers(1, LONG))
def test_the_longest_sequence_is_the_one_that_just_fits(name, tokens):
    model = find_model(name)
    assert model.longest_tokens(model.kv_bytes(tokens)) == pytest.approx(tokens, rel=1e-9)
    assert model.longest_tokens(model.state_bytes - 1) == 0


def test_a_state_is_shared_out_where_heads_are_held_more_than_once():
    model = find_model("Qwen/Qwen3-Next-80B-A3B-Instruct")
    assert model.kv_copies(8) == 4
    keys = model.kv_bytes(1000) - model.state_bytes
    assert model.kv_bytes(1000, copies=4) == 4 * keys + model.state_bytes
    for tokens in (1, 5000):
        room = model.kv_bytes(tokens, copies=4)
        assert model.longest_tokens(room, copies=4) == pytest.approx(tokens)
        assert room / model.held_tokens(tokens, copies=4) == pytest.approx(4 * model.kv_bytes_per_token())


@pytest.mark.parametrize("name", [*WINDOWED, *STATEFUL])
def test_one_longest_sequence_is_refused_by_what_it_holds(name):
    model = find_model(name)
    room = model.kv_bytes(50_000)

    def refusal(tokens):
        return memory_refusal(
            model=model,
            tensor_parallel=1,
            kv_bytes_per_element=2,
            weight_bytes=1e9,
            kv_room_bytes=room,
            context_tokens=tokens,
            gpus="1 x H200",
        )

    assert refusal(50_000) is None
    refused = refusal(50_100)
    assert "lower maxModelLen to 50000 or less" in refused.message or "lower maxModelLen to 49999" in refused.message


@pytest.mark.parametrize("name", ["gpt-oss-20b", *STATEFUL])
def test_the_simulated_engine_holds_what_the_planner_counts_on(name):
    model = find_model(name)

    def running(card):
        pace = Pace(
            model=card, precision="bf16", gpu=GPU, tensor_parallel=2, settings=engine(max_num_batched_tokens=100_000)
        )
        served = Engine(pace, max_num_seqs=100_000, max_num_batched_tokens=1_000_000_000)
        for _ in range(3000):
            served.admit(20_000, 2, 0.0)
        served.advance(served.next_time)  # the first request came alone
        free, count = served.free_blocks, served.running
        served.advance(1e9)
        assert served.idle
        assert served.free_blocks == pace.kv_blocks
        return count, free

    count, free = running(model)
    bare, _ = running(plain(model))
    planned = replica(model, tp=2).kv_room_tokens / float(replica(model, tp=2).held_tokens(20_000))
    assert count == pytest.approx(min(3000, planned), rel=0.01)
    assert free >= 0
    assert count > 1.7 * bare if model.sliding_layers else count <= bare


def test_lengths_are_looked_up_together():
    steps = replica(find_model("gpt-oss-20b"))
    lengths = np.array([10.0, 128.0, 1000.0, 100_000.0])
    held = steps.held_tokens(lengths)
    assert list(held) == pytest.approx([10.0, 128.0, (1000 + 128) / 2, (100_000 + 128) / 2])
