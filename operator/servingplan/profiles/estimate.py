"""Estimates the rate and the latencies of one replica for one class of requests.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. ``estimate`` checks that the model fits the GPUs,
limits the batch by KV memory and takes the best rate. With limits on TTFT or TPOT, it takes the part of that rate at which a
percentile of requests keeps them (``promise``).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from servingplan.model.engine import EngineSettings
from servingplan.model.hardware import GpuType
from servingplan.model.llm import ModelCard
from servingplan.profiles.bands import Basis, Load, band, kind_of, planned_latency_ratio, planned_ratio
from servingplan.profiles.fit import Unfit, memory_refusal, shape_refusal
from servingplan.profiles.floor import first_token_seconds
from servingplan.profiles.kernels import is_measured, is_related, reference_of
from servingplan.profiles.measured import SHIPPED, Correction, Coverage, MeasuredRows, correction
from servingplan.profiles.promise import HIGHEST_UTILIZATION, Limits, Requests, limited
from servingplan.profiles.steady import Point, Steady, steady
from servingplan.profiles.steps import KernelSteps, step_times

MAX_BATCH = 1024
"""The most running requests of one replica by default; this is vLLM's default on large cards."""

Source = Literal["measured", "interpolated", "kernels", "fitted", "datasheet", "learned"]
"""Where a rate comes from: this configuration was measured at these lengths; it lies between its measurements; it is a sum of
kernels that were measured on this card, on a card with the same chip, or on a similar card; it was observed in service."""


