"""Facts and spec as numbers: the planning question, with every shape that is worth asking about.

A pool whose nodes are not all alike to us (foreign pods hold GPUs on some) is asked about in parts, ``NAME`` for whole
nodes and ``NAME~K`` for nodes with K GPUs left, since a replica must fit what is really free on one node.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from servingplan.api.v1alpha1 import Card, Model, PlanSpec, RequestClass, Slo, Variant
from servingplan.errors import InputError
from servingplan.model import question as q
from servingplan.model.fleet import Fleet
from servingplan.model.llm import ModelCard, UnknownPrecisionError, precision_of
from servingplan.planning.pools import Pool
from servingplan.profiles.catalogue import find_model
from servingplan.profiles.estimate import Estimate, Unfit, divisible_shapes, estimate
from servingplan.profiles.queueing import max_utilization

COPIES_IN_TABLE = 4
"""Utilisation is tabled for 1 to 4 copies and held from there: the table's slope falls as 1/sqrt(copies), and each
further row costs the solver a binary per shape."""
SERVICE_SHARE_OF_TTFT = 0.5
"""Part of the TTFT limit that the batch may use up; the rest is for waiting. At 1 the batch would be as large as the
limit allows and no request could wait at all, so the replica could never be kept busy."""
PIPELINE_STAGES = (1, 2, 4, 8)
"""Stages within a node that are asked about: others lie between these and would only multiply near-equal shapes."""
HIGHEST_UTILIZATION = 0.95
"""Also without a TTFT limit: a queue at full load grows without bound."""


@dataclass(frozen=True)
class ShapeFacts:
    """What a shape of the question stands for."""

    model: Model
    variant: Variant
    pool: Pool
    tensor_parallel: int
    pipeline_parallel: int
    estimates: Mapping[str, Estimate]
    """By class of the model."""


@dataclass(frozen=True)
class Part:
    """Nodes of a pool that are alike to us: one pool of the question."""

    name: str
    pool: Pool
    gpus: int
    """Of one node, free for us."""
    min_nodes: int
    max_nodes: int


@dataclass(frozen=True)
class Posed:
    """The question and what its names mean. ``question`` is absent where nothing can be asked."""

    question: q.Question | None
    shapes: Mapping[str, ShapeFacts]
    parts: Mapping[str, Part]
    pruned: Mapping[str, int]
    unfit: tuple[str, ...]
    """Why models fit nowhere, one line per model and class that no GPU of the pools can serve."""
    no_room: tuple[str, ...] = ()
    """Classes that fit a pool's GPUs, but no node is there to take them."""


def class_key(model: str, name: str) -> str:
    """Name of a class in the question."""
    return f"{model}/{name}"


