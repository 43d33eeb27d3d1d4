"""Which shapes a model may take on the pools: every layout of every variant, pruned in steps, with the number that falls at
each.

The names of the steps are stable: they are the keys of ``Posed.pruned`` and of the counts in the plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from servingplan.api.models_v1alpha1 import Model, RequestClass, Slo, Variant
from servingplan.model.engine import EngineSettings
from servingplan.model.fleet import PodNeeds, ReplicaSet
from servingplan.model.hardware import GpuType
from servingplan.model.llm import ModelCard
from servingplan.planning.cold_starts import longest_start, start_key
from servingplan.planning.layouts import (
    Layout,
    connected,
    count_over_nodes,
    count_over_types,
    inside_a_node,
    layout_name,
    over_nodes,
    over_types,
    pairs_of_types,
)
from servingplan.planning.lessons import NOTHING, Lessons
from servingplan.planning.needs import needs_of
from servingplan.planning.pools import Pool
from servingplan.planning.settings import Wish, context_refusal
from servingplan.planning.tuning import Rated, Standing, first_settings, tuned
from servingplan.profiles.chain import estimate_chain
from servingplan.profiles.estimate import Estimate, Made
from servingplan.profiles.fit import Unfit, memory_refusal, shape_refusal
from servingplan.profiles.measured import SHIPPED, MeasuredRows
from servingplan.profiles.pipeline import Stage
from servingplan.profiles.promise import Limits, Requests
from servingplan.profiles.replicas import Replica, rates_of
from servingplan.profiles.roofline import roofline
from servingplan.render.deployment import UNTOLD_STARTUP_SECONDS

STEPS: dict[str, str] = {
    "NoLeaderWorkerSet": "spans nodes, and the cluster serves no LeaderWorkerSets",
    "MixedTypes": "has stages on two GPU types, which no version can apply yet",
    "NotConnected": "spans nodes that are not known to be in one zone",
    "EngineTooOld": "spans nodes, which this version of the engine cannot do without Ray",
    "Memory": "weights and the KV cache of one longest sequence do not fit",
    "ContextAboveModel": "maxModelLen, or every class, is longer than the model was made for",
    "HeadsNotDivisible": "the tensor-parallel size does not divide the heads",
    "BlocksNotDivisible": "the tensor-parallel size cuts through blocks of quantised weights",
    "LayersNotDivisible": "more stages than layers",
    "ContextTooShort": "every class is longer than maxModelLen",
    "SloUnreachable": "too slow for every class, even with one request alone",
    "NoNode": "no node is there, or may be rented, to hold it",
}
"""The steps of pruning in their order, and why a shape falls at each.

