"""PURE. The order of one turn: facts -> question -> plan -> next safe step, as one ``Decision`` value.

``publish`` needs no solver and comes first in a turn: weights over what is ready. ``decide`` does the rest. The operator
and the command line call the same two functions, so neither can drift from the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from pydantic import ValidationError

from servingplan.api.v1alpha1 import PlanSpec, parse_spec, seconds_of
from servingplan.demand.adopt import Demand, at_rates, choose
from servingplan.errors import InputError
from servingplan.model.actions import AnyAction, ApplyObject, ClaimPool, DeleteObject
from servingplan.model.answer import Answer
from servingplan.model.decision import ClassDemand, Decision, Finding
from servingplan.model.fleet import Fleet, PlanRecord, ReplicaFacts, digest
from servingplan.model.question import Change, Question, QuestionError, canonical_json
from servingplan.model.world import LiveObject, Observation, PlanObject
from servingplan.planning.fleet import fleet_of, within_budget
from servingplan.planning.pools import CENT, Pool, read_pools
from servingplan.planning.question import Posed, pose
from servingplan.planning.record import (
    RECORD_KEY,
    effective_spec,
    read_record,
    routing_as_published,
    with_left_pools,
)
from servingplan.planning.shapes import ShapeFacts
from servingplan.render import names
from servingplan.render.deployment import deployment, owner_reference, replica_digest, replica_template, service
from servingplan.render.httproute import KIND as HTTP_ROUTE
from servingplan.render.httproute import MOST_BACKENDS, cut_shares, http_routes
from servingplan.render.leader_worker_set import RENDERS_LEADER_WORKER_SETS
from servingplan.render.routing import routing_config_map, routing_document
from servingplan.steps.drains import GATEWAY_POLL_SECONDS
from servingplan.steps.growth import planned_size, total_spend
from servingplan.steps.next import next_step, ready_replicas
from servingplan.steps.routes import PENDING, complaints
from servingplan.verify import verify


class Solve(Protocol):
    """Answers a question within the deadline of the spec, or within so many seconds where that is less."""

    def __call__(self, question: Question, spec: PlanSpec, at_most_seconds: float | None = None) -> Answer: ...


@dataclass
class _Turn:
    """What accumulates while a turn is decided."""

    world: Observation
    record: PlanRecord
    may_span_nodes: bool
    """Whether replicas over several nodes are asked about."""
    findings: list[Finding] = field(default_factory=list)
    plan_is_due_in: float | None = None
    """Seconds until a better plan that is known may take over."""
    asked: str | None = None
    """Digest of the question that was posed."""

    def find(self, condition: str, reason: str, message: str, *, holds: bool = False) -> None:
        self.findings.append(Finding(condition=condition, reason=reason, message=message, holds=holds))


def publish(world: Observation) -> tuple[AnyAction, ...]:
    """Weights over what is ready now, by the plan in force. Needs no solver."""
    record = read_record(world)
    spec, _ = effective_spec(world.plan.spec, record)
    if spec is None or record.fleet is None or world.failures:
        return ()
    pools, _ = read_pools(spec, world)
    fleet = within_budget(record.fleet, pools, float(spec.budget.dollars_per_hour))
    facts = replica_facts(world, fleet)
    return _routing_actions(world, _spec_in_force(record, spec), fleet, facts, ready_replicas(world))


def decide(world: Observation, solve: Solve, *, what_if_leader_worker_sets: bool = False) -> Decision:
    """Everything that this turn is to do. Pure but for the solver's clock.

    ``what_if_leader_worker_sets`` plans with replicas over several nodes even though they cannot be applied: such a plan
    is only shown, as one that waits.
    """
    record = read_record(world)
    may_span = what_if_leader_worker_sets or (world.leader_worker_sets and RENDERS_LEADER_WORKER_SETS)
    turn = _Turn(world, record, may_span_nodes=may_span)
    spec, errors = effective_spec(world.plan.spec, record)
    for error in errors:
        turn.find("SpecValid", "SpecInvalid", str(error))
    if world.failures:
        for failure in world.failures:
            turn.find("InventoryAvailable", failure.reason, failure.message)
        return Decision(
            fleet=record.fleet,
            waiting=record.waiting,
            findings=tuple(turn.findings),
            ready=ready_replicas(world),
        )
    if spec is None:
        return Decision(findings=tuple(turn.findings))
    if taken := _taken_names(world, spec):
        turn.find("RoutingPublished", "NameTaken", taken)
        return Decision(
            fleet=record.fleet,
            waiting=record.waiting,
            findings=tuple(turn.findings),
            ready=ready_replicas(world),
        )
    pools, pool_errors = read_pools(spec, world)
    for error in pool_errors:
        turn.find("SpecValid", "UnknownGPU" if error.field.endswith(".gpu") else "SpecInvalid", str(error))
    _pool_findings(turn, pools)
    frozen = bool(errors or pool_errors) or _must_wait(turn, pools)
    demand = choose(spec, world, record.demand)
    if demand is not None:
        turn.findings.append(demand.finding)
    if not frozen:
        measured = at_rates(spec, demand.rates) if demand is not None else spec
        planned, frozen = _replan(turn, measured, pools, solve)
        planned = planned.model_copy(update={"demand": demand.adopted if demand is not None else None})
        record = with_left_pools(planned, record, world)
    spend = total_spend(pools)
    known_spend = None if spend != spend else round(spend, 6)
    if record.fleet is None:
        # What was measured is written down also where plans are only shown, or each turn would show another.
        keep = record.demand is not None or (record.waiting is not None and spec.mode == "Approve")
        first = _record_actions(world, record) if keep else ()
        return Decision(
            fleet=record.fleet,
            waiting=record.waiting,
            first=first,
            findings=tuple(turn.findings),
            asked=turn.asked,
            demand=_in_use(spec, demand),
            spend_dollars_per_hour=known_spend,
        )
    # A shrink that the budget forces waits neither for approval nor for a spec that is right again.
    fleet = within_budget(record.fleet, pools, float(spec.budget.dollars_per_hour))
    facts = replica_facts(world, fleet)
    step = next_step(
        world=world,
        spec=spec,
        pools=pools,
        fleet=fleet,
        facts=facts,
        may_grow=not frozen,
        plan_age_seconds=math.inf if record.since is None else _seconds(record.since, world.now),
        gateway_follows=gateway_follows(world, spec),
    )
    in_force = _spec_in_force(record, spec)
    _route_findings(turn, in_force)
    objects, render_errors = _object_actions(world, in_force, read_pools(in_force, world)[0], fleet)
    for error in render_errors:
        turn.find("SpecValid", "SpecInvalid", str(error))
    return Decision(
        fleet=record.fleet,
        waiting=record.waiting,
        first=_record_actions(world, record),
        grow=(*objects, *step.before_routing),
        routing=_routing_actions(world, in_force, fleet, facts, step.ready),
        shrink=step.after_routing,
        findings=tuple(turn.findings),
        asked=turn.asked,
        demand=_in_use(spec, demand),
        spend_dollars_per_hour=known_spend,
        held_back=step.held_back and not frozen,
        unseated=step.unseated,
        ready=dict(step.ready),
        wake_in_seconds=min(
            (
                due
                for due in (step.wake_in_seconds, turn.plan_is_due_in, _gateway_is_due_in(world, spec))
                if due is not None
            ),
            default=None,
        ),
    )


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


def _spec_in_force(record: PlanRecord, spec: PlanSpec) -> PlanSpec:
    """The spec behind the plan in force: an edit that is wrong, or waits for approval, changes nothing of what runs."""
    return (parse_spec(record.spec)[0] if record.spec is not None else None) or spec


RETIREMENT_SECONDS = 1800.0
"""How long a deleted plan may take to drain and to give its nodes back before it is let go all the same."""


def overdue(world: Observation) -> bool:
    """Whether a deleted plan has had its time: it is let go whatever is left, or its deletion would never end."""
    since = world.plan.deleting_since
    return since is not None and _seconds(since, world.now) > RETIREMENT_SECONDS


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
    routing = _routing_actions(world, spec, nothing, facts, step.ready) if record.fleet is not None else ()
    pods_left = any(pod.deployment is not None and pod.namespace == world.plan.namespace for pod in world.pods)
    too_large = any(pool.sized_by_us and pool.object and pool.wanted > planned_size(pool, nothing) for pool in pools)
    if not (pods_left or world.deployments() or too_large):
        return Decision(grow=release), True
    return Decision(grow=moves, routing=routing, shrink=step.after_routing, wake_in_seconds=step.wake_in_seconds), False


def replica_facts(world: Observation, fleet: Fleet) -> dict[str, ReplicaFacts]:
    """Of every Deployment of ours: as planned, else as its annotation tells of the plan that last held it."""
    facts: dict[str, ReplicaFacts] = {}
    for live in world.deployments():
        text = live.manifest["metadata"].get("annotations", {}).get(names.FACTS_ANNOTATION, "")
        try:
            facts[live.name] = ReplicaFacts.model_validate_json(text)
        except ValidationError:
            continue
    facts.update({item.deployment: item.facts for item in fleet.replica_sets})
    return dict(sorted(facts.items()))


# --- planning -------------------------------------------------------------------------------------------------------


def _replan(turn: _Turn, spec: PlanSpec, pools: tuple[Pool, ...], solve: Solve) -> tuple[PlanRecord, bool]:
    """The record after this turn's planning, and whether nothing may grow."""
    world, record = turn.world, turn.record
    posed, errors = pose(spec=spec, pools=pools, incumbent=record.fleet, across_nodes=turn.may_span_nodes)
    for error in errors:
        reason = "UnknownModel" if error.field.endswith(".name") else "SpecInvalid"
        turn.find("SpecValid", reason, str(error))
    for line in posed.unfit if not errors else ():
        turn.find("SpecValid", "NoFittingShape", line)
    names_of, template_errors = _deployment_names(world.plan, posed)
    for error in template_errors:
        turn.find("SpecValid", "SpecInvalid", str(error))
    if errors or posed.unfit or template_errors:
        return record, True
    if posed.question is None:
        lacking = ", ".join(posed.no_room) or "all classes"
        turn.find(
            "PlanSolved", "NoCapacity", f"no node of the pools can take a replica for {lacking}; add nodes or pools"
        )
        return record, True
    asked = turn.asked = digest(
        [json.loads(canonical_json(posed.question.model_copy(update={"running": None}))), names_of]
    )
    if record.fleet is not None and record.question == asked:
        kept = {"spec": world.plan.spec, "generation": world.plan.generation}
        return record.model_copy(update={**kept, **_NOTHING_WAITS}), False
    if record.waiting is not None and record.waiting_question == asked:
        answer = Answer.model_validate(record.waiting_answer)
        return _adopt(turn, spec, answer, record.waiting, asked), False
    hurried = _must_hurry(turn, spec, posed.question)
    try:
        in_time = partial(solve, at_most_seconds=HURRIED_SECONDS) if hurried else solve
        answer = _solved(turn, spec, posed.question, in_time)
        if hurried and answer.status == "Infeasible" and answer.stopped == "deadline":
            hurried, answer = False, _solved(turn, spec, posed.question, solve)
    except QuestionError as error:
        turn.find("PlanSolved", "SolverError", str(error))
        return record, True
    if answer.status == "Infeasible" and answer.stopped != "proved":
        # A search that ended early, or a heuristic that found nothing, proves nothing: what runs stays.
        turn.find(
            "PlanSolved",
            "TimeLimit",
            f"{answer.method} found no plan within {spec.solver.deadline_seconds} s, which does not prove that there is none; "
            "raise spec.solver.deadlineSeconds, or choose another spec.solver.method",
        )
        return record, True
    if answer.status == "Infeasible":
        turn.find("PlanSolved", "Infeasible", "; ".join(answer.reasons) or "the constraints exclude each other")
        return _fall_back(turn, spec, posed, solve, names_of)
    broken = verify(posed.question, answer)
    if broken:
        text = "; ".join(str(item) for item in broken[:3])
        turn.find("PlanSolved", "SolverError", f"the solver's plan breaks its promises and is not used: {text}")
        return record, True
    fleet = fleet_of(spec=spec, posed=posed, answer=answer, name_of=lambda shape: names_of[shape.key])
    if answer.reasons and record.fleet and _same_replicas(record.fleet, fleet) and spec.mode != "Preview":
        # What runs carries the new rates: only weights follow, which needs no approval, and the plan keeps its age.
        return PlanRecord(
            fleet=fleet,
            answer=answer_data(answer),
            question=asked if turn.plan_is_due_in is None else None,
            generation=world.plan.generation,
            since=record.since,
            spec=world.plan.spec,
        ), False
    if _keep_incumbent(turn, spec, posed.question, answer):
        # While the incumbent is only too young to go, the question stays open.
        answered = {} if turn.plan_is_due_in is not None else {"question": asked}
        return record.model_copy(update={**answered, **_NOTHING_WAITS}), False
    record = _adopt(turn, spec, answer, fleet, asked)
    if hurried and answer.stopped == "deadline":
        record = record.model_copy(update={"question": None})  # the next turn takes all the time that the spec allows
    return record, False


