"""Flags say what the settings are, and are read as the engine's own parser reads them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servingplan.errors import InputError
from servingplan.model.engine import EngineSettings, Speculation
from servingplan.render import flags

SPECULATIONS = st.builds(
    Speculation,
    method=st.sampled_from(["ngram", "eagle3", "mtp"]),
    model=st.none() | st.just("org/draft"),
    tokens=st.integers(1, 32),
    acceptance=st.just(0.7),
)
SETTINGS = st.builds(
    EngineSettings,
    kv_cache_dtype=st.sampled_from(["auto", "bf16", "fp8"]),
    max_num_seqs=st.integers(1, 5000),
    max_num_batched_tokens=st.integers(1, 100_000),
    gpu_memory_utilization=st.integers(1, 100).map(lambda percent: percent / 100),
    max_model_len=st.integers(1, 10_000_000),
    prefix_cache_hit_share=st.sampled_from([0.0, 0.5]),
    speculation=st.none() | SPECULATIONS,
    expert_parallel=st.booleans(),
    quantization=st.sampled_from([None, "fp8"]),
    shutdown_seconds=st.none() | st.integers(0, 3600),
)


def settings_told(line, *, declared):
    """The settings of a command line; what no flag says is as declared."""
    told = {"expert_parallel": False, "quantization": None, "shutdown_seconds": None, **line.settings}
    config = line.speculative
    speculation = config and Speculation(
        method=config["method"],
        model=config.get("model"),
        tokens=config["num_speculative_tokens"],
        acceptance=declared.speculation.acceptance,
    )
    share = declared.prefix_cache_hit_share if line.value(flags.PREFIX_CACHING) else 0.0
    return EngineSettings(**told, speculation=speculation, prefix_cache_hit_share=share)


def spelled(argument, way):
    """An argument in another spelling that means the same."""
    name, equals, value = argument.partition("=")
    if way == "underscores":
        name = f"--{name.removeprefix('--').replace('-', '_')}"
    if way == "beginning":
        name = name[:-1]
    return [name, value] if way == "apart" and equals else [f"{name}{equals}{value}"]


@given(
    settings=SETTINGS, ways=st.lists(st.sampled_from(["as it is", "apart", "underscores", "beginning"]), min_size=10)
)
def test_the_settings_come_back_from_the_flags_however_they_are_spelled(settings, ways):
    written = flags.flags_of(settings)
    words = [word for way, flag in zip(ways * 2, written, strict=False) for word in spelled(flag, way)]
    assert settings_told(flags.read(["--model=m", *words, "--unknown", "5"]), declared=settings) == settings


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--max-num-seqs", "1"], {"max_num_seqs": 1}),
        (["--max_num_seqs=1", "--max-num-seqs=2"], {"max_num_seqs": 2}),
        (["--max-num-s=7"], {"max_num_seqs": 7}),
        (["--max-num-batched-tokens=16k"], {"max_num_batched_tokens": 16_000}),
        (["--max-num-batched-tokens=16K"], {"max_num_batched_tokens": 16_384}),
        (["--max-num-batched-tokens=2.5k"], {"max_num_batched_tokens": 2_500}),
        (["--gpu-memory-utilization", ".3"], {"gpu_memory_utilization": 0.3}),
        (["--kv-cache-dtype=fp8_e5m2"], {"kv_cache_dtype": "fp8"}),
        (["--kv-cache-dtype", "bfloat16"], {"kv_cache_dtype": "bf16"}),
        (["-q", "fp8"], {"quantization": "fp8"}),
        (["-qfp8"], {"quantization": "fp8"}),
        (["-q=awq"], {"quantization": "awq"}),
        (["-ep"], {"expert_parallel": True}),
        (["--no-enable-expert-parallel"], {"expert_parallel": False}),
        (["--enable-expert-parallel=false"], {"expert_parallel": False}),
        (["--shutdown-timeout=60"], {"shutdown_seconds": 60}),
        (["--max-num-seqs-of-another-kind=3", "value", "-O3", "--", "-", "--x"], {}),
    ],
)
def test_arguments_are_read_as_the_engine_reads_them(arguments, told):
    assert flags.read(arguments).settings == told


@pytest.mark.parametrize(
    "arguments",
    [
        ['--speculative-config={"method":"ngram","num_speculative_tokens":4}'],
        ["-sc", '{"method":"ngram","num_speculative_tokens":4}'],
        ["--speculative-config.method=ngram", "--speculative-config.num_speculative_tokens", "4"],
        ["--speculative_config.method", "ngram", '--speculative-config={"num_speculative_tokens":4}'],
    ],
)
def test_json_is_read_whole_or_key_by_key(arguments):
    assert flags.read(arguments).speculative == {"method": "ngram", "num_speculative_tokens": 4}


def test_keys_below_keys_are_read():
    assert flags.read(["--speculative-config.a.b=1", "-sc.a.c", "x"]).speculative == {"a": {"b": 1, "c": "x"}}


@pytest.mark.parametrize(
    ("arguments", "flag", "advice"),
    [
        (["--max-num-seqs"], "--max-num-seqs", "needs a value"),
        (["--max-num-seqs", "--x"], "--max-num-seqs", "needs a value"),
        (["--max-num-seqs=many"], "--max-num-seqs", "whole number"),
        (["--max-num-seqs=0"], "--max-num-seqs", "at least 1"),
        (["--max-num-seqs=2.5"], "--max-num-seqs", "whole number"),
        (["--max-num-batched-tokens=2.5K"], "--max-num-batched-tokens", "whole number"),
        (["--max-num-seqs 64"], "--max-num-seqs", "two arguments"),
        (["--max-num-seqs.x=64"], "--max-num-seqs", "no keys"),
        (["--max-num=64"], "--max-num", "write it in full"),
        (["--gpu-memory-utilization=90"], "--gpu-memory-utilization", "at most 1"),
        (["--gpu-memory-utilization=nan"], "--gpu-memory-utilization", "at most 1"),
        (["--kv-cache-dtype=int3"], "--kv-cache-dtype", "use one of"),
        (["--enable-prefix-caching=perhaps"], "--enable-prefix-caching", "switch"),
        (["--speculative-config=ngram"], "--speculative-config", "JSON object"),
        (["--speculative-config"], "--speculative-config", "needs a value"),
    ],
)
def test_what_the_engine_would_refuse_is_refused_by_name(arguments, flag, advice):
    with pytest.raises(InputError) as refused:
        flags.read(arguments)
    assert refused.value.field == flag
    assert advice in refused.value.advice


@given(
    st.lists(
        st.text(max_size=12) | st.sampled_from(["--max-num-seqs", "=", "-q", "--speculative-config.a.b=1", "--no-"])
    )
)
def test_any_arguments_are_read_or_refused(arguments):
    try:
        json.dumps(dict(flags.read(arguments).values))
    except InputError as error:
        assert "--" in error.field  # noqa: PT017 (any arguments: some are refused)


def test_what_others_give_is_not_written_again():
    settings = EngineSettings(max_num_seqs=64, kv_cache_dtype="fp8")
    written = flags.flags_of(settings, leave_out={"--max-num-seqs"})
    assert "--kv-cache-dtype=fp8" in written
    assert not [flag for flag in written if flag.startswith("--max-num-seqs")]


@pytest.mark.parametrize(
    "words", [["org/m"], ["serve", "org/m"], ["--", "serve", "org/m"], ["--model=org/m"], ["--model", "org/m"]]
)
def test_the_model_is_an_argument_or_a_flag(words):
    line = flags.read([*words, "--max-num-seqs=7"])
    assert line.values["--model"] == "org/m"
    assert line.settings["max_num_seqs"] == 7


def test_a_value_after_a_flag_is_no_model():
    assert "--model" not in flags.read(["--dtype", "auto", "--seed", "5"]).values
