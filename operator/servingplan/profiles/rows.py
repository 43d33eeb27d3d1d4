"""Reads and writes rows of measurements: one CSV for ``measure``, ``import``, ``spec.profiles`` and ``lookup --rows``.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. The first columns are named as the options of
``servingplan profile lookup``, the others are results. A row is one replica under one load:

    ``concurrency``                     this number of requests always ran (closed loop)
    ``offered_requests_per_second``     requests arrived at that mean rate, independent of what ran (open arrivals)
    neither                             the engine was saturated

Wrong rows are reported by number and reason; the others count. ``docs/measuring.md`` is the page for users.
"""

import csv
import difflib
import io
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, Self, override

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from servingplan.errors import InputError, in_words
from servingplan.model.engine import EngineSettings
from servingplan.model.hardware import GpuType
from servingplan.model.llm import precision_of
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.estimate import MAX_BATCH
from servingplan.profiles.fields import Count, Engine, KvCacheDtype, Precision
from servingplan.profiles.measured import SHIPPED, MeasuredRow, MeasuredRows

ROWS_KEY = "rows.csv"
"""The key of rows in a ConfigMap."""

ALLOWANCE = 0.10
"""A row may exceed the physical limit by this fraction, because of boost clocks and the rounding of datasheets."""

LITTLE = (0.25, 1.25)
"""The range of rate x time per request / running requests in a closed loop. By Little's law it is 1. It is less if the run has
a long start and end; much more is impossible."""

_MILLISECONDS = (200.0, 5000.0)
"""If that ratio lies between these, times are most likely milliseconds in a column of seconds."""
SLOWEST_TPOT_SECONDS = 5.0
SLOWEST_TTFT_SECONDS = 3600.0
"""Longer times count as milliseconds by mistake: no engine that serves people takes more than five seconds per token."""

KEPT_UP = 0.95
"""A replica keeps up if it completes at least this part of the requests that arrive; the rest is counting noise."""

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Row(BaseModel):
    """One measurement. Empty columns are None or the default."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    model: str = Field(min_length=1)
    gpu: str = Field(min_length=1)
    precision: Precision = "auto"
    tp: Count = 1
    pp: Count = 1
    input: _Positive
    """Mean prompt tokens."""
    output: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    """Mean answer tokens."""
    engine: Engine = "vllm"
    engine_version: str | None = None
    kv_cache_dtype: KvCacheDtype = "auto"
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    max_model_len: Count | None = None
    expert_parallel: bool = False
    prefix_cache_hit_share: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    concurrency: _Positive | None = None
    offered_requests_per_second: _Positive | None = None
    requests_per_second: _Positive
    """Completed requests per second; computed from concurrency and times if only these are given."""
    requests_per_second_low: _Positive | None = None
    requests_per_second_high: _Positive | None = None
    """The 95 % confidence interval of the rate."""
    ttft_seconds: _Seconds | None = None
    """Mean time to the first token."""
    ttft_p50_seconds: _Seconds | None = None
    ttft_p90_seconds: _Seconds | None = None
    ttft_p95_seconds: _Seconds | None = None
    ttft_p99_seconds: _Seconds | None = None
    tpot_seconds: _Seconds | None = None
    """Mean time per further token."""
    tpot_p50_seconds: _Seconds | None = None
    tpot_p90_seconds: _Seconds | None = None
    tpot_p95_seconds: _Seconds | None = None
    tpot_p99_seconds: _Seconds | None = None
    requests: Count | None = None
    """The number of requests behind the figures."""
    source: str = ""
    """Who measured, or in which file; it is shown as evidence."""
    note: str = ""
    """What was unusual, for example an endpoint that failed or a limit that ended the run."""

    @model_validator(mode="after")
    def _one_load(self) -> Self:
        if self.concurrency is not None and self.offered_requests_per_second is not None:
            raise ValueError(
                "concurrency and offered_requests_per_second exclude each other: a load is one or the other"
            )
        return self

    @property
    def seconds_per_request(self) -> float | None:
        """The mean time from arrival to the last token; None if times were not measured."""
        if self.ttft_seconds is None or (self.tpot_seconds is None and self.output > 1):
            return None
        return self.ttft_seconds + (self.output - 1) * (self.tpot_seconds or 0.0)

    @property
    def load(self) -> str:
        """The load in words."""
        if self.concurrency is not None:
            return f"{self.concurrency:g} running"
        if self.offered_requests_per_second is not None:
            return f"{self.offered_requests_per_second:g}/s offered"
        return "saturated"

    @property
    def configuration(self) -> tuple[Any, ...]:
        """The columns before the results: the replica, the lengths, the settings and the load."""
        return tuple(getattr(self, name) for name in _CONFIGURATION)

    @property
    def result(self) -> tuple[float | None, ...]:
        """The rate, the mean TTFT and the mean TPOT."""
        return self.requests_per_second, self.ttft_seconds, self.tpot_seconds


COLUMNS = tuple(Row.model_fields)
_CONFIGURATION = COLUMNS[: COLUMNS.index("requests_per_second")]


class Refusal(NamedTuple):
    """A row that does not count."""

    number: int
    """The row's number from 1, without the header."""
    reason: str

    @override
    def __str__(self) -> str:
        return f"row {self.number}: {self.reason}"