def pose(*, spec: PlanSpec, pools: tuple[Pool, ...], incumbent: Fleet | None) -> tuple[Posed, tuple[InputError, ...]]:
    """The question that the spec and the pools pose, and what is wrong with the spec's models.

    Raises nothing; a price that is unknown must have been refused before: such a pool is left out.
    """
    errors: list[InputError] = []
    parts = {part.name: part for pool in pools if _can_plan(pool) for part in _parts_of(pool)}
    shapes: dict[str, ShapeFacts] = {}
    question_shapes: list[q.Shape] = []
    pruned: Counter[str] = Counter()
    fits: set[str] = set()
    servable: set[str] = set()
    reasons: dict[str, list[Unfit]] = {}
    for model in spec.models:
        for variant in model.effective_variants:
            try:
                card = _card(model, variant)
                precision_of(variant.precision)
            except UnknownPrecisionError as error:
                field = f"spec.models[{model.name}].variants[{variant.name}].precision"
                errors.append(InputError(field, variant.precision, str(error)))
                continue
            except InputError as error:
                errors.append(error)
                continue
            for pool in pools:
                if not _can_plan(pool) or pool.gpu is None:
                    continue
                for tp, pp in divisible_shapes(card, pool.gpus_per_node):
                    if pp not in PIPELINE_STAGES:
                        continue
                    found = _estimates(model, variant, card, pool, tp, pp, reasons, pruned)
                    if not found:
                        continue
                    facts = ShapeFacts(model, variant, pool, tp, pp, found)
                    fits.update(class_key(model.name, name) for name in found)
                    for part in parts.values():
                        if part.pool.name == pool.name and tp * pp <= part.gpus:
                            shape = _shape(facts, part)
                            shapes[shape.name] = facts
                            question_shapes.append(shape)
                            servable.update(shape.requests_per_second)
    classes = tuple(_class(model, item) for model in spec.models for item in model.effective_classes)
    unfit = tuple(_unfit_lines(spec, fits, reasons)) if any(_can_plan(pool) for pool in pools) else ()
    no_room = tuple(
        f"models[{model.name}].classes[{item.name}]"
        for model in spec.models
        for item in model.effective_classes
        if class_key(model.name, item.name) in fits - servable
    )
    posed = Posed(None, shapes, parts, dict(sorted(pruned.items())), unfit, no_room)
    if errors or not parts or (spec.objective == "MaximizeService" and (unfit or no_room)):
        return posed, tuple(errors)
    sunk = sum(_sunk_dollars(pool) for pool in pools if _can_plan(pool) or pool.left)
    question = q.Question(
        objective=spec.objective,
        budget_dollars_per_hour=max(0.0, float(spec.budget.dollars_per_hour) - sunk),
        pools=tuple(_pool(part) for part in parts.values()),
        classes=classes,
        shapes=tuple(question_shapes),
        running=_running(incumbent, shapes, parts),
        survive=tuple(
            q.SurviveRule(event=rule.event, min_priority=rule.min_priority) for rule in spec.resilience.survive
        ),
    )
    return replace(posed, question=question), ()


def _can_plan(pool: Pool) -> bool:
    return not pool.left and pool.problem is None and pool.gpus_per_node > 0 and pool.dollars_per_node_hour is not None


def _parts_of(pool: Pool) -> list[Part]:
    usable = pool.usable_nodes
    if pool.spec.resize is None:
        room = pool.spec.max_nodes if pool.spec.max_nodes is not None else len(usable)
        freest = sorted(usable, key=lambda node: (-node.free_gpus, node.name))[:room]
        counts = Counter(min(node.free_gpus, pool.gpus_per_node) for node in freest)
        return [
            Part(_part_name(pool, gpus), pool, gpus, 0, count) for gpus, count in sorted(counts.items(), reverse=True)
        ]
    taken = Counter(
        node.free_gpus for node in pool.nodes if node.node.usable and 0 < node.free_gpus < pool.gpus_per_node
    )
    shared = sum(taken.values()) + pool.foreign_nodes
    floor, cap = (pool.spec.min_nodes, pool.spec.cap) if pool.sized_by_us else (pool.wanted, pool.wanted)
    whole = Part(pool.name, pool, pool.gpus_per_node, max(0, floor - shared), max(0, cap - shared))
    # Foreign pods keep these nodes whatever we do: they are paid, and what is free on them is ours.
    return [whole, *(Part(_part_name(pool, gpus), pool, gpus, count, count) for gpus, count in sorted(taken.items()))]


def _sunk_dollars(pool: Pool) -> float:
    if pool.spec.resize is None or pool.dollars_per_node_hour is None:
        return 0.0
    nodes = max(pool.foreign_nodes, pool.spec.min_nodes) if pool.left and pool.sized_by_us else pool.foreign_nodes
    return nodes * pool.dollars_per_node_hour


def _part_name(pool: Pool, gpus: int) -> str:
    return pool.name if gpus == pool.gpus_per_node else f"{pool.name}~{gpus}"


