"""A plan that is being deleted: its replicas go, its pools are given back."""

from __future__ import annotations

from servingplan.deciding.objects import replica_facts
from servingplan.deciding.publishing import gateway_follows, routing_actions
from servingplan.deciding.turn import seconds_between
from servingplan.model.actions import ClaimPool
from servingplan.model.decision import Decision
from servingplan.model.fleet import Fleet
from servingplan.model.world import Observation
from servingplan.planning.pools import read_pools
from servingplan.planning.record import effective_spec, read_record
from servingplan.steps.growth import planned_size
from servingplan.steps.next import next_step

RETIREMENT_SECONDS = 1800.0
"""How long a deleted plan may take to drain and to give its nodes back before it is let go all the same."""


def overdue(world: Observation) -> bool:
    """Whether a deleted plan has had its time: it is let go whatever is left, or its deletion would never end."""
    since = world.plan.deleting_since
    return since is not None and seconds_between(since, world.now) > RETIREMENT_SECONDS


def retire(world: Observation) -> tuple[Decision, bool]:
    """What is to be done for a plan that is being deleted, and whether nothing is left to do.

    ``ScaleToFloor``: drain, remove the replicas, return the pools to their floors, release them. ``Retain``: release the
    pools and leave everything else; the caller lets the objects outlive the plan.
    """
    record = read_record(world)
    spec, _ = effective_spec(world.plan.spec, record)
    if spec is None:
        return Decision(), True
    late = overdue(world)
    if world.failures:
        return Decision(), late
    pools, _ = read_pools(spec, world)
    release = tuple(
        ClaimPool(pool=pool.name, claimed_by="", why=f"{pool.name} is released by plan {world.plan.key}")
        for pool in pools
        if pool.object is not None and pool.object.claimed_by == world.plan.key
    )
    if spec.deletion_policy == "Retain" or late:
        return Decision(grow=release), True
    nothing = Fleet()
    facts = replica_facts(world, nothing)
    step = next_step(
        world=world,
        spec=spec,
        pools=pools,
        fleet=nothing,
        facts=facts,
        may_grow=False,
        gateway_follows=gateway_follows(world, spec),
    )
    moves = tuple(action for action in step.before_routing if not isinstance(action, ClaimPool))
    routing = routing_actions(world, spec, nothing, facts, step.ready) if record.fleet is not None else ()
    pods_left = any(pod.deployment is not None and pod.namespace == world.plan.namespace for pod in world.pods)
    too_large = any(pool.sized_by_us and pool.object and pool.wanted > planned_size(pool, nothing) for pool in pools)
    if not (pods_left or world.deployments() or too_large):
        return Decision(grow=release), True
    return Decision(grow=moves, routing=routing, shrink=step.after_routing, wake_in_seconds=step.wake_in_seconds), False
