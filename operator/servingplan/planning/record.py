"""What earlier turns left in the cluster: the plan record and the routing document."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from servingplan.api.parse import parse_spec
from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import InputError, in_words
from servingplan.model import names
from servingplan.model.fleet import RECORD_VERSION, PlanRecord
from servingplan.model.world import LiveObject, Observation
from servingplan.planning.cards import with_sources
from servingplan.planning.pools import LEFT
from servingplan.profiles.catalogue import Catalogue

RECORD_KEY = "plan.json"


def read_record(world: Observation) -> PlanRecord:
    """What the operator wrote down; empty where there is nothing of ours.

    Of a record that cannot be read whole (``record_problem``) this is what can be read of it: enough for weights over what
    is ready, not for a decision.
    """
    return record_of(world.live("ConfigMap", names.record_name(world.plan.name)))


def record_of(live: LiveObject | None) -> PlanRecord:
    """The record in a ConfigMap, as ``read_record`` tells it."""
    if live is None or not live.ours:
        return PlanRecord()
    try:
        return _parsed(live)
    except ValueError:
        pass
    try:
        return PlanRecord.model_validate_json(_text(live), extra="ignore")
    except ValidationError:
        return PlanRecord()


def record_problem(world: Observation) -> str | None:
    """Why the record may not be acted by or written over, with the way out; None where it is readable or not there."""
    name = names.record_name(world.plan.name)
    live = world.live("ConfigMap", name)
    if live is None or not live.ours:
        return None
    try:
        _parsed(live)
    except ValueError as error:
        return (
            f"the plan in force is kept in ConfigMap {name}, which this version cannot read: {error}. Until it can be read, "
            "nothing grows or shrinks; weights follow the replicas that are ready. Run the version of the operator that wrote "
            "it, or delete the ConfigMap: then a plan is made anew around what runs"
        )
    return None


def _text(live: LiveObject) -> str:
    return (live.manifest.get("data") or {}).get(RECORD_KEY) or "{}"


def _parsed(live: LiveObject) -> PlanRecord:
    """Raises ``ValueError``, in words for people, where the record is of a newer form or none that is known."""
    text = _text(live)
    return _record_in(text) if len(text) <= LONGEST_KEPT else _record_in.__wrapped__(text)


LONGEST_KEPT = 65_536
"""A record whose text is longer is parsed each time, so that what is kept takes little memory."""


@lru_cache(maxsize=64)
def _record_in(text: str) -> PlanRecord:
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise ValueError(f"its {RECORD_KEY} is not JSON ({error})") from error
    version = raw.get("version", 1) if isinstance(raw, dict) else 1
    if isinstance(version, int) and version > RECORD_VERSION:
        raise ValueError(f"it is of form {version}, and the newest that is known here is {RECORD_VERSION}")
    where: tuple[str | int, ...] = ()
    try:
        record = PlanRecord.model_validate(raw)
        for index, item in enumerate(record.leaving):
            where = ("leaving", index)
            NodePool.model_validate(item)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, (*where, *first["loc"]))) or RECORD_KEY
        raise ValueError(f"{field}: {in_words(first)}") from error
    return record.model_copy(update={"version": RECORD_VERSION})


def effective_spec(
    written: Any, record: PlanRecord, catalogue: Catalogue | None = None
) -> tuple[PlanSpec | None, tuple[InputError, ...]]:
    """The spec to act by, and what is wrong with the written one: the last good one stands in for a bad one.

    Sources and precisions that it leaves out are those of the catalogue, by default the shipped one. Pools that the plan has
    left but not yet given back are among its pools, under names that end in ``~left``, and so are ``pools_behind``.
    """
    spec, errors = parse_spec(written)
    if spec is None:
        spec, _ = parse_spec(record.spec) if record.spec is not None else (None, ())
    if spec is not None:
        spec = with_sources(spec, catalogue)
        more = (*pools_behind(spec, record), *pools_left(spec, record))
        spec = spec.model_copy(update={"node_pools": (*spec.node_pools, *more)}) if more else spec
    return spec, errors


def pools_behind(spec: PlanSpec, record: PlanRecord) -> tuple[NodePool, ...]:
    """The pools that only the plan in force has: a plan for the spec, which lacks them, is to be approved first. Until then
    they are kept, and their nodes are among the spend."""
    behind = parse_spec(record.spec)[0] if spec.mode != "Auto" and record.spec is not None else None
    if behind is None:
        return ()
    called = {item.name for item in spec.node_pools}
    still = [item.resize.of_object for item in spec.node_pools if item.resize is not None]
    return tuple(
        item
        for item in behind.node_pools
        if item.name not in called and (item.resize is None or item.resize.of_object not in still)
    )


def pools_left(spec: PlanSpec, record: PlanRecord) -> tuple[NodePool, ...]:
    """The pools that the plan has left but not yet given back, under names that end in ``~left``; without those whose object a
    pool of the spec sizes."""
    still = [item.resize.of_object for item in spec.node_pools if item.resize is not None]
    return tuple(
        pool.model_copy(update={"name": f"{pool.name}{LEFT}"})
        for pool in _readable_pools(record.leaving)
        if pool.resize is None or pool.resize.of_object not in still
    )


def spec_behind(record: PlanRecord, catalogue: Catalogue | None = None) -> PlanSpec | None:
    """The spec that the record's plan was made for; None where the record has none, or it is not understood any more."""
    found = parse_spec(record.spec)[0] if record.spec is not None else None
    return None if found is None else with_sources(found, catalogue)


