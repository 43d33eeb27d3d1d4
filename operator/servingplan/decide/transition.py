"""The steps from the live fleet to the plan in force, and to one that waits."""

from __future__ import annotations

import math

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.decision import Decision
from servingplan.model.fleet import Fleet
from servingplan.model.transition import Transition, TransitionStep
from servingplan.model.world import Observation
from servingplan.planning.availability import with_stock
from servingplan.planning.cold_starts import start_seconds
from servingplan.planning.fleet import within_budget
from servingplan.planning.inventory import read_pools
from servingplan.planning.pools import Pool
from servingplan.planning.situation import Situation
from servingplan.rollout.expected import under_way
from servingplan.rollout.state import Limits
from servingplan.rollout.transition import Course, step_under_way, transition
from servingplan.routing.taken import gateway_follows

MOST_WORK = 500_000.0
"""The most work of a prediction inside a turn, in squares of pods. It takes some tenths of a second (50 steps with 100
pods, 3 steps with 400)."""


def transition_in_force(situation: Situation, decision: Decision, most_work: float = math.inf) -> Transition | None:
    """The steps to the plan in force, including those that this turn takes; None at rest, and if no plan is in force."""
    course = _course_in_force(situation, decision)
    if course is None or not (
        decision.grow or decision.shrink or under_way(situation.world, with_stock(situation.pools, decision.stock))
    ):
        return None
    found = transition(situation.world, course, most_work)
    return found if found.steps else None


def step_in_force(situation: Situation, decision: Decision) -> TransitionStep | None:
    """What a turn that has nothing to write waits for; None at rest, and if no plan is in force."""
    course = _course_in_force(situation, decision)
    return None if course is None else step_under_way(situation.world, course)


def _course_in_force(situation: Situation, decision: Decision) -> Course | None:
    if situation.acting is None or decision.fleet is None:
        return None
    spec = situation.spec
    budget = float(spec.budget.dollars_per_hour)
    fleet, may_spend = within_budget(decision.fleet, with_stock(situation.pools, decision.stock), budget), budget
    if decision.notice is not None and decision.notice.pending:
        spend = decision.spend_dollars_per_hour
        fleet, may_spend = decision.fleet, budget if spend is None else max(budget, spend)
    limits = Limits.of(
        spec,
        fleet,
        budget_dollars_per_hour=may_spend,
        may_grow=decision.may_grow,
        gateway_follows=gateway_follows(situation),
    )
    return _course(situation, decision, spec, fleet, limits, decision.in_force_since)


def transition_proposed(
    situation: Situation, decision: Decision, fleet: Fleet, most_work: float = math.inf
) -> Transition:
    """The steps to a plan that is not in force, once it is approved."""
    spec = situation.spec
    budget = float(spec.budget.dollars_per_hour)
    limits = Limits.of(
        spec, fleet, budget_dollars_per_hour=budget, may_grow=True, gateway_follows=gateway_follows(situation)
    )
    course = _course(situation, decision, spec, fleet, limits, situation.world.now)
    return transition(situation.world, course, most_work)


def _course(
    situation: Situation, decision: Decision, spec: PlanSpec, fleet: Fleet, limits: Limits, since: str | None
) -> Course:
    def read(world: Observation) -> tuple[Pool, ...]:
        return with_stock(read_pools(spec, world, situation.known)[0], decision.stock)

    return Course(
        fleet=fleet,
        facts=situation.facts(fleet),
        limits=limits,
        since=since,
        read=read,
        start_seconds=start_seconds(fleet, decision.start_times),
    )
