"""PURE. What the plan's status says: from what was seen, what was decided, and what became of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import ValidationError

from servingplan.api.status_v1alpha1 import (
    ClassStatus,
    Condition,
    Cost,
    DeploymentStatus,
    ExplanationStatus,
    PlanStatus,
    PoolStatus,
    RoutingStatus,
    SolverStatus,
)
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.actions import ApplyObject, ClaimPool, DeleteObject, DrainPod, ResizePool
from servingplan.model.decision import Decision, Finding
from servingplan.model.fleet import Fleet, Part
from servingplan.model.outcome import Outcome, Refused
from servingplan.model.world import GatewayFacts, Observation
from servingplan.planning.pools import Pool, read_pools
from servingplan.planning.record import effective_spec, read_record, routing_as_published
from servingplan.render import names
from servingplan.render.httproute import KIND as HTTP_ROUTE
from servingplan.render.httproute import not_shed
from servingplan.render.routing import KEY
from servingplan.steps.growth import planned_size
from servingplan.steps.routes import complaints

COUNT_IN_READY = (
    "SpecValid",
    "InventoryAvailable",
    "ProfilesAvailable",
    "PlanSolved",
    "WithinBudget",
    "NodePoolsReady",
    "WorkloadsReady",
    "RoutingPublished",
)
LONGEST_MESSAGE = 1000
State = Literal["True", "False", "Unknown"]


class Event(Part):
    """An Event to post on the plan."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def conclude(
    world: Observation, decision: Decision, outcome: Outcome, explanation: ExplanationStatus | None = None
) -> PlanStatus:
    """The status after a turn; `explanation` is of the question that the turn posed, where it is known by now."""
    spec, _ = effective_spec(world.plan.spec, read_record(world))
    if spec is None:
        return PlanStatus(
            observed_generation=world.plan.generation,
            conditions=_dated(world, _all_conditions(world, None, (), decision, outcome)),
        )
    pools, _ = read_pools(spec, world)
    fleet = decision.fleet
    shown = fleet or decision.waiting
    document = routing_after(world, spec, outcome)
    return PlanStatus(
        observed_generation=world.plan.generation,
        plan_hash=fleet.hash if fleet else None,
        proposed_plan_hash=decision.waiting.hash if decision.waiting else None,
        mode=spec.mode,
        models=_models(spec, decision),
        gpus=_gpus(shown) if shown else None,
        served=_served(shown) if shown else None,
        cost=Cost(
            per_hour=_dollars(shown.dollars_per_hour if shown else 0.0),
            spend_per_hour="unknown"
            if decision.spend_dollars_per_hour is None
            else _dollars(decision.spend_dollars_per_hour),
            budget_per_hour=_dollars(float(spec.budget.dollars_per_hour)),
        ),
        node_pools=tuple(_pool(pool, shown) for pool in pools),
        deployments=tuple(_deployments(shown, decision)) if shown else (),
        classes=tuple(_classes(shown)) if shown else (),
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
        explanation=explanation or _explained_before(world, decision),
        conditions=_dated(world, _all_conditions(world, spec, pools, decision, outcome)),
    )


def _explained_before(world: Observation, decision: Decision) -> ExplanationStatus | None:
    """The explanation that the status has, unless the turn posed another question."""
    try:
        found = ExplanationStatus.model_validate(world.plan.status.get("explanation"))
    except ValidationError:
        return None
    return found if decision.asked is None or found.of == explained_as(decision.asked) else None


def explained_as(asked: str) -> str:
    """How the status names a question, by its digest."""
    return asked[:8]


def events(world: Observation, decision: Decision, outcome: Outcome, status: PlanStatus) -> tuple[Event, ...]:
    """What happened in this turn that a person would want to know."""
    out: list[Event] = []
    before = {item.get("type"): item for item in world.plan.status.get("conditions") or ()}
    if decision.fleet is not None and decision.fleet.hash != world.plan.status.get("planHash"):
        fleet = decision.fleet
        text = f"plan {fleet.hash}: {_gpus(fleet) or 'no GPUs'} for {fleet.dollars_per_hour:.2f} $/h, {_served(fleet)} served"
        out.append(Event(type="Normal", reason="PlanSolved", message=text))
    for action in outcome.done:
        if isinstance(action, ResizePool):
            out.append(Event(type="Normal", reason="PoolResized", message=action.why))
        elif isinstance(action, DrainPod):
            out.append(Event(type="Normal", reason="ReplicaDraining", message=action.why))
    for condition in status.conditions:
        old = before.get(condition.type) or {}
        if (old.get("status"), old.get("reason")) == (condition.status, condition.reason):
            continue
        if condition.status == "False" and condition.reason not in _QUIET:
            out.append(Event(type="Warning", reason=condition.reason, message=f"{condition.type}: {condition.message}"))
        elif condition.status == "True" and old.get("status") == "False" and condition.type == "Ready":
            out.append(Event(type="Normal", reason="Ready", message=condition.message))
    return tuple(out)


