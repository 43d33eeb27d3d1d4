"""Measurements, and the corrections of computed rates that they give.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. A measurement has the results of one replica at
one point (input length, output length, running requests). ``steady`` computes the same point, with the settings and the engine
of the measurement. The ratio of the two is a correction that varies much more slowly over lengths and batch than the rate
itself. So corrections are interpolated, not rates:

    at a measured point    the correction restores the measurement exactly
    between points         their logarithms, by inverse distance over (ln input, ln output, ln batch)   [Shepard, ACM 1968]
    beyond the points      the nearest corrections hold, and ``Coverage`` says so

A measurement on another engine gets the further distance ``OTHER_ENGINE``. Tensor-parallel sizes, precisions and cards are
never interpolated, because the errors of similar replicas say almost nothing about a replica (in a trial, the median error of
saturated rates without a measurement was 7.9 %, and with shared corrections 7.5 to 7.7 %).

There are two corrections: of the time that a request holds its slot, which determines the rate (Little's law), and of TTFT. The
time per output token follows from both. There are two packaged data sets (``data/README.md``). Saturated rates give only the
first correction, at the batch that fills the memory of the run; (TTFT, TPOT) by concurrency gives both.

TTFT depends on the engine's server and on the length of prompts more than the slot time does. So it is corrected by
measurements of the same engine only, and the correction fades: a measurement at the distance ``REACH`` counts as much as the
computed time. On the fitting part this lowers the median error of mean TTFT with other lengths known from 41 to 34 % for
mixtures (dense models: 9 % before and after), and with another engine known from 61 to 32 % (dense: from 17 to 15 %).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np

from servingplan.model.engine import EngineSettings
from servingplan.model.hardware import GpuType
from servingplan.model.llm import ModelCard, precision_of
from servingplan.profiles import catalogue
from servingplan.profiles.floor import first_token_seconds
from servingplan.profiles.steady import Steady, steady
from servingplan.profiles.steps import KernelSteps, step_times

SATURATED_MEMORY_FRACTION = 0.95
SATURATED_MAX_BATCH = 2048
"""The settings of the saturated rates: 0.90 to 0.95 of the memory, and at most 2048 running requests. Of the four pairs (0.90
or 0.95, 1024 or 2048) this one gives the smallest error."""

PUBLISHED_REQUESTS_PER_CLIENT = 10.0
"""Requests per client in the published closed loops, which start all clients at once. InferenceX's client sends ten times as
many prompts as it keeps in flight, without a rate. The others of that data set are assumed to do the same."""
_STARTED_TOGETHER = ("aiconfigurator-core 0.12.0",)
"""The data sets for which that holds. The other one has open arrivals."""

REACH = math.log(4.0)
"""A correction is called interpolated within a factor of four of a measured point, in each direction."""

SAME_BATCH = math.log(1.1)
"""At measured lengths, a batch within a tenth of a measured one counts as measured, because the rate differs by less."""

OTHER_ENGINE = math.log(3.0)
"""The distance that is added for another engine if there are measurements of the asked engine. It equals a factor of three in
length or batch."""

SAME_PLATEAU = math.log(2.0)
"""A saturated rate counts for any batch within a factor of two, because its batch is inferred and the rate hardly grows
there."""

_EXACT = 1e-9
_DISTANCE_POWER = 3


class Coverage(IntEnum):
    """Whether a point is measured, between measurements, or beyond them."""

    MEASURED = 0
    INTERPOLATED = 1
    BEYOND = 2


class Node(NamedTuple):
    """One measurement as a correction: measured time divided by predicted time."""

    input_tokens: int
    output_tokens: int
    batch: float
    ln_input: float
    ln_output: float
    ln_batch: float
    slot_stretch: float
    ttft_stretch: float | None
    saturated: bool
    """Whether the batch is inferred, as the number of requests that the memory of the run holds."""
    engine: str
    dataset: str


@dataclass(frozen=True, slots=True)
class Correction:
    """The corrections of one replica (model, precision, GPU, parallel sizes) at one pair of lengths."""

    input_tokens: int
    output_tokens: int
    nodes: tuple[Node, ...]
    inside: bool
    """Whether both lengths lie between the smallest and the largest measured ones."""
    distances: tuple[float, ...]
    """The squared distance over lengths and engine, by node."""
    engine: str | None = None
    """The engine whose TTFT corrects; None means any."""

    def apply(self, point: Steady) -> Steady:
        """The points with their times corrected."""
        if not self.nodes:
            return point
        batches = np.array([node.ln_batch for node in self.nodes])
        distance = np.array(self.distances) + (batches - np.log(point.batch)[..., None]) ** 2
        # The weight of a measured point is so large that the others do not matter.
        weight = np.maximum(distance, _EXACT) ** (-_DISTANCE_POWER / 2)
        slot_stretch = np.exp((weight * np.log([node.slot_stretch for node in self.nodes])).sum(-1) / weight.sum(-1))
        # Without a measured TTFT nearby, TTFT is as computed, but never a larger part of the slot time.
        computed = np.minimum(0.0, np.log(slot_stretch))
        timed = {
            number: math.log(node.ttft_stretch)
            for number, node in enumerate(self.nodes)
            if node.ttft_stretch is not None and self.engine in (None, node.engine)
        }
        near, far = weight[..., list(timed)], REACH**-_DISTANCE_POWER
        ttft_stretch = np.exp(((near * list(timed.values())).sum(-1) + far * computed) / (near.sum(-1) + far))
        slot_seconds = point.batch / point.requests_per_second * slot_stretch
        further = self.output_tokens - 1
        ttft_seconds = np.minimum(point.ttft_seconds * ttft_stretch, slot_seconds) if further else slot_seconds
        tpot_seconds = (slot_seconds - ttft_seconds) / further if further else np.zeros_like(slot_seconds)
        return Steady(point.batch, point.batch / slot_seconds, ttft_seconds, tpot_seconds)

    def coverage(self, batch: float) -> Coverage:
        """The coverage of a batch at these lengths."""
        ln_batch = math.log(batch)
        near = False
        for node in self.nodes:
            by_batch = abs(node.ln_batch - ln_batch)
            same = (node.input_tokens, node.output_tokens) == (self.input_tokens, self.output_tokens)
            if same and by_batch <= (SAME_PLATEAU if node.saturated else SAME_BATCH):
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


def correction(
    nodes: tuple[Node, ...], *, input_tokens: int, output_tokens: int, engine: str | None = None
) -> Correction:
    """The correction of ``nodes`` at one pair of lengths and for one engine; with None all engines count equally."""
    ln_input, ln_output = math.log(input_tokens), math.log(output_tokens)
    same = any(node.engine == engine for node in nodes)
    return Correction(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        nodes=nodes,
        inside=bool(nodes)
        and min(node.input_tokens for node in nodes) <= input_tokens <= max(node.input_tokens for node in nodes)
        and min(node.output_tokens for node in nodes) <= output_tokens <= max(node.output_tokens for node in nodes),
        distances=tuple(
            (node.ln_input - ln_input) ** 2
            + (node.ln_output - ln_output) ** 2
            + (OTHER_ENGINE**2 if same and node.engine != engine else 0.0)
            for node in nodes
        ),
        engine=engine,
    )


type _Key = tuple[str, str, str, int, int]


class MeasuredRow(NamedTuple):
    """The measurement of one replica at one point."""

    model: str
    """The model's name in the catalogue."""
    gpu: str
    precision: str
    tensor_parallel: int
    pipeline_parallel: int
    settings: EngineSettings
    """The stated settings; others have their default."""
    input_tokens: int
    output_tokens: int
    concurrency: float | None
    """The requests that always run, in a closed loop; None for a saturated engine, with as many as its memory holds."""
    requests_per_second: float
    ttft_seconds: float | None
    """The mean; None if it was not measured."""
    tpot_seconds: float | None
    dataset: str
    """The source of the row, for evidence."""
    requests_per_client: float = math.inf
    """For a closed loop whose clients start together, so that their first prompts wait for one another; infinite if they do
    not."""