class Reading(NamedTuple):
    """The rows of a file, and the refused ones."""

    rows: tuple[Row, ...]
    """The rows with catalogue names, in the file's order."""
    refused: tuple[Refusal, ...]


def read_csv(text: str) -> Reading:
    """The rows of a CSV file.

    Raises:
        InputError: it has no header or an unknown column. A misspelt ``concurrency`` would change the load of every row, so
            unknown columns are not ignored.
    """
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    columns = [name.strip() for name in reader.fieldnames or ()]
    if not columns:
        raise InputError("rows", "", f"are empty; the first line names the columns, of {', '.join(COLUMNS)}")
    for name in columns:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(COLUMNS)}"
            raise InputError("column", name, f"is not known{hint}")
    reader.fieldnames = columns
    return read_fields(reader)


def read_fields(found: Iterable[Mapping[Any, Any]]) -> Reading:
    """The rows with these fields, and the refused ones."""
    rows: list[Row] = []
    refused: list[Refusal] = []
    seen: dict[tuple[Any, ...], tuple[int, Row]] = {}
    for number, fields in enumerate(found, 1):
        try:
            row = _read(fields)
        except InputError as error:
            refused.append(Refusal(number, str(error)))
            continue
        reason = impossible(row)
        if reason is not None:
            refused.append(Refusal(number, reason))
            continue
        first, before = seen.setdefault(row.configuration, (number, row))
        if first == number:
            rows.append(row)
        elif not _alike(before.result, row.result):
            refused.append(
                Refusal(
                    number,
                    f"repeats row {first} ({row.model} on {row.tp}x{row.pp} {row.gpu}, {row.load}) with other values: "
                    f"{_shown(row.result)} against {_shown(before.result)}; keep one of them",
                )
            )
    return Reading(tuple(rows), tuple(refused))


def measured_rows(texts: tuple[tuple[str, str], ...]) -> tuple[MeasuredRows, tuple[tuple[str, str], ...]]:
    """The rows of these files before the shipped ones, and the faults in the files.

    Args:
        texts: the name and the CSV of each file; earlier files rank first.

    Returns:
        The rows to estimate with, and pairs of (name of the file, fault). Equal texts give the same object, so that its
        prepared data need not be computed again in the next turn.
    """
    if not texts:
        return SHIPPED, ()
    return _measured_rows(texts)


@lru_cache(maxsize=16)
def _measured_rows(texts: tuple[tuple[str, str], ...]) -> tuple[MeasuredRows, tuple[tuple[str, str], ...]]:
    found: list[MeasuredRow] = []
    wrong: list[tuple[str, str]] = []
    for name, text in texts:
        try:
            reading = read_csv(text)
        except InputError as error:
            wrong.append((name, str(error)))
            continue
        wrong += [(name, str(refusal)) for refusal in reading.refused]
        found += [row for item in reading.rows if (row := measured(item, name)) is not None]
    return SHIPPED.after(found), tuple(wrong)