_QUIET = ("Scaling", "RollingOut", "Transitional", "NotAcknowledged", "NoReadyBackend", "NotPlanned", "PreviewOnly")
"""What every change passes through is no news."""


# --- conditions -----------------------------------------------------------------------------------------------------


def _all_conditions(
    world: Observation, spec: PlanSpec | None, pools: tuple[Pool, ...], decision: Decision, outcome: Outcome
) -> list[tuple[str, State, str, str]]:
    rows = [
        _spec_valid(decision),
        _plain(decision, "InventoryAvailable", "Read", "nodes, pods and pools were read"),
        _profiles(decision),
        *_demand_known(decision, spec),
        _plan_solved(decision),
        _within_budget(decision, spec),
        _pools_ready(decision, outcome, pools),
        _workloads_ready(world, decision, outcome),
        _routing_published(world, decision, outcome, spec),
        _slo(decision),
        _approved(decision, spec),
    ]
    failing = next((row for row in rows if row[0] in COUNT_IN_READY and row[1] != "True"), None)
    if failing is None:
        rows.append(("Ready", "True", "Ready", "the plan is applied and serves"))
    else:
        rows.append(("Ready", "False", failing[2], f"{failing[0]}: {failing[3]}"))
    return rows


def _dated(world: Observation, rows: Iterable[tuple[str, State, str, str]]) -> tuple[Condition, ...]:
    before = {item.get("type"): item for item in world.plan.status.get("conditions") or ()}
    out = []
    for kind, state, reason, message in rows:
        old = before.get(kind) or {}
        since = old.get("lastTransitionTime") if old.get("status") == state else None
        text = message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 4] + " ..."
        out.append(
            Condition(
                type=kind,
                status=state,
                reason=reason,
                message=text,
                observed_generation=world.plan.generation,
                last_transition_time=since or world.now,
            )
        )
    return tuple(out)


def _findings(decision: Decision, condition: str) -> list[Finding]:
    return [item for item in decision.findings if item.condition == condition]


def _plain(decision: Decision, condition: str, good: str, message: str) -> tuple[str, State, str, str]:
    found = _findings(decision, condition)
    bad = [item for item in found if not item.holds]
    if bad:
        return condition, "False", bad[0].reason, "; ".join(item.message for item in bad)
    return condition, "True", good, message


def _spec_valid(decision: Decision) -> tuple[str, State, str, str]:
    return _plain(decision, "SpecValid", "Valid", "the spec is understood")


def _profiles(decision: Decision) -> tuple[str, State, str, str]:
    shown = decision.fleet or decision.waiting
    if shown is None or not shown.replica_sets:
        return "ProfilesAvailable", "Unknown", "NotPlanned", "no plan yet"
    weakest = max(shown.replica_sets, key=lambda item: (item.error_band, item.deployment))
    derived = sorted(item.deployment for item in shown.replica_sets if "derived" in item.source)
    text = f"rates are within {weakest.error_band:.0%} or better"
    if derived:
        text += f"; those of {', '.join(derived)} are derived from data sheets: measure them before relying on them"
    return "ProfilesAvailable", "True", "Derived" if derived else "Measured", text


def _demand_known(decision: Decision, spec: PlanSpec | None) -> list[tuple[str, State, str, str]]:
    """Only of a plan that asks for measured rates: the others' are known by being written."""
    found = _findings(decision, "DemandKnown")
    if spec is None or spec.demand is None:
        return []
    if not found:
        return [("DemandKnown", "Unknown", "NotPlanned", "this turn could not plan")]
    return [("DemandKnown", "True" if found[0].holds else "False", found[0].reason, found[0].message)]