The first three look at pools only, so what they prune is counted without being built. One more step, dominance, is counted on
the finished question by ``solve.problem.dominance``.
"""


@dataclass(frozen=True)
class ShapeFacts:
    """What a shape of the question stands for."""

    model: Model
    variant: Variant
    layout: Layout
    estimates: Mapping[str, Estimate]
    """The estimates by class of the model."""
    settings: EngineSettings
    """The settings of the engine."""
    layers: tuple[int, ...] = ()
    """The layers by stage, if the replica spans nodes. The engine splits the layers of other replicas evenly."""
    running: ReplicaSet | None = None
    """The replicas of this shape in the plan in force, whose Deployment the shape keeps; None if there are none."""
    needs: PodNeeds | None = None
    """The needs of its pods, where they are new."""

    @property
    def key(self) -> str:
        """A name that no other shape of the plan has."""
        return f"{self.model.name}/{self.variant.name}/{self.layout.name}{self._tail}"

    def name_on(self, part: str) -> str:
        """The name in the question of a shape inside a node, on one part of its pool."""
        name = layout_name([(part, self.pipeline_parallel)], tensor_parallel=self.tensor_parallel)
        return f"{self.model.name}/{self.variant.name}/{name}{self._tail}"

    @property
    def written_settings(self) -> EngineSettings | None:
        """The settings that are given to the engine as flags. None for replicas from before settings were written as flags."""
        return self.settings if self.running is None else self.running.settings

    @property
    def written_needs(self) -> PodNeeds | None:
        """The needs with which its pods are made. None for replicas from before needs were written."""
        return self.needs if self.running is None else self.running.needs

    @property
    def learned_start_seconds(self) -> float | None:
        """The longest of the last starts of this variant on this pool, in seconds; None if none was seen."""
        return longest_start(self.pool.start_times.get(start_key(self.model.name, self.variant.name, self.pool.name)))

    @property
    def start_limit_seconds(self) -> int:
        """How long a replica may take to start, in seconds."""
        if self.written_needs is None:
            return self.model.engine.startup_seconds or UNTOLD_STARTUP_SECONDS
        return self.written_needs.start_limit_seconds

    @property
    def _tail(self) -> str:
        return settings_name(self.written_settings)

    @property
    def pool(self) -> Pool:
        """The pool of the first stage."""
        return self.layout.legs[0].pool

    @property
    def tensor_parallel(self) -> int:
        """The GPUs of each stage."""
        return self.layout.tensor_parallel

    @property
    def pipeline_parallel(self) -> int:
        """The number of stages."""
        return self.layout.pipeline_parallel


@dataclass
class Pruning:
    """What happened to the candidates: each one is kept, or counted at the step that pruned it."""

    candidates: int = 0
    kept: int = 0
    pruned: Counter[str] = field(default_factory=Counter)
    refusals: dict[str, list[Unfit]] = field(default_factory=dict)
    """The refusals by ``model/class`` for shapes inside a node, from small shapes to large ones."""

    def drop(self, step: str, count: int = 1) -> None:
        """Count shapes that fall at a step."""
        assert step in STEPS, step
        if count:
            self.candidates += count
            self.pruned[step] += count

    def keep(self) -> None:
        """Count a shape that is kept."""
        self.candidates += 1
        self.kept += 1

    def note(self, model: Model, refusals: Mapping[str, Unfit]) -> None:
        """Remember why classes cannot be served."""
        for name, refusal in refusals.items():
            self.refusals.setdefault(f"{model.name}/{name}", []).append(refusal)


def layouts_of(
    pools: Iterable[Pool], *, across_nodes: bool, across_types: bool = False
) -> tuple[list[Layout], Counter[str]]:
    """The layouts that the pools allow for any model, and the number of others by the step at which they fall.

    These steps look at pools only. ``across_types`` adds layouts with stages on two GPU types, which exist only in imagined
    plans.
    """
    known = [pool for pool in pools if pool.gpu is not None]
    found = [layout for pool in known for layout in inside_a_node(pool)]
    pruned: Counter[str] = Counter()
    for pool in known:
        if not across_nodes:
            pruned["NoLeaderWorkerSet"] += count_over_nodes(pool)
        elif not connected(pool, pool):
            pruned["NotConnected"] += count_over_nodes(pool)
        else:
            found += over_nodes(pool)
    for first, second in pairs_of_types(known):
        if not across_nodes:
            pruned["NoLeaderWorkerSet"] += count_over_types(first, second)
        elif not across_types:
            pruned["MixedTypes"] += count_over_types(first, second)
        elif not connected(first, second):
            pruned["NotConnected"] += count_over_types(first, second)
        else:
            found += over_types(first, second)
    return found, pruned


def settings_name(settings: EngineSettings | None) -> str:
    """The part of a shape's name that tells its settings: those in which shapes of one variant may differ."""
    if settings is None:
        return ""
    usual = EngineSettings()
    parts = [f"/seqs{settings.max_num_seqs}"]
    if settings.kv_cache_dtype != usual.kv_cache_dtype:
        parts.append(f"kv-{settings.kv_cache_dtype}")
    if settings.max_num_batched_tokens != max(usual.max_num_batched_tokens, settings.max_num_seqs):
        parts.append(f"tokens{settings.max_num_batched_tokens}")
    if settings.gpu_memory_utilization != usual.gpu_memory_utilization:
        parts.append(f"memory{settings.gpu_memory_utilization:g}")
    return "+".join(parts)


def class_key(model: str, name: str) -> str:
    """The name of a class in the question."""
    return f"{model}/{name}"


def shape_key(item: ReplicaSet) -> str:
    """The key of the shape that these replicas have (``ShapeFacts.key``)."""
    layout = layout_name(item.legs, tensor_parallel=item.tensor_parallel)
    return f"{item.model}/{item.variant}/{layout}{settings_name(item.settings)}"


