"""What earlier turns left in the cluster: the plan record and the routing document."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from servingplan.api.v1alpha1 import PlanSpec, parse_spec
from servingplan.errors import InputError
from servingplan.model.fleet import PlanRecord
from servingplan.model.world import Observation
from servingplan.render import names
from servingplan.render.routing import KEY

RECORD_KEY = "plan.json"


def read_record(world: Observation) -> PlanRecord:
    """What the operator wrote down; empty where there is nothing of ours, or nothing readable."""
    live = world.live("ConfigMap", names.record_name(world.plan.name))
    if live is None or not live.ours:
        return PlanRecord()
    try:
        return PlanRecord.model_validate_json((live.manifest.get("data") or {}).get(RECORD_KEY) or "{}")
    except ValidationError:
        return PlanRecord()


def effective_spec(world: Observation, record: PlanRecord) -> tuple[PlanSpec | None, tuple[InputError, ...]]:
    """The spec to act by, and what is wrong with the present one: the last good one stands in for a bad one."""
    spec, errors = parse_spec(world.plan.spec)
    if spec is None:
        spec, _ = parse_spec(record.spec) if record.spec is not None else (None, ())
    return spec, errors


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
