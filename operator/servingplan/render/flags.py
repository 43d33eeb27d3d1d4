"""Writes the engine's settings as vLLM's flags, and reads them back.

``flags_of`` writes the plan's decisions. ``read`` parses a command line as vLLM does (``--a=b``, ``--a b``, underscores,
unambiguous beginnings of names, short names, ``--no-`` switches, dotted keys of JSON, ``16k``). So the plan uses the settings
in a user's ``extraArgs``, and the emulator runs with the given flags.

Sources: vLLM's ``EngineArgs.add_cli_args`` and ``FlexibleArgumentParser``, documented as "Engine Arguments".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from servingplan.errors import InputError
from servingplan.model.engine import KV_BYTES, EngineSettings, Speculation

Kind = Literal["text", "integer", "share", "switch", "json", "any"]


class Flag(NamedTuple):
    """One option of the engine."""

    name: str
    """The long name, with dashes."""
    kind: Kind = "text"
    """The kind of value. ``any``: only the name is known; it may have a value."""
    short: str | None = None


MAX_NUM_SEQS = Flag("--max-num-seqs", "integer")
MAX_NUM_BATCHED_TOKENS = Flag("--max-num-batched-tokens", "integer")
GPU_MEMORY_UTILIZATION = Flag("--gpu-memory-utilization", "share")
KV_CACHE_DTYPE = Flag("--kv-cache-dtype")
MAX_MODEL_LEN = Flag("--max-model-len", "integer")
QUANTIZATION = Flag("--quantization", short="-q")
DTYPE = Flag("--dtype")
SPECULATIVE_CONFIG = Flag("--speculative-config", "json", "-sc")
EXPERT_PARALLEL = Flag("--enable-expert-parallel", "switch", "-ep")
PREFIX_CACHING = Flag("--enable-prefix-caching", "switch")
CHUNKED_PREFILL = Flag("--enable-chunked-prefill", "switch")
SHUTDOWN_TIMEOUT = Flag("--shutdown-timeout", "integer")

SETTINGS = (
    MAX_NUM_SEQS,
    MAX_NUM_BATCHED_TOKENS,
    GPU_MEMORY_UTILIZATION,
    KV_CACHE_DTYPE,
    MAX_MODEL_LEN,
    QUANTIZATION,
    DTYPE,
    SPECULATIVE_CONFIG,
    EXPERT_PARALLEL,
    PREFIX_CACHING,
    CHUNKED_PREFILL,
    SHUTDOWN_TIMEOUT,
)
"""The flags that set a setting."""

IDENTITY = (
    Flag("--model"),
    Flag("--served-model-name", "any"),
    Flag("--tensor-parallel-size", "any", "-tp"),
    Flag("--pipeline-parallel-size", "any", "-pp"),
    Flag("--data-parallel-size", "any", "-dp"),
    Flag("--port", "any"),
    Flag("--host", "any"),
    Flag("--nnodes", "any"),
    Flag("--node-rank", "any"),
    Flag("--master-addr", "any"),
    Flag("--headless", "any"),
)
"""The flags that describe the replica, which only the plan decides."""

UNPLANNED: dict[Flag, str] = {
    Flag("--enforce-eager", "any"): "every step takes longer without CUDA graphs, and no rate is known for that",
    Flag("--cpu-offload-gb", "any"): "weights in the host's memory are read far slower than the plan counts on",
    Flag("--num-gpu-blocks-override", "any"): "it sets the KV cache apart from the memory that the plan counts on",
    Flag(
        "--kv-cache-memory-bytes", "any"
    ): "it sets the KV cache apart from gpuMemoryUtilization, which the plan counts on",
    Flag("--decode-context-parallel-size", "any", "-dcp"): "no rate is known for it",
    Flag("--prefill-context-parallel-size", "any", "-pcp"): "no rate is known for it",
}
"""The flags under which no rate of the plan would hold, with the reason."""

_ALL = (*SETTINGS, *IDENTITY, *UNPLANNED)
_NAMES: dict[str, tuple[Flag, bool]] = {
    **{name: (flag, True) for flag in _ALL for name in (flag.name, flag.short) if name},
    **{f"--no-{flag.name.removeprefix('--')}": (flag, False) for flag in _ALL if flag.kind == "switch"},
}
_KV_NAMES = {"bfloat16": "bf16", "float16": "fp16", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "fp8_inc": "fp8"}
"""Our names of the widths in ``KV_BYTES``, by vLLM's names that differ."""
POSITIONAL_MODEL_SINCE = (0, 11, 1)
"""First version of vLLM that is known to run ``vllm serve`` in its image, which takes the model as its argument and is to lose
``--model`` (pull request 39518). What older images run looks for ``--model``."""
_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def is_since(version: str | None, first: tuple[int, ...]) -> bool:
    """Whether a version of the engine is this one or newer; one that is not known does not count so."""
    numbers = tuple(map(int, re.findall(r"\d+", version or "")[:3]))
    return len(numbers) >= 2 and numbers >= first