def shapes_of(
    *,
    model: Model,
    variant: Variant,
    card: ModelCard,
    wish: Wish,
    layouts: Iterable[Layout],
    standing: Mapping[str, Sequence[Standing]],
    min_gain: float,
    pruning: Pruning,
    confidence: float,
    rows: MeasuredRows = SHIPPED,
    lessons: Lessons = NOTHING,
) -> Iterator[ShapeFacts]:
    """The shapes of one variant that may serve some class, if nodes are there: that step is the caller's.

    ``standing``: replicas that run, by name of their layout. ``confidence``: with what probability a true rate is at
    least the planned one.

    Raises:
        UnknownPrecisionError: the variant's precision is not known.
    """
    too_long = context_refusal(model, card, tokens=model.max_model_len or 0)
    asked = [_Asked.of(variant, card, wish, layout) for layout in layouts]
    if too_long is None:
        # Rated together, which is much faster than one by one: the settings that ``tuned`` looks at first.
        rates_of(
            (
                replica
                for item in asked
                if item.refusal is None
                for settings in first_settings(wish, item.gpus, standing.get(item.layout.name, ()))
                if (replica := _replica(model, variant, card, item.layout, settings, lessons)) is not None
            ),
            confidence=confidence,
            rows=rows,
        )
    for layout, gpus, no_room, indivisible in asked:
        refusal = too_long or no_room or indivisible
        if refusal is not None:
            pruning.drop(refusal.reason)
            if indivisible is None and layout.inside_a_node:
                pruning.note(model, {item.name: refusal for item in model.effective_classes})
            continue
        found, refusals = tuned(
            rate=partial(rated, model, variant, card, layout, confidence=confidence, rows=rows, lessons=lessons),
            wish=wish,
            gpus=gpus,
            standing=standing.get(layout.name, ()),
            quality_limited=model.max_quality_loss is not None,
            min_gain=min_gain,
        )
        if layout.inside_a_node:
            pruning.note(model, refusals)
        for item in found:
            facts = ShapeFacts(
                model, variant, layout, item.rated.estimates, item.settings, item.rated.layers, item.running
            )
            weight_bytes = card.weight_bytes(variant.precision)
            yield replace(facts, needs=needs_of(model, layout, weight_bytes, facts.learned_start_seconds))
        if not found:
            reasons = {item.reason for item in refusals.values()}
            pruning.drop(next(step for step in reversed(STEPS) if step in reasons))


class _Asked(NamedTuple):
    """A layout, its GPUs, and why it cannot hold the variant."""

    layout: Layout
    gpus: list[GpuType]
    no_room: Unfit | None
    indivisible: Unfit | None

    @classmethod
    def of(cls, variant: Variant, card: ModelCard, wish: Wish, layout: Layout) -> _Asked:
        gpus = [leg.pool.gpu for leg in layout.legs if leg.pool.gpu is not None]
        roomiest = wish.settings(kv_cache_dtype=wish.widths(gpus)[-1], max_num_seqs=wish.sequences()[0])
        indivisible = shape_refusal(
            card,
            layout.tensor_parallel,
            layout.pipeline_parallel,
            precision=variant.precision,
            expert_parallel=roomiest.expert_parallel,
        )
        return cls(layout, gpus, _memory_refusal(variant, card, layout, roomiest), indivisible)

    @property
    def refusal(self) -> Unfit | None:
        return self.no_room or self.indivisible


def _memory_refusal(variant: Variant, card: ModelCard, layout: Layout, settings: EngineSettings) -> Unfit | None:
    """Whether weights and one sequence of full length fit into all GPUs together. Single stages are checked later."""
    words, usable_bytes, weight_bytes = [], 0.0, 0.0
    for leg in layout.legs:
        assert leg.pool.gpu is not None
        base = roofline(
            model=card,
            precision=variant.precision,
            gpu=leg.pool.gpu,
            tensor_parallel=layout.tensor_parallel,
            pipeline_parallel=leg.stages,
            memory_fraction=settings.gpu_memory_utilization,
            kv_bytes_per_element=settings.kv_bytes_per_element,
        )
        weight_bytes = base.weight_bytes
        usable_bytes += base.kv_room_bytes + base.weight_bytes
        words.append(f"{layout.gpus(leg)} x {leg.pool.gpu.name}")
    return memory_refusal(
        model=card,
        tensor_parallel=layout.tensor_parallel,
        kv_bytes_per_element=settings.kv_bytes_per_element,
        weight_bytes=weight_bytes,
        kv_room_bytes=usable_bytes - weight_bytes,
        context_tokens=settings.max_model_len,
        gpus=" and ".join(words),
    )


