"""The changes of objects, dollars and service that a plan which is not in force would bring."""

from __future__ import annotations

import math
from collections.abc import Iterable

from servingplan.api.pools_v1alpha1 import NodePool
from servingplan.decide.objects import object_actions
from servingplan.decide.transition import transition_proposed
from servingplan.model import names
from servingplan.model.actions import ApplyObject, DeleteObject
from servingplan.model.decision import Decision
from servingplan.model.fleet import Fleet
from servingplan.model.proposal import ClassChange, Proposal
from servingplan.planning.availability import with_stock
from servingplan.planning.situation import Situation
from servingplan.render.disruption_budget import KIND as DISRUPTION_BUDGET
from servingplan.rollout.growth import planned_size
from servingplan.routing.publishing import routing_actions

WORKLOADS = (names.DEPLOYMENT, names.LEADER_WORKER_SET)
OWN_KINDS = (*WORKLOADS, "Service", DISRUPTION_BUDGET, names.CLAIM_TEMPLATE)
"""Kinds of objects that a kind of replica has."""


def proposal(
    situation: Situation, decision: Decision, before: Fleet | None, after: Fleet, most_work: float = math.inf
) -> Proposal:
    """What ``after``, a plan for the spec of the situation, would change of ``before``, the plan in force, if there is one."""
    created, changed, removed = _objects(situation, decision, after)
    return Proposal(
        hash=after.hash,
        in_force=None if before is None else before.hash,
        created=created,
        changed=changed,
        removed=removed,
        dollars_per_hour_before=0.0 if before is None else before.dollars_per_hour,
        dollars_per_hour_after=after.dollars_per_hour,
        classes=_classes(before, after),
        transition=transition_proposed(situation, decision, after, most_work),
    )


def _objects(
    situation: Situation, decision: Decision, after: Fleet
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The names of what is created, changed and removed. A workload counts as changed if its number of replicas changes, a
    pool's object if its size changes."""
    world, spec = situation.world, situation.spec
    wanted = {item.deployment: item.replicas for item in after.replica_sets}
    # With all its replicas ready, as it is to be in the end.
    actions = (*object_actions(situation, spec, after, {})[0], *routing_actions(situation, spec, after, wanted))
    created, changed, removed = set[str](), set[str](), set[str]()
    for action in actions:
        if isinstance(action, ApplyObject):
            kind, name = action.manifest["kind"], action.manifest["metadata"]["name"]
            if world.live(kind, name) is None:
                created.add(f"{kind}/{name}")
            elif kind not in WORKLOADS:
                changed.add(f"{kind}/{name}")
        elif isinstance(action, DeleteObject):
            removed.add(f"{action.object_kind}/{action.name}")
    for live in world.objects:
        if live.kind not in OWN_KINDS or not live.ours:
            continue
        if live.name not in wanted:
            removed.add(f"{live.kind}/{live.name}")
        elif live.kind in WORKLOADS and int(live.manifest.get("spec", {}).get("replicas", 1)) != wanted[live.name]:
            changed.add(f"{live.kind}/{live.name}")
    for pool in with_stock(situation.pools, decision.stock):
        if pool.sized_by_us and not pool.left and planned_size(pool, after) != pool.wanted and pool.object is not None:
            changed.add(_short(pool.object.reference))
    changed.update(_given_back(situation))
    return tuple(sorted(created)), tuple(sorted(changed)), tuple(sorted(removed))


def _given_back(situation: Situation) -> set[str]:
    """The objects of pools that the plan in force has and the new one does not have."""
    if situation.record.fleet is None:
        return set()

    def sized(pools: Iterable[NodePool]) -> set[tuple[str, ...]]:
        return {(pool.resize.kind, pool.resize.name) for pool in pools if pool.resize is not None}

    new = sized(pool.spec for pool in situation.pools if not pool.behind)
    return {f"{kind}/{name}" for kind, name in sized(situation.in_force.node_pools) - new}


def _short(reference: str) -> str:
    """``kind/name`` of an object that is ``kind/namespace/name``."""
    kind, _, rest = reference.partition("/")
    return f"{kind}/{rest.rpartition('/')[2]}"


def _classes(before: Fleet | None, after: Fleet) -> tuple[ClassChange, ...]:
    old = {(item.model, item.name): item.planned_requests_per_second for item in (before.classes if before else ())}
    new = {(item.model, item.name): item.planned_requests_per_second for item in after.classes}
    return tuple(
        ClassChange(model=model, name=name, before=old.get((model, name), 0.0), after=new.get((model, name), 0.0))
        for model, name in dict.fromkeys([*new, *old])
    )