def with_left_pools(record: PlanRecord, before: PlanRecord, world: Observation) -> PlanRecord:
    """``record``, which is to follow ``before``, with the pools that its spec no longer has and that are still ours."""
    spec, _ = parse_spec(record.spec) if record.spec is not None else (None, ())
    old, _ = parse_spec(before.spec) if before.spec is not None else (None, ())
    if spec is None:
        return record
    still = {item.resize.of_object for item in spec.node_pools if item.resize is not None}
    left = _readable_pools(before.leaving)
    pools = old.node_pools if old is not None else _readable_pools((before.spec or {}).get("nodePools"))
    left += [pool for pool in pools if pool.resize is not None and pool not in left]
    kept = []
    for pool in left:
        seen = world.pool(f"{pool.name}{LEFT}")
        released = seen is not None and (seen.problem_reason == "PoolMissing" or seen.claimed_by != world.plan.key)
        if (
            pool.resize is not None
            and pool.resize.of_object not in still
            and not (released and seen is not None and seen.problem_reason in (None, "PoolMissing"))
        ):
            kept.append(pool.model_dump(mode="json", by_alias=True, exclude_none=True))
    return record.model_copy(update={"leaving": tuple(kept)})


def _readable_pools(written: Any) -> list[NodePool]:
    """The pools with what this version can read of them; without those that do not say which object they size."""
    found = (_readable_pool(item) for item in written) if isinstance(written, list | tuple) else ()
    return [pool for pool in found if pool is not None]


def _readable_pool(written: Any) -> NodePool | None:
    """Without the fields that are wrong, or, where they are wrong only together, with those that name nodes and object."""
    if not isinstance(written, dict):
        return None
    try:
        return NodePool.model_validate(written)
    except ValidationError as error:
        wrong = {problem["loc"][0] for problem in error.errors() if problem["loc"]}
    least = {"name", "nodeSelector", "resize"}
    for kept in (written.keys() - wrong, written.keys() & least):
        try:
            return NodePool.model_validate({key: written[key] for key in kept})
        except ValidationError:
            continue
    return None


def routing_as_published(world: Observation, name: str) -> dict[str, Any] | None:
    """The routing document in our ConfigMap of that name, where it is there and readable."""
    live = world.live("ConfigMap", name)
    if live is None or not live.ours:
        return None
    try:
        document = json.loads((live.manifest.get("data") or {}).get(names.ROUTING_KEY, "null"))
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