def _pool(part: Part) -> q.Pool:
    return q.Pool(
        name=part.name,
        gpus_per_node=part.gpus,
        dollars_per_node_hour=part.pool.dollars_per_node_hour or 0.0,
        min_nodes=min(part.min_nodes, part.max_nodes),
        max_nodes=part.max_nodes,
        capacity_type=part.pool.spec.capacity_type,
        zone=part.pool.spec.zone,
    )


def _class(model: Model, item: RequestClass) -> q.RequestClass:
    return q.RequestClass(
        name=class_key(model.name, item.name),
        model=model.name,
        requests_per_second=float(item.requests_per_second),
        priority=model.priority,
        quality_loss_limit=None if model.max_quality_loss is None else float(model.max_quality_loss),
    )


def _card(model: Model, variant: Variant) -> ModelCard:
    wire = variant.card or model.card
    if wire is not None:
        return _inline_card(model.name if variant.card is None else f"{model.name}/{variant.name}", wire)
    field = f"spec.models[{model.name}].name"
    try:
        return find_model(variant.source.partition("://")[2] if variant.source.startswith("hf://") else model.name)
    except InputError:
        try:
            return find_model(model.name)
        except InputError as error:
            advice = error.advice.replace("declare it inline", "give its card (parameters, layers, heads)")
            raise InputError(field, model.name, advice) from error


def _inline_card(name: str, wire: Card) -> ModelCard:
    try:
        return ModelCard(
            name=name,
            parameters=wire.parameters,
            active_parameters=wire.active_parameters,
            experts=wire.experts,
            experts_per_token=wire.experts_per_token,
            layers=wire.layers,
            hidden_size=wire.hidden_size,
            attention_heads=wire.attention_heads,
            kv_heads=wire.kv_heads,
            head_dim=wire.head_dim,
        )
    except ValueError as error:
        text = str(error).splitlines()
        raise InputError(
            f"spec.models[{name}].card", wire.model_dump(), text[-2 if len(text) > 1 else 0].strip()
        ) from error


def _slo(model: Model, item: RequestClass) -> Slo:
    return item.slo or model.slo


def _estimates(
    model: Model,
    variant: Variant,
    card: ModelCard,
    pool: Pool,
    tensor_parallel: int,
    pipeline_parallel: int,
    reasons: dict[str, list[Unfit]],
    pruned: Counter[str],
) -> dict[str, Estimate]:
    assert pool.gpu is not None
    found: dict[str, Estimate] = {}
    for item in model.effective_classes:
        slo = _slo(model, item)
        answer = estimate(
            model=card,
            precision=variant.precision,
            gpu=pool.gpu,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
            input_tokens=item.input_tokens,
            output_tokens=item.output_tokens,
            context_tokens=model.effective_max_model_len,
            ttft_seconds=None if slo.ttft_seconds is None else SERVICE_SHARE_OF_TTFT * float(slo.ttft_seconds),
            tpot_seconds=None if slo.tpot_seconds is None else float(slo.tpot_seconds),
        )
        if isinstance(answer, Unfit):
            pruned[answer.reason] += 1
            reasons.setdefault(class_key(model.name, item.name), []).append(answer)
        else:
            found[item.name] = answer
    return found


def safe_rate(found: Estimate) -> float:
    """The rate to plan with, requests/s: the low end of the estimate's band.

    Nine in ten true rates lie within the band, so about one in twenty replicas is slower than this. Planning with the
    middle would prefer a shape that nobody has measured as soon as its formula is optimistic.
    """
    return found.requests_per_second * (1.0 - found.error_band)


def _shape(facts: ShapeFacts, part: Part) -> q.Shape:
    model, variant = facts.model, facts.variant
    loss = float(variant.quality_loss)
    return q.Shape(
        name=f"{model.name}/{variant.name}/{part.name}/tp{facts.tensor_parallel}pp{facts.pipeline_parallel}",
        model=model.name,
        gpus={part.name: facts.tensor_parallel * facts.pipeline_parallel},
        requests_per_second={class_key(model.name, name): safe_rate(item) for name, item in facts.estimates.items()},
        quality_loss={class_key(model.name, name): loss for name in facts.estimates} if loss else {},
        max_utilization=_utilization(facts),
    )


