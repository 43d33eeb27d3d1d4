"""Reads result files of other programs into fields of ``profiles.rows``. It does not need the programs.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status.

    vLLM             ``vllm bench serve --save-result``: one JSON object, or one per line (``--append-result``)
    GuideLLM         ``benchmarks.json``: a list ``benchmarks``, one for each rate
    aiperf           ``profile_export_aiperf.json``, and ``profile_export_genai_perf.json`` of its predecessor genai-perf
    aiconfigurator   CSV of aggregated configurations; its figures are predictions, and the rows' source says so
    ours             CSV of ``profiles.rows``

Field names were taken from the programs' own sources: vllm/benchmarks/serve.py; guidellm/benchmark/schemas;
aiperf/common/models/export_models.py; aiconfigurator/sdk/common.py (``ColumnsAgg``). Most programs do not state the GPU, so the
caller's options give the fields that a file lacks.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from servingplan.errors import InputError

Fields = dict[str, Any]


class Import(NamedTuple):
    """The format of a file, and its rows as fields that are not checked yet."""

    format: str
    fields: list[Fields]


def read_results(text: str) -> Import:
    """The format and the rows of a file.

    Raises:
        InputError: the file has none of the known formats.
    """
    stripped = text.lstrip("\ufeff \t\r\n")
    if not stripped:
        raise InputError("file", "", "is empty")
    if stripped[0] in "{[":
        documents = _documents(stripped)
        for name, belongs, read in _JSON_FORMATS:
            if documents and all(belongs(document) for document in documents):
                return Import(name, [fields for document in documents for fields in read(document)])
        raise InputError("file", _sketch(documents), f"is JSON of none of the known programs: {_KNOWN}")
    reader = csv.DictReader(io.StringIO(stripped))
    header = set(reader.fieldnames or ())
    if {"isl", "osl", "system", "backend"} <= header:
        return Import("aiconfigurator", [_aiconfigurator(row) for row in reader])
    if {"model", "input", "output"} & header:
        return Import("servingplan", [dict(row) for row in reader])
    raise InputError("file", ", ".join(sorted(header))[:100], f"has columns of none of the known programs: {_KNOWN}")


def _documents(text: str) -> list[Fields]:
    """The objects of a text that is one JSON object, a list of objects, or one object per line."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        try:
            whole = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError:
            raise InputError("file", text[:60], f"is not JSON: {error}") from None
    documents = whole if isinstance(whole, list) else [whole]
    return [document for document in documents if isinstance(document, dict)]


def _sketch(documents: list[Fields]) -> str:
    return ", ".join(sorted(map(str, documents[0]))[:8]) if documents else ""


def _vllm(document: Fields) -> Iterator[Fields]:
    completed = _number(document, "completed") or 0.0
    rate = document.get("request_rate")
    limit = document.get("max_concurrency")
    fields: Fields = {
        "model": document.get("model_id"),
        "engine": _engine(document.get("backend")),
        "input": _ratio(document.get("total_input_tokens"), completed),
        "output": _ratio(document.get("total_output_tokens"), completed),
        "requests_per_second": document.get("request_throughput"),
        "requests": int(completed) or None,
        "source": _told("vllm bench serve", document.get("date")),
        "note": _failed(document.get("failed")),
    }
    open_loop = rate not in (None, "inf", "Infinity") and rate != float("inf")
    fields |= {"offered_requests_per_second": rate} if open_loop else {"concurrency": limit}
    for metric in ("ttft", "tpot"):
        fields[f"{metric}_seconds"] = _milliseconds(document.get(f"mean_{metric}_ms"))
        fields[f"{metric}_p50_seconds"] = _milliseconds(document.get(f"median_{metric}_ms"))
        for percentile in (90, 95, 99):
            fields[f"{metric}_p{percentile}_seconds"] = _milliseconds(document.get(f"p{percentile}_{metric}_ms"))
    # The values of ``--metadata gpu=... tp=...`` are in the same object as the results.
    yield fields | {name: document[name] for name in _METADATA if document.get(name) not in (None, "")}


_METADATA = (
    "gpu",
    "precision",
    "tp",
    "pp",
    "engine",
    "engine_version",
    "kv_cache_dtype",
    "gpu_memory_utilization",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "expert_parallel",
    "prefix_cache_hit_share",
)


