"""Facts and spec as numbers: the planning question, with every shape that is worth asking about.

A pool whose nodes are not all alike to us (foreign pods hold GPUs on some) is asked about in parts, ``NAME`` for whole
nodes and ``NAME~K`` for nodes with K GPUs left, since a replica must fit what is really free on one node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from servingplan.api.models_v1alpha1 import Model, RequestClass, Variant
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import InputError
from servingplan.model import question as q
from servingplan.model.fleet import Fleet, ReplicaSet
from servingplan.model.llm import WIDE_BYTES, ModelCard
from servingplan.planning.cards import cards_of
from servingplan.planning.layouts import layout_name
from servingplan.planning.lessons import NOTHING, Lessons
from servingplan.planning.pools import Pool
from servingplan.planning.settings import Wish, spans_nodes, wished
from servingplan.planning.shapes import (
    Pruning,
    ShapeFacts,
    class_key,
    layouts_of,
    shape_key,
    shapes_of,
)
from servingplan.planning.standing import standing_replicas
from servingplan.planning.start_times import up_share
from servingplan.planning.unfit import unfit_lines
from servingplan.profiles.catalogue import Catalogue
from servingplan.profiles.measured import SHIPPED, MeasuredRows


@dataclass(frozen=True)
class Part:
    """Nodes of a pool that are alike for this plan: one pool of the question."""

    name: str
    pool: Pool
    gpus: int
    """The GPUs of one node that this plan can use."""
    min_nodes: int
    max_nodes: int


@dataclass(frozen=True)
class Posed:
    """The question and what its names mean. ``question`` is None if nothing can be asked."""

    question: q.Question | None
    shapes: Mapping[str, ShapeFacts]
    parts: Mapping[str, Part]
    candidates: int
    """The number of shapes that were considered. Those in ``shapes`` were kept, and the others were pruned."""
    pruned: Mapping[str, int]
    """The number of shapes that were pruned at each step of ``planning.shapes.STEPS``."""
    unfit: tuple[str, ...]
    """Why classes fit nowhere: one line for each class that no GPU of the pools can serve."""
    no_room: tuple[str, ...] = ()
    """Classes that fit the GPUs of a pool, but there is no node for them."""
    sunk_dollars_per_hour: float = 0.0
    """The part of the spec's budget that the question leaves out, because the plan cannot change what it is spent on."""

    def facts_of(self, item: ReplicaSet) -> ShapeFacts | None:
        """The facts of the shape that a replica set has; None if it is no longer offered."""
        for facts in self.shapes.values():
            same = (facts.model.name, facts.variant.name, facts.tensor_parallel) == (
                item.model,
                item.variant,
                item.tensor_parallel,
            )
            legs = [(leg.pool.name, leg.stages) for leg in facts.layout.legs]
            if same and legs == item.legs and facts.written_settings == item.settings:
                return facts
        return None


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
    that rates are estimated with, ``catalogue`` the models that are known (None: the shipped ones), ``lessons`` what was
    learned in service. Raises nothing. A pool without a known price is left out; the caller refuses it before.
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
    unfit = tuple(unfit_lines(spec, fits, pruning, cards, usable, across_nodes=across_nodes)) if usable else ()
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
    asks = any(item.requests_per_second > 0 for item in classes)
    question = q.Question(
        objective=spec.objective if asks else "MinimizeCost",  # a mix of nothing has no multiple: nothing serves it
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
    """The question without the shapes of these names; None if no shape is left."""
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
    """Every variant with its card and with what the spec says of its engines, and what is wrong with the other variants."""
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
    if pool.left or pool.behind:
        return False
    return pool.problem is None and pool.gpus_per_node > 0 and pool.dollars_per_node_hour is not None


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
        node.free_gpus
        for node in pool.nodes
        if node.node.usable and 0 < node.free_gpus < pool.gpus_per_node and not node.held_by_others
    )
    shared = sum(taken.values()) + pool.foreign_nodes
    floor, cap = (pool.least_nodes, pool.most_nodes) if pool.sized_by_us else (pool.wanted, pool.wanted)
    whole = Part(pool.name, pool, pool.gpus_per_node, max(0, floor - shared), max(0, cap - shared))
    # Foreign pods keep these nodes whatever we do: they are paid, and what is free on them is ours.
    return [whole, *(Part(_part_name(pool, gpus), pool, gpus, count, count) for gpus, count in sorted(taken.items()))]


def _within_quota(pool: Pool, parts: list[Part]) -> list[Part]:
    """The nodes of a pool for which the plan's queue has quota, those with most GPUs first. The last one has as many GPUs
    as are left of the quota."""
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
    """What pools may hold together, as far as it is less than what each of them may hold. Where some pools have no nodes now,
    several limits may be of the same others: the least one counts."""
    least: dict[tuple[str, ...], int] = {}
    for shared in dict.fromkeys(item for pool in pools for item in pool.shared_quotas):
        drawing = [part for part in parts if part.pool.name in shared.pools]
        if sum(part.max_nodes * part.gpus for part in drawing) > shared.gpus:
            names = tuple(part.name for part in drawing)
            least[names] = min(shared.gpus, least.get(names, shared.gpus))
    pool_of = {part.name: part.pool.name for part in parts}
    for names, gpus in least.items():
        yield q.Quota(name="+".join(sorted({pool_of[name] for name in names})), pools=names, max_gpus=gpus)


def _dollars_beyond_quota(pool: Pool, parts: Iterable[Part]) -> float:
    """$/h of nodes that are paid for in any case and for which the plan's queue has no quota."""
    if pool.quota_gpus is None or pool.spec.resize is None:
        return 0.0
    paid = sum(part.min_nodes for part in _parts_of(pool))
    asked_about = sum(part.min_nodes for part in parts if part.pool is pool)
    return (paid - asked_about) * (pool.dollars_per_node_hour or 0.0)


def _sunk_dollars(pool: Pool) -> float:
    """$/h that the plan cannot change. If the size of a pool goes in steps of several nodes, it may cost up to a step less
    one node more than planned, and this much is kept back."""
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
    """The shape on every part of its pool that has room for one replica. A shape that spans nodes needs whole nodes."""
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


def utilization(facts: ShapeFacts) -> tuple[float, ...]:
    """The part of the rates at which the limits hold, by copies: the lowest over the classes that the shape can serve,
    because their requests share one queue."""
    tables = [found.utilization for found in facts.estimates.values()]
    longest = max(map(len, tables))
    return tuple(min(table[min(copies, len(table) - 1)] for table in tables) for copies in range(longest))


def _running(incumbent: Fleet | None, shapes: Mapping[str, ShapeFacts], parts: Mapping[str, Part]) -> q.Running | None:
    """The fleet that is being applied. Of two equal plans, the one that is nearer to it is taken."""
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
    """The shape of running replicas: with their own settings, else on their layout with other settings; None if there is
    none."""
    layout = f"{item.model}/{item.variant}/{layout_name(item.legs, tensor_parallel=item.tensor_parallel)}"
    exact = shape_key(item)
    if exact in shapes:
        return exact
    return next((name for name in shapes if name.startswith(f"{layout}/")), None)