def _plan_solved(decision: Decision) -> tuple[str, State, str, str]:
    kind = "PlanSolved"
    bad = [item for item in _findings(decision, kind) if not item.holds]
    if bad:
        return kind, "False", bad[0].reason, "; ".join(item.message for item in bad)
    shown = decision.fleet or decision.waiting
    if shown is None:
        return kind, "Unknown", "NotPlanned", "no plan yet"
    nothing = [item for item in shown.classes if item.requests_per_second > 0 and item.planned_requests_per_second <= 0]
    if nothing:
        budget = "budget" in shown.binding
        listed = ", ".join(f"{item.model}/{item.name}" for item in nothing)
        advice = "raise spec.budget.dollarsPerHour" if budget else "raise maxNodes, add nodes or another pool"
        reason = "BudgetTooSmall" if budget else "NoCapacity"
        return kind, "False", reason, f"{listed} would be served nothing; {advice}"
    gap = "" if shown.gap is None else f", within {shown.gap:.2%} of the best that is possible"
    text = f"plan {shown.hash}: {_gpus(shown) or 'no GPUs'} for {shown.dollars_per_hour:.2f} $/h{gap}"
    return kind, "True", shown.status, text


def _within_budget(decision: Decision, spec: PlanSpec | None) -> tuple[str, State, str, str]:
    kind = "WithinBudget"
    bad = [item for item in _findings(decision, kind) if not item.holds]
    if bad:
        return kind, "False", bad[0].reason, "; ".join(item.message for item in bad)
    if spec is None or decision.spend_dollars_per_hour is None:
        return kind, "Unknown", "NotPlanned", "spend was not computed"
    budget, spend = float(spec.budget.dollars_per_hour), decision.spend_dollars_per_hour
    if spend > budget + 1e-6:
        text = f"spend is {spend:.2f} $/h, the budget {budget:.2f} $/h: replicas drain, lowest priority first, until it fits"
        return kind, "False", "OverBudget", text
    return kind, "True", "WithinBudget", f"spend is {spend:.2f} $/h of {budget:.2f} $/h"


def _pools_ready(decision: Decision, outcome: Outcome, pools: tuple[Pool, ...]) -> tuple[str, State, str, str]:
    kind = "NodePoolsReady"
    bad = [item for item in _findings(decision, kind) if not item.holds]
    if bad:
        return kind, "False", bad[0].reason, "; ".join(item.message for item in bad)
    for item in outcome.refused:
        if isinstance(item.action, ResizePool | ClaimPool):
            return kind, "False", _write_reason(item), f"{item.action.why}: {item.message}{_write_advice(item)}"
    if decision.fleet is None:
        return kind, "Unknown", "NotPlanned", "no plan yet"
    waiting = [pool for pool in pools if pool.rented and _changing(pool, decision.fleet)]
    if waiting:
        text = ", ".join(
            f"{pool.name}: {len(pool.usable_nodes)} of {decision.fleet.nodes.get(pool.name, 0)} nodes usable, "
            f"{pool.wanted} asked for"
            for pool in waiting
        )
        held = "; the budget holds growth back until other nodes are gone" if decision.held_back else ""
        return kind, "False", "Scaling", text + held
    return kind, "True", "AsPlanned", "every pool has the nodes of the plan"


def _changing(pool: Pool, fleet: Fleet) -> bool:
    size = planned_size(pool, fleet)
    return pool.wanted != size or pool.existing != size or sum(node.node.usable for node in pool.nodes) < size


def _workloads_ready(world: Observation, decision: Decision, outcome: Outcome) -> tuple[str, State, str, str]:
    kind = "WorkloadsReady"
    for item in outcome.refused:
        if not isinstance(item.action, ResizePool | ClaimPool) and not _is_routing(item):
            return kind, "False", _write_reason(item), f"{item.action.why}: {item.message}{_write_advice(item)}"
    fleet = decision.fleet
    if fleet is None:
        return kind, "Unknown", "NotPlanned", "no plan yet"
    short = [
        (item, decision.ready.get(item.deployment, 0))
        for item in fleet.replica_sets
        if decision.ready.get(item.deployment, 0) < item.replicas
    ]
    if not short:
        return kind, "True", "AsPlanned", "every replica of the plan is ready"
    text = ", ".join(f"{item.deployment}: {ready} of {item.replicas} ready" for item, ready in short)
    planned = {item.deployment for item in fleet.replica_sets}
    if unlisted := sum(pod.ready and not pod.listed for pod in world.pods if pod.deployment in planned):
        text += f"; {unlisted} not yet in the EndpointSlices of their Services"
    troubles = sorted({pod.trouble for pod in world.pods if pod.deployment in planned and pod.trouble})
    if troubles:
        reason = troubles[0].partition(":")[0]
        known = {
            "ImagePullBackOff": "ImagePullFailed",
            "ErrImagePull": "ImagePullFailed",
            "CrashLoopBackOff": "EngineCrash",
        }
        return (
            kind,
            "False",
            known.get(reason, "Unschedulable" if reason == "Unschedulable" else "RollingOut"),
            (f"{text}; {'; '.join(troubles)}"),
        )
    return kind, "False", "RollingOut", text


