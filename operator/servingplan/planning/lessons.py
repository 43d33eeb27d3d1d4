"""What was learned from replicas of the plan in force, and how it is found again for shapes that may be planned.

A kind of replica is everything that its prediction depends on: model, variant, GPU, sizes, settings, image and arguments, and
the plan's own measurements. Another image or other measurements are another kind, for which nothing of the old one counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from servingplan.api.models_v1alpha1 import Model, Variant
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.learning.learn import Expect, Observed, in_use, learned
from servingplan.learning.tails import percentile_of, together, usual_ratio
from servingplan.model.engine import EngineSettings
from servingplan.model.fleet import LearnedKind, PlanRecord, ReplicaSet, digest
from servingplan.model.llm import ModelCard
from servingplan.model.readings import EngineFigures
from servingplan.model.world import Observation
from servingplan.planning.cards import cards_of
from servingplan.planning.pools import Pool
from servingplan.profiles.catalogue import Catalogue
from servingplan.profiles.estimate import Made
from servingplan.profiles.expected import Mix, Part, expected, mix_of
from servingplan.profiles.learned import Learned
from servingplan.profiles.measured import MeasuredRows

_ANY_BATCH = {
    name: EngineSettings.model_fields[name].default
    for name in ("max_num_seqs", "max_num_batched_tokens", "shutdown_seconds")
}
"""Settings that do not change how long an iteration with a given batch takes."""


@dataclass(frozen=True)
class Lessons:
    """What is known of kinds of replicas."""

    known: Mapping[str, Learned] = field(default_factory=dict)
    """The corrections, by kind."""
    measured: str = ""
    """A digest of the plan's own measurements."""

    def of(self, model: Model, variant: Variant, pool: Pool, made: Made) -> Learned:
        """What counts for a replica inside a node."""
        if not self.known:
            return Learned()
        return self.known.get(kind_of(model, variant, pool, made, self.measured), Learned())


NOTHING = Lessons()


def lessons_of(spec: PlanSpec, world: Observation, record: PlanRecord) -> Lessons:
    """What the record knows, if the spec asks for it."""
    if not spec.planning.learn:
        return NOTHING
    known = {kind: found for kind, item in record.learned.items() if (found := in_use(item))}
    return Lessons(known, measurements(world))


def measurements(world: Observation) -> str:
    """A digest of the plan's own measurements."""
    return digest([item.rows for item in world.profiles])


def kind_of(model: Model, variant: Variant, pool: Pool, made: Made, measured: str) -> str:
    """The name of a kind: what people can read of it, and a digest of the rest."""
    card, precision, gpu, tensor_parallel, pipeline_parallel, settings = made
    rest = digest(
        [
            variant.source,
            pool.spec.engine_image or model.engine.image,
            model.engine.extra_args,
            card.model_dump(mode="json"),
            gpu.model_dump(mode="json"),
            settings.model_copy(update=_ANY_BATCH).model_dump(mode="json"),
            measured,
        ]
    )
    return f"{model.name}/{variant.name}/{precision}/{gpu.name}/{tensor_parallel}x{pipeline_parallel}/{rest[:8]}"


@dataclass(frozen=True)
class _Kind:
    """The replicas of the plan in force, and what is expected of them."""

    name: str
    made: Made
    mix: Mix
    limits: tuple[float, float]
    """The loosest limits on TTFT and TPOT of the classes that are routed there, in seconds."""
    percentile: float
    """The highest percentile of requests that must keep the limits of one of them."""


def look_at_engines(
    record: PlanRecord,
    world: Observation,
    *,
    spec: PlanSpec,
    in_force: PlanSpec,
    pools: tuple[Pool, ...],
    catalogue: Catalogue,
    rows: MeasuredRows,
) -> dict[str, LearnedKind]:
    """What is known of each kind of replica after a look at the engines of the plan in force.

    If several replica sets are of one kind, the one with the most requests is looked at.
    """
    if not spec.planning.learn:
        return {}
    cards = {
        (model.name, variant.name): (model, variant, card) for model, variant, card in cards_of(in_force, catalogue)[0]
    }
    looks: dict[str, tuple[Observed, _Kind]] = {}
    for item in record.fleet.replica_sets if record.fleet is not None else ():
        kind = _kind(item, cards, pools, measurements(world))
        observed = None if kind is None else _observed(item, kind, world)
        if kind is None or observed is None:
            continue
        if kind.name not in looks or observed.requests > looks[kind.name][0].requests:
            looks[kind.name] = observed, kind
    found: dict[str, LearnedKind] = {}
    for name in sorted({*record.learned, *looks}):
        observed, kind = looks.get(name, (None, None))
        expect = _expecting(observed, kind, rows) if observed is not None and kind is not None else _nothing
        after = learned(record.learned.get(name), world.now, observed, expect)
        if after is not None:
            found[name] = after
    return found


