"""What earlier turns left in the cluster: the plan record and the routing document."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from servingplan.api.parse import parse_spec
from servingplan.api.v1alpha1 import NodePool, PlanSpec
from servingplan.errors import InputError
from servingplan.model.fleet import PlanRecord
from servingplan.model.world import LiveObject, Observation
from servingplan.planning.pools import LEFT
from servingplan.render import names
from servingplan.render.routing import KEY

RECORD_KEY = "plan.json"


def read_record(world: Observation) -> PlanRecord:
    """What the operator wrote down; empty where there is nothing of ours, or nothing readable."""
    return record_of(world.live("ConfigMap", names.record_name(world.plan.name)))


def record_of(live: LiveObject | None) -> PlanRecord:
    """The record in a ConfigMap."""
    if live is None or not live.ours:
        return PlanRecord()
    try:
        return PlanRecord.model_validate_json((live.manifest.get("data") or {}).get(RECORD_KEY) or "{}")
    except ValidationError:
        return PlanRecord()


def effective_spec(written: Any, record: PlanRecord) -> tuple[PlanSpec | None, tuple[InputError, ...]]:
    """The spec to act by, and what is wrong with the written one: the last good one stands in for a bad one.

    Pools that the plan has left but not yet given back are among its pools, under names that end in ``~left``.
    """
    spec, errors = parse_spec(written)
    if spec is None:
        spec, _ = parse_spec(record.spec) if record.spec is not None else (None, ())
    if spec is None or not record.leaving:
        return spec, errors
    left = tuple(
        pool.model_copy(update={"name": f"{pool.name}{LEFT}"})
        for pool in (NodePool.model_validate(item) for item in record.leaving)
        if pool.resize not in [item.resize for item in spec.node_pools]
    )
    return spec.model_copy(update={"node_pools": (*spec.node_pools, *left)}), errors


def spec_in_force(record: PlanRecord, spec: PlanSpec) -> PlanSpec:
    """The spec behind the plan in force: an edit that is wrong, or waits for approval, changes nothing of what runs."""
    return (parse_spec(record.spec)[0] if record.spec is not None else None) or spec


def with_left_pools(record: PlanRecord, before: PlanRecord, world: Observation) -> PlanRecord:
    """``record``, which is to follow ``before``, with the pools that its spec no longer has and that are still ours."""
    spec, _ = parse_spec(record.spec) if record.spec is not None else (None, ())
    old, _ = parse_spec(before.spec) if before.spec is not None else (None, ())
    if spec is None:
        return record
    still = {item.resize for item in spec.node_pools}
    left = [NodePool.model_validate(item) for item in before.leaving]
    left += [pool for pool in (old.node_pools if old else ()) if pool.resize is not None and pool not in left]
    kept = []
    for pool in left:
        seen = world.pool(f"{pool.name}{LEFT}")
        released = seen is not None and (seen.problem_reason == "PoolMissing" or seen.claimed_by != world.plan.key)
        if pool.resize not in still and not (
            released and seen is not None and seen.problem_reason in (None, "PoolMissing")
        ):
            kept.append(pool.model_dump(mode="json", by_alias=True, exclude_none=True))
    return record.model_copy(update={"leaving": tuple(kept)})


def routing_as_published(world: Observation, name: str) -> dict[str, Any] | None:
    """The routing document in our ConfigMap of that name, where it is there and readable."""
    live = world.live("ConfigMap", name)
    if live is None or not live.ours:
        return None
    try:
        document = json.loads((live.manifest.get("data") or {}).get(KEY, "null"))
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