def _guidellm(document: Fields) -> Iterator[Fields]:
    shared = document.get("args") or {}
    for item in document["benchmarks"]:
        config = item.get("config") or item.get("args") or {}
        metrics = item.get("metrics") or {}
        strategy = config.get("strategy") or {}
        backend = config.get("backend") or item.get("worker") or {}
        model = backend.get("model") or backend.get("backend_model") or shared.get("model")
        fields: Fields = {
            "model": model,
            "input": _successful(metrics, "prompt_token_count", "mean"),
            "output": _successful(metrics, "output_token_count", "mean"),
            "requests_per_second": _successful(metrics, "requests_per_second", "mean"),
            "requests": _total(metrics, "successful"),
            "source": _told("GuideLLM", strategy.get("type_")),
            "note": _failed(_total(metrics, "errored")),
        }
        match strategy.get("type_"):
            case "constant" | "poisson" | "async":
                fields["offered_requests_per_second"] = strategy.get("rate")
            case "synchronous":
                fields["concurrency"] = 1
            case "concurrent":
                fields["concurrency"] = strategy.get("streams")
            case _:  # "throughput" sends as many requests as the engine accepts
                fields["concurrency"] = strategy.get("max_concurrency")
        for metric, name in (("ttft", "time_to_first_token_ms"), ("tpot", "inter_token_latency_ms")):
            fields[f"{metric}_seconds"] = _milliseconds(_successful(metrics, name, "mean"))
            for percentile in (50, 90, 95, 99):
                found = _successful(metrics, name, "percentiles", f"p{percentile:02d}")
                fields[f"{metric}_p{percentile}_seconds"] = _milliseconds(found)
        yield fields


def _aiperf(document: Fields) -> Iterator[Fields]:
    config = document.get("input_config") or {}
    fields: Fields = {
        "model": _first(
            _deep(config, "model_names") or _deep(config, "model") or _deep(config, "formatted_model_name")
        ),
        "engine": _SERVERS.get(str(_deep(config, "backend"))),
        "input": _metric(document, "input_sequence_length", "avg"),
        "output": _metric(document, "output_sequence_length", "avg"),
        "requests_per_second": _metric(document, "request_throughput", "avg"),
        "requests": _whole(_metric(document, "request_count", "avg")),
        "source": _told("aiperf" if "aiperf_version" in document else "genai-perf", document.get("aiperf_version")),
        "note": _failed(_metric(document, "error_request_count", "avg")),
    }
    rate = _first(_deep(config, "request_rate"))
    fields |= {"offered_requests_per_second": rate} if rate else {"concurrency": _first(_deep(config, "concurrency"))}
    for metric, name in (("ttft", "time_to_first_token"), ("tpot", "inter_token_latency")):
        fields[f"{metric}_seconds"] = _milliseconds(_metric(document, name, "avg"), _unit(document, name))
        for percentile in (50, 90, 95, 99):
            found = _metric(document, name, f"p{percentile}")
            fields[f"{metric}_p{percentile}_seconds"] = _milliseconds(found, _unit(document, name))
    yield fields


def _aiconfigurator(row: Mapping[str, Any]) -> Fields:
    data_parallel = _number(row, "dp") or 1.0
    rate, concurrency = _number(row, "seq/s"), _number(row, "concurrency")
    fields: Fields = {
        "model": row.get("model"),
        "gpu": _SYSTEMS.get(str(row.get("system")), row.get("system")),
        "precision": _QUANTISATIONS.get(str(row.get("gemm")), row.get("gemm")),
        "tp": row.get("tp"),
        "pp": row.get("pp"),
        "input": row.get("isl"),
        "output": row.get("osl"),
        "engine": _engine(row.get("backend")),
        "engine_version": row.get("version"),
        "kv_cache_dtype": "fp8" if row.get("kvcache") == "fp8" else "auto",
        "expert_parallel": (_number(row, "moe_ep") or 1.0) > 1.0,
        "requests_per_second": rate,
        "concurrency": concurrency,
        "ttft_seconds": _milliseconds(row.get("ttft")),
        "tpot_seconds": _milliseconds(row.get("tpot")),
        "source": "aiconfigurator, a prediction",
    }
    if data_parallel > 1:
        # We have no setting for data-parallel attention, so the row gets an engine name that the check refuses.
        fields["engine"] = f"{fields['engine']} with attention data parallel {data_parallel:g}"
    return fields