class MeasuredRows:
    """A set of measurements that is read at its first use.

    Args:
        read: returns the rows. Of equal configurations and points, the first row counts.
        own: the number of rows at the beginning that are the user's. Within ``REACH`` of their lengths only they count, because
            measurements of the user's own replica must not be averaged with those of others.
    """

    def __init__(self, read: Callable[[], Iterable[MeasuredRow]], own: int = 0) -> None:
        self._read = read
        self._own = own
        self._nodes: dict[_Key, tuple[Node, ...]] = {}

    @cached_property
    def rows(self) -> tuple[MeasuredRow, ...]:
        """All rows, the first rank first."""
        return tuple(self._read())

    def after(self, first: Iterable[MeasuredRow]) -> MeasuredRows:
        """The set of these rows after ``first``, the user's rows, which rank before them."""
        leading = tuple(first)
        return MeasuredRows(lambda: (*leading, *self.rows), own=self._own + len(leading)) if leading else self

    @cached_property
    def _ranked(self) -> dict[_Key, list[MeasuredRow]]:
        """The row that counts for each point, by replica."""
        found: dict[_Key, dict[tuple[int, int, float, str], MeasuredRow]] = {}
        own: dict[_Key, set[tuple[int, int]]] = {}
        for number, row in enumerate(self.rows):
            key = row.model, row.gpu, _family(row.precision), row.tensor_parallel, row.pipeline_parallel
            if number < self._own:
                own.setdefault(key, set()).add((row.input_tokens, row.output_tokens))
            elif any(_near(row, lengths) for lengths in own.get(key, ())):
                continue
            # The batch of a saturated rate is inferred, so it is -1 here; only one version of such a point may count.
            point = row.input_tokens, row.output_tokens, row.concurrency or -1.0, row.settings.engine
            found.setdefault(key, {}).setdefault(point, row)
        return {key: list(by_point.values()) for key, by_point in found.items()}

    @cached_property
    def keys(self) -> tuple[_Key, ...]:
        """Every replica that was measured: (model, GPU, precision, tensor parallel, pipeline parallel size)."""
        return tuple(self._ranked)

    def nodes_of(self, key: _Key) -> tuple[Node, ...]:
        """The measurements of one replica as corrections."""
        if key not in self._nodes:
            self._nodes[key] = _nodes_of(self._ranked.get(key, ()), key)
        return self._nodes[key]

    def nodes_for(
        self, *, model: ModelCard, precision: str, gpu: GpuType, tensor_parallel: int, pipeline_parallel: int
    ) -> tuple[Node, ...]:
        """The measurements of this replica as corrections; empty if there are none.

        A measurement belongs to a shape and to speeds, not to a name. A model or a GPU that is declared inline under a
        catalogued name but with other figures has none. Memory may differ, since it limits the batch but not the speed.
        """
        name = catalogue.measured_name(model.shape)
        if name is None or _speeds(gpu) not in _all_speeds():
            return ()
        return self.nodes_of((name, gpu.name, _family(precision), tensor_parallel, pipeline_parallel))