HURRIED_SECONDS = 0.12
"""For the first plan after a loss, which is to be there, verified, after 0.2 s: a deadline is kept to a tenth and 50 ms. A
better one comes in the next turn."""


def _must_hurry(turn: _Turn, spec: PlanSpec, question: Question) -> bool:
    """Whether the plan in force, which was the answer to a question, cannot be had any more."""
    record = turn.record
    edited = record.generation != turn.world.plan.generation
    if spec.mode != "Auto" or edited or record.fleet is None or record.question is None:
        return False
    return _running_answer(record, question) is None


def _solved(turn: _Turn, spec: PlanSpec, question: Question, solve: Solve) -> Answer:
    """The answer to the question; where only measured rates may have changed, that of the running fleet with the rates
    laid out anew, unless moving gains enough.

    A plan younger than ``change.minLifetime`` makes way for one that serves more, not for one that is only cheaper.
    """
    record = turn.record
    if spec.demand is None or record.fleet is None or record.generation != turn.world.plan.generation:
        return solve(question, spec)
    best = solve(question.model_copy(update={"change": Change(min_gain=float(spec.change.min_gain))}), spec)
    left = _lifetime_left(turn, spec)
    if best.status == "Infeasible" or best.reasons or left <= 0:
        return best
    stay = solve(question.model_copy(update={"change": Change(min_gain=_NEVER)}), spec)
    if not stay.reasons or sum(stay.unserved.values()) > sum(best.unserved.values()) + 1e-9:
        return best
    turn.plan_is_due_in = left
    return stay


