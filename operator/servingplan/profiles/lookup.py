"""Answers ``servingplan profile lookup``: the rate and latencies of one replica for requests of one length.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. The planner calls ``estimate`` with cards and
models. People give names, omit settings, and need the rate at their percentile as one number.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from servingplan.errors import InputError, in_words
from servingplan.model.engine import EngineSettings
from servingplan.profiles.catalogue import find_gpu, find_model, stored_otherwise
from servingplan.profiles.estimate import MAX_BATCH, Estimate, estimate
from servingplan.profiles.fields import Count, Engine, KvCacheDtype, Precision
from servingplan.profiles.fit import Unfit

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Lookup(BaseModel):
    """One question. Fields are named as the options of the command, without dashes."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    model: str = Field(min_length=1)
    gpu: str = Field(min_length=1)
    precision: Precision = "auto"
    tp: Count = 1
    pp: Count = 1
    input: Count
    """Prompt tokens."""
    output: Count
    """Answer tokens."""
    ttft: _Seconds | None = None
    """The limit on the time to the first token, in seconds; None means no limit."""
    tpot: _Seconds | None = None
    """The limit on the time per further token, in seconds; None means no limit."""
    percentile: float = Field(default=95.0, ge=50, lt=100, allow_inf_nan=False)
    """The share of requests that must keep the limits, in per cent."""
    engine: Engine = "vllm"
    engine_version: str | None = None
    kv_cache_dtype: KvCacheDtype = "auto"
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1, allow_inf_nan=False)
    max_num_seqs: Count | None = None
    """None means the planner's largest batch, or ``concurrency`` if that is larger."""
    max_num_batched_tokens: Count | None = None
    max_model_len: Count | None = None
    """None means twice input and output together, at most what the model was made for, as in a plan."""
    expert_parallel: bool = False
    concurrency: Count | None = None
    """The number of requests that always run, in a closed loop; None means open arrivals at the best rate."""

    def settings(self, longest: int | None) -> EngineSettings:
        """The engine's settings, with values for those that were omitted.

        A class has requests longer than its means, and a context of just the means would cut them off. So a plan's default is
        twice its longest class, and this one is the same for one class.

        Args:
            longest: the most tokens that the model was made for; None if it is not known.
        """
        tokens = self.input + self.output
        usual = 2 * tokens if longest is None else max(tokens, min(2 * tokens, longest))
        chosen = {
            "max_num_seqs": self.max_num_seqs or max(MAX_BATCH, self.concurrency or 1),
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "max_model_len": self.max_model_len or usual,
        }
        return EngineSettings(
            engine=self.engine,
            version=self.engine_version,
            kv_cache_dtype=self.kv_cache_dtype,
            gpu_memory_utilization=self.gpu_memory_utilization,
            expert_parallel=self.expert_parallel,
            **{name: value for name, value in chosen.items() if value is not None},
        )


class Answer(BaseModel):
    """The rate and latencies of the replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_second: float
    """Without a limit the saturated rate; with ``concurrency`` the closed-loop rate; else the rate of open arrivals at
    which the percentile keeps the limits."""
    low: float
    high: float
    """The bounds of the central 80 % of the true rate, for one replica on that engine."""
    ttft_seconds: float
    """The mean at that rate."""
    tpot_seconds: float
    """The mean at that rate."""
    ttft_percentile_seconds: float | None
    """The value at the asked percentile; None if arrivals have no rate of their own (saturated or closed loop)."""
    tpot_percentile_seconds: float | None
    concurrency: float
    """The mean number of running requests."""
    source: str
    evidence: tuple[str, ...]
    engine: dict[str, Any]
    """The settings that the answer holds for."""


class CannotServeError(InputError):
    """The replica does not fit its GPUs, or it cannot keep the limits even for one request at a time."""


def parse_lookup(fields: dict[str, Any]) -> Lookup:
    """The question with these fields; values may be text.

    Raises:
        InputError: a field is missing or wrong. It names the field as an option of the command.
    """
    try:
        return Lookup.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = "--" + str(first["loc"][0] if first["loc"] else "model").replace("_", "-")
        if first["type"] == "missing":
            raise InputError(option, None, "is required; name it") from None
        raise InputError(option, first["input"], in_words(first)) from None


def answer(question: Lookup) -> Answer:
    """The answer to one question.

    Raises:
        InputError: a name or a value is not known; for a card or a model the message has similar names.
        CannotServeError: the replica does not fit its GPUs, or cannot keep the limits.
    """
    model, gpu = find_model(question.model), find_gpu(question.gpu)
    precision = model.precision if question.precision == "auto" else question.precision
    if (why := stored_otherwise(model, precision)) is not None:
        raise InputError("--precision", question.precision, why)
    settings = question.settings(model.max_context_tokens)
    found = estimate(
        model=model,
        precision=precision,
        gpu=gpu,
        tensor_parallel=question.tp,
        pipeline_parallel=question.pp,
        settings=settings,
        input_tokens=question.input,
        output_tokens=question.output,
        ttft_seconds=question.ttft,
        tpot_seconds=question.tpot,
        percentile=question.percentile,
        clients=question.concurrency,
    )
    if isinstance(found, Unfit):
        raise CannotServeError(
            found.reason, f"{question.model} on {question.tp}x{question.pp} {gpu.name}", found.message
        )
    if question.concurrency is not None:
        return _answer(found, settings, found.requests_per_second, float(question.concurrency))
    if question.ttft is None and question.tpot is None:
        return _answer(found, settings, found.requests_per_second, float(found.batch))
    # Open arrivals at one copy, at the rate at which the percentile keeps the limits.
    used = found.utilization[0]
    return _answer(found, settings, found.requests_per_second * used, found.batch * used)


def _answer(found: Estimate, settings: EngineSettings, rate: float, concurrency: float) -> Answer:
    share = rate / found.requests_per_second
    return Answer(
        requests_per_second=rate,
        low=found.low * share,
        high=found.high * share,
        ttft_seconds=found.ttft_seconds,
        tpot_seconds=found.tpot_seconds,
        ttft_percentile_seconds=found.ttft_percentile_seconds,
        tpot_percentile_seconds=found.tpot_percentile_seconds,
        concurrency=concurrency,
        source=found.source,
        evidence=found.evidence,
        engine=settings.model_dump(mode="json"),
    )
