"""A plan that is being deleted: its replicas go, its pools are given back.

The retirement has a clock of its own. It begins with the first step, not with the deletion (the operator may have been
away), and stands in the status with the time at which the plan is let go whatever is left: as long as its drains, the end
of its pods, at most a day, and ``PROVIDER_SECONDS`` for the providers of its pools take.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.actions import ClaimPool
from servingplan.model.decision import Decision
from servingplan.model.fleet import Fleet
from servingplan.model.times import later, seconds_between
from servingplan.model.world import Observation
from servingplan.planning.ownership import SHARED_OBJECT
from servingplan.planning.pools import UNREAD, Pool
from servingplan.planning.situation import Situation
from servingplan.render.deployment import DRAIN_SLEEP_SECONDS, UNTOLD_SHUTDOWN_SECONDS
from servingplan.render.leader_worker_set import serving_pod
from servingplan.rollout.drains import GATEWAY_PATIENCE_SECONDS
from servingplan.rollout.growth import planned_size
from servingplan.rollout.next import next_step
from servingplan.rollout.state import Limits, Rollout
from servingplan.routing.publishing import routing_actions
from servingplan.routing.taken import gateway_follows

PROVIDER_SECONDS = 1800.0
"""How long the providers of pools may take to give nodes back once the replicas are removed, in seconds."""
LONGEST_END_SECONDS = 24 * 3600.0
"""What has not ended in a day is left to people; also no time that a template may say is too long to be written down."""


@dataclass(frozen=True)
class Retirement:
    """One step of a retirement."""

    decision: Decision
    done: bool
    """Whether nothing is left to do, or no time is left to do it. Then the plan may be removed once this step is written."""
    since: str
    """When it began, RFC 3339."""
    until: str
    """When the plan is released whatever is left, RFC 3339."""
    left: tuple[str, ...] = ()
    """What still exists, for people."""
    late: bool = False
    """Whether its time is over."""


def retire(situation: Situation) -> Retirement:
    """The next step for a plan that is being deleted.

    ``ScaleToFloor``: drain, remove the replicas, return the pools to their floors, release them. ``Retain``: release the
    pools and leave everything else; the caller lets the objects outlive the plan.
    """
    world, spec = situation.world, situation.acting
    since, until = _clock(world, spec)
    if spec is None:
        return Retirement(Decision(), True, since, until)
    late = seconds_between(until, world.now) >= 0
    if world.failures:
        unread = tuple(failure.message for failure in world.failures)
        return Retirement(Decision(), late, since, until, left=unread, late=late)
    pools = tuple(_as_own(pool) for pool in situation.pools_of(spec))
    release = tuple(
        ClaimPool(pool=pool.name, claimed_by="", why=f"{pool.name} is released by plan {world.plan.key}")
        for pool in pools
        if pool.object is not None and pool.object.claimed_by == world.plan.key
    )
    if spec.deletion_policy == "Retain":
        return Retirement(Decision(grow=release), True, since, until)
    nothing = Fleet()
    left = _left(world, pools, nothing)
    if late or not left:
        return Retirement(Decision(grow=release), True, since, until, left=left, late=late)
    limits = Limits.of(
        spec,
        nothing,
        budget_dollars_per_hour=situation.own_budget_dollars_per_hour,
        may_grow=False,
        gateway_follows=gateway_follows(situation),
    )
    step = next_step(Rollout(world=world, pools=pools, fleet=nothing, facts=situation.facts(nothing)), limits)
    moves = tuple(action for action in step.before_routing if not isinstance(action, ClaimPool))
    routing = () if situation.record.fleet is None else routing_actions(situation, spec, nothing, step.ready)
    decision = Decision(
        grow=moves,
        routing=routing,
        shrink=step.after_routing,
        ready=dict(step.ready),
        wake_in_seconds=step.wake_in_seconds,
    )
    return Retirement(decision, False, since, until, left=left)


def _clock(world: Observation, spec: PlanSpec | None) -> tuple[str, str]:
    """When the retirement began and when it must end: as the status says, else from now on."""
    written = world.plan.status.get("retirement") or {}
    since, until = str(written.get("since")), str(written.get("until"))
    try:
        seconds_between(since, until)
    except (TypeError, ValueError):
        return world.now, later(world.now, _seconds_allowed(world, spec))
    return since, until


def _seconds_allowed(world: Observation, spec: PlanSpec | None) -> float:
    drain = float(max(spec.change.drain_seconds, spec.change.drain_deadline_seconds)) if spec is not None else 0.0
    return drain + GATEWAY_PATIENCE_SECONDS + _longest_end(world) + PROVIDER_SECONDS


def _longest_end(world: Observation) -> float:
    """The seconds that the slowest replica may take to end, by its Deployment's template, at most a day."""
    ends = [serving_pod(live.manifest).get("terminationGracePeriodSeconds") for live in world.deployments()]
    known = [float(end) for end in ends if isinstance(end, int)]
    return min(max([float(DRAIN_SLEEP_SECONDS + UNTOLD_SHUTDOWN_SECONDS), *known]), LONGEST_END_SECONDS)


def _as_own(pool: Pool) -> Pool:
    """The pool as a retirement sees it. Pools with one object all shrink to their floors, so their sizes do not conflict.
    Nodes that contradict the plan are given back like others."""
    shared = pool.conflict is not None and pool.conflict.reason == SHARED_OBJECT
    return replace(pool, conflict=None if shared else pool.conflict, contradiction=None)


def _left(world: Observation, pools: tuple[Pool, ...], nothing: Fleet) -> tuple[str, ...]:
    """What prevents the plan from being removed."""
    pods: dict[str, int] = {}
    for pod in world.pods:
        if pod.deployment is not None and pod.namespace == world.plan.namespace:
            pods[pod.deployment] = pods.get(pod.deployment, 0) + 1
    out = [f"{count} {'replica' if count == 1 else 'replicas'} of {name}" for name, count in sorted(pods.items())]
    out += [f"{live.kind} {live.name}" for live in world.deployments() if live.name not in pods]
    for pool in pools:
        if pool.sized_by_us and pool.object is not None and pool.wanted > (size := planned_size(pool, nothing)):
            nodes = "1 node" if pool.wanted == 1 else f"{pool.wanted} nodes"
            out.append(f"{nodes} asked of {pool.object.spoken}, which goes to {size}")
        elif pool.problem is not None and pool.problem.reason in UNREAD:
            out.append(f"pool {pool.name}, whose size cannot be read: {pool.problem.message}")
    return tuple(out)


def retirement_status(step: Retirement) -> dict[str, Any]:
    """The field ``retirement`` of the status."""
    return {"since": step.since, "until": step.until, "left": list(step.left[:16])}