_SYSTEMS = {
    "a100_sxm": "A100-SXM4-80GB",
    "a100_pcie": "A100-PCIE-80GB",
    "h100_sxm": "H100-SXM-80GB",
    "h100_pcie": "H100-PCIE-80GB",
    "h200_sxm": "H200-SXM-141GB",
    "gh200": "GH200-96GB",
    "b200_sxm": "B200-180GB",
    "b300_sxm": "B300-288GB",
    "gb200": "GB200-192GB",
    "gb200_sxm": "GB200-192GB",
    "gb300": "GB300-288GB",
    "l40s": "L40S",
    "l4": "L4-24GB",
    "rtx_pro_6000_server": "RTX-PRO-6000-96GB",
}
"""Our names of GPUs, by the system's name in aiconfigurator."""

_QUANTISATIONS = {
    "float16": "bf16",
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "fp8_ootb": "fp8",
    "fp8_static": "fp8",
    "int8_wo": "int8",
    "int4_wo": "int4",
    "nvfp4": "fp4",
}
"""Our precisions, by the value of ``gemm`` in aiconfigurator."""

_ENGINES = {"trtllm": "tensorrt-llm", "tensorrt_llm": "tensorrt-llm", "openai": None, "openai-chat": None}
"""Our names of engines, by other names. ``openai`` is an API that many engines serve, so it names none."""


_SERVERS = {"tensorrtllm": "tensorrt-llm", "vllm": "vllm"}
"""Our names of engines, by the name of Triton's backend in genai-perf."""


def _engine(name: Any) -> str | None:
    text = str(name or "openai").lower()
    return _ENGINES.get(text, text)


_JSON_FORMATS: tuple[tuple[str, Callable[[Fields], bool], Callable[[Fields], Iterator[Fields]]], ...] = (
    ("vLLM", lambda item: "request_throughput" in item and "total_input_tokens" in item, _vllm),
    ("GuideLLM", lambda item: isinstance(item.get("benchmarks"), list), _guidellm),
    ("aiperf", lambda item: isinstance(item.get("request_throughput"), dict), _aiperf),
    (
        "servingplan",
        lambda item: "input" in item and "output" in item,
        lambda item: iter([item]),
    ),
)
_KNOWN = "vllm bench serve, GuideLLM, aiperf, genai-perf, aiconfigurator, or rows of servingplan profile measure"


def _milliseconds(value: Any, unit: str = "ms") -> float | None:
    """The value in seconds. A text that is not a number is returned as it is, so that the check of the row refuses it."""
    if not isinstance(value, int | float | str) or isinstance(value, bool) or value == "":
        return None
    try:
        return float(value) * _UNITS.get(unit.lower(), 1e-3)
    except ValueError:
        return value  # type: ignore[return-value]  # refused by name when the row is read


_UNITS = {"ms": 1e-3, "milliseconds": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0, "us": 1e-6, "ns": 1e-9}


def _number(document: Mapping[str, Any], name: str) -> float | None:
    try:
        return float(document[name])
    except (KeyError, TypeError, ValueError):
        return None


def _ratio(total: Any, count: float) -> float | None:
    return float(total) / count if isinstance(total, int | float) and count else None


def _successful(metrics: Fields, name: str, *path: str) -> Any:
    found: Any = metrics.get(name)
    for key in ("successful", *path):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _total(metrics: Fields, status: str) -> int | None:
    return _whole((metrics.get("request_totals") or {}).get(status))


def _metric(document: Fields, name: str, key: str) -> Any:
    found = document.get(name)
    return found.get(key) if isinstance(found, dict) else None


def _unit(document: Fields, name: str) -> str:
    return str(_metric(document, name, "unit") or "ms")


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and value >= 1 else None


def _deep(config: Any, name: str) -> Any:
    """The first value of that name in a configuration, at any depth; in each object, its own value comes first."""
    if isinstance(config, dict):
        if config.get(name) not in (None, "", []):
            return config[name]
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            found = _deep(item, name)
            if found is not None:
                return found
    return None


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value


def _failed(count: Any) -> str:
    return f"{count:g} requests failed" if isinstance(count, int | float) and count > 0 else ""


def _told(program: str, more: Any) -> str:
    return f"{program}, {more}" if more else program
