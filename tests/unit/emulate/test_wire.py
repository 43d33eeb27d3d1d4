"""Bodies in and out, and the command line's names."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.cli.emulate import split_extra
from servingplan.emulate import text, wire
from servingplan.emulate.arguments import gpu_of, precision_of, shape
from servingplan.emulate.pacer import LONGEST_SECONDS, SHORTEST_SECONDS, next_interval
from servingplan.errors import InputError
from servingplan.model.engine import vllm_limits
from servingplan.profiles.catalogue import find_gpu

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
fields = ["model", "messages", "prompt", "max_tokens", "max_completion_tokens", "n", "stream", "stream_options"]
messages = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text() | json_values}), max_size=3)
bodies = st.dictionaries(st.sampled_from(fields), json_values | messages | st.integers(1, 9), max_size=6)


def asked(chat=True, **fields):
    document = {"messages": [{"role": "user", "content": "12345678"}]} if chat else {"prompt": "12345678"}
    return wire.parse(json.dumps(document | fields).encode(), chat=chat)


@pytest.mark.slow
@settings(max_examples=400)
@given(st.binary(max_size=60) | bodies.map(lambda body: json.dumps(body).encode()), st.booleans())
def test_any_body_is_read_or_refused(body, chat):
    try:
        ask = wire.parse(body, chat=chat)
        tokens, _ = wire.output_tokens(ask, max_model_len=4096, natural=128)
    except wire.Problem as problem:
        refused = problem.body()["error"]
    else:
        refused = None
    if refused is not None:
        assert refused["code"] == 400
        return
    assert 1 <= tokens <= 4096 - ask.prompt_tokens
    reply = wire.Reply(ask, "id", 0, "m")
    assert reply.whole(tokens, "length")["usage"]["completion_tokens"] == tokens


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 200_000, b'{"n": ' + b"9" * 9000 + b"}", b"\xff\xfe"])
def test_hostile_bodies_are_refused(body):
    with pytest.raises(wire.Problem):
        wire.parse(body, chat=True)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"model": 7}, "model"),
    ],
)
def test_the_refusal_names_the_parameter(fields, param):
    with pytest.raises(wire.Problem) as caught:
        asked(**fields)
    assert caught.value.param == param


def test_tokens_are_counted_by_the_rule():
    assert asked().prompt_tokens == 2
    assert asked(messages=[{"role": "system", "content": "12345"}, {"role": "user"}]).prompt_tokens == 2
    assert asked(messages=[{"role": "user", "content": [{"type": "text", "text": "x" * 400}]}]).prompt_tokens == 100
    assert asked(chat=False, prompt="").prompt_tokens == 1
    assert asked(chat=False, prompt=[5, 6, 7]).prompt_tokens == 3
    assert asked(chat=False, prompt=[[5, 6, 7]]).prompt_tokens == 3
    with pytest.raises(wire.Problem):
        asked(chat=False, prompt=["a", "b"])


@pytest.mark.parametrize(
    ("limit", "natural", "expected"),
    [(10, 128, (10, True)), (200, 128, (128, False)), (None, 128, (128, False)), (None, 9000, (998, True))],
)
def test_the_answer_ends_at_its_limit_or_by_itself(limit, natural, expected):
    ask = asked(**({"max_tokens": limit} if limit else {}))
    assert wire.output_tokens(ask, max_model_len=1000, natural=natural) == expected


def test_max_completion_tokens_counts_before_max_tokens():
    assert asked(max_tokens=5, max_completion_tokens=7).max_tokens == 7


@pytest.mark.parametrize("limit", [999, None])
def test_too_long_a_context_is_refused(limit):
    ask = asked(messages=[{"role": "user", "content": "x" * 4 * 1000}], **({"max_tokens": limit} if limit else {}))
    with pytest.raises(wire.Problem, match="1000 tokens"):
        wire.output_tokens(ask, max_model_len=1000, natural=128)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 6000), min_size=1, max_size=5))
def test_parts_of_an_answer_make_the_whole(seed, steps):
    ends = [sum(steps[: n + 1]) for n in range(len(steps))]
    parts = [text.answer(seed, start, stop) for start, stop in zip([0, *ends], ends, strict=False)]
    whole = text.answer(seed, 0, ends[-1])
    assert "".join(parts) == whole
    assert len(whole.split()) == ends[-1]


def test_names_tell_the_precision():
    assert precision_of("neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8", None) == "fp8"
    assert precision_of("meta-llama/Llama-3.1-8B-Instruct", "awq_marlin") == "int4"
    assert precision_of("fp8-things/Llama-3.1-8B-Instruct", None) is None


def test_the_pool_picks_the_gpu():
    assert gpu_of("h100=H100-SXM-80GB,l4=L4", "l4") == "L4"
    with pytest.raises(InputError, match="pool 'a100'"):
        gpu_of("h100=H100-SXM-80GB", "a100")


def test_the_defaults_are_those_of_vllm():
    assert vllm_limits(find_gpu("H100-SXM-80GB")) == (1024, 8192)
    assert vllm_limits(find_gpu("A100-SXM4-80GB")) == (256, 2048)
    assert vllm_limits(find_gpu("L4")) == (256, 2048)


def test_a_path_needs_a_name_that_tells_the_model():
    assert shape(model="/weights", served_model_names=("llama-3.1-8b",), gpu="L40S").pace.kv_blocks > 0
    assert shape(model="/weights", card="llama-3.1-8b", gpu="L40S").model_names == ("/weights",)
    with pytest.raises(InputError, match="not in the catalogue"):
        shape(model="/weights", gpu="L40S")
    with pytest.raises(InputError, match="max-num-seqs"):
        shape(model="llama-3.1-8b", gpu="L40S", max_num_seqs=100, max_num_batched_tokens=50)
    fp8_kv = shape(model="llama-3.1-8b", gpu="L40S", kv_cache_dtype="fp8").pace.kv_blocks
    assert fp8_kv == pytest.approx(2 * shape(model="llama-3.1-8b", gpu="L40S").pace.kv_blocks, rel=0.01)


def test_vllms_positional_model_is_found():
    assert split_extra(["--", "serve", "m", "--dtype", "auto"]) == (["m"], ["--dtype", "auto"])
    assert split_extra(["serve", "--dtype", "auto"]) == ([], ["--dtype", "auto"])
    assert split_extra(["m", "--dtype", "auto"]) == (["m"], ["--dtype", "auto"])
    assert split_extra([]) == ([], [])


def test_the_interval_grows_under_load_and_shrinks_after():
    interval = SHORTEST_SECONDS
    for _ in range(100):
        interval = next_interval(interval, 0.9)
    assert interval == LONGEST_SECONDS
    for _ in range(100):
        interval = next_interval(interval, 0.1)
    assert interval == SHORTEST_SECONDS
