"""PURE. The order of one turn: facts, question, plan, next safe step, as one ``Decision``.

``publish`` needs no solver and comes first in a turn: weights over what is ready. ``decide`` does the rest. The operator and
the command line call the same two functions, so they cannot differ.
"""

from __future__ import annotations

import logging
import math

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.decide.blockers import must_wait, pool_findings, taken_names
from servingplan.decide.notice import notice_of, to_carry_out
from servingplan.decide.objects import BUDGETS_UNREAD, object_actions, record_actions
from servingplan.decide.replan import replan
from servingplan.decide.turn import Solve, Turn
from servingplan.demand.adopt import Demand, at_rates
from servingplan.model.actions import AnyAction
from servingplan.model.decision import ClassDemand, Decision
from servingplan.model.fleet import Fleet, LearnedKind, PlanRecord
from servingplan.model.names import LEADER_WORKER_SET
from servingplan.model.times import seconds_between, seconds_since
from servingplan.planning.availability import due_in_seconds, has_room_for_a_node, look
from servingplan.planning.cold_starts import look_at_cold_starts, start_limits
from servingplan.planning.known import findings_of
from servingplan.planning.lessons import kinds_of_deployments, look_at_engines
from servingplan.planning.record import pools_left, record_problem, with_left_pools
from servingplan.planning.reservations import change_in_seconds
from servingplan.planning.situation import Situation
from servingplan.planning.starts import look_at_starts
from servingplan.render.pod_access import refused_access
from servingplan.rollout.next import next_step, ready_replicas
from servingplan.rollout.state import Limits, Rollout, missing_replicas
from servingplan.routing.publishing import route_findings, routing_actions, too_large
from servingplan.routing.taken import gateway_follows, gateway_is_due_in

log = logging.getLogger("servingplan")

GROUPS = f"{LEADER_WORKER_SET}s"
"""The source of LeaderWorkerSets."""
NEEDED_FOR_WEIGHTS = frozenset({"pods", "EndpointSlices", "ConfigMaps", "Deployments", "HTTPRoutes"})
"""The sources that weights need, besides LeaderWorkerSets if the plan in force has any. Nodes are not among them: without
them, a pod's own report counts."""
SPARED = frozenset({"other plans", "profiles", GROUPS, BUDGETS_UNREAD})
"""The sources that a turn can do without: other plans' prices, measured rates (which are then read one by one),
LeaderWorkerSets if the plan in force has none, and what evictions wait for."""


def publish(situation: Situation) -> tuple[AnyAction, ...]:
    """The writes of weights over what is ready now, by the plan in force. No solver is needed."""
    world = situation.world
    unread = any(item.source in _needed(NEEDED_FOR_WEIGHTS, situation.record) for item in world.failures)
    fleet = None if situation.acting is None or unread else to_carry_out(Turn(situation))[0]
    return () if fleet is None else routing_actions(situation, situation.in_force, fleet, ready_replicas(world))


def decide(situation: Situation, solve: Solve, *, what_if_leader_worker_sets: bool = False) -> Decision:
    """Everything that this turn is to do. It is pure except for the solver's clock.

    ``what_if_leader_worker_sets`` also plans replicas over several nodes and with two GPU types, even if they cannot be
    applied. A plan that cannot be applied is only shown, like one that waits.
    """
    world = situation.world
    turn = Turn(
        situation,
        may_span_nodes=what_if_leader_worker_sets or world.leader_worker_sets,
        may_mix_types=what_if_leader_worker_sets,
    )
    if not _can_decide(turn):
        return turn.standstill()
    if situation.acting is None:
        return Decision(findings=tuple(turn.findings))
    if taken := taken_names(situation):
        turn.find("RoutingPublished", "NameTaken", taken)
        return turn.standstill()
    wrong = _what_is_wrong(turn)
    turn.record = _with_what_was_seen(turn)
    frozen = wrong or _keeps_the_plan(turn)
    if situation.demand is not None:
        turn.findings.append(situation.demand.finding)
    if not frozen:
        turn.record, frozen = _replanned(turn, solve)
    record = turn.record
    # Pools that this plan leaves are read from the next turn on. Until then their nodes are not among the spend.
    frozen = frozen or bool(pools_left(turn.spec, record))
    so_far = Decision(
        moved=turn.moved,
        in_force_since=record.since,
        in_force_generation=record.generation,
        waiting=record.waiting,
        findings=tuple(turn.findings),
        asked=turn.asked,
        searching=turn.searching,
        demand=_in_use(situation.spec, situation.demand),
        spend_dollars_per_hour=None if math.isnan(situation.spend) else round(situation.spend, 6),
        stock=record.stock,
        failed_shapes=record.failed_shapes,
        learned=_learned(turn),
        start_times=record.start_times,
    )
    # What was measured is written down also where plans are only shown or still searched, or each turn would show another.
    keep = (
        record.fleet is not None
        or record.demand is not None
        or any(stock.cap for stock in record.stock.values())
        or (record.waiting is not None and situation.spec.mode == "Approve")
    )
    so_far = so_far.model_copy(update={"first": record_actions(world, record) if keep else ()})
    if turn.searching and frozen:
        # The answer may need what the plan in force would take away now, so all but the weights waits for it.
        told = {"fleet": record.fleet, "ready": ready_replicas(world), "notice": notice_of(turn)}
        return so_far.model_copy(update=told)
    fleet, may_spend = to_carry_out(turn)
    if fleet is not None:
        return _towards(fleet, turn, so_far, may_spend=may_spend, may_grow=not frozen)
    return so_far