def _routing_published(
    world: Observation, decision: Decision, outcome: Outcome, spec: PlanSpec | None
) -> tuple[str, State, str, str]:
    kind = "RoutingPublished"
    bad = [item for item in _findings(decision, kind) if not item.holds]
    if bad:
        return kind, "False", bad[0].reason, "; ".join(item.message for item in bad)
    for item in outcome.refused:
        if _is_routing(item):
            reason = _write_reason(item)
            return kind, "False", reason, f"{item.action.why}: {item.message}{_write_advice(item)}"
    document = routing_after(world, spec, outcome) if spec is not None else None
    if document is None or decision.fleet is None:
        return kind, "Unknown", "NotPlanned", "no plan yet"
    empty = [
        f"{model}/{entry['name']}"
        for model, item in sorted(document["models"].items())
        for entry in item["classes"]
        if not entry["targets"]
    ]
    if empty:
        return kind, "False", "NoReadyBackend", f"no ready replica for {', '.join(empty)}: the gateway answers 503"
    if document["transitional"]:
        return kind, "False", "Transitional", f"weights cover what is ready, which is not yet the plan{_shed(document)}"
    asked = world.gateway if spec is not None and spec.gateway.ack_url is not None else None
    if asked is not None and asked.taken != document["revision"]:
        return kind, "False", "NotAcknowledged", _not_acknowledged(asked, document["revision"])
    if pending := _routes_pending(world, outcome, spec):
        return kind, "False", "NotAcknowledged", f"weights are those of the plan; {pending}"
    return kind, "True", "Published", _published(world, document, spec)


def _shed(document: dict[str, Any]) -> str:
    """What the gateway admits of classes of which it may not admit all."""
    rates = [
        f"{model}/{entry['name']} {entry['admitRequestsPerSecond']:g}"
        for model, item in sorted(document["models"].items())
        for entry in item["classes"]
        if entry["admitRequestsPerSecond"] is not None and entry["targets"]
    ]
    return f"; admitted meanwhile, requests/s: {', '.join(rates)}" if rates else ""


def _published(world: Observation, document: dict[str, Any], spec: PlanSpec | None) -> str:
    gateway = spec.gateway if spec is not None else None
    asked = gateway is not None and ((gateway.ack_url is not None and world.gateway) or gateway.http_route is not None)
    text = "weights are those of the plan" + (", and the gateway has taken them" if asked else "")
    above = not_shed(document) if gateway is not None and gateway.http_route is not None else []
    if above:
        text += (
            f"; an HTTPRoute turns nothing away: limit {', '.join(above)} by a policy of the gateway (routing.json has the "
            "rates)"
        )
    return text


def _routes_pending(world: Observation, outcome: Outcome, spec: PlanSpec | None) -> str | None:
    """Which HTTPRoute a gateway has not answered for; those that were just written, none has."""
    if spec is None or spec.gateway.http_route is None:
        return None
    for action in outcome.done:
        if isinstance(action, ApplyObject) and action.manifest["kind"] == HTTP_ROUTE:
            return f"HTTPRoute {action.manifest['metadata']['name']} has just been written"
    routes = [live for live in world.objects if live.kind == HTTP_ROUTE and live.ours]
    return next((item.message for live in routes for item in complaints(live)), None)


def _not_acknowledged(gateway: GatewayFacts, revision: int) -> str:
    has = ", ".join("no answer" if found is None else str(found) for found in gateway.revisions)
    seen = gateway.problem or f"replicas of the gateway have: {has}"
    return f"weights are those of the plan; revision {revision} is published, {seen}"


def _slo(decision: Decision) -> tuple[str, State, str, str]:
    shown = decision.fleet or decision.waiting
    if shown is None:
        return "SLOAttainable", "Unknown", "NotPlanned", "no plan yet"
    short = [
        f"{item.model}/{item.name} {item.planned_requests_per_second:g} of {item.requests_per_second:g} requests/s"
        for item in shown.classes
        if shown.scale is None and item.planned_requests_per_second < item.requests_per_second * (1 - 1e-6)
    ]
    if short:
        return "SLOAttainable", "False", "BelowTarget", f"admitted: {', '.join(short)}; the gateway sheds the rest"
    return "SLOAttainable", "True", "Predicted", "by the profiles, every class meets its limits; not measured"