def _near(row: MeasuredRow, lengths: tuple[int, int]) -> bool:
    """Whether the row's lengths are within ``REACH`` of these."""
    inputs, outputs = lengths
    return abs(math.log(row.input_tokens / inputs)) <= REACH and abs(math.log(row.output_tokens / outputs)) <= REACH


def _packaged() -> Iterator[MeasuredRow]:
    """The rows of both packaged data sets, the newest version of an engine first."""
    found = [*catalogue.read_rows("measured_latency.csv"), *catalogue.read_rows("measured_throughput.csv")]
    for row in sorted(found, key=lambda row: _age(row["engine_version"]), reverse=True):
        input_tokens, output_tokens = int(row["input_tokens"]), int(row["output_tokens"])
        stages = int(row.get("pipeline_parallel", 1))
        common = row["model"], row["gpu"], row["precision"], int(row["tensor_parallel"]), stages
        settings = _settings(
            row["engine"],
            row["engine_version"],
            row["precision"] if "concurrency" not in row else None,
            row.get("expert_parallel") == "true",
        )
        if "concurrency" not in row:
            dataset = f"saturated rates, {row['engine']} {row['engine_version']}"
            rate = float(row["requests_per_second"])
            yield MeasuredRow(*common, settings, input_tokens, output_tokens, None, rate, None, None, dataset)
            continue
        concurrency, ttft, tpot = (float(row[name]) for name in ("concurrency", "ttft_seconds", "tpot_seconds"))
        dataset = f"latency by concurrency, {row['engine']} {row['engine_version']} ({row['dataset']})"
        rate = concurrency / (ttft + (output_tokens - 1) * tpot)
        together = PUBLISHED_REQUESTS_PER_CLIENT if row["dataset"] in _STARTED_TOGETHER else math.inf
        yield MeasuredRow(
            *common, settings, input_tokens, output_tokens, concurrency, rate, ttft, tpot, dataset, together
        )


