"""From the live fleet to a plan, as a sequence of steps: what the turns to come will do, if nothing goes wrong.

Nothing is decided here. ``next_step``, which the operator acts by, is asked again and again, each time of the world that its
own writes are expected to leave (``expected``), so the sequence cannot say anything else than what is done. A step ends where
the operator has to wait: for nodes, for replicas to start, for drains, for removals.
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
"""Steps that are looked at. A plan for one pool takes about four; a fleet that is replaced node by node, four for each."""
MOST_TURNS_AT_ONCE = 20
"""Turns without waiting that a step may have."""
UNKNOWN_SECONDS = 60.0
"""Passes, for drains and patience, where it is not known how long something takes."""


@dataclass(frozen=True)
class Course:
    """What the turns to come work with."""

    fleet: Fleet
    """The plan that they work towards."""
    facts: Mapping[str, ReplicaFacts]
    """The facts of every Deployment of ours, and of the plan's."""
    limits: Limits
    since: str | None
    """RFC 3339; since when the plan has been in force."""
    read: Callable[[Observation], tuple[Pool, ...]]
    """The pools of a world."""
    start_seconds: Mapping[str, float] = field(default_factory=dict)
    """The time that replicas of each Deployment took to start, where that was seen."""


def transition(world: Observation, course: Course, most_work: float = math.inf) -> Transition:
    """The steps from this world to the plan of the course; none where it is there, or nothing can be done now.

    It ends early after ``MOST_STEPS``, or where the squares of the numbers of pods of all steps come to more than
    ``most_work``: what a step asks grows with the square of the pods.
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
    """The step that a world waits for in which nothing is left to write; None where it waits for nothing."""
    pools = course.read(world)
    begun = under_way(world, pools)
    return _over(world, pools, begun, course)[0] if begun else None


def _over(
    world: Observation, pools: tuple[Pool, ...], begun: UnderWay, course: Course
) -> tuple[TransitionStep, Observation]:
    """A step, and the world when it is over."""
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
    """How long all of this takes: nodes as long as the longest of the pool's last boots, replicas as long as the longest of the
    last starts, drains ``drainSeconds``. None where it is not known of some part: how long replicas take to stop is not, nor
    how long a provider takes nodes back."""
    boots = {pool.name: pool.boot_seconds for pool in pools}
    known: list[float | None] = [max(boots[item.pool], default=None) for item in begun.coming]
    known += [start_seconds.get(deployment) for deployment in begun.starting]
    if begun.draining:
        known.append(float(limits.change.drain_seconds))
    if begun.held or begun.removing or begun.leaving:
        known.append(None)
    return None if None in known else max(item for item in known if item is not None)


def _is_there(world: Observation, pools: tuple[Pool, ...], fleet: Fleet) -> bool:
    """Whether a plan has exactly its replicas, all of them reachable, and its nodes."""
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