def measured(row: Row, name: str) -> MeasuredRow | None:
    """The row in the estimator's form; None if the estimator cannot use it.

    If the replica keeps up with open arrivals, Little's law gives the mean number of running requests, and the time per
    request is the same as with a closed loop of that many. Their TTFT is not used, because it includes waiting. If the replica
    did not keep up, it was saturated.
    """
    concurrency, ttft, tpot = row.concurrency, row.ttft_seconds, row.tpot_seconds
    if row.offered_requests_per_second is not None:
        ttft = None
        held = row.seconds_per_request
        if row.requests_per_second < KEPT_UP * row.offered_requests_per_second:
            tpot = None
        elif held is None:
            return None
        else:
            concurrency = max(1.0, row.requests_per_second * held)
    stated = {
        "engine": row.engine,
        "version": row.engine_version,
        "kv_cache_dtype": row.kv_cache_dtype,
        "gpu_memory_utilization": row.gpu_memory_utilization,
        "max_num_seqs": row.max_num_seqs or MAX_BATCH,
        "max_num_batched_tokens": row.max_num_batched_tokens,
        "max_model_len": row.max_model_len or max(8192, math.ceil(row.input + row.output)),
        "expert_parallel": row.expert_parallel,
        "prefix_cache_hit_share": row.prefix_cache_hit_share,
    }
    return MeasuredRow(
        model=row.model,
        gpu=row.gpu,
        precision=row.precision,
        tensor_parallel=row.tp,
        pipeline_parallel=row.pp,
        settings=EngineSettings.model_validate({key: value for key, value in stated.items() if value is not None}),
        input_tokens=max(1, round(row.input)),
        output_tokens=max(1, round(row.output)),
        concurrency=concurrency,
        requests_per_second=row.requests_per_second,
        ttft_seconds=ttft,
        tpot_seconds=tpot,
        dataset=f"{name}: {row.source or 'imported'}, {row.engine}"
        + (f" {row.engine_version}" if row.engine_version else ""),
    )


