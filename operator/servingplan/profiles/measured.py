"""Measurements, and the correction that they put on the roofline.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. A measurement says what one replica did
at one point (input length, output length, running requests). The roofline predicts the same point; the ratio of the
two is a correction that varies much more slowly over lengths and batch than the rate itself. So corrections are
interpolated, not rates:

    at a measured point    the correction restores the measurement exactly
    between points         inverse-distance weights over (ln input, ln output, ln batch)   [Shepard, ACM 1968]
    beyond the points      the nearest corrections hold, and ``Coverage`` says so

Tensor-parallel sizes, precisions and cards are never interpolated: on the shipped data that errs by more than 20 %.

Two corrections: of the time that a request holds its slot, which fixes the rate (Little's law), and of TTFT. The time
per output token is what is left. Two packaged data sets (``data/README.md``): saturated rates know only the first, at
the batch that fills the memory of the run; (TTFT, TPOT) by concurrency knows both. Where nobody measured TTFT, it is
corrected like the slot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property
from typing import NamedTuple

from servingplan.model.engine import EngineSettings
from servingplan.model.hardware import GpuType
from servingplan.model.llm import ModelCard, precision_of
from servingplan.profiles import catalogue
from servingplan.profiles.roofline import Point, Roofline, roofline

SATURATED_MEMORY_FRACTION = 0.95
SATURATED_MAX_BATCH = 2048
"""How the saturated rates were taken: 0.90 to 0.95 of the memory, at most 2048 running requests. Of the four pairs
(0.90 or 0.95, 1024 or 2048) this one leaves the smallest error."""

REACH = math.log(4.0)
"""A correction is called interpolated within a factor of four of a measured point, in each direction."""

SAME_BATCH = math.log(1.1)
"""At measured lengths, a batch within a tenth of a measured one counts as measured: the rate differs by less."""

_EXACT = 1e-9
_DISTANCE_POWER = 3


class Coverage(IntEnum):
    """How a point lies to the measurements behind its correction."""

    MEASURED = 0
    INTERPOLATED = 1
    BEYOND = 2


class Node(NamedTuple):
    """One measurement as a correction of the roofline: measured time over predicted time."""

    input_tokens: int
    output_tokens: int
    batch: float
    ln_input: float
    ln_output: float
    ln_batch: float
    slot_stretch: float
    ttft_stretch: float | None
    engine: str
    dataset: str


@dataclass(frozen=True, slots=True)
class Correction:
    """The corrections of one (model, precision, GPU, tensor parallel size), seen from one pair of lengths."""

    input_tokens: int
    output_tokens: int
    nodes: tuple[Node, ...]
    inside: bool
    """Whether both lengths lie between the smallest and the largest measured ones."""
    distances: tuple[float, ...]
    """Squared distance over lengths, by node."""

    def apply(self, point: Point) -> Point:
        """The point with its times corrected."""
        if not self.nodes:
            return point
        ln_batch = math.log(point.batch)
        slot_total = slot = ttft_total = ttft = 0.0
        for node, over_lengths in zip(self.nodes, self.distances, strict=True):
            distance = over_lengths + (node.ln_batch - ln_batch) ** 2
            # A measured point outweighs all others by so much that it stands alone.
            weight = max(distance, _EXACT) ** (-_DISTANCE_POWER / 2)
            slot_total += weight
            slot += weight * node.slot_stretch
            if node.ttft_stretch is not None:
                ttft_total += weight
                ttft += weight * node.ttft_stretch
        slot_stretch = slot / slot_total
        slot_seconds = point.batch / point.requests_per_second * slot_stretch
        ttft_seconds = point.ttft_seconds * (ttft / ttft_total if ttft_total else slot_stretch)
        further = self.output_tokens - 1
        tpot_seconds = max(0.0, (slot_seconds - ttft_seconds) / further) if further else 0.0
        return Point(point.batch, ttft_seconds, tpot_seconds, point.batch / slot_seconds)

    def coverage(self, batch: float) -> Coverage:
        """How a batch at these lengths lies to the measurements."""
        ln_batch = math.log(batch)
        near = False
        for node, over_lengths in zip(self.nodes, self.distances, strict=True):
            by_batch = abs(node.ln_batch - ln_batch)
            if over_lengths < _EXACT and by_batch <= SAME_BATCH:
                return Coverage.MEASURED
            near = near or (
                by_batch <= REACH
                and abs(node.ln_input - math.log(self.input_tokens)) <= REACH
                and abs(node.ln_output - math.log(self.output_tokens)) <= REACH
            )
        return Coverage.INTERPOLATED if self.inside and near else Coverage.BEYOND

    def nearest(self, batch: float) -> Node:
        """The measurement nearest to a batch at these lengths."""
        ln_batch = math.log(batch)
        return min(
            zip(self.nodes, self.distances, strict=True), key=lambda pair: pair[1] + (pair[0].ln_batch - ln_batch) ** 2
        )[0]


def correction(nodes: tuple[Node, ...], *, input_tokens: int, output_tokens: int) -> Correction:
    """See ``nodes`` from one pair of lengths."""
    ln_input, ln_output = math.log(input_tokens), math.log(output_tokens)
    return Correction(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        nodes=nodes,
        inside=bool(nodes)
        and min(node.input_tokens for node in nodes) <= input_tokens <= max(node.input_tokens for node in nodes)
        and min(node.output_tokens for node in nodes) <= output_tokens <= max(node.output_tokens for node in nodes),
        distances=tuple((node.ln_input - ln_input) ** 2 + (node.ln_output - ln_output) ** 2 for node in nodes),
    )


type _Key = tuple[str, str, str, int]


class MeasuredRow(NamedTuple):
    """What somebody measured of one replica at one point."""

    model: str
    """A name that the catalogue knows."""
    gpu: str
    precision: str
    tensor_parallel: int
    pipeline_parallel: int
    settings: EngineSettings
    """As far as stated; what is not stated keeps its default."""
    input_tokens: int
    output_tokens: int
    concurrency: float | None
    """Requests that always run, of a closed loop; None: as many as the memory holds, of a saturated engine."""
    requests_per_second: float
    ttft_seconds: float | None
    """Mean; None: not measured."""
    tpot_seconds: float | None
    dataset: str
    """Where the row comes from, for evidence."""


class MeasuredRows:
    """A set of measurements, read when first asked for.

    Args:
        read: gives the rows, the first of equal configurations and points ranking first.
        own: so many of them, the first, are the user's. Within ``REACH`` of their lengths they stand alone: what somebody
            measured of his own replica is not averaged with what others measured of theirs.
    """

    def __init__(self, read: Callable[[], Iterable[MeasuredRow]], own: int = 0) -> None:
        self._read = read
        self._own = own

    @cached_property
    def rows(self) -> tuple[MeasuredRow, ...]:
        """Every row, best rank first."""
        return tuple(self._read())

    def after(self, first: Iterable[MeasuredRow]) -> MeasuredRows:
        """These rows behind others, which rank before them."""
        leading = tuple(first)
        return MeasuredRows(lambda: (*leading, *self.rows), own=self._own + len(leading)) if leading else self

    @cached_property
    def nodes(self) -> dict[_Key, tuple[Node, ...]]:
        """Every measurement as a correction, by (model, GPU, precision, tensor parallel size)."""
        found: dict[_Key, dict[tuple[int, int, float], Node]] = {}
        own: dict[_Key, set[tuple[int, int]]] = {}
        for number, row in enumerate(self.rows):
            if row.pipeline_parallel != 1:
                continue
            key = row.model, row.gpu, _family(row.precision), row.tensor_parallel
            if number < self._own:
                own.setdefault(key, set()).add((row.input_tokens, row.output_tokens))
            elif any(_near(row, lengths) for lengths in own.get(key, ())):
                continue
            # Keyed by -1 where saturated: that batch is inferred, and two versions of one cell must not both stand.
            point = row.input_tokens, row.output_tokens, row.concurrency or -1.0
            if point not in found.setdefault(key, {}):
                found[key][point] = _node_of(row, key)
        return {key: tuple(by_point.values()) for key, by_point in found.items()}

    def nodes_for(
        self, *, model: ModelCard, precision: str, gpu: GpuType, tensor_parallel: int, pipeline_parallel: int
    ) -> tuple[Node, ...]:
        """The measurements of this replica; empty where nobody measured it.

        A measurement belongs to a shape and to speeds, not to a name: a model or a GPU declared inline under a
        catalogued name but with other figures has none. Memory may differ, since it limits the batch and not the speed.
        """
        name = catalogue.measured_name(model.shape)
        if pipeline_parallel != 1 or name is None or _speeds(gpu) not in _all_speeds():
            return ()
        return self.nodes.get((name, gpu.name, _family(precision), tensor_parallel), ())


def _near(row: MeasuredRow, lengths: tuple[int, int]) -> bool:
    """Whether a measurement at these lengths reaches those of the row."""
    inputs, outputs = lengths
    return abs(math.log(row.input_tokens / inputs)) <= REACH and abs(math.log(row.output_tokens / outputs)) <= REACH


def _packaged() -> Iterator[MeasuredRow]:
    """Both packaged data sets, the newest version of an engine first."""
    found = [*catalogue.read_rows("measured_latency.csv"), *catalogue.read_rows("measured_throughput.csv")]
    for row in sorted(found, key=lambda row: row["engine_version"], reverse=True):
        input_tokens, output_tokens = int(row["input_tokens"]), int(row["output_tokens"])
        settings = EngineSettings(engine=row["engine"], version=row["engine_version"])
        common = row["model"], row["gpu"], row["precision"], int(row["tensor_parallel"]), 1
        if "concurrency" not in row:
            settings = settings.model_copy(
                update={
                    "kv_cache_dtype": "fp8" if row["precision"] == "fp8" else "auto",
                    "max_num_seqs": SATURATED_MAX_BATCH,
                    "gpu_memory_utilization": SATURATED_MEMORY_FRACTION,
                }
            )
            dataset = f"saturated rates, {row['engine']} {row['engine_version']}"
            rate = float(row["requests_per_second"])
            yield MeasuredRow(*common, settings, input_tokens, output_tokens, None, rate, None, None, dataset)
            continue
        concurrency, ttft, tpot = (float(row[name]) for name in ("concurrency", "ttft_seconds", "tpot_seconds"))
        dataset = f"latency by concurrency, {row['engine']} {row['engine_version']} ({row['dataset']})"
        rate = concurrency / (ttft + (output_tokens - 1) * tpot)
        yield MeasuredRow(*common, settings, input_tokens, output_tokens, concurrency, rate, ttft, tpot, dataset)


SHIPPED = MeasuredRows(_packaged)
"""Every packaged measurement (``data/README.md``)."""


def _node_of(row: MeasuredRow, key: _Key) -> Node:
    base = _replica(key, row.settings)
    batch = row.concurrency
    if batch is None:
        batch = float(max(1, min(row.settings.max_num_seqs, base.batch_room(row.input_tokens + row.output_tokens))))
    predicted = base.at(batch, row.input_tokens, row.output_tokens)
    return _node(
        row.input_tokens,
        row.output_tokens,
        batch,
        slot_stretch=predicted.requests_per_second / row.requests_per_second,
        ttft_stretch=None if row.ttft_seconds is None else row.ttft_seconds / predicted.ttft_seconds,
        engine=row.settings.engine,
        dataset=row.dataset,
    )


def _node(
    input_tokens: int,
    output_tokens: int,
    batch: float,
    *,
    slot_stretch: float,
    ttft_stretch: float | None,
    engine: str,
    dataset: str,
) -> Node:
    logs = math.log(input_tokens), math.log(output_tokens), math.log(batch)
    return Node(input_tokens, output_tokens, batch, *logs, slot_stretch, ttft_stretch, engine, dataset)


def _replica(key: _Key, settings: EngineSettings) -> Roofline:
    model, gpu, precision, tensor_parallel = key
    return roofline(
        model=catalogue.find_model(model),
        precision=precision,
        gpu=catalogue.find_gpu(gpu),
        tensor_parallel=tensor_parallel,
        pipeline_parallel=1,
        memory_fraction=settings.gpu_memory_utilization,
        kv_bytes_per_element=settings.kv_bytes_per_element,
    )


def _family(precision: str) -> str:
    """fp16 and bf16 run on the same units at the same speed, and so do the two formats of four bits: one family of
    measurements."""
    name = precision.lower()
    precision_of(name)
    return {"fp16": "bf16", "mxfp4": "fp4"}.get(name, name)


def _speeds(gpu: GpuType) -> GpuType:
    return gpu.model_copy(update={"memory_gb": 0.0, "memory_bytes": None, "aliases": ()})


@cache
def _all_speeds() -> frozenset[GpuType]:
    return frozenset(_speeds(gpu) for gpu in catalogue.packaged_gpus())