def _can_decide(turn: Turn) -> bool:
    """Whether enough was read for a decision. What was not read is noted."""
    world = turn.world
    for error in turn.situation.spec_errors:
        turn.find("SpecValid", "SpecInvalid", str(error))
    for failure in world.failures:
        # What other plans spend counts where the namespace has a budget.
        counts = failure.source == "other plans" and world.namespace_budget is not None
        spared = failure.source in SPARED - _needed(frozenset(), turn.record)
        turn.find("InventoryAvailable", failure.reason, failure.message, holds=spared and not counts)
    if any(failure.source not in SPARED - _needed(frozenset(), turn.record) for failure in world.failures):
        return False
    problem = record_problem(world)
    if problem is not None:
        turn.find("PlanSolved", "RecordUnreadable", problem)
    return problem is None


def _needed(sources: frozenset[str], record: PlanRecord) -> frozenset[str]:
    """The sources, with LeaderWorkerSets if the plan in force has any."""
    return sources | {GROUPS} if record.fleet is not None and record.fleet.spans_nodes else sources


def _what_is_wrong(turn: Turn) -> bool:
    """Whether the spec has an error, so that nothing new is planned. All errors are noted, with those of pools and rows."""
    situation = turn.situation
    for error in situation.pool_errors:
        turn.find("SpecValid", "UnknownGPU" if error.field.endswith(".gpu") else "SpecInvalid", str(error))
    pool_findings(turn)
    refused = [error for model in turn.spec.models for error in refused_access(model, turn.world.pod_access)]
    for error in refused:
        turn.find("SpecValid", "PodAccessNotAllowed", str(error))
    turn.findings += (*situation.row_findings, *findings_of(situation.known))
    return bool(situation.spec_errors or situation.pool_errors or refused)


def _with_what_was_seen(turn: Turn) -> PlanRecord:
    """The record with what became of the nodes that were asked for and of the replicas that were to start, and with what
    was learned from running replicas."""
    world, spend, budget = turn.world, turn.situation.spend, turn.budget_dollars_per_hour
    record = look(turn.pools, turn.record, now=world.now, budget=budget, spend=spend)
    limits = start_limits(record.fleet or Fleet(), turn.spec)
    failed = look_at_starts(
        record,
        world,
        startup_seconds=lambda deployment: limits[deployment],
        has_room=lambda name: has_room_for_a_node(name, turn.pools, record, budget=budget, spend=spend),
    )
    learned = look_at_engines(
        record,
        world,
        spec=turn.spec,
        in_force=turn.situation.in_force,
        pools=turn.pools,
        catalogue=turn.situation.known.catalogue,
        rows=turn.situation.rows,
    )
    started = look_at_cold_starts(record, world, turn.spec)
    return record.model_copy(update={"failed_shapes": failed, "learned": learned, "start_times": started})


def _learned(turn: Turn) -> dict[str, LearnedKind]:
    """What is known of the replicas of each Deployment of the plan in force."""
    situation = turn.situation
    return kinds_of_deployments(
        turn.record,
        turn.world,
        in_force=situation.spec_behind(turn.record),
        pools=turn.pools,
        catalogue=situation.known.catalogue,
    )


