"""Facts and spec as numbers: the planning question, with every shape that is worth asking about.

A pool whose nodes are not all alike to us (foreign pods hold GPUs on some) is asked about in parts, ``NAME`` for whole
nodes and ``NAME~K`` for nodes with K GPUs left, since a replica must fit what is really free on one node.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from servingplan.api.v1alpha1 import Engine, Model, PlanSpec, RequestClass, Slo, Variant
from servingplan.errors import InputError
from servingplan.model import question as q
from servingplan.model.fleet import Fleet, ReplicaSet
from servingplan.model.llm import WIDE_BYTES, ModelCard
from servingplan.planning.cards import cards_of
from servingplan.planning.layouts import Layout, connected, layout_name
from servingplan.planning.lessons import NOTHING, Lessons
from servingplan.planning.pools import Pool
from servingplan.planning.settings import SPANS_NODES_SINCE, Wish, spans_nodes, version_of, wished
from servingplan.planning.shapes import (
    Pruning,
    ShapeFacts,
    layouts_of,
    shape_key,
    shapes_of,
    slo_of,
    smallest_across_nodes,
)
from servingplan.planning.standing import standing_replicas
from servingplan.profiles.catalogue import Catalogue
from servingplan.profiles.fit import Unfit
from servingplan.profiles.measured import SHIPPED, MeasuredRows

BOOT_SECONDS = 300.0
"""The boot of a node that takes the place of a lost one, where a plan counts with losses. A machine with eight GPUs takes some
minutes; the clouds state no time."""


@dataclass(frozen=True)
class Part:
    """Nodes of a pool that are alike to us: one pool of the question."""

    name: str
    pool: Pool
    gpus: int
    """The GPUs of one node that are free for us."""
    min_nodes: int
    max_nodes: int


@dataclass(frozen=True)
class Posed:
    """The question and what its names mean. ``question`` is absent where nothing can be asked."""

    question: q.Question | None
    shapes: Mapping[str, ShapeFacts]
    parts: Mapping[str, Part]
    candidates: int
    """Shapes that were looked at; so many were kept as ``shapes`` has distinct facts, and the rest was pruned."""
    pruned: Mapping[str, int]
    """Shapes by the step of ``planning.shapes.STEPS`` at which they fell."""
    unfit: tuple[str, ...]
    """Why models fit nowhere, one line per model and class that no GPU of the pools can serve."""
    no_room: tuple[str, ...] = ()
    """Classes that fit a pool's GPUs, but no node is there to take them."""
    sunk_dollars_per_hour: float = 0.0
    """Part of the spec's budget that the question leaves out: the plan has no say in it."""


def class_key(model: str, name: str) -> str:
    """Name of a class in the question."""
    return f"{model}/{name}"