def _utilization(facts: ShapeFacts) -> tuple[float, ...]:
    """By copies, the lowest over the classes that the shape can serve: their requests share one queue."""
    tables = []
    for item in facts.model.effective_classes:
        found = facts.estimates.get(item.name)
        if found is None:
            continue
        slo = _slo(facts.model, item)
        if slo.ttft_seconds is None:
            tables.append((HIGHEST_UTILIZATION,) * COPIES_IN_TABLE)
            continue
        tables.append(
            max_utilization(
                percentile=slo.percentile,
                slots_per_copy=found.batch,
                service_seconds=found.slot_seconds,
                wait_budget_seconds=max(0.0, float(slo.ttft_seconds) - found.ttft_seconds),
                max_copies=COPIES_IN_TABLE,
            )
        )
    lowest = tuple(min(HIGHEST_UTILIZATION, *column) for column in zip(*tables, strict=True))
    return tuple(round(value, 6) for value in lowest)


def _running(incumbent: Fleet | None, shapes: Mapping[str, ShapeFacts], parts: Mapping[str, Part]) -> q.Running | None:
    """The fleet that is being applied, so that of two equal plans the nearer one is taken."""
    if incumbent is None:
        return None
    replicas: Counter[str] = Counter()
    for item in incumbent.replica_sets:
        name = f"{item.model}/{item.variant}/{item.pool}/tp{item.tensor_parallel}pp{item.pipeline_parallel}"
        replicas[name] += item.replicas
    nodes = {name: incumbent.nodes.get(name, 0) for name in parts if name in incumbent.nodes}
    return q.Running(nodes=nodes, replicas={name: count for name, count in replicas.items() if name in shapes})


def _unfit_lines(spec: PlanSpec, fits: set[str], reasons: Mapping[str, list[Unfit]]) -> list[str]:
    lines = []
    for model in spec.models:
        for item in model.effective_classes:
            key = class_key(model.name, item.name)
            if key not in fits:
                why = reasons.get(key, [])
                # Shapes are tried from small to large: the last refusal is the one that more GPUs could not mend.
                last = list(dict.fromkeys(refusal.message for refusal in why))[-1:]
                text = last[0] if last else "no pool has its GPUs"
                text += _slo_advice(_slo(model, item), why)
                lines.append(f"models[{model.name}].classes[{item.name}]: nothing can serve it: {text}")
    return lines


def _slo_advice(slo: Slo, refusals: list[Unfit]) -> str:
    """The smallest change of each latency limit that would let some shape serve the class; empty where it is not that."""
    missed = [refusal for refusal in refusals if refusal.reason == "SloUnreachable"]
    if not missed:
        return ""
    ttft = min((r.least_ttft_seconds for r in missed if r.least_ttft_seconds is not None), default=None)
    tpot = min((r.least_tpot_seconds for r in missed if r.least_tpot_seconds is not None), default=None)
    changes = []
    if ttft is not None and slo.ttft_seconds is not None:
        changes.append(f"ttftSeconds {slo.ttft_seconds} to {_rounded_up(ttft / SERVICE_SHARE_OF_TTFT)}")
    if tpot is not None and slo.tpot_seconds is not None:
        changes.append(f"tpotSeconds {slo.tpot_seconds} to {_rounded_up(tpot)}")
    if not changes:
        return "; no change of one latency limit alone does"
    return f"; the smallest change of one limit that would do: {' or '.join(changes)}"


def _rounded_up(seconds: float) -> str:
    """Four digits, never below, as the spec writes decimals."""
    unit = 10.0 ** (math.floor(math.log10(seconds)) - 3)
    return f"{math.ceil(seconds / unit * (1 - 1e-12)) * unit:.9f}".rstrip("0").rstrip(".")