def kinds_of_deployments(
    record: PlanRecord, world: Observation, *, in_force: PlanSpec, pools: tuple[Pool, ...], catalogue: Catalogue
) -> dict[str, LearnedKind]:
    """What is known of the replicas of each Deployment of the plan in force. Deployments of which nothing is known are left
    out."""
    if not record.learned or record.fleet is None:
        return {}
    cards = {
        (model.name, variant.name): (model, variant, card) for model, variant, card in cards_of(in_force, catalogue)[0]
    }
    kinds = {item.deployment: _kind(item, cards, pools, measurements(world)) for item in record.fleet.replica_sets}
    return {
        deployment: record.learned[kind.name]
        for deployment, kind in kinds.items()
        if kind is not None and kind.name in record.learned
    }


def _kind(
    item: ReplicaSet,
    cards: Mapping[tuple[str, str], tuple[Model, Variant, ModelCard]],
    pools: tuple[Pool, ...],
    measured: str,
) -> _Kind | None:
    """The kind of a replica set. None if its replicas span nodes, if its record is so old that it has no settings, or if
    the spec or the inventory no longer knows it."""
    pool = next((pool for pool in pools if pool.name == item.pool), None)
    if item.stages or item.settings is None or pool is None or pool.gpu is None or pool.gpu.name != item.gpu:
        return None
    if (item.model, item.variant) not in cards:
        return None
    model, variant, card = cards[item.model, item.variant]
    made = Made(card, variant.precision, pool.gpu, item.tensor_parallel, item.pipeline_parallel, item.settings)
    routed = [(item.planned[each.name], each) for each in model.effective_classes if item.planned.get(each.name)]
    mix = mix_of([Part(rate, each.input_tokens, each.output_tokens) for rate, each in routed])
    if mix is None:
        return None
    slos = [each.slo or model.slo for _, each in routed]
    limits = (
        max(math.inf if slo.ttft_seconds is None else float(slo.ttft_seconds) for slo in slos),
        max(math.inf if slo.tpot_seconds is None else float(slo.tpot_seconds) for slo in slos),
    )
    percentile = float(max(slo.percentile for slo in slos))
    return _Kind(kind_of(model, variant, pool, made, measured), made, mix, limits, percentile)


def _observed(item: ReplicaSet, kind: _Kind, world: Observation) -> Observed | None:
    """What the engines of a replica set measured. None unless exactly its present replicas served for the whole window."""
    seen = world.engines
    if seen is None or not seen.at or seen.window_seconds <= 0:
        return None
    figures = {engine.pod: engine for engine in seen.engines}
    pods = world.pods_of(item.deployment)
    if not pods or any(not pod.ready or not pod.serving or pod.name not in figures for pod in pods):
        return None
    engines = [figures[pod.name] for pod in pods]
    requests = math.fsum(engine.requests for engine in engines)
    lengths = [_mean(engines, name) for name in ("input_tokens", "output_tokens")]
    if lengths[0] is None or lengths[1] is None:
        return None
    ttft = _mean(engines, "ttft_seconds")
    tpot = _mean(engines, "tpot_seconds")
    if tpot is None and kind.made.settings.speculation is None:
        tpot = _mean(engines, "gap_seconds")
    ttft_limit, tpot_limit = kind.limits
    percentiles = {
        name: percentile_of(together([getattr(engine, name) for engine in engines]), kind.percentile)
        for name in ("ttft", "tpot", "prompts")
    }
    return Observed(
        at=seen.at,
        window_seconds=seen.window_seconds,
        replicas=len(pods),
        requests=requests,
        requests_per_second=requests / seen.window_seconds / len(pods),
        input_tokens=max(1.0, lengths[0]),
        output_tokens=max(1.0, lengths[1]),
        ttft_seconds=ttft,
        tpot_seconds=tpot,
        least_waiting=min(engine.least_waiting for engine in engines),
        in_time=ttft is not None and ttft <= ttft_limit and (tpot is None or tpot <= tpot_limit),
        planned_input_tokens=kind.mix.input_tokens,
        planned_output_tokens=kind.mix.output_tokens,
        percentile=kind.percentile,
        ttft_percentile_seconds=percentiles["ttft"],
        tpot_percentile_seconds=percentiles["tpot"],
        prompt_ratio=None if percentiles["prompts"] is None else percentiles["prompts"] / max(1.0, lengths[0]),
        planned_prompt_ratio=usual_ratio(kind.mix.spread.prompt, kind.percentile),
    )


def _mean(engines: list[EngineFigures], name: str) -> float | None:
    """The mean of a figure over requests; None if some engine that served any does not tell it."""
    served = [engine for engine in engines if engine.requests > 0]
    values = [getattr(engine, name) for engine in served]
    if not served or any(value is None for value in values):
        return None
    weights = [engine.requests for engine in served]
    return math.fsum(weight * value for weight, value in zip(weights, values, strict=True)) / math.fsum(weights)


def _expecting(observed: Observed, kind: _Kind, rows: MeasuredRows) -> Expect:
    return lambda: expected(
        kind.made,
        input_tokens=observed.input_tokens,
        output_tokens=observed.output_tokens,
        spread=kind.mix.spread,
        copies=observed.replicas,
        rows=rows,
        percentile=observed.percentile,
    )


def _nothing() -> None:
    return None
