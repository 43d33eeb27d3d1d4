"""The sequence of steps from the live fleet to a plan: what the next turns will do, if nothing fails.

Nothing is decided here. ``next_step``, by which the operator acts, is asked repeatedly, each time about the world that its own
writes are expected to leave (``expected``). So the sequence says what will be done. A step ends when the operator has to wait
for nodes, for starts of replicas, for drains, or for removals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from servingplan.model.fleet import Fleet, ReplicaFacts
from servingplan.model.times import seconds_since
from servingplan.model.transition import Transition, TransitionStep
from servingplan.model.world import Observation
from servingplan.planning.pools import Pool, total_spend
from servingplan.rollout.expected import UnderWay, settled, under_way, written
from servingplan.rollout.growth import planned_size
from servingplan.rollout.next import next_step
from servingplan.rollout.state import Limits, Rollout, missing_replicas

MOST_STEPS = 64
"""The most steps that are computed. A plan for one pool takes about four; replacing a fleet node by node takes four for
each node."""
MOST_TURNS_AT_ONCE = 20
"""The most turns without waiting in one step."""
UNKNOWN_SECONDS = 60.0
"""The time that passes in a step whose duration is not known, for drains and patience."""


@dataclass(frozen=True)
class Course:
    """What the next turns work with."""

    fleet: Fleet
    """The plan that they aim at."""
    facts: Mapping[str, ReplicaFacts]
    """The facts of every Deployment that the plan has or wants."""
    limits: Limits
    since: str | None
    """Since when the plan has been in force, RFC 3339."""
    read: Callable[[Observation], tuple[Pool, ...]]
    """Returns the pools of a world."""
    start_seconds: Mapping[str, float] = field(default_factory=dict)
    """How long the replicas of each Deployment took to start, if that was seen, in seconds."""


def transition(world: Observation, course: Course, most_work: float = math.inf) -> Transition:
    """The steps from this world to the plan of the course; no steps if it is reached, or if nothing can be done now.

    The sequence ends early after ``MOST_STEPS``, or when the squares of the numbers of pods, summed over the steps, exceed
    ``most_work``, because the work of a step grows with that square.
    """
    steps: list[TransitionStep] = []
    work = 0.0
    while len(steps) < MOST_STEPS and (work < most_work or not steps):
        world = _acted(world, course)
        pools = course.read(world)
        begun = under_way(world, pools)
        if not begun:
            return Transition(steps=tuple(steps), reaches=_is_there(world, pools, course.fleet))
        step, world = _over(world, pools, begun, course)
        steps.append(step)
        work += len(world.pods) ** 2
    return Transition(steps=tuple(steps), reaches=False, more=True)


def step_under_way(world: Observation, course: Course) -> TransitionStep | None:
    """The step that a world waits for if nothing is left to write; None if it waits for nothing."""
    pools = course.read(world)
    begun = under_way(world, pools)
    return _over(world, pools, begun, course)[0] if begun else None


def _over(
    world: Observation, pools: tuple[Pool, ...], begun: UnderWay, course: Course
) -> tuple[TransitionStep, Observation]:
    """A step, and the world after it."""
    limits = course.limits
    seconds = _seconds(begun, pools, limits, course.start_seconds)
    # One second more than the drains take: they are counted from when the gateway has followed.
    passes = max(seconds or UNKNOWN_SECONDS, float(limits.change.drain_seconds)) + 1
    after = settled(world, pools, seconds=passes, follows=limits.gateway_follows is not None)
    spend = total_spend(course.read(after))
    step = TransitionStep(
        grow=begun.coming,
        come=begun.starting,
        drain=begun.draining,
        go=begun.removing,
        shrink=begun.leaving,
        held=begun.held,
        dollars_per_hour=None if math.isnan(spend) else round(spend, 6),
        seconds=seconds,
    )
    return step, after


def _acted(world: Observation, course: Course) -> Observation:
    """The world after the turns that need not wait for anything."""
    limits = course.limits
    if limits.gateway_follows is not None:
        limits = replace(limits, gateway_follows=True)
    world = written(world, (), fleet=course.fleet, facts=course.facts)
    for _ in range(MOST_TURNS_AT_ONCE):
        rollout = Rollout(
            world=world,
            pools=course.read(world),
            fleet=course.fleet,
            facts=course.facts,
            missing=missing_replicas(world, course.fleet),
            age_seconds=seconds_since(course.since, world.now),
        )
        step = next_step(rollout, limits)
        actions = (*step.before_routing, *step.after_routing)
        if not actions:
            break
        world = written(world, actions, fleet=course.fleet, facts=course.facts)
    return world


def _seconds(
    begun: UnderWay, pools: tuple[Pool, ...], limits: Limits, start_seconds: Mapping[str, float]
) -> float | None:
    """How long all of this takes: nodes as long as the longest of the pool's last boots, replicas as long as the longest of
    the last starts, drains ``drainSeconds``.

    None if a part is not known. It is never known how long replicas take to stop, nor how long a provider takes nodes back.
    """
    boots = {pool.name: pool.boot_seconds for pool in pools}
    known: list[float | None] = [max(boots[item.pool], default=None) for item in begun.coming]
    known += [start_seconds.get(deployment) for deployment in begun.starting]
    if begun.draining:
        known.append(float(limits.change.drain_seconds))
    if begun.held or begun.removing or begun.leaving:
        known.append(None)
    return None if None in known else max(item for item in known if item is not None)


def _is_there(world: Observation, pools: tuple[Pool, ...], fleet: Fleet) -> bool:
    """Whether the cluster has exactly the plan's replicas, all of them reachable, and its nodes."""
    there = {item.deployment: 0 for item in fleet.replica_sets}
    for pod in world.pods:
        if pod.deployment is None or pod.namespace != world.plan.namespace:
            continue
        if pod.deployment not in there or not pod.reachable or pod.draining_since is not None:
            return False
        there[pod.deployment] += 1
    return all(there[item.deployment] == item.replicas for item in fleet.replica_sets) and all(
        len(pool.nodes) == pool.wanted == planned_size(pool, fleet) for pool in pools if pool.sized_by_us
    )