class Estimate(BaseModel):
    """What one replica serves if it serves only this class."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_second: float
    """The median of the true rate at ``batch`` running requests."""
    low: float
    high: float
    """The true rate lies between these with probability 0.8."""
    planned_requests_per_second: float
    """The rate to plan with: the true rate is at least this with the asked probability (``confidence``)."""
    planned_ttft_ratio: float
    planned_tpot_ratio: float
    """The time to the first token, and per further token, that a plan with limits counts on, divided by that of the uncorrected
    formulas: the true one is at most this with the asked probability."""
    batch: int
    """The mean number of running requests at that rate."""
    most_running: int
    """The number of running requests at that rate that is exceeded only a thousandth of the time. ``max_num_seqs`` should be at
    least this."""
    ttft_seconds: float
    """The mean time to the first token. With limits it is that of open arrivals on one copy that is as slow and as full as
    planned; without limits it is that of ``batch`` clients."""
    tpot_seconds: float
    """The mean time per further token under the same load."""
    ttft_percentile_seconds: float | None
    """The value at the percentile, on one copy that is as slow and as full as planned; None without limits."""
    tpot_percentile_seconds: float | None
    utilization: tuple[float, ...]
    """The part of the rate at which the percentile keeps the limits, by number of copies from 1; the last holds for more."""
    ttft_band: tuple[float, float]
    """The true mean TTFT divided by ``ttft_seconds`` lies between these with probability 0.8."""
    tpot_band: tuple[float, float]
    """The same for the time per further token."""
    slot_seconds: float
    """The mean time from arrival to the last token."""
    source: Source
    basis: Basis
    """The properties that decide the band."""
    evidence: tuple[str, ...]
    """The data sets and versions, or the formula and constants, on which the rate is based."""

    @property
    def error_band(self) -> float:
        """The distance of the low end of the band from the median, as a fraction of the median."""
        return 1.0 - self.low / self.requests_per_second


def estimate(
    *,
    model: ModelCard,
    precision: str,
    gpu: GpuType,
    tensor_parallel: int,
    pipeline_parallel: int,
    settings: EngineSettings,
    input_tokens: int,
    output_tokens: int,
    ttft_seconds: float | None,
    tpot_seconds: float | None,
    percentile: float = 95.0,
    confidence: float = 0.9,
    clients: float | None = None,
    requests_per_client: float = math.inf,
    load: Load | None = None,
    rows: MeasuredRows = SHIPPED,
) -> Estimate | Unfit:
    """The estimate of one replica that serves only this class: at its highest rate, at the rate with which many copies keep
    the limits, or at the rate of a closed loop.

    Args:
        precision: the precision of the weights, a key of ``model.llm.PRECISIONS``.
        tensor_parallel: the number of GPUs that share every layer.
        pipeline_parallel: the number of stages that share the layers.
        settings: the engine's settings. The KV cache of one sequence of ``max_model_len`` must fit beside the weights.
        input_tokens: the mean prompt length, at least 1.
        output_tokens: the mean answer length, at least 1.
        ttft_seconds: the limit on the time to the first token, which the percentile of requests must keep; None if there
            is none.
        tpot_seconds: the limit on a request's mean time per further token, likewise.
        percentile: the percentage of requests that must keep the limits, above 0 and below 100.
        confidence: the probability that the true rate is at least ``planned_requests_per_second``, between 0 and 1.
        clients: for a closed loop, the number of requests that always run, or wait if they do not fit; above 0. Below 1,
            one request runs for that part of the time. The limits then do not count. None means open arrivals.
        requests_per_client: for a closed loop whose clients start together, the requests of each; if it is infinite, only
            the steady state counts.
        load: the kind of load of the bands. None means saturated, or by concurrency if there are clients or limits, since
            copies that keep limits run fewer requests than their memory holds.
        rows: the measurements that correct the formulas.

    Returns:
        An ``Estimate``, or ``Unfit`` if the model does not fit the GPUs or if even an almost idle replica cannot keep the
        limits.

    Raises:
        UnknownPrecisionError: the precision is not in the table.
        ValueError: a length or size is below 1, or ``percentile``, ``confidence`` or ``clients`` is outside its range.
    """
    counts = {
        "tensor_parallel": tensor_parallel,
        "pipeline_parallel": pipeline_parallel,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
    }
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; it must be at least 1")
    if not 0 < percentile < 100:
        raise ValueError(f"percentile is {percentile}; it must be above 0 and below 100")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be above 0 and below 1")
    if clients is not None and not clients > 0:
        raise ValueError(f"clients is {clients}; it must be above 0")

    replica = Made(model, precision, gpu, tensor_parallel, pipeline_parallel, settings)
    requests = Requests("", input_tokens, output_tokens, Limits(ttft_seconds, tpot_seconds, percentile))
    if load is None:
        load = "saturated" if clients is None and not requests.limits else "concurrency"
    found = _unlimited(
        replica,
        [(requests, load)],
        confidence=confidence,
        clients=clients,
        requests_per_client=requests_per_client,
        rows=rows,
    )[""]
    if isinstance(found, Unfit):
        return found
    if clients is not None:
        return _with_waiting(found, clients)
    floor_seconds = first_token_seconds(settings, model)
    return limited({"": found}, [requests], replica.steps, floor_seconds=floor_seconds)[""]


class Made(NamedTuple):
    """The model, the GPUs and the settings of a replica."""

    model: ModelCard
    precision: str
    gpu: GpuType
    tensor_parallel: int
    pipeline_parallel: int
    settings: EngineSettings

    def steps(self) -> KernelSteps:
        """The times of its iterations."""
        return step_times(**self._asdict())


def unlimited(
    replica: Made, classes: Sequence[Requests], *, confidence: float, rows: MeasuredRows
) -> dict[str, Estimate | Unfit]:
    """The estimates of a replica inside a node at its highest rates, by name of the class, each class alone and without limits.

    They equal those of ``estimate``. They are computed together, because an operation on the batches of all classes takes
    hardly longer than one on the batches of a single class. If a class has limits, the bands are those of rates by concurrency.
    """
    asked: list[tuple[Requests, Load]] = [(item, "concurrency" if item.limits else "saturated") for item in classes]
    return _unlimited(replica, asked, confidence=confidence, rows=rows)


class _Points(NamedTuple):
    """The candidate batches of one class."""

    requests: Requests
    load: Load
    corrected: Correction
    batches: list[float]


def _unlimited(
    replica: Made,
    classes: Sequence[tuple[Requests, Load]],
    *,
    confidence: float,
    clients: float | None = None,
    requests_per_client: float = math.inf,
    rows: MeasuredRows,
) -> dict[str, Estimate | Unfit]:
    model, precision, gpu, tensor_parallel, pipeline_parallel, settings = replica
    refusal = shape_refusal(
        model, tensor_parallel, pipeline_parallel, precision=precision, expert_parallel=settings.expert_parallel
    )
    if refusal is not None:
        return {item.name: refusal for item, _ in classes}
    base = replica.steps()
    no_room = memory_refusal(
        model=model,
        tensor_parallel=tensor_parallel,
        kv_bytes_per_element=settings.kv_bytes_per_element,
        weight_bytes=base.weight_bytes,
        kv_room_bytes=base.kv_room_bytes,
        context_tokens=settings.max_model_len,
        gpus=f"{tensor_parallel * pipeline_parallel} x {gpu.name}",
    )
    nodes = rows.nodes_for(
        model=model,
        precision=precision,
        gpu=gpu,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
    )
    found: dict[str, Estimate | Unfit] = {}
    asked: list[_Points] = []
    for item, load in classes:
        refusal = _context_refusal(item, settings) or no_room
        if refusal is not None:
            found[item.name] = refusal
            continue
        lengths = item.input_tokens, item.output_tokens
        room = max(1, math.floor(base.batch_room(*lengths)))
        corrected = correction(nodes, input_tokens=lengths[0], output_tokens=lengths[1], engine=settings.engine)
        batches = _candidates(corrected, room) if clients is None else [min(float(room), clients)]
        asked.append(_Points(item, load, corrected, batches))
    if not asked:
        return found
    counts = [len(points.batches) for points in asked]
    running = steady(
        base,
        np.concatenate([points.batches for points in asked]),
        np.repeat([points.requests.input_tokens for points in asked], counts),
        np.repeat([points.requests.output_tokens for points in asked], counts),
        floor_seconds=first_token_seconds(settings, model),
        requests_per_client=requests_per_client,
    )
    first = 0
    for points, count in zip(asked, counts, strict=True):
        plain = running.part(slice(first, first + count))
        seen = points.corrected.apply(plain)
        number = int(np.argmax(seen.requests_per_second))
        best = seen.at(number)
        first += count
        source, basis, evidence = _provenance(
            points.corrected,
            best.batch,
            gpu=gpu,
            precision=precision,
            model=model,
            engine=settings.engine,
            stages=pipeline_parallel,
            load=points.load,
        )
        found[points.requests.name] = banded(
            best, plain.at(number), source=source, basis=basis, evidence=evidence, confidence=confidence
        )
    return {item.name: found[item.name] for item, _ in classes}


def _context_refusal(item: Requests, settings: EngineSettings) -> Unfit | None:
    tokens = item.input_tokens + item.output_tokens
    if tokens <= settings.max_model_len:
        return None
    return Unfit(
        reason="ContextTooShort",
        message=f"{item.input_tokens} input and {item.output_tokens} output tokens exceed the context of "
        f"{settings.max_model_len}; "
        f"raise maxModelLen to {tokens} or more",
    )


def _with_waiting(found: Estimate, clients: float) -> Estimate:
    """The estimate with the time that clients wait for a slot, by Little's law over all clients."""
    slot_seconds = clients / found.requests_per_second
    waiting = max(0.0, slot_seconds - found.slot_seconds)
    return found.model_copy(update={"ttft_seconds": found.ttft_seconds + waiting, "slot_seconds": slot_seconds})