@cache
def _settings(engine: str, version: str, saturated: str | None, expert_parallel: bool) -> EngineSettings:
    """The stated settings of a packaged measurement. ``saturated`` is the precision of a saturated rate; it is None for a rate
    by concurrency, for which neither memory nor KV cache is stated."""
    settings = EngineSettings(
        engine=engine,
        version=version,
        max_num_seqs=SATURATED_MAX_BATCH,
        expert_parallel=expert_parallel,
    )
    if saturated is None:
        return settings
    narrow = saturated in ("fp8", "fp4")
    return settings.model_copy(
        update={
            "kv_cache_dtype": "fp8" if narrow else "auto",
            "gpu_memory_utilization": SATURATED_MEMORY_FRACTION,
        }
    )


def _age(version: str) -> tuple[int, ...]:
    """A sort key by which newer versions come later; versions without a number come first."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("rc")[0])) if version[:1].isdigit() else ()


SHIPPED = MeasuredRows(_packaged)
"""All packaged measurements (``data/README.md``)."""


def _nodes_of(rows: Iterable[MeasuredRow], key: _Key) -> tuple[Node, ...]:
    """The measurements of one replica as corrections. Those with equal settings are computed together."""
    alike: dict[EngineSettings, list[MeasuredRow]] = {}
    for row in rows:
        alike.setdefault(row.settings, []).append(row)
    found: list[Node] = []
    for settings, members in alike.items():
        base = _replica(key, settings)
        inputs = np.array([row.input_tokens for row in members], dtype=float)
        outputs = np.array([row.output_tokens for row in members], dtype=float)
        room = np.maximum(1.0, np.floor([base.batch_room(row.input_tokens, row.output_tokens) for row in members]))
        asked = np.array([math.inf if row.concurrency is None else row.concurrency for row in members])
        # Requests that do not fit wait outside the batch, and this wait counts in their clients' times.
        batch = np.minimum(room, asked)
        points = steady(
            base,
            batch,
            inputs,
            outputs,
            floor_seconds=first_token_seconds(settings, base.model),
            requests_per_client=np.array([row.requests_per_client for row in members]),
        )
        for number, row in enumerate(members):
            predicted = points.at(number)
            timed = row.ttft_seconds is not None and row.ttft_seconds > 0 and batch[number] == asked[number]
            found.append(
                Node(
                    row.input_tokens,
                    row.output_tokens,
                    predicted.batch,
                    math.log(row.input_tokens),
                    math.log(row.output_tokens),
                    math.log(predicted.batch),
                    slot_stretch=predicted.requests_per_second / row.requests_per_second,
                    ttft_stretch=(row.ttft_seconds or 0.0) / predicted.ttft_seconds if timed else None,
                    saturated=row.concurrency is None,
                    engine=row.settings.engine,
                    dataset=row.dataset,
                )
            )
    return tuple(found)


def _replica(key: _Key, settings: EngineSettings) -> KernelSteps:
    model, gpu, precision, tensor_parallel, pipeline_parallel = key
    return step_times(
        model=catalogue.find_model(model),
        precision=precision,
        gpu=catalogue.find_gpu(gpu),
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        settings=settings,
    )


def _family(precision: str) -> str:
    """The precision under which measurements are found. fp16 and bf16 run at the same speed and share their measurements, and
    so do both formats of four bits."""
    name = precision.lower()
    precision_of(name)
    return {"fp16": "bf16", "mxfp4": "fp4"}.get(name, name)


def _speeds(gpu: GpuType) -> GpuType:
    return gpu.model_copy(update={"memory_gb": 0.0, "memory_bytes": None, "aliases": ()})


@cache
def _all_speeds() -> frozenset[GpuType]:
    return frozenset(_speeds(gpu) for gpu in catalogue.packaged_gpus())