_NEVER = 1e9
"""A gain that no plan has."""


def _lifetime_left(turn: _Turn, spec: PlanSpec) -> float:
    """Seconds until the plan in force has had its least lifetime."""
    since = turn.record.since
    return 0.0 if since is None else seconds_of(spec.change.min_lifetime) - _seconds(since, turn.world.now)


def _same_replicas(left: Fleet, right: Fleet) -> bool:
    def content(fleet: Fleet) -> Any:
        return fleet.nodes, [(item.deployment, item.replicas) for item in fleet.replica_sets]

    return bool(content(left) == content(right))


_NOTHING_WAITS: dict[str, Any] = {"waiting": None, "waiting_answer": None, "waiting_question": None}


def _adopt(turn: _Turn, spec: PlanSpec, answer: Answer, fleet: Fleet, asked: str) -> PlanRecord:
    """The new plan in force, or waiting where the mode asks for consent."""
    world, record = turn.world, turn.record
    if fleet.spans_nodes and not RENDERS_LEADER_WORKER_SETS:
        turn.find(
            "PlanSolved",
            "NotRenderable",
            "the plan has replicas over several nodes, which need LeaderWorkerSets: this version cannot write them, so the "
            "plan is only shown",
        )
        return record.model_copy(
            update={"waiting": fleet, "waiting_answer": answer_data(answer), "waiting_question": asked}
        )
    waits = spec.mode == "Preview" or (spec.mode == "Approve" and world.plan.approved_hash != fleet.hash)
    if waits and (record.fleet is None or record.fleet.hash != fleet.hash or spec.mode == "Preview"):
        return record.model_copy(
            update={"waiting": fleet, "waiting_answer": answer_data(answer), "waiting_question": asked}
        )
    return PlanRecord(
        fleet=fleet,
        answer=answer_data(answer),
        question=asked,
        generation=world.plan.generation,
        since=world.now,
        spec=world.plan.spec,
    )