def _keeps_the_plan(turn: Turn) -> bool:
    """Whether nothing new is planned and nothing may grow although the spec is right.

    This is so if a needed source could not be read, or if the budget keeps nothing of the plan in force, which is announced
    first.
    """
    unread = any(finding.condition == "InventoryAvailable" and not finding.holds for finding in turn.findings)
    if unread or must_wait(turn):
        return True
    notice = notice_of(turn)
    # Nobody approves a plan in the other modes: what runs stays in force until the time of the notice is over.
    return notice is not None and notice.pending and turn.spec.mode != "Approve"


def _replanned(turn: Turn, solve: Solve) -> tuple[PlanRecord, bool]:
    """The record after this turn's planning for the present demand, and whether nothing may grow. An exception is reported,
    and what runs is maintained as before."""
    before, demand = turn.record, turn.situation.demand
    spec = turn.spec if demand is None else at_rates(turn.spec, demand.rates)
    try:
        planned, frozen = replan(turn, spec, solve)
    except Exception as error:
        log.exception("%s could not be planned", turn.world.plan.key)
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        turn.find(
            "PlanSolved",
            "SolverError",
            f"no plan could be made: {text}; what runs is kept. If the spec looks right to you, report this with the output of "
            "`servingplan world`",
        )
        planned, frozen = before, True
    learned = {
        "demand": None if demand is None else demand.adopted,
        "stock": before.stock,
        "failed_shapes": before.failed_shapes,
        "learned": before.learned,
        "start_times": before.start_times,
    }
    return with_left_pools(planned.model_copy(update=learned), before, turn.world), frozen


def _towards(fleet: Fleet, turn: Turn, so_far: Decision, *, may_spend: float, may_grow: bool) -> Decision:
    """The decision with the next safe step towards a fleet, for at most ``may_spend`` $/h.

    A shrink that the budget forces waits neither for approval nor for a valid spec. Only if it keeps nothing is it announced
    first.
    """
    world, record, situation = turn.world, turn.record, turn.situation
    notice = notice_of(turn)
    in_force = situation.spec_behind(record)
    too_much = too_large(situation, in_force, fleet)
    if too_much is not None:
        turn.find("RoutingPublished", "TooLarge", too_much)
    may_grow = may_grow and too_much is None and not (notice is not None and notice.pending)
    rollout = Rollout(
        world=world,
        pools=turn.pools,
        fleet=fleet,
        facts=situation.facts(fleet),
        missing=missing_replicas(world, fleet),
        age_seconds=seconds_since(record.since, world.now),
    )
    follows = gateway_follows(situation)
    limits = Limits.of(turn.spec, fleet, budget_dollars_per_hour=may_spend, may_grow=may_grow, gateway_follows=follows)
    step = next_step(rollout, limits)
    for contest in step.contests:
        turn.find("WorkloadsReady", "ReplicasSetByOther", contest.told)
    turn.findings.extend(route_findings(situation, in_force))
    objects, render_errors = object_actions(situation, in_force, fleet, step.must_stay)
    for error in render_errors:
        turn.find("SpecValid", "SpecInvalid", str(error))
    due = (
        step.wake_in_seconds,
        turn.plan_is_due_in,
        gateway_is_due_in(situation),
        None if notice is None else notice.seconds_left,
        *(due_in_seconds(stock, world.now) for stock in record.stock.values()),
        change_in_seconds(turn.pools, world.now),
        *(seconds_between(world.now, item.until) for item in record.failed_shapes.values() if item.until is not None),
    )
    return so_far.model_copy(
        update={
            "fleet": record.fleet,
            "may_grow": may_grow,
            "grow": (*objects, *step.before_routing),
            "routing": routing_actions(situation, in_force, fleet, step.ready),
            "shrink": step.after_routing,
            "findings": tuple(turn.findings),
            "notice": notice,
            "held_back": step.held_back and may_grow,
            "unplaced": step.unplaced,
            "ready": dict(step.ready),
            "wake_in_seconds": min((seconds for seconds in due if seconds is not None and seconds > 0), default=None),
        }
    )


def _in_use(spec: PlanSpec, demand: Demand | None) -> tuple[ClassDemand, ...]:
    """The rates that this turn plans for: measured ones if the spec asks for them, else the declared ones."""
    return tuple(
        ClassDemand(
            model=model.name,
            name=item.name,
            requests_per_second=demand.rates[key] if demand else float(item.requests_per_second),
            source=demand.sources[key] if demand else "Declared",
        )
        for model in spec.models
        for item in model.effective_classes
        for key in [f"{model.name}/{item.name}"]
    )
