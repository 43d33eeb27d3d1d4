"""Finds the replicas of the plan in force that still agree with the spec, so that they need not be replaced.

The spec of the plan in force is compared with the present spec. The rendered manifests are not compared: a new version of the
operator may render them differently, which is no reason to restart replicas.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from servingplan.api.models_v1alpha1 import Model, Variant
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.fleet import Fleet, ReplicaSet
from servingplan.model.llm import ModelCard
from servingplan.planning.layouts import layout_name
from servingplan.planning.settings import Wish, context_refusal, unwritten
from servingplan.planning.tuning import Standing


def standing_replicas(
    *,
    fleet: Fleet | None,
    in_force: PlanSpec | None,
    spec: PlanSpec,
    model: Model,
    variant: Variant,
    card: ModelCard,
    wish: Wish,
) -> dict[str, list[Standing]]:
    """The replica sets of one variant that may stay as they are, by name of their layout.

    ``in_force``: the spec behind ``fleet``; None: the same as ``spec``.
    """
    found: dict[str, list[Standing]] = defaultdict(list)
    for item in fleet.replica_sets if fleet is not None else ():
        if (item.model, item.variant) != (model.name, variant.name):
            continue
        makings = _makings(spec, item)
        if makings is None or makings != _makings(in_force or spec, item):
            continue
        settings = item.settings
        if settings is None:
            if context_refusal(model, card, tokens=model.effective_max_model_len) is not None:
                continue  # it cannot have started
            settings = unwritten(model)
        elif not wish.agrees(settings):
            continue
        found[layout_name(item.legs, tensor_parallel=item.tensor_parallel)].append(Standing(item, settings))
    return dict(found)


def _makings(spec: PlanSpec, item: ReplicaSet) -> tuple[Any, ...] | None:
    """Everything in a spec that determines the pods of a replica set; None if the spec has no such replicas."""
    model = next((model for model in spec.models if model.name == item.model), None)
    pools = {pool.name: pool for pool in spec.node_pools}
    if model is None or any(pool not in pools for pool, _ in item.legs):
        return None
    variant = next((variant for variant in model.effective_variants if variant.name == item.variant), None)
    if variant is None:
        return None
    return (
        model.engine,
        model.effective_max_model_len,
        variant.source,
        variant.precision,
        [
            (found.node_selector, found.capacity_type, found.resource_name, found.dra, found.engine_image)
            for pool, _ in item.legs
            for found in [pools[pool]]
        ],
    )