def answer_data(answer: Answer) -> dict[str, Any]:
    """The answer without the time that it took: what is written down is the same on any machine."""
    data: dict[str, Any] = answer.model_dump(mode="json", exclude={"seconds"}, exclude_none=True)
    return data


def _fall_back(
    turn: _Turn, spec: PlanSpec, posed: Posed, solve: Solve, names_of: Mapping[str, str]
) -> tuple[PlanRecord, bool]:
    """Where floors or survival cannot hold, what runs stays, unless it costs more than the budget: then the best plan
    without them takes over, so that spend falls."""
    record = turn.record
    assert posed.question is not None
    if record.fleet is None or record.fleet.dollars_per_hour <= posed.question.budget_dollars_per_hour + CENT:
        return record, True
    relaxed = posed.question.model_copy(
        update={
            "survive": (),
            "pools": tuple(pool.model_copy(update={"min_nodes": 0}) for pool in posed.question.pools),
        }
    )
    answer = solve(relaxed, spec)
    if answer.status == "Infeasible" or verify(relaxed, answer):
        return record, True
    fleet = fleet_of(spec=spec, posed=posed, answer=answer, name_of=lambda shape: names_of[shape.key])
    if fleet.spans_nodes and not RENDERS_LEADER_WORKER_SETS:
        return record, True
    return record.model_copy(update={"fleet": fleet, "answer": answer_data(answer), "question": None}), True


