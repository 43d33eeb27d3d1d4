"""PURE. The order of one turn: facts -> question -> plan -> next safe step, as one ``Decision`` value.

``publish`` needs no solver and comes first in a turn: weights over what is ready. ``decide`` does the rest. The operator
and the command line call the same two functions, so neither can drift from the other.
"""

from __future__ import annotations

import logging
import math

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.decide.blockers import must_wait, pool_findings, taken_names
from servingplan.decide.notice import notice_of, to_carry_out
from servingplan.decide.objects import BUDGETS_UNREAD, missing_replicas, object_actions, record_actions, replica_facts
from servingplan.decide.publishing import (
    admitted_rates,
    gateway_follows,
    gateway_is_due_in,
    route_findings,
    routing_actions,
    too_large,
)
from servingplan.decide.replan import replan
from servingplan.decide.turn import Solve, Turn, seconds_between
from servingplan.demand.adopt import Demand, at_rates, choose
from servingplan.errors import Outdated
from servingplan.model.actions import AnyAction
from servingplan.model.decision import ClassDemand, Decision
from servingplan.model.fleet import PlanRecord
from servingplan.model.world import Observation
from servingplan.planning.allowance import acting_spec
from servingplan.planning.availability import due_in_seconds, has_room_for_a_node, look, with_stock
from servingplan.planning.known import findings_of, known_of
from servingplan.planning.measured import rows_of
from servingplan.planning.pools import Pool, read_pools
from servingplan.planning.record import read_record, record_problem, spec_in_force, with_left_pools
from servingplan.planning.starts import look_at_starts
from servingplan.render.leader_worker_set import RENDERS_LEADER_WORKER_SETS
from servingplan.render.pod_access import refused_access
from servingplan.rollout.growth import total_spend
from servingplan.rollout.next import next_step, ready_replicas

log = logging.getLogger("servingplan")

NEEDED_FOR_WEIGHTS = frozenset({"pods", "EndpointSlices", "ConfigMaps", "Deployments", "HTTPRoutes"})
"""Sources without which weights stay as they are; without nodes a pod's own word counts."""
SPARED = frozenset({"other plans", "profiles", "the LeaderWorkerSet API", BUDGETS_UNREAD})
"""Sources without which a turn goes on: prices that disagree, measured rates (asked for one by one then), what this version
cannot use, and what evictions wait for."""


def publish(world: Observation) -> tuple[AnyAction, ...]:
    """Weights over what is ready now, by the plan in force. Needs no solver."""
    record = read_record(world)
    catalogue = known_of(world).catalogue
    spec, _ = acting_spec(world, catalogue)
    if spec is None or record.fleet is None or any(item.source in NEEDED_FOR_WEIGHTS for item in world.failures):
        return ()
    pools, _ = read_pools(spec, world)
    pools = with_stock(pools, record.stock)
    fleet, _ = to_carry_out(world, spec, pools, record, total_spend(pools))
    if fleet is None:
        return ()
    facts = replica_facts(world, fleet)
    return routing_actions(world, spec_in_force(record, spec, catalogue), fleet, facts, ready_replicas(world))