def banded(
    best: Point, plain: Point, *, source: Source, basis: Basis, evidence: tuple[str, ...], confidence: float
) -> Estimate:
    """The estimate of a point, with the bands that were calibrated for its basis (``bands``).

    If a band lies on one side of the point, it is extended to the point.

    Args:
        plain: the point without the corrections of measurements.
    """
    rate, ttft, tpot = (band(quantity, basis) for quantity in ("rate", "ttft", "tpot"))
    return Estimate(
        requests_per_second=best.requests_per_second,
        low=best.requests_per_second * min(1.0, rate.low),
        high=best.requests_per_second * max(1.0, rate.high),
        planned_requests_per_second=best.requests_per_second * planned_ratio(basis, confidence),
        planned_ttft_ratio=_ratio(best.ttft_seconds, plain.ttft_seconds)
        * planned_latency_ratio("first token", basis, confidence),
        planned_tpot_ratio=_ratio(best.tpot_seconds, plain.tpot_seconds)
        * planned_latency_ratio("tpot", basis, confidence),
        batch=math.ceil(best.batch),
        most_running=math.ceil(best.batch),
        ttft_seconds=best.ttft_seconds,
        tpot_seconds=best.tpot_seconds,
        ttft_band=(min(1.0, ttft.low), max(1.0, ttft.high)),
        tpot_band=(min(1.0, tpot.low), max(1.0, tpot.high)),
        ttft_percentile_seconds=None,
        tpot_percentile_seconds=None,
        utilization=(HIGHEST_UTILIZATION,),
        slot_seconds=best.batch / best.requests_per_second,
        source=source,
        basis=basis,
        evidence=evidence,
    )