def write_csv(rows: Iterable[Row]) -> str:
    """The rows as CSV, without columns that have only default values."""
    data = [row.model_dump() for row in rows]
    needed = {"model", "gpu", "precision", "tp", "input", "output", "engine", "requests_per_second"}
    default = {name: field.default for name, field in Row.model_fields.items()}
    used = [name for name in COLUMNS if name in needed or any(row[name] != default[name] for row in data)]
    out = io.StringIO()
    writer = csv.DictWriter(out, used, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in data:
        writer.writerow({name: _cell(row[name]) for name in used})
    return out.getvalue()


def impossible(row: Row) -> str | None:
    """The reason why no such replica can have the row's results; None if it can.

    The limits are those of the datasheet plus ``ALLOWANCE``. Every token needs 2 operations for each weight of the layers that
    it uses, and every answer token also for each weight of the output head; attention is left out. Every step of the engine
    reads at least the weights of one token. Kernels reach 0.4 to 0.9 of both limits. Tokens in a prefix cache need no
    operations.
    """
    model, gpu = find_model(row.model), find_gpu(row.gpu)
    gpus = row.tp * row.pp
    peak = gpus * fastest_flops(gpu, row.precision)
    bandwidth = gpus * gpu.memory_bytes_per_second
    computed = row.input * (1.0 - row.prefix_cache_hit_share)
    head = model.vocabulary_size * model.hidden_size
    body = max(1, model.parameters_per_token - model.embedding_parameters)
    most = peak / (2.0 * (body * (computed + row.output) + head * row.output))
    if row.requests_per_second > most * (1.0 + ALLOWANCE):
        return (
            f"requests_per_second: {row.requests_per_second:g}: is above {most:.3g}, the most that {gpus} x {gpu.name} "
            f"with {peak / 1e12:.0f} TFLOP/s can compute; check the lengths, tp, and whether the rate is of one replica"
        )
    if row.tpot_seconds is not None and row.output > 1:
        least = body * precision_of(row.precision).bytes_per_weight / bandwidth
        if row.tpot_seconds > SLOWEST_TPOT_SECONDS:
            return f"tpot_seconds: {row.tpot_seconds:g}: is above {SLOWEST_TPOT_SECONDS:g} s; give seconds, not milliseconds"
        # Speculation gives several tokens per step, so only times that no acceptance rate explains are refused.
        if row.tpot_seconds * (1.0 + ALLOWANCE) < least / _MOST_TOKENS_A_STEP:
            return (
                f"tpot_seconds: {row.tpot_seconds:g}: is below {least / _MOST_TOKENS_A_STEP:.2g} s, the least time to read "
                f"the weights; give seconds"
            )
    if row.ttft_seconds is not None:
        if row.ttft_seconds > SLOWEST_TTFT_SECONDS:
            return f"ttft_seconds: {row.ttft_seconds:g}: is above {SLOWEST_TTFT_SECONDS:g} s; give seconds, not milliseconds"
        least = 2.0 * body * computed / peak
        if row.ttft_seconds * (1.0 + ALLOWANCE) < least:
            return (
                f"ttft_seconds: {row.ttft_seconds:g}: is below {least:.2g} s, the least time to compute {row.input:g} "
                f"prompt tokens; give seconds, or the prefix_cache_hit_share of the run"
            )
    return _against_little(row)


_MOST_TOKENS_A_STEP = 8.0
"""The most tokens per step with speculative decoding that were ever reported."""


def _against_little(row: Row) -> str | None:
    held = row.seconds_per_request
    if row.concurrency is None or held is None:
        return None
    ratio = row.requests_per_second * held / row.concurrency
    if LITTLE[0] <= ratio <= LITTLE[1]:
        return None
    reason = (
        f"concurrency: {row.concurrency:g}: does not fit {row.requests_per_second:g} requests/s of {held:.4g} s each, "
        f"which are {row.requests_per_second * held:.4g} running requests"
    )
    if _MILLISECONDS[0] <= ratio <= _MILLISECONDS[1]:
        return f"{reason}: the times look like milliseconds; give seconds"
    return f"{reason}; give the requests that really ran"


def fastest_flops(gpu: GpuType, precision: str) -> float:
    """The highest dense peak of any part of a model in this precision, in FLOP/s."""
    peaks = {
        "fp8": (gpu.fp8_dense_tflops,),
        "int8": (gpu.int8_dense_tops,),
        "int4": (gpu.int8_dense_tops, gpu.fp8_dense_tflops),
        "fp4": (gpu.fp8_dense_tflops, gpu.fp4_dense_tflops),
        "mxfp4": (gpu.fp8_dense_tflops, gpu.fp4_dense_tflops),
    }.get(precision, ())
    return max(gpu.bf16_dense_tflops, *(peak or 0.0 for peak in peaks), 0.0) * 1e12


def _read(fields: Mapping[Any, Any]) -> Row:
    given = {
        str(name): value.strip() if isinstance(value, str) else value
        for name, value in fields.items()
        if name is not None and value is not None and value != "" and not (isinstance(value, str) and not value.strip())
    }
    if "requests_per_second" not in given:
        given |= _reckoned_rate(given)
    try:
        row = Row.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "concurrency"
        if first["type"] == "missing":
            raise InputError(name, None, "is missing; add the column, or give it as an option") from None
        value = first["input"] if first["loc"] else given.get(name)
        raise InputError(name, value, in_words(first)) from None
    model = find_model(row.model)
    gpu = find_gpu(row.gpu)
    precision = model.precision if row.precision == "auto" else row.precision
    return row.model_copy(update={"model": model.name, "gpu": gpu.name, "precision": precision})


def _reckoned_rate(given: Mapping[str, Any]) -> dict[str, float]:
    """The rate of a closed loop by Little's law, as a field; empty if concurrency or times are missing."""
    try:
        concurrency, ttft, output = (float(given[name]) for name in ("concurrency", "ttft_seconds", "output"))
        held = ttft + (output - 1) * float(given.get("tpot_seconds", "nan" if output > 1 else "0"))
    except (KeyError, TypeError, ValueError):
        return {}
    return {"requests_per_second": concurrency / held} if held > 0 and math.isfinite(concurrency / held) else {}


def _alike(one: tuple[float | None, ...], other: tuple[float | None, ...]) -> bool:
    return all(
        a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-6))
        for a, b in zip(one, other, strict=True)
    )


def _shown(result: tuple[float | None, ...]) -> str:
    names = ("requests/s", "s TTFT", "s TPOT")
    return ", ".join(f"{value:g} {name}" for value, name in zip(result, names, strict=True) if value is not None)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