def _keep_incumbent(turn: _Turn, spec: PlanSpec, question: Question, answer: Answer) -> bool:
    """Whether the running plan still holds and the new one is not worth moving for. Edits always count."""
    record = turn.record
    if record.fleet is None or record.generation != turn.world.plan.generation:
        return False
    running = _running_answer(record, question)
    if running is None:
        return False
    if _serves_another_class(question, running, answer):
        return False
    if _gain(running, answer) < float(spec.change.min_gain):
        return True
    if sum(answer.unserved.values()) < sum(running.unserved.values()) - 1e-9:
        return False  # requests that are turned away do not wait for the plan to grow old
    age = math.inf if record.since is None else _seconds(record.since, turn.world.now)
    lifetime = float(seconds_of(spec.change.min_lifetime))
    if age < lifetime:
        turn.plan_is_due_in = lifetime - age
    return age < lifetime


def _running_answer(record: PlanRecord, question: Question) -> Answer | None:
    """The answer in force as one to this question; None where it does not keep its promises any more."""
    try:
        running = Answer.model_validate(record.answer)
    except ValidationError:
        return None
    # Pools that came meanwhile have none of its nodes, what it took to start is spent, and it need not be the best.
    nodes = {**{pool.name: 0 for pool in question.pools}, **running.nodes}
    running = running.model_copy(update={"nodes": nodes, "startup_dollars": None})
    broken = verify(question.model_copy(update={"running": None}), running)
    return None if any(item.promise != "proof" for item in broken) else running


def _serves_another_class(question: Question, running: Answer, new: Answer) -> bool:
    """Whether the new plan serves a class that the running one serves nothing: that is worth any move, at any age."""

    def served(answer: Answer) -> set[str]:
        return {name for name, rates in answer.rates.items() if sum(rates.values()) > 0}

    return bool((served(new) - served(running)) & {item.name for item in question.classes})


def _gain(running: Answer, new: Answer) -> float:
    """Relative gain: of the multiple served, or of service and then of dollars."""
    if running.scale is not None and new.scale is not None:
        return _relative(new.scale - running.scale, running.scale)
    served_before, served_after = sum(running.unserved.values()), sum(new.unserved.values())
    if served_after < served_before - 1e-9:
        return _relative(served_before - served_after, served_before)
    before, after = running.dollars_per_hour or 0.0, new.dollars_per_hour or 0.0
    return _relative(before - after, before)