def model_argument(weights: str, version: str | None) -> str:
    """The first argument of an engine of this version, which tells it its weights."""
    return weights if is_since(version, POSITIONAL_MODEL_SINCE) else f"{IDENTITY[0].name}={weights}"


def flags_of(settings: EngineSettings, *, leave_out: Iterable[str] = ()) -> list[str]:
    """The vLLM flags of these settings.

    ``leave_out``: the names of flags that are given elsewhere. The share of prefix hits and the acceptance of speculation are
    facts about requests, which no flag sets.
    """
    speculation = settings.speculation
    flags = {
        MAX_MODEL_LEN: settings.max_model_len,
        MAX_NUM_SEQS: settings.max_num_seqs,
        MAX_NUM_BATCHED_TOKENS: settings.max_num_batched_tokens,
        GPU_MEMORY_UTILIZATION: f"{settings.gpu_memory_utilization:.6g}",
        KV_CACHE_DTYPE: {"bf16": "bfloat16", "fp16": "float16"}.get(settings.kv_cache_dtype, settings.kv_cache_dtype),
        QUANTIZATION: settings.quantization,
        SPECULATIVE_CONFIG: None if speculation is None else _speculative_config(speculation),
        EXPERT_PARALLEL: settings.expert_parallel,
        PREFIX_CACHING: settings.prefix_cache_hit_share > 0,
        SHUTDOWN_TIMEOUT: settings.shutdown_seconds,
    }
    unsaid = set(leave_out)
    return [
        flag.name if flag.kind == "switch" else f"{flag.name}={value}"
        for flag, value in flags.items()
        if flag.name not in unsaid and value is not None and value is not False
    ]


OWN_ADDRESS_VARIABLE = "POD_IP"
"""Variable of a leader with the IP address of its pod."""


def flags_of_a_group(nodes: int, *, headless: bool) -> list[str]:
    """The vLLM flags of an engine that is one of ``nodes`` under one replica, without Ray (pull request 23691). Which one it is
    and who leads them stands in variables of the LeaderWorkerSet. ``headless``: it takes no requests.

    The leader listens on its own address: vLLM 0.12.0 binds a socket to what it is told, which must not be a name.
    """
    leader = "LWS_LEADER_ADDRESS" if headless else OWN_ADDRESS_VARIABLE
    return [
        f"--nnodes={nodes}",
        "--node-rank=$(LWS_WORKER_INDEX)",
        f"--master-addr=$({leader})",
        *(["--headless"] if headless else []),
    ]


