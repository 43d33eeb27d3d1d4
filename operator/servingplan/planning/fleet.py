"""Turns the solver's answer into a fleet: replica sets on pools, with the Deployments that hold them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.answer import Answer, Placement
from servingplan.model.fleet import ClassService, Fleet, NodeGroup, PipelineStage, ReplicaSet
from servingplan.planning.pools import CENT, Pool
from servingplan.planning.question import Posed, utilization
from servingplan.planning.shapes import ShapeFacts, class_key

_NOBODY = -(2**31)
"""The priority of a node without replicas."""
_DIGITS = 9
"""The decimals to which rates are rounded: smaller differences would make equal plans look different."""


def fleet_of(*, spec: PlanSpec, posed: Posed, answer: Answer, name_of: Callable[[ShapeFacts], str]) -> Fleet:
    """The fleet that an answer means. ``name_of`` gives the Deployment of a shape.

    Shapes that differ only in the part of a pool that they run on are one Deployment.
    """
    copies: dict[str, int] = defaultdict(int)
    facts_of: dict[str, ShapeFacts] = {}
    planned: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    names = {shape: name_of(posed.shapes[shape]) for shape in answer.replicas}
    for shape, count in answer.replicas.items():
        copies[names[shape]] += count
        facts_of[names[shape]] = posed.shapes[shape]
    for key, by_shape in answer.rates.items():
        for shape, rate in by_shape.items():
            if rate > 0:
                planned[names[shape]][key.removeprefix(f"{posed.shapes[shape].model.name}/")] += rate
    sets = tuple(
        _replica_set(name, facts_of[name], copies[name], planned[name]) for name in sorted(copies) if copies[name]
    )
    nodes: dict[str, int] = dict.fromkeys(sorted({part.pool.name for part in posed.parts.values()}), 0)
    for part, count in answer.nodes.items():
        nodes[posed.parts[part].pool.name] += count
    groups = tuple(_group(posed, placement, names) for placement in answer.placements if placement.replicas)
    return Fleet(
        replica_sets=sets,
        nodes=nodes,
        groups=tuple(sorted(groups, key=lambda group: (group.pool, -group.free_gpus, sorted(group.replicas.items())))),
        classes=tuple(_class_service(spec, answer)),
        dollars_per_hour=round(answer.dollars_per_hour or 0.0, _DIGITS),
        scale=None if answer.scale is None else round(answer.scale, _DIGITS),
        status=answer.status,
        method=answer.method,
        stopped=answer.stopped,
        gap=None if answer.gap is None else round(answer.gap, _DIGITS),
        binding=answer.binding,
        confidence=float(spec.planning.confidence),
        pruned=dict(posed.pruned),
    )


class Content(NamedTuple):
    """Nodes of a plan that go together: one, or those of a replica that takes several."""

    pool: str
    replicas: dict[str, int]
    """The replicas on each of them, by Deployment; of one that takes several nodes, one."""
    nodes: int
    priority: int
    """The highest priority of these replicas."""


def contents_of(fleet: Fleet, pools: tuple[Pool, ...]) -> list[Content]:
    """The nodes of a plan in these pools, the least important first."""
    sizes = {pool.name: fleet.nodes[pool.name] for pool in pools if pool.name in fleet.nodes}
    priorities = {item.deployment: item.priority for item in fleet.replica_sets}
    spans = {item.deployment: item.nodes for item in fleet.replica_sets}
    found: list[Content] = []
    for group in fleet.groups:
        # The nodes of one replica go together.
        nodes = max((spans.get(name, 1) for name in group.replicas), default=1)
        priority = max((priorities.get(name, 0) for name in group.replicas), default=_NOBODY)
        content = Content(group.pool, group.replicas, nodes, priority)
        found += [content] * (group.nodes // nodes if group.pool in sizes else 0)
    for name, count in sizes.items():
        empty = count - sum(item.nodes for item in found if item.pool == name)
        found += [Content(name, {}, 1, _NOBODY)] * empty
    return sorted(found, key=lambda item: (item.priority, item.pool))


def without_contents(fleet: Fleet, going: Iterable[Content]) -> Fleet:
    """The fleet without these nodes and the replicas on them."""
    nodes = dict(fleet.nodes)
    copies = {item.deployment: item.replicas for item in fleet.replica_sets}
    for item in going:
        nodes[item.pool] -= item.nodes
        for deployment, count in item.replicas.items():
            copies[deployment] = copies.get(deployment, 0) - count
    sets = (_with_copies(item, copies[item.deployment]) for item in fleet.replica_sets if copies[item.deployment] > 0)
    return fleet.model_copy(update={"replica_sets": tuple(sets), "nodes": nodes})


def within_budget(fleet: Fleet, pools: tuple[Pool, ...], budget: float) -> Fleet:
    """The fleet without its least important nodes, as many as it costs more than the budget. This is needed while prices or
    the budget have changed and a plan that fits is not found yet, or waits for approval."""
    by_name = {pool.name: pool for pool in pools}
    sizes = {name: count for name, count in fleet.nodes.items() if name in by_name}

    def cost() -> float:
        return math.fsum(_cost(by_name[name], count) for name, count in sizes.items())

    if cost() <= budget + CENT:
        return fleet
    going: list[Content] = []
    for item in contents_of(fleet, pools):
        pool, size = by_name[item.pool], sizes[item.pool]
        saved = _cost(pool, size) - _cost(pool, max(0, size - max(item.nodes, pool.step)))
        if saved <= 0 or cost() <= budget + CENT:
            continue
        sizes[item.pool] -= item.nodes
        going.append(item)
    return without_contents(fleet, going)


def _cost(pool: Pool, nodes: int) -> float:
    """$/h of a pool of this size once nothing boots or drains; if the pool may not be sized, its present spend."""
    price = pool.dollars_per_node_hour or 0.0
    if pool.spec.resize is None:
        return price * nodes
    return price * pool.holding(max(nodes + pool.foreign_nodes, pool.least_nodes)) if pool.sized_by_us else pool.spend


def _with_copies(item: ReplicaSet, copies: int) -> ReplicaSet:
    share = copies / item.replicas
    planned = {name: round(rate * share, _DIGITS) for name, rate in item.planned.items()}
    return item if copies == item.replicas else item.model_copy(update={"replicas": copies, "planned": planned})


def _replica_set(name: str, facts: ShapeFacts, copies: int, planned: dict[str, float]) -> ReplicaSet:
    estimates = facts.estimates.values()
    sources = sorted({item.source for item in estimates})
    return ReplicaSet(
        deployment=name,
        model=facts.model.name,
        variant=facts.variant.name,
        pool=facts.pool.name,
        gpu=facts.pool.gpu.name if facts.pool.gpu is not None else "",
        tensor_parallel=facts.tensor_parallel,
        pipeline_parallel=facts.pipeline_parallel,
        stages=_stages(facts),
        nodes=facts.layout.nodes_of_a_replica,
        settings=facts.written_settings,
        needs=facts.written_needs,
        replicas=copies,
        planned={key: round(rate, _DIGITS) for key, rate in sorted(planned.items())},
        capacity={
            key: round(item.planned_requests_per_second, _DIGITS) for key, item in sorted(facts.estimates.items())
        },
        max_utilization=utilization(facts),
        priority=facts.model.priority,
        error_band=round(max(1 - item.low / item.requests_per_second for item in estimates), _DIGITS),
        error_above=round(max(item.high / item.requests_per_second - 1 for item in estimates), _DIGITS),
        source="+".join(sources),
    )


def _stages(facts: ShapeFacts) -> tuple[PipelineStage, ...]:
    if facts.layout.inside_a_node:
        return ()
    pools = [leg.pool for leg in facts.layout.legs for _ in range(leg.stages)]
    return tuple(
        PipelineStage(pool=pool.name, gpu=pool.gpu.name if pool.gpu is not None else "", layers=layers)
        for pool, layers in zip(pools, facts.layers, strict=True)
    )


def _group(posed: Posed, placement: Placement, names: dict[str, str]) -> NodeGroup:
    part = posed.parts[placement.pool]
    per_node: dict[str, int] = defaultdict(int)
    for shape, count in placement.replicas.items():
        # Whole nodes under one copy: fewer copies than nodes.
        per_node[names[shape]] += max(1, count // placement.nodes)
    return NodeGroup(
        pool=part.pool.name, nodes=placement.nodes, free_gpus=part.gpus, replicas=dict(sorted(per_node.items()))
    )


def _class_service(spec: PlanSpec, answer: Answer) -> list[ClassService]:
    out = []
    for model in spec.models:
        for item in model.effective_classes:
            served = sum(answer.rates.get(class_key(model.name, item.name), {}).values())
            out.append(
                ClassService(
                    model=model.name,
                    name=item.name,
                    requests_per_second=round(float(item.requests_per_second), _DIGITS),
                    planned_requests_per_second=round(served, _DIGITS),
                )
            )
    return out