def _ratio(corrected: float, plain: float) -> float:
    return corrected / plain if plain > 0 else 1.0


def divisible_shapes(model: ModelCard, gpus_per_node: int) -> list[tuple[int, int]]:
    """Every (tensor parallel, pipeline parallel) size that divides the model and fits in one node, smallest first.

    The rules are vLLM's: the tensor-parallel size divides the attention heads, and it divides the KV heads or is a multiple of
    them (KV heads then have several copies). Stages may hold unequal numbers of layers, but each at least one.
    """
    return [
        (tensor_parallel, pipeline_parallel)
        for tensor_parallel in range(1, gpus_per_node + 1)
        for pipeline_parallel in range(1, gpus_per_node // tensor_parallel + 1)
        if shape_refusal(model, tensor_parallel, pipeline_parallel) is None
    ]


def fastest(points: Steady) -> Point:
    """The point with the highest rate; of equal rates, the one with the smallest batch."""
    return points.at(int(np.argmax(points.requests_per_second)))


@lru_cache(maxsize=256)
def batches_up_to(room: int) -> tuple[float, ...]:
    """Batches up to and with ``room``, in steps of 1 and, above 20, in steps of a tenth."""
    batches = [1]
    while batches[-1] < room:
        batches.append(min(room, batches[-1] + max(1, batches[-1] // 10)))
    return tuple(map(float, batches))


def _candidates(corrected: Correction, room: int) -> list[float]:
    """The batches of the grid, and the measured batches at exactly these lengths."""
    measured = {
        node.batch
        for node in corrected.nodes
        if (node.input_tokens, node.output_tokens) == (corrected.input_tokens, corrected.output_tokens)
        and node.batch <= room
    }
    return sorted({*batches_up_to(room), *measured})


def _provenance(
    corrected: Correction,
    batch: float,
    *,
    gpu: GpuType,
    precision: str,
    model: ModelCard,
    engine: str,
    stages: int,
    load: Load,
) -> tuple[Source, Basis, tuple[str, ...]]:
    kind = kind_of(model)
    formulas: Source = "kernels" if is_measured(gpu) else "fitted" if is_related(gpu) else "datasheet"
    whose = {
        "kernels": "of this card",
        "fitted": f"of a card with the same chip ({reference_of(gpu)}), at this card's peaks",
        "datasheet": f"of a card with like units ({reference_of(gpu)}), at this card's peaks",
    }[formulas]
    constants = f"kernels {whose}, in {precision}; engine constants of {engine}"
    if not corrected.nodes:
        reach: Literal["inside", "pipeline"] = "inside" if stages == 1 else "pipeline"
        return formulas, Basis(load, formulas, kind=kind, reach=reach), (constants,)
    node = corrected.nearest(batch)
    on: Literal["same", "other"] = "same" if node.engine == engine else "other"
    match corrected.coverage(batch):
        case Coverage.MEASURED:
            return "measured", Basis(load, "measured", on, kind), (node.dataset,)
        case Coverage.INTERPOLATED:
            evidence = (f"between measurements, nearest: {node.dataset}",)
            return "interpolated", Basis(load, "interpolated", on, kind), evidence
        case Coverage.BEYOND:
            return (
                formulas,
                Basis(load, formulas, on, kind, "beyond"),
                (constants, f"corrected by the nearest measurement: {node.dataset}"),
            )