def rated(
    model: Model,
    variant: Variant,
    card: ModelCard,
    layout: Layout,
    settings: EngineSettings,
    *,
    confidence: float,
    rows: MeasuredRows = SHIPPED,
    lessons: Lessons = NOTHING,
) -> Rated:
    """The rates of the classes that a layout can serve with these settings, and why it cannot serve the others."""
    too_long = _too_long(model, card)
    answers: Mapping[str, Estimate | Unfit]
    layers: tuple[int, ...] = ()
    replica = _replica(model, variant, card, layout, settings, lessons)
    if replica is not None:
        answers = rates_of([replica], confidence=confidence, rows=rows)[replica]
    else:
        answers, layers = _estimate_across(variant, card, layout, settings, _requests(model, too_long), confidence)
    found = {name: item for name, item in answers.items() if isinstance(item, Estimate)}
    refused = {name: item for name, item in answers.items() if isinstance(item, Unfit)}
    return Rated(found, {**too_long, **refused}, layers)


def _too_long(model: Model, card: ModelCard) -> dict[str, Unfit]:
    """The classes that are longer than the model's context."""
    return {
        item.name: refusal
        for item in model.effective_classes
        if (refusal := context_refusal(model, card, tokens=item.input_tokens + item.output_tokens)) is not None
    }


def _replica(
    model: Model, variant: Variant, card: ModelCard, layout: Layout, settings: EngineSettings, lessons: Lessons
) -> Replica | None:
    """The replica that the profiles are asked about; None if it spans nodes."""
    pool = layout.legs[0].pool
    if pool.gpu is None or not layout.inside_a_node:
        return None
    made = Made(card, variant.precision, pool.gpu, layout.tensor_parallel, layout.pipeline_parallel, settings)
    return Replica(made, _requests(model, _too_long(model, card)), lessons.of(model, variant, pool, made))


def _estimate_across(
    variant: Variant,
    card: ModelCard,
    layout: Layout,
    settings: EngineSettings,
    asked: tuple[Requests, ...],
    confidence: float,
) -> tuple[Mapping[str, Estimate | Unfit], tuple[int, ...]]:
    if not asked:
        return {}, ()
    chain = estimate_chain(
        model=card,
        precision=variant.precision,
        stages=tuple(Stage(pool.gpu, node) for pool, node in layout.node_of_each_stage() if pool.gpu is not None),
        tensor_parallel=layout.tensor_parallel,
        settings=settings,
        classes=asked,
        confidence=confidence,
    )
    return chain.by_class, chain.layers


def _requests(model: Model, left_out: Collection[str]) -> tuple[Requests, ...]:
    """The classes of a model without those that are left out, in the form of the profiles."""
    return tuple(
        Requests(
            name=item.name,
            input_tokens=item.input_tokens,
            output_tokens=item.output_tokens,
            limits=_limits(slo_of(model, item)),
        )
        for item in model.effective_classes
        if item.name not in left_out
    )


def _limits(slo: Slo) -> Limits:
    return Limits(
        ttft_seconds=None if slo.ttft_seconds is None else float(slo.ttft_seconds),
        tpot_seconds=None if slo.tpot_seconds is None else float(slo.tpot_seconds),
        percentile=float(slo.percentile),
    )


def slo_of(model: Model, item: RequestClass) -> Slo:
    """The class's own limits, else its model's."""
    return item.slo or model.slo


def smallest_across_nodes(
    model: Model,
    variants: Iterable[tuple[Variant, ModelCard, Wish]],
    pools: Iterable[Pool],
    *,
    name: str,
    confidence: float,
) -> Layout | None:
    """The layout over the fewest whole nodes of one pool that could serve a class, whether or not its nodes are connected;
    for advice."""
    layouts = [layout for pool in pools if pool.gpu is not None for layout in over_nodes(pool)]
    layouts.sort(key=lambda layout: (layout.nodes(layout.legs[0]), layout.pipeline_parallel, layout.name))
    variants = list(variants)
    for layout in layouts:
        for variant, card, wish in variants:
            width = wish.widths([leg.pool.gpu for leg in layout.legs if leg.pool.gpu is not None])[-1]
            settings = wish.settings(kv_cache_dtype=width, max_num_seqs=wish.sequences()[-1])
            if _memory_refusal(variant, card, layout, settings) is None:
                found = rated(model, variant, card, layout, settings, confidence=confidence)
                if name in found.estimates:
                    return layout
    return None