def pose(
    *,
    spec: PlanSpec,
    pools: tuple[Pool, ...],
    incumbent: Fleet | None,
    in_force: PlanSpec | None = None,
    across_nodes: bool = False,
    across_types: bool = False,
    rows: MeasuredRows = SHIPPED,
    catalogue: Catalogue | None = None,
    lessons: Lessons = NOTHING,
) -> tuple[Posed, tuple[InputError, ...]]:
    """The question that the spec and the pools pose, and what is wrong with the spec's models.

    ``in_force`` is the spec behind ``incumbent``; None: the same. ``across_nodes`` allows replicas over several nodes,
    which need the LeaderWorkerSet API, and ``across_types`` such with stages on two GPU types. ``rows`` are the measurements
    that rates are estimated with, ``catalogue`` the models that are known (None: the shipped ones), ``lessons`` what the
    fleet has taught. Raises nothing; a price that is unknown must have been refused before: such a pool is left out.
    """
    usable = tuple(pool for pool in pools if _can_plan(pool))
    parts = {part.name: part for pool in usable for part in _within_quota(pool, _parts_of(pool))}
    cards, errors = _wishes(spec, catalogue)
    layouts, unbuilt = layouts_of(usable, across_nodes=across_nodes, across_types=across_types)
    inside = [layout for layout in layouts if layout.inside_a_node]
    shapes: dict[str, ShapeFacts] = {}
    question_shapes: list[q.Shape] = []
    pruning = Pruning()
    fits: set[str] = set()
    for model, variant, card, wish in cards:
        for step, count in unbuilt.items():
            pruning.drop(step, count)
        able = layouts if spans_nodes(model.engine) else inside
        pruning.drop("EngineTooOld", len(layouts) - len(able))
        standing = standing_replicas(
            fleet=incumbent,
            in_force=in_force,
            spec=spec,
            model=model,
            variant=variant,
            card=card,
            wish=wish,
        )
        for facts in shapes_of(
            model=model,
            variant=variant,
            card=card,
            wish=wish,
            layouts=able,
            standing=standing,
            min_gain=float(spec.change.min_gain),
            pruning=pruning,
            confidence=float(spec.planning.confidence),
            rows=rows,
            lessons=lessons,
        ):
            fits.update(class_key(model.name, name) for name in facts.estimates)
            found = _on_parts(facts, parts)
            if not found:
                pruning.drop("NoNode")
                continue
            pruning.keep()
            question_shapes += found
            shapes.update((shape.name, facts) for shape in found)
    servable = {name for shape in question_shapes for name in shape.requests_per_second}
    classes = tuple(_class(model, item) for model in spec.models for item in model.effective_classes)
    unfit = tuple(_unfit_lines(spec, fits, pruning, cards, usable, across_nodes=across_nodes)) if usable else ()
    no_room = tuple(
        f"models[{model.name}].classes[{item.name}]"
        for model in spec.models
        for item in model.effective_classes
        if class_key(model.name, item.name) in fits - servable
    )
    posed = Posed(None, shapes, parts, pruning.candidates, dict(sorted(pruning.pruned.items())), unfit, no_room)
    if errors or not parts or (spec.objective == "MaximizeService" and (unfit or no_room)):
        return posed, tuple(errors)
    sunk = sum(_sunk_dollars(pool) for pool in pools if _can_plan(pool) or pool.left)
    sunk += sum(_dollars_beyond_quota(pool, parts.values()) for pool in usable)
    question = q.Question(
        objective=spec.objective,
        budget_dollars_per_hour=max(0.0, float(spec.budget.dollars_per_hour) - sunk),
        pools=tuple(_pool(part) for part in parts.values()),
        classes=classes,
        shapes=tuple(question_shapes),
        quotas=tuple(_quotas(usable, parts.values())),
        running=_running(incumbent, shapes, parts),
        survive=tuple(
            q.SurviveRule(event=rule.event, min_priority=rule.min_priority) for rule in spec.resilience.survive
        ),
    )
    return replace(posed, question=question, sunk_dollars_per_hour=sunk), ()


def without(posed: Posed, shapes: Collection[str]) -> Posed:
    """The question without some shapes, by name; none where no shape is left."""
    if posed.question is None or not shapes:
        return posed
    left = tuple(shape for shape in posed.question.shapes if shape.name not in shapes)
    running = posed.question.running
    if running is not None:
        replicas = {name: count for name, count in running.replicas.items() if name not in shapes}
        running = running.model_copy(update={"replicas": replicas})
    question = posed.question.model_copy(update={"shapes": left, "running": running})
    kept = {name: facts for name, facts in posed.shapes.items() if name not in shapes}
    return replace(posed, question=question, shapes=kept)


def _wishes(
    spec: PlanSpec, catalogue: Catalogue | None
) -> tuple[list[tuple[Model, Variant, ModelCard, Wish]], list[InputError]]:
    """Every variant with its card and what the spec says of its engines, and what is wrong with the others."""
    cards, errors = cards_of(spec, catalogue)
    found = []
    for model, variant, card in cards:
        try:
            wish = wished(model=model, variant=variant, card=card, drain_seconds=spec.change.drain_seconds)
        except InputError as error:
            if str(error) not in map(str, errors):
                errors.append(error)
        else:
            found.append((model, variant, card, wish))
    return found, errors


def _can_plan(pool: Pool) -> bool:
    return not pool.left and pool.problem is None and pool.gpus_per_node > 0 and pool.dollars_per_node_hour is not None