def _relative(difference: float, base: float) -> float:
    return difference / base if base > 0 else (1.0 if difference > 0 else 0.0)


def _seconds(then: str, now: str) -> float:
    return (datetime.fromisoformat(now) - datetime.fromisoformat(then)).total_seconds()


def _deployment_names(plan: PlanObject, posed: Posed) -> tuple[dict[str, str], tuple[InputError, ...]]:
    """Deployment by shape. The names are part of what is asked, since they hold image, arguments and template."""
    found: dict[str, str] = {}
    errors: dict[str, InputError] = {}
    for shape in posed.shapes.values():
        key = shape.key
        if key in found:
            continue
        try:
            template = _template(shape)
        except InputError as error:
            errors[str(error)] = error
            continue
        replica = replica_digest(
            plan=plan.name,
            model=shape.model.name,
            variant=shape.variant.name,
            pool=shape.pool.name if shape.layout.inside_a_node else f"{shape.layout.name}/{shape.layers}",
            template=template,
        )
        found[key] = names.deployment_name(plan.name, shape.model.name, replica)
    return found, tuple(errors[text] for text in sorted(errors))


def _template(shape: ShapeFacts) -> dict[str, Any]:
    return replica_template(
        model=shape.model,
        variant=shape.variant,
        pool=shape.pool.spec,
        tensor_parallel=shape.tensor_parallel,
        pipeline_parallel=shape.pipeline_parallel,
    )


# --- what keeps a turn from growing ---------------------------------------------------------------------------------


def _pool_findings(turn: _Turn, pools: Iterable[Pool]) -> None:
    prices = {other.key: other.prices for other in turn.world.other_plans}
    for pool in pools:
        for problem in (pool.problem, pool.conflict):
            if problem is not None:
                unread = problem.reason in ("ReadForbidden", "ReadFailed")
                turn.find("InventoryAvailable" if unread else "NodePoolsReady", problem.reason, problem.message)
        if pool.object is None or pool.dollars_per_node_hour is None:
            continue
        for key in sorted(prices):
            other = prices[key].get(pool.object.reference)
            if other is not None and float(other) != pool.dollars_per_node_hour:
                turn.find(
                    "WithinBudget",
                    "PriceDisagreement",
                    f"nodePools[{pool.name}].dollarsPerNodeHour is {pool.dollars_per_node_hour:g}, plan {key} says "
                    f"{float(other):g} for the same pool; make them equal",
                )


def _must_wait(turn: _Turn, pools: tuple[Pool, ...]) -> bool:
    """Nothing grows while a price is unknown, or while a pool that the plan in force stands on cannot be read."""
    wait = False
    for pool in pools:
        if pool.dollars_per_node_hour is None and pool.problem is None:
            turn.find(
                "WithinBudget",
                "PriceUnknown",
                f"spec.nodePools[{pool.name}].dollarsPerNodeHour: not given, so spend cannot be computed and nothing "
                "grows; give the price of a node (0 is a price)",
            )
            wait = True
        stands_on = turn.record.fleet is not None and turn.record.fleet.nodes.get(pool.name, 0) > 0
        if pool.problem is not None and (
            pool.problem.reason in ("ReadForbidden", "ReadFailed")
            or (pool.problem.reason == "PoolMissing" and stands_on)
        ):
            wait = True
    return wait


def _taken_names(world: Observation, spec: PlanSpec) -> str | None:
    routing = names.routing_name(world.plan.name, spec.gateway.config_map)
    for name, field_name in (
        (routing, "spec.gateway.configMap"),
        (names.record_name(world.plan.name), "metadata.name"),
    ):
        live = world.live("ConfigMap", name)
        if live is not None and not live.ours:
            return (
                f"{field_name}: ConfigMap {name} belongs to {live.owner} and is left alone; choose another name, or "
                "delete that ConfigMap"
            )
    return None


# --- objects --------------------------------------------------------------------------------------------------------


