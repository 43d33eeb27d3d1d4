"""Builds the whole status after a turn."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from pydantic import ValidationError

from servingplan.api.status_v1alpha1 import (
    CapStatus,
    ClassStatus,
    Cost,
    DeploymentStatus,
    ExplanationStatus,
    FailedShapeStatus,
    NoticeStatus,
    PlanStatus,
    PoolStatus,
    RoutingStatus,
    SolverStatus,
)
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model import names
from servingplan.model.decision import Decision
from servingplan.model.fleet import Fleet, LearnedCap
from servingplan.model.outcome import Outcome
from servingplan.model.world import Observation
from servingplan.planning import words
from servingplan.planning.availability import with_stock
from servingplan.planning.cold_starts import start_seconds
from servingplan.planning.fleet import within_budget
from servingplan.planning.pools import Pool
from servingplan.planning.situation import Situation
from servingplan.routing.admission import WHOLE
from servingplan.routing.carried import Carried, carried
from servingplan.routing.conditions import routing_after
from servingplan.status.conditions import conditions
from servingplan.status.explained import explained_as
from servingplan.status.history import history_after
from servingplan.status.learned import learned_status
from servingplan.status.proposed import proposed
from servingplan.status.steps import step_after
from servingplan.status.summary import NONE, caps_of, carried_of, gpus_of, idle_of, served_of, shortened, unanswered

log = logging.getLogger("servingplan")

CANNOT_BE_FORETOLD = "the turns to come cannot be foretold"


def conclude(
    situation: Situation, decision: Decision, outcome: Outcome, explanation: ExplanationStatus | None = None
) -> PlanStatus:
    """The status after a turn. `explanation` belongs to the question of this turn, if it is known by now."""
    world, spec = situation.world, situation.acting
    if spec is None:
        return PlanStatus(
            observed_generation=world.plan.generation,
            history=history_after(world.plan.status, decision, world.now),
            conditions=conditions(situation, (), decision, outcome, ()),
        )
    pools = with_stock(situation.pools, decision.stock)
    fleet = decision.fleet
    shown = fleet or decision.waiting
    document = routing_after(situation, outcome)
    now = carried_now(situation, pools, decision)
    return PlanStatus(
        observed_generation=world.plan.generation,
        plan_hash=fleet.hash if fleet else None,
        proposed_plan_hash=decision.waiting.hash if decision.waiting else None,
        mode=spec.mode,
        models=_models(spec, decision),
        gpus=gpus_of(shown) if shown else None,
        unanswered=None if fleet is None else shortened(unanswered(now)) or NONE,
        served=carried_of(fleet, now),
        planned_served=served_of(shown) if shown else None,
        idle_gpus=idle_of(pools),
        caps=caps_of(pools),
        cost=Cost(
            per_hour=_dollars(shown.dollars_per_hour if shown else 0.0),
            spend_per_hour="unknown"
            if decision.spend_dollars_per_hour is None
            else _dollars(decision.spend_dollars_per_hour),
            budget_per_hour=_dollars(float(spec.budget.dollars_per_hour)),
        ),
        node_pools=tuple(_pool(pool, shown) for pool in pools),
        deployments=tuple(_deployments(shown, decision)) if shown else (),
        failed_shapes=tuple(_failed_shapes(decision)),
        classes=tuple(_classes(shown, now, decision)) if shown else (),
        routing=None
        if document is None
        else RoutingStatus(
            config_map=names.routing_name(world.plan.name, spec.gateway.config_map),
            revision=document["revision"],
            transitional=document["transitional"],
        ),
        solver=None
        if shown is None
        else SolverStatus(
            status=shown.status,
            method=shown.method,
            gap="unknown" if shown.gap is None else f"{shown.gap:.2%}",
            stopped=shown.stopped,
            binding_constraints=shown.binding,
        ),
        proposed=_foretold(situation, lambda: proposed(situation, decision)),
        transition=_foretold(situation, lambda: step_after(situation, decision, outcome)),
        history=history_after(world.plan.status, decision, world.now),
        notice=None
        if decision.notice is None
        else NoticeStatus(since=decision.notice.since, until=decision.notice.until),
        explanation=explanation or _explained_before(world, decision),
        conditions=conditions(situation, pools, decision, outcome, now),
    )


def _foretold[T](situation: Situation, tell: Callable[[], T | None]) -> T | None:
    """What is told of turns to come; None, and a line in the log, where that raises: no turn fails for a look ahead."""
    try:
        return tell()
    except Exception:
        log.exception("%s: %s", situation.world.plan.key, CANNOT_BE_FORETOLD)
        return None


def carried_now(situation: Situation, pools: tuple[Pool, ...], decision: Decision) -> tuple[Carried, ...]:
    """The rate of each class that ready replicas carry; empty if no plan is in force."""
    if decision.fleet is None:
        return ()
    held = decision.notice is not None and decision.notice.pending
    budget = math.inf if held else float(situation.spec.budget.dollars_per_hour)
    fleet = within_budget(decision.fleet, pools, budget)
    return carried(
        spec=situation.in_force,
        fleet=fleet,
        facts=situation.facts(fleet),
        ready=decision.ready,
        contexts=situation.context_tokens,
    )


def _explained_before(world: Observation, decision: Decision) -> ExplanationStatus | None:
    """The explanation in the present status; None if this turn asked another question."""
    try:
        found = ExplanationStatus.model_validate(world.plan.status.get("explanation"))
    except ValidationError:
        return None
    return found if decision.asked is None or found.of == explained_as(decision.asked) else None


def _models(spec: PlanSpec, decision: Decision) -> str:
    fleet = decision.fleet
    serving = {
        item.model for item in (fleet.replica_sets if fleet else ()) if decision.ready.get(item.deployment, 0) > 0
    }
    return f"{len(serving)}/{len(spec.models)}"


def _dollars(amount: float) -> str:
    return f"{amount:.2f}"


def _pool(pool: Pool, fleet: Fleet | None) -> PoolStatus:
    price = pool.dollars_per_node_hour
    return PoolStatus(
        name=pool.name,
        gpu=pool.gpu.name if pool.gpu is not None else pool.spec.gpu or "unknown",
        planned=fleet.nodes.get(pool.name, 0) if fleet else 0,
        wanted=pool.wanted,
        ready=len(pool.usable_nodes),
        idle_gpus=pool.idle_gpus,
        dollars_per_node_hour="unknown" if price is None else f"{price:g}",
        learned_cap=None if pool.cap is None else _cap(pool.cap),
    )


def _cap(cap: LearnedCap) -> CapStatus:
    return CapStatus(nodes=cap.nodes, since=cap.since, until=cap.until, reason=cap.reason, message=cap.message)


def _deployments(fleet: Fleet, decision: Decision) -> list[DeploymentStatus]:
    starts = start_seconds(fleet, decision.start_times)
    return [
        DeploymentStatus(
            name=item.deployment,
            model=item.model,
            variant=item.variant,
            pool=item.pool,
            gpu=item.gpu,
            tensor_parallel=item.tensor_parallel,
            pipeline_parallel=item.pipeline_parallel,
            engine=words.engine(item.settings),
            replicas=item.replicas,
            ready=decision.ready.get(item.deployment, 0),
            start_seconds=round(starts[item.deployment]) if item.deployment in starts else None,
            requests_per_second=f"{sum(item.planned.values()):.4g}",
            profile=item.rates_from,
            learned=learned_status(decision.learned.get(item.deployment)),
        )
        for item in fleet.replica_sets
    ]


def _failed_shapes(decision: Decision) -> list[FailedShapeStatus]:
    return [
        FailedShapeStatus(name=name, pool=item.pool, since=item.since, until=item.until, message=item.message)
        for name, item in list(decision.failed_shapes.items())[:32]
        if item.since is not None and item.until is not None
    ]


def _classes(fleet: Fleet, now: tuple[Carried, ...], decision: Decision) -> list[ClassStatus]:
    carried = {(item.model, item.name): item for item in now}
    served = {key: item.requests_per_second for key, item in carried.items()}
    measured = {
        (item.model, item.name): f"{item.requests_per_second:.4g}"
        for item in decision.demand
        if item.source == "Measured"
    }
    return [
        ClassStatus(
            model=item.model,
            name=item.name,
            requests_per_second=f"{item.requests_per_second:.4g}",
            planned_requests_per_second=f"{item.planned_requests_per_second:.4g}",
            served_requests_per_second=f"{served.get((item.model, item.name), 0.0):.4g}",
            observed_requests_per_second=measured.get((item.model, item.name)),
            in_time=_in_time(carried.get((item.model, item.name))),
        )
        for item in fleet.classes
    ]


def _in_time(now: Carried | None) -> bool | None:
    if now is None or now.planned_requests_per_second <= 0:
        return None
    return now.in_time and now.requests_per_second >= now.planned_requests_per_second * WHOLE