def _parts_of(pool: Pool) -> list[Part]:
    usable = pool.usable_nodes
    if pool.spec.resize is not None and pool.contradiction is not None:
        counts = Counter(min(node.free_gpus, pool.gpus_per_node) for node in usable)
        return [
            Part(_part_name(pool, gpus), pool, gpus, count, count)
            for gpus, count in sorted(counts.items(), reverse=True)
        ]
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
    floor, cap = (pool.least_nodes, pool.most_nodes) if pool.sized_by_us else (pool.wanted, pool.wanted)
    whole = Part(pool.name, pool, pool.gpus_per_node, max(0, floor - shared), max(0, cap - shared))
    # Foreign pods keep these nodes whatever we do: they are paid, and what is free on them is ours.
    return [whole, *(Part(_part_name(pool, gpus), pool, gpus, count, count) for gpus, count in sorted(taken.items()))]


def _within_quota(pool: Pool, parts: list[Part]) -> list[Part]:
    """The nodes of a pool that the plan's queue has quota for, those with most GPUs first; of the last one as many GPUs as are
    left of it."""
    if pool.quota_gpus is None:
        return parts
    found: list[Part] = []
    left = pool.quota_gpus
    for part in sorted(parts, key=lambda part: -part.gpus):
        whole = min(part.max_nodes, left // part.gpus)
        left -= whole * part.gpus
        found.append(replace(part, max_nodes=whole, min_nodes=min(part.min_nodes, whole)))
        rest = _part_name(pool, left)
        if whole < part.max_nodes and left and rest not in {item.name for item in parts}:
            found.append(Part(rest, pool, left, min(1, max(0, part.min_nodes - whole)), 1))
            left = 0
    return found


def _quotas(pools: Iterable[Pool], parts: Collection[Part]) -> Iterable[q.Quota]:
    """What pools may hold together, as far as it is less than what each of them may hold."""
    for shared in dict.fromkeys(item for pool in pools for item in pool.shared_quotas):
        drawing = [part for part in parts if part.pool.name in shared.pools]
        if sum(part.max_nodes * part.gpus for part in drawing) > shared.gpus:
            name = "+".join(sorted({part.pool.name for part in drawing}))
            yield q.Quota(name=name, pools=tuple(part.name for part in drawing), max_gpus=shared.gpus)


def _dollars_beyond_quota(pool: Pool, parts: Iterable[Part]) -> float:
    """$/h of nodes that are paid in any case and that the plan's queue has no quota for."""
    if pool.quota_gpus is None or pool.spec.resize is None:
        return 0.0
    paid = sum(part.min_nodes for part in _parts_of(pool))
    asked_about = sum(part.min_nodes for part in parts if part.pool is pool)
    return (paid - asked_about) * (pool.dollars_per_node_hour or 0.0)


def _sunk_dollars(pool: Pool) -> float:
    """$/h that the plan has no say in. A pool whose size goes in steps of several nodes may cost up to a step less one more
    than the nodes that are planned: so much is kept back."""
    if pool.spec.resize is None or pool.dollars_per_node_hour is None:
        return 0.0
    if pool.contradiction is not None:
        return pool.spend - len(pool.usable_nodes) * pool.dollars_per_node_hour
    nodes = max(pool.foreign_nodes, pool.least_nodes) if pool.left and pool.sized_by_us else pool.foreign_nodes
    rounding = pool.step - 1 if pool.sized_by_us and not pool.left else 0
    return (nodes + rounding) * pool.dollars_per_node_hour


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


def _on_parts(facts: ShapeFacts, parts: Mapping[str, Part]) -> list[q.Shape]:
    """The shape on every part of its pool that has room for one replica; one that spans nodes needs whole nodes."""
    layout = facts.layout
    if layout.inside_a_node:
        gpus = layout.gpus(layout.legs[0])
        rooms = (part for part in parts.values() if part.pool.name == facts.pool.name and gpus <= part.gpus)
        return [_shape(facts, facts.name_on(part.name), {part.name: gpus}) for part in rooms]
    whole = [parts.get(leg.pool.name) for leg in layout.legs]
    if any(part is None or part.max_nodes < layout.nodes(leg) for part, leg in zip(whole, layout.legs, strict=True)):
        return []
    return [_shape(facts, facts.key, {leg.pool.name: layout.gpus(leg) for leg in layout.legs})]


def _shape(facts: ShapeFacts, name: str, gpus: Mapping[str, int]) -> q.Shape:
    loss = float(facts.variant.quality_loss)
    if facts.settings.kv_bytes_per_element < WIDE_BYTES:
        loss += float(facts.variant.kv_cache_quality_loss or 0)
    keys = {class_key(facts.model.name, name): found for name, found in facts.estimates.items()}
    up = up_share(facts)
    return q.Shape(
        name=name,
        model=facts.model.name,
        gpus=gpus,
        requests_per_second={key: found.planned_requests_per_second * up for key, found in keys.items()},
        quality_loss=dict.fromkeys(keys, loss) if loss else {},
        max_utilization=utilization(facts),
    )


def up_share(facts: ShapeFacts) -> float:
    """The part of the time in which a replica serves, if the provider takes nodes of its pools away now and then.

    It is up for 1 / (losses an hour) hours in the mean, then down for a boot and a start-up: the availability of an alternating
    renewal process, up / (up + down), whatever the distributions (Ross, Introduction to Probability Models, section 7.5.1). A
    replica over several nodes is lost with any of them. The start-up takes what the spec declares, else the longest of the last
    starts, else what is allowed.
    """
    losses_per_hour = math.fsum(
        facts.layout.nodes(leg) * float(leg.pool.spec.interruptions_per_node_hour) for leg in facts.layout.legs
    )
    start_seconds = facts.learned_start_seconds
    if start_seconds is None or facts.model.engine.startup_seconds is not None:
        start_seconds = facts.start_limit_seconds
    hours_down = (BOOT_SECONDS + _whole_minutes(start_seconds)) / 3600.0
    return 1.0 / (1.0 + losses_per_hour * hours_down)


def _whole_minutes(seconds: float) -> float:
    """Rounded up: a start that took a few seconds longer is to change no rate, and with it the question."""
    return math.ceil(seconds / 60.0) * 60.0


def with_start_ups(question: q.Question, shapes: Mapping[str, ShapeFacts]) -> q.Question:
    """The question with what a new copy of each shape takes from renting its node to the first request: a boot of the pool's
    node, and a start of the variant there, each the longest that was seen there, else on any pool.

    It is no part of what is asked, only of whether the answer is worth the moves: nothing is planned anew because a start took
    longer. What was never seen takes no time: a guess is no reason to stay.
    """
    starts: dict[tuple[str, str], float] = {}
    for facts in shapes.values():
        key = (facts.model.name, facts.variant.name)
        starts[key] = max(starts.get(key, 0.0), facts.learned_start_seconds or 0.0)
    boots = {facts.pool.name: max(facts.pool.boot_seconds, default=0.0) for facts in shapes.values()}
    longest_boot = max(boots.values(), default=0.0)

    def seconds(facts: ShapeFacts) -> float:
        start = facts.learned_start_seconds or starts[facts.model.name, facts.variant.name]
        return start + (0.0 if facts.pool.spec.resize is None else boots[facts.pool.name] or longest_boot)

    found = {name: seconds(facts) for name, facts in shapes.items()}
    if not any(found.values()):
        return question
    timed = tuple(shape.model_copy(update={"startup_seconds": found[shape.name]}) for shape in question.shapes)
    return question.model_copy(update={"shapes": timed})


def utilization(facts: ShapeFacts) -> tuple[float, ...]:
    """Part of the rates at which the limits hold, by copies: the lowest over the classes that the shape can serve, since
    their requests share one queue."""
    tables = [found.utilization for found in facts.estimates.values()]
    longest = max(map(len, tables))
    return tuple(min(table[min(copies, len(table) - 1)] for table in tables) for copies in range(longest))


def _running(incumbent: Fleet | None, shapes: Mapping[str, ShapeFacts], parts: Mapping[str, Part]) -> q.Running | None:
    """The fleet that is being applied, so that of two equal plans the nearer one is taken."""
    if incumbent is None:
        return None
    replicas: Counter[str] = Counter()
    for item in incumbent.replica_sets:
        name = _shape_of(item, shapes)
        if name is not None:
            replicas[name] += item.replicas
    nodes = {name: incumbent.nodes.get(name, 0) for name in parts if name in incumbent.nodes}
    return q.Running(nodes=nodes, replicas=dict(replicas))


def _shape_of(item: ReplicaSet, shapes: Mapping[str, ShapeFacts]) -> str | None:
    """The shape of replicas that run: with their settings, else on their layout with others; None where there is none."""
    layout = f"{item.model}/{item.variant}/{layout_name(item.legs, tensor_parallel=item.tensor_parallel)}"
    exact = shape_key(item)
    if exact in shapes:
        return exact
    return next((name for name in shapes if name.startswith(f"{layout}/")), None)


def _unfit_lines(
    spec: PlanSpec,
    fits: set[str],
    pruning: Pruning,
    cards: Iterable[tuple[Model, Variant, ModelCard, Wish]],
    pools: tuple[Pool, ...],
    *,
    across_nodes: bool,
) -> list[str]:
    lines = []
    for model in spec.models:
        variants = [(variant, card, wish) for owner, variant, card, wish in cards if owner is model]
        for item in model.effective_classes:
            key = class_key(model.name, item.name)
            if key not in fits:
                why = pruning.refusals.get(key, [])
                # Shapes are tried from small to large: the last refusal is the one that more GPUs could not mend.
                last = list(dict.fromkeys(refusal.message for refusal in why))[-1:]
                text = (last[0] if last else "no pool has its GPUs") + _slo_advice(slo_of(model, item), why)
                across = None
                if not (
                    why and why[-1].reason in ("ContextTooShort", "ContextAboveModel")
                ):  # which more GPUs cannot mend
                    across = smallest_across_nodes(
                        model, variants, pools, name=item.name, confidence=float(spec.planning.confidence)
                    )
                hint = "" if across is None else f"; {_across_advice(across, model.engine, across_nodes=across_nodes)}"
                lines.append(f"models[{model.name}].classes[{item.name}]: nothing can serve it: {text}{hint}")
    return lines


def _across_advice(layout: Layout, engine: Engine, *, across_nodes: bool) -> str:
    """What it takes that a replica over several nodes is planned."""
    leg = layout.legs[0]
    pool = leg.pool
    lacks = []
    if not connected(pool, pool):
        lacks.append(f"spec.nodePools[{pool.name}].zone, since a replica stays in one zone")
    if not across_nodes:
        lacks.append(
            "LeaderWorkerSets: install their controller (leaderworkerset.x-k8s.io/v1), and let the operator write them (the "
            "chart's value leaderWorkerSets)"
        )
    if not spans_nodes(engine):
        first = ".".join(map(str, SPANS_NODES_SINCE))
        lacks.append(
            f"vLLM {first} or newer, which spans nodes without Ray; the engine's version is {version_of(engine) or 'unknown'} "
            "(engine.version, else the tag of engine.image)"
        )
    return (
        f"it would fit over {layout.nodes(leg)} nodes of pool {pool.name} (TP{layout.tensor_parallel}, "
        f"PP{layout.pipeline_parallel})" + (f" with {' and '.join(lacks)}" if lacks else "")
    )


def _slo_advice(slo: Slo, refusals: list[Unfit]) -> str:
    """The smallest change of each latency limit that would let some shape serve the class; empty where it is not that."""
    missed = [refusal for refusal in refusals if refusal.reason == "SloUnreachable"]
    if not missed:
        return ""
    ttft = min((r.least_ttft_seconds for r in missed if r.least_ttft_seconds is not None), default=None)
    tpot = min((r.least_tpot_seconds for r in missed if r.least_tpot_seconds is not None), default=None)
    changes = []
    if ttft is not None and slo.ttft_seconds is not None:
        changes.append(f"ttftSeconds {slo.ttft_seconds} to {_rounded_up(ttft)}")
    if tpot is not None and slo.tpot_seconds is not None:
        changes.append(f"tpotSeconds {slo.tpot_seconds} to {_rounded_up(tpot)}")
    if not changes:
        return "; no change of one latency limit alone does"
    return f"; the smallest change of one limit that would do: {' or '.join(changes)}"


def _rounded_up(seconds: float) -> str:
    """Four digits, never below, as the spec writes decimals."""
    unit = 10.0 ** (math.floor(math.log10(seconds)) - 3)
    return f"{math.ceil(seconds / unit * (1 - 1e-12)) * unit:.9f}".rstrip("0").rstrip(".")