def _object_actions(
    world: Observation, spec: PlanSpec, pools: tuple[Pool, ...], fleet: Fleet
) -> tuple[tuple[AnyAction, ...], tuple[InputError, ...]]:
    """Deployments and Services of the plan that are missing or were changed by somebody else."""
    models = {model.name: model for model in spec.models}
    by_pool = {pool.name: pool for pool in pools}
    actions: list[AnyAction] = []
    errors: list[InputError] = []
    for item in fleet.replica_sets:
        model, pool = models.get(item.model), by_pool.get(item.pool)
        variant = next((v for v in model.effective_variants if v.name == item.variant), None) if model else None
        live = world.live("Deployment", item.deployment)
        manifests = [service(plan=world.plan, replica_set=item)]
        if model is not None and pool is not None and variant is not None:
            try:
                template = replica_template(
                    model=model,
                    variant=variant,
                    pool=pool.spec,
                    tensor_parallel=item.tensor_parallel,
                    pipeline_parallel=item.pipeline_parallel,
                )
            except InputError as error:
                errors.append(error)
                continue
            replicas = item.replicas if live is None else int(live.manifest.get("spec", {}).get("replicas", 1))
            manifests.append(
                deployment(
                    plan=world.plan,
                    replica_set=item,
                    template=template,
                    replicas=replicas,
                    startup_seconds=model.engine.startup_seconds,
                    fleet=fleet,
                )
            )
        for manifest in manifests:
            found = world.live(manifest["kind"], manifest["metadata"]["name"])
            if not in_place(found, manifest):
                why = f"{manifest['kind']} {item.deployment}: {item.replicas} x {item.model} on {item.pool}"
                actions.append(ApplyObject(manifest=manifest, why=why))
    return tuple(actions), tuple(errors)


def _routing_actions(
    world: Observation, spec: PlanSpec, fleet: Fleet, facts: Mapping[str, ReplicaFacts], ready: Mapping[str, int]
) -> tuple[AnyAction, ...]:
    name = names.routing_name(world.plan.name, spec.gateway.config_map)
    live = world.live("ConfigMap", name)
    if live is not None and not live.ours:
        return ()
    document = routing_document(
        plan=world.plan,
        spec=spec,
        fleet=fleet,
        facts=facts,
        ready=ready,
        previous=routing_as_published(world, name),
    )
    manifest = routing_config_map(world.plan, spec, document)
    routes = http_route_actions(world, spec, document)
    if in_place(live, manifest):
        return routes
    serving = sum(1 for count in ready.values() if count)
    why = f"revision {document['revision']}: weights over {sum(ready.values())} ready replicas of {serving} Deployments"
    return (ApplyObject(manifest=manifest, why=why), *routes)


def http_route_actions(world: Observation, spec: PlanSpec, document: dict[str, Any]) -> tuple[AnyAction, ...]:
    """HTTPRoutes that are missing or differ, and those that nothing asks for any more."""
    if world.http_routes_unread is not None:
        return ()
    wanted = spec.gateway.http_route
    rendered = {} if wanted is None else {item["metadata"]["name"]: item for item in _rendered(world, spec, document)}
    revision = document["revision"]
    return (
        *(
            ApplyObject(manifest=manifest, why=f"HTTPRoute {name} as of revision {revision}")
            for name, manifest in rendered.items()
            if not in_place(world.live(HTTP_ROUTE, name), manifest)
        ),
        *(
            DeleteObject(
                object_kind=HTTP_ROUTE, name=live.name, uid=live.uid, why=f"HTTPRoute {live.name} is not wanted"
            )
            for live in world.objects
            if live.kind == HTTP_ROUTE and live.ours and live.name not in rendered
        ),
    )


def _rendered(world: Observation, spec: PlanSpec, document: dict[str, Any]) -> list[dict[str, Any]]:
    wanted = spec.gateway.http_route
    return [] if wanted is None else http_routes(world.plan, wanted, document)


def gateway_follows(world: Observation, spec: PlanSpec) -> bool | None:
    """Whether all gateways that can be asked have taken the published weights; None where there is none to ask."""
    published = routing_as_published(world, names.routing_name(world.plan.name, spec.gateway.config_map))
    words = [
        word
        for word in (_files_taken(world, spec, published), _routes_taken(world, spec, published))
        if word is not None
    ]
    return all(words) if words else None