def decide(
    world: Observation,
    solve: Solve,
    *,
    what_if_leader_worker_sets: bool = False,
) -> Decision:
    """Everything that this turn is to do. Pure but for the solver's clock.

    ``what_if_leader_worker_sets`` plans with replicas over several nodes even though they cannot be applied: such a plan
    is only shown, as one that waits.
    """
    record = read_record(world)
    may_span = what_if_leader_worker_sets or (world.leader_worker_sets and RENDERS_LEADER_WORKER_SETS)
    turn = Turn(world, record, may_span_nodes=may_span)

    # What is there, and what keeps the turn from doing anything about it.
    catalogue = known_of(world).catalogue
    spec, errors = acting_spec(world, catalogue)
    for error in errors:
        turn.find("SpecValid", "SpecInvalid", str(error))
    for failure in world.failures:
        # What other plans spend counts where the namespace has a budget.
        counts = failure.source == "other plans" and world.namespace_budget is not None
        spared = failure.source in SPARED and not counts
        turn.find("InventoryAvailable", failure.reason, failure.message, holds=spared)
    if any(failure.source not in SPARED for failure in world.failures):
        return turn.standstill()
    if problem := record_problem(world):
        turn.find("PlanSolved", "RecordUnreadable", problem)
        return turn.standstill()
    if spec is None:
        return Decision(findings=tuple(turn.findings))
    if taken := taken_names(world, spec):
        turn.find("RoutingPublished", "NameTaken", taken)
        return turn.standstill()
    pools, pool_errors = read_pools(spec, world)
    for error in pool_errors:
        turn.find("SpecValid", "UnknownGPU" if error.field.endswith(".gpu") else "SpecInvalid", str(error))
    pool_findings(turn, pools)
    refused = [error for model in spec.models for error in refused_access(model, world.pod_access)]
    for error in refused:
        turn.find("SpecValid", "PodAccessNotAllowed", str(error))
    turn.rows, row_findings = rows_of(spec, world)
    turn.findings += (*row_findings, *findings_of(world))
    spend = total_spend(pools)

    # What was asked of the pools, and what came of it.
    budget = float(spec.budget.dollars_per_hour)
    record = turn.record = look(pools, record, now=world.now, budget=budget, spend=spend)
    pools = with_stock(pools, record.stock)
    startup = {model.name: float(model.engine.startup_seconds) for model in spec.models}
    failed = look_at_starts(
        record,
        world,
        startup_seconds=lambda model: startup.get(model, math.inf),
        has_room=lambda name: has_room_for_a_node(name, pools, record, budget=budget, spend=spend),
    )
    record = turn.record = record.model_copy(update={"failed_shapes": failed})

    # The plan that is to be in force, for the demand of the moment.
    notice = notice_of(world, spec, pools, record)
    # Nobody approves a plan in the other modes: what runs stays in force until the time of the notice is over.
    noticed = notice is not None and notice.pending and spec.mode != "Approve"
    unread = any(finding.condition == "InventoryAvailable" and not finding.holds for finding in turn.findings)
    frozen = bool(errors or pool_errors or refused or unread) or must_wait(turn, pools) or noticed
    demand = choose(spec, world, record.demand, admitted_rates(world, spec))
    if demand is not None:
        turn.findings.append(demand.finding)
    if not frozen:
        measured = at_rates(spec, demand.rates) if demand is not None else spec
        planned, frozen = _replanned(turn, measured, pools, solve)
        planned = planned.model_copy(
            update={
                "demand": demand.adopted if demand is not None else None,
                "stock": record.stock,
                "failed_shapes": record.failed_shapes,
            }
        )
        record = with_left_pools(planned, record, world)
    in_use = _in_use(spec, demand)
    spend_dollars_per_hour = None if math.isnan(spend) else round(spend, 6)
    fleet, may_spend = to_carry_out(world, spec, pools, record, spend)
    if record.fleet is None or fleet is None:
        # What was measured is written down also where plans are only shown, or each turn would show another.
        keep = (
            record.demand is not None
            or any(stock.cap for stock in record.stock.values())
            or (record.waiting is not None and spec.mode == "Approve")
        )
        first = record_actions(world, record) if keep else ()
        return Decision(
            waiting=record.waiting,
            first=first,
            findings=tuple(turn.findings),
            asked=turn.asked,
            demand=in_use,
            spend_dollars_per_hour=spend_dollars_per_hour,
            stock=record.stock,
            failed_shapes=record.failed_shapes,
        )

    # The next safe step towards it. A shrink that the budget forces waits neither for approval nor for a spec that is
    # right again, unless it keeps nothing: then it is told first.
    notice = notice_of(world, spec, pools, record)
    frozen = frozen or (notice is not None and notice.pending)
    facts = replica_facts(world, fleet)
    in_force = spec_in_force(record, spec, catalogue)
    if lines := too_large(world, in_force, fleet, facts):
        turn.find("RoutingPublished", "TooLarge", lines)
        frozen = True
    step = next_step(
        world=world,
        spec=spec,
        pools=pools,
        fleet=fleet,
        facts=facts,
        budget_dollars_per_hour=may_spend,
        may_grow=not frozen,
        plan_age_seconds=math.inf if record.since is None else seconds_between(record.since, world.now),
        gateway_follows=gateway_follows(world, spec),
        missing=missing_replicas(world, fleet),
    )
    for contest in step.contests:
        turn.find("WorkloadsReady", "ReplicasSetByOther", contest.told)
    route_findings(turn, in_force)
    objects, render_errors = object_actions(world, in_force, read_pools(in_force, world)[0], fleet, step.must_stay)
    for error in render_errors:
        turn.find("SpecValid", "SpecInvalid", str(error))
    told = notice.seconds_left or None if notice is not None else None
    due = (
        step.wake_in_seconds,
        turn.plan_is_due_in,
        gateway_is_due_in(world, spec),
        told,
        *(due_in_seconds(stock, world.now) for stock in record.stock.values()),
        *(seconds_between(world.now, item.until) for item in record.failed_shapes.values() if item.until is not None),
    )
    return Decision(
        fleet=record.fleet,
        waiting=record.waiting,
        first=record_actions(world, record),
        grow=(*objects, *step.before_routing),
        routing=routing_actions(world, in_force, fleet, facts, step.ready),
        shrink=step.after_routing,
        findings=tuple(turn.findings),
        asked=turn.asked,
        demand=in_use,
        spend_dollars_per_hour=spend_dollars_per_hour,
        stock=record.stock,
        failed_shapes=record.failed_shapes,
        notice=notice,
        held_back=step.held_back and not frozen,
        unseated=step.unseated,
        ready=dict(step.ready),
        wake_in_seconds=min((seconds for seconds in due if seconds is not None and seconds > 0), default=None),
    )


def _replanned(turn: Turn, spec: PlanSpec, pools: tuple[Pool, ...], solve: Solve) -> tuple[PlanRecord, bool]:
    """As ``replan``; whatever is raised there is told, and what runs is looked after as before."""
    try:
        return replan(turn, spec, pools, solve)
    except Outdated:
        raise
    except Exception as error:
        log.exception("%s could not be planned", turn.world.plan.key)
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        turn.find(
            "PlanSolved",
            "SolverError",
            f"no plan could be made: {text}; what runs is kept. If the spec looks right to you, report this with the output of "
            "`servingplan world`",
        )
        return turn.record, True


def _in_use(spec: PlanSpec, demand: Demand | None) -> tuple[ClassDemand, ...]:
    """The rates that this turn plans for: the declared ones where no measured ones are asked for."""
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