def _approved(decision: Decision, spec: PlanSpec | None) -> tuple[str, State, str, str]:
    if spec is None or spec.mode == "Auto":
        return "Approved", "True", "Auto", "plans are applied without asking"
    if decision.waiting is None:
        return "Approved", "True", "Approved", "nothing waits"
    if spec.mode == "Preview":
        return "Approved", "False", "PreviewOnly", "mode is Preview: plans are shown, never applied"
    text = f"write {decision.waiting.hash} into the annotation servingplan.dev/approve to apply the waiting plan"
    return "Approved", "False", "AwaitingApproval", text


def _is_routing(item: Refused) -> bool:
    action = item.action
    if isinstance(action, DeleteObject):
        return action.object_kind == HTTP_ROUTE
    return isinstance(action, ApplyObject) and (
        action.manifest["kind"] == HTTP_ROUTE or KEY in action.manifest.get("data", {})
    )


def _write_reason(item: Refused) -> str:
    if item.reason == "Forbidden":
        return "WriteForbidden"
    if item.reason in ("NameTaken", "ClaimedByOther"):
        return item.reason
    if isinstance(item.action, ResizePool | ClaimPool) and item.reason in ("Conflict", "Changed"):
        return "Scaling"  # somebody was faster: the next turn looks again
    return "WriteFailed"


def _write_advice(item: Refused) -> str:
    return (
        "; grant the verb to the operator's account (the chart's roles list all it needs)"
        if item.reason == "Forbidden"
        else ""
    )


# --- numbers for people ---------------------------------------------------------------------------------------------


def routing_after(world: Observation, spec: PlanSpec | None, outcome: Outcome) -> dict[str, Any] | None:
    """The routing document as it stands after the turn."""
    for action in outcome.done:
        if isinstance(action, ApplyObject) and KEY in action.manifest.get("data", {}):
            document: dict[str, Any] = json.loads(action.manifest["data"][KEY])
            return document
    name = names.routing_name(world.plan.name, spec.gateway.config_map if spec else None)
    return routing_as_published(world, name)


def _models(spec: PlanSpec, decision: Decision) -> str:
    fleet = decision.fleet
    serving = {
        item.model for item in (fleet.replica_sets if fleet else ()) if decision.ready.get(item.deployment, 0) > 0
    }
    return f"{len(serving)}/{len(spec.models)}"


def _gpus(fleet: Fleet) -> str:
    counts: Counter[str] = Counter()
    for item in fleet.replica_sets:
        counts[item.gpu] += item.replicas * item.gpus
    return ",".join(f"{counts[gpu]}x{gpu}" for gpu in sorted(counts))


def _served(fleet: Fleet) -> str:
    if fleet.scale is not None:
        return f"{fleet.scale:.3g}x"
    asked = sum(item.requests_per_second for item in fleet.classes)
    planned = sum(item.planned_requests_per_second for item in fleet.classes)
    return "100%" if asked <= 0 or planned >= asked * (1 - 1e-6) else f"{min(0.999, planned / asked):.1%}"


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
        dollars_per_node_hour="unknown" if price is None else f"{price:g}",
    )


def _deployments(fleet: Fleet, decision: Decision) -> list[DeploymentStatus]:
    return [
        DeploymentStatus(
            name=item.deployment,
            model=item.model,
            variant=item.variant,
            pool=item.pool,
            gpu=item.gpu,
            tensor_parallel=item.tensor_parallel,
            pipeline_parallel=item.pipeline_parallel,
            replicas=item.replicas,
            ready=decision.ready.get(item.deployment, 0),
            requests_per_second=f"{sum(item.planned.values()):.4g}",
            profile=f"{item.source}, within {item.error_band:.0%}",
        )
        for item in fleet.replica_sets
    ]


def _classes(fleet: Fleet) -> list[ClassStatus]:
    return [
        ClassStatus(
            model=item.model,
            name=item.name,
            requests_per_second=f"{item.requests_per_second:.4g}",
            planned_requests_per_second=f"{item.planned_requests_per_second:.4g}",
        )
        for item in fleet.classes
    ]