def _files_taken(world: Observation, spec: PlanSpec, published: dict[str, Any] | None) -> bool | None:
    """By the gateway that reads the ConfigMap."""
    if spec.gateway.ack_url is None or world.gateway is None:
        return None
    return published is not None and world.gateway.taken == published.get("revision")


def _routes_taken(world: Observation, spec: PlanSpec, published: dict[str, Any] | None) -> bool | None:
    """By the parents of the HTTPRoutes, which must be those of the published weights."""
    if spec.gateway.http_route is None or world.http_routes_unread is not None:
        return None
    if published is None:
        return False
    for manifest in _rendered(world, spec, published):
        live = world.live(HTTP_ROUTE, manifest["metadata"]["name"])
        if live is None or not in_place(live, manifest) or any(complaints(live)):
            return False
    return True


def _gateway_is_due_in(world: Observation, spec: PlanSpec) -> float | None:
    """One that answers will soon have the weights: look again. One that does not is asked again in its time; what is
    said of HTTPRoutes wakes the plan by itself."""
    published = routing_as_published(world, names.routing_name(world.plan.name, spec.gateway.config_map))
    behind = _files_taken(world, spec, published) is False and world.gateway is not None and world.gateway.answers
    return GATEWAY_POLL_SECONDS if behind else None


def _route_findings(turn: _Turn, spec: PlanSpec) -> None:
    """What keeps HTTPRoutes from saying what the plan says."""
    world = turn.world
    if spec.gateway.http_route is None:
        return
    if world.http_routes_unread is not None:
        turn.find("RoutingPublished", "HTTPRoutesUnavailable", world.http_routes_unread)
        return
    for live in world.objects:
        for complaint in complaints(live) if live.kind == HTTP_ROUTE and live.ours else ():
            if complaint.reason != PENDING:
                turn.find("RoutingPublished", complaint.reason, complaint.message)
    published = routing_as_published(world, names.routing_name(world.plan.name, spec.gateway.config_map))
    cut = cut_shares(published) if published is not None else {}
    for name, share in cut.items():
        turn.find(
            "RoutingPublished",
            "TooManyBackends",
            f"{name} goes to more than {MOST_BACKENDS} Services, the most that a rule of an HTTPRoute holds; the largest "
            f"{MOST_BACKENDS} take the {share:.1%} of the others too. Serve the model from fewer pools or variants, or use "
            "a gateway that reads the ConfigMap",
        )


def _record_actions(world: Observation, record: PlanRecord) -> tuple[AnyAction, ...]:
    name = names.record_name(world.plan.name)
    text = json.dumps(record.model_dump(mode="json"), sort_keys=True, indent=1) + "\n"
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": world.plan.namespace,
            "labels": {
                names.PLAN_LABEL: names.label_value(world.plan.name),
                "app.kubernetes.io/managed-by": "servingplan",
            },
            "ownerReferences": [owner_reference(world.plan)],
        },
        "data": {RECORD_KEY: text},
    }
    live = world.live("ConfigMap", name)
    if in_place(live, manifest):
        return ()
    what = record.fleet or record.waiting
    return (ApplyObject(manifest=manifest, why=f"plan {what.hash if what else 'none'} is written down"),)


def in_place(live: LiveObject | None, manifest: Mapping[str, Any]) -> bool:
    """Whether an object is there, ours, and as we render it; what others or the API server added to it is theirs."""
    if live is None or not live.ours:
        return False
    metadata = manifest["metadata"]
    wanted: dict[str, Any] = {"metadata": {key: metadata[key] for key in ("labels", "annotations") if key in metadata}}
    wanted.update({key: manifest[key] for key in ("spec", "data") if key in manifest})
    return covers(live.manifest, wanted)


def covers(live: Any, wanted: Any) -> bool:
    """Whether all of ``wanted`` stands so in ``live``: maps may have more keys, lists are as long."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(key in live and covers(live[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(have, want) for have, want in zip(live, wanted, strict=True))
        )
    return bool(live == wanted)