def _speculative_config(speculation: Speculation) -> str:
    config: dict[str, Any] = {"method": speculation.method, "num_speculative_tokens": speculation.tokens}
    if speculation.model is not None:
        config["model"] = speculation.model
    return json.dumps(config, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class CommandLine:
    """The parsed command line of an engine; flags that it does not have are absent."""

    values: Mapping[str, Any]
    """The value by long name of a flag; the last one if the flag is given twice."""
    words: Mapping[str, str]
    """The word as written, by long name of the flag."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The fields of ``EngineSettings`` that it sets, except ``speculation``."""
    speculative: Mapping[str, Any] | None = None
    """The value of ``--speculative-config``; None if it is not given."""

    def value(self, flag: Flag) -> Any:
        """The value of a flag; None if it is not given."""
        return self.values.get(flag.name)


def read(arguments: Sequence[str]) -> CommandLine:
    """The parsed arguments. Unknown arguments are ignored.

    Raises:
        InputError: a known argument has no value, or a value that the engine would refuse. ``field`` is the flag.
    """
    values: dict[str, Any] = {}
    words: dict[str, str] = {}
    model, arguments = model_first(arguments)
    if model is not None:
        values[IDENTITY[0].name] = words[IDENTITY[0].name] = model
    for flag, word, path, given in _walk(arguments):
        words[flag.name] = word
        if flag.kind == "json":
            values[flag.name] = _merged(values.get(flag.name), flag, path, given)
        else:
            values[flag.name] = _value(flag, given)
    return CommandLine(values, words, _settings(values), values.get(SPECULATIVE_CONFIG.name))


def model_first(arguments: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The model that is given without a flag, and the arguments after it, without a word ``serve`` before it and any ``--``."""
    rest = [word for word in arguments if word != "--"]
    if rest and rest[0] == "serve":
        rest = rest[1:]
    return (rest[0], rest[1:]) if rest and not rest[0].startswith("-") else (None, rest)


def _walk(arguments: Sequence[str]) -> Iterator[tuple[Flag, str, tuple[str, ...], str | bool | None]]:
    """The known flags in order: the flag, its word, the keys after its dots, its value."""
    position = 0
    while position < len(arguments):
        word = arguments[position]
        position += 1
        name, equals, value = word.partition("=")
        found = _flag(name, word)
        if found is None:
            continue
        flag, path, means, attached = found
        if attached or equals:
            given: str | bool | None = attached or value
        elif flag.kind == "switch":
            given = True
        else:
            following = arguments[position] if position < len(arguments) else None
            given = following if following is not None and _is_value(following) else None
            position += given is not None
        if flag.kind == "switch":
            given = _switch(flag, given) == means
        yield flag, word, path, given


def _flag(name: str, word: str) -> tuple[Flag, tuple[str, ...], bool, str | None] | None:
    """The flag of a name, the keys after its dots, whether it means on, and a value written without a space."""
    if not name.startswith("-") or name in ("-", "--"):
        return None
    first = re.split(r"\s", name, maxsplit=1)[0]
    stem, *path = first.split(".")
    if not stem.startswith("--"):
        short = QUANTIZATION.short or ""
        if stem in _NAMES:
            flag, means = _NAMES[stem]
            return _unspaced(flag, means, path, name, first, word)
        attached = word.startswith(short) and len(word) > len(short)
        return (QUANTIZATION, (), True, word.removeprefix(short)) if attached else None
    stem = stem.replace("_", "-")
    if stem in _NAMES:
        return _unspaced(*_NAMES[stem], path, name, first, word)
    candidates = {known: found for known, found in _NAMES.items() if known.startswith(stem)}
    if not candidates:
        return None
    if len(candidates) > 1:
        raise InputError(
            stem,
            word,
            f"may be short for {' or '.join(sorted(candidates))}; the plan must know which: write it in full",
        )
    return _unspaced(*next(iter(candidates.values())), path, name, first, word)


def _unspaced(
    flag: Flag, means: bool, path: list[str], name: str, first: str, word: str
) -> tuple[Flag, tuple[str, ...], bool, str | None]:
    if first != name:
        raise InputError(
            flag.name, word, f"is one argument with a space in it: write {flag.name}=VALUE, or two arguments"
        )
    if path and flag.kind != "json":
        raise InputError(flag.name, word, f"{flag.name} has no keys; write {flag.name}=VALUE")
    return flag, tuple(path), means, None


def _is_value(word: str) -> bool:
    return not word.startswith("-") or re.fullmatch(r"-\d+(\.\d*)?", word) is not None


def _switch(flag: Flag, given: str | bool | None) -> bool:
    if isinstance(given, bool):
        return given
    text = str(given).lower()
    if text not in ("true", "false", "1", "0"):
        raise InputError(flag.name, given, "is a switch: write it alone, or --no- before its name")
    return text in ("true", "1")


def _value(flag: Flag, given: str | bool | None) -> Any:
    if flag.kind in ("switch", "any"):
        return given
    if not isinstance(given, str) or not given:
        raise InputError(flag.name, given, f"needs a value; write {flag.name}=VALUE")
    if flag.kind == "integer":
        return _integer(flag, given)
    if flag.kind == "share":
        try:
            share = float(given)
        except ValueError:
            share = math.nan
        if not 0 < share <= 1:
            raise InputError(flag.name, given, "must be above 0 and at most 1")
        return share
    return given


def _integer(flag: Flag, given: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT]?)", given.strip())
    number, suffix = match.groups() if match else ("", "")
    if not number or ("." in number and not suffix.islower()):
        raise InputError(flag.name, given, "must be a whole number, such as 256 or 8k")
    return int(float(number) * _SUFFIXES[suffix]) if "." in number else int(number) * _SUFFIXES.get(suffix, 1)


def _merged(before: Any, flag: Flag, path: tuple[str, ...], given: str | bool | None) -> dict[str, Any]:
    """The JSON object of a flag, or one key of it, merged over the earlier value."""
    if not isinstance(given, str):
        raise InputError(flag.name, given, f"needs a value; write {flag.name}=VALUE")
    merged: dict[str, Any] = dict(before or {})
    try:
        value = json.loads(given)
    except ValueError:
        value = given
    if path:
        at = merged
        for key in path[:-1]:
            at[key] = dict(at[key]) if isinstance(at.get(key), dict) else {}
            at = at[key]
        at[path[-1]] = value
        return merged
    if not isinstance(value, dict):
        raise InputError(
            flag.name, given, 'must be a JSON object, such as {"method":"ngram","num_speculative_tokens":4}'
        )
    return {**merged, **value}


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``EngineSettings`` from the values of flags."""
    fields = {
        "max_num_seqs": MAX_NUM_SEQS,
        "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS,
        "gpu_memory_utilization": GPU_MEMORY_UTILIZATION,
        "max_model_len": MAX_MODEL_LEN,
        "quantization": QUANTIZATION,
        "expert_parallel": EXPERT_PARALLEL,
        "shutdown_seconds": SHUTDOWN_TIMEOUT,
    }
    found = {name: values[flag.name] for name, flag in fields.items() if flag.name in values}
    for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len"):
        if found.get(name) == 0:
            raise InputError(fields[name].name, "0", "must be at least 1")
    width = values.get(KV_CACHE_DTYPE.name)
    if width is not None:
        found["kv_cache_dtype"] = _KV_NAMES.get(width.lower(), width.lower())
        if found["kv_cache_dtype"] not in KV_BYTES:
            known = sorted({*KV_BYTES, *_KV_NAMES} - {"bf16", "fp16"})
            raise InputError(
                KV_CACHE_DTYPE.name, width, f"is no width that is planned with; use one of {', '.join(known)}"
            )
    return found
