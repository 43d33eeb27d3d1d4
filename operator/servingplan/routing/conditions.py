"""The conditions of the published weights."""

from __future__ import annotations

import json
from typing import Any

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model.actions import ApplyObject, DeleteObject
from servingplan.model.decision import Decision
from servingplan.model.names import ROUTING_KEY
from servingplan.model.outcome import Outcome, Refused
from servingplan.model.readings import GatewayFacts
from servingplan.model.row import Row, failure, refusal
from servingplan.model.world import Observation
from servingplan.planning.situation import Situation
from servingplan.routing.httproute import KIND as HTTP_ROUTE
from servingplan.routing.httproute import not_shed
from servingplan.routing.route_reports import complaints


def routing_published(situation: Situation, decision: Decision, outcome: Outcome) -> Row:
    """The condition: whether the weights are the plan's and cover every class, and the gateways report that they took them."""
    kind = "RoutingPublished"
    if failed := failure(decision, kind):
        return failed
    for item in outcome.refused:
        if is_routing(item):
            return refusal(kind, item)
    world, spec = situation.world, situation.acting
    document = routing_after(situation, outcome) if spec is not None else None
    if document is None or decision.fleet is None:
        return Row(kind, "Unknown", "NotPlanned", "no plan yet")
    empty = [
        f"{model}/{entry['name']}"
        for model, item in sorted(document["models"].items())
        for entry in item["classes"]
        if not entry["targets"]
    ]
    if empty:
        return Row(kind, "False", "NoReadyBackend", f"no ready replica for {', '.join(empty)}: the gateway answers 503")
    if document["transitional"]:
        return Row(
            kind, "False", "Transitional", f"weights cover the ready replicas, not yet the whole plan{_shed(document)}"
        )
    asked = world.gateway if spec is not None and spec.gateway.ack_url is not None else None
    if asked is not None and asked.refused is not None:
        return Row(kind, "False", "UrlNotAllowed", f"weights are those of the plan; {asked.refused}")
    if asked is not None and asked.taken != document["revision"]:
        return Row(kind, "False", "NotAcknowledged", _not_acknowledged(asked, document["revision"]))
    if pending := _routes_pending(world, outcome, spec):
        return Row(kind, "False", "NotAcknowledged", f"weights are those of the plan; {pending}")
    return Row(kind, "True", "Published", _published(world, document, spec))


def degraded(situation: Situation, outcome: Outcome) -> list[Row]:
    """The row of Degraded, only while a class goes to replicas that answer late."""
    document = routing_after(situation, outcome) if situation.acting is not None else None
    late = [
        f"{model}/{entry['name']} ({entry['admitRequestsPerSecond']:g} requests/s are admitted)"
        for model, item in sorted((document or {"models": {}})["models"].items())
        for entry in item["classes"]
        if entry.get("degraded")
    ]
    if not late:
        return []
    text = (
        f"no replica planned for {', '.join(late)} is ready: other replicas of the model take its requests with their unused "
        "rate, and may answer later than its limits; spec.models[].spill: false gives 503 instead"
    )
    return [Row("Degraded", "True", "Spilled", text)]


def _shed(document: dict[str, Any]) -> str:
    """Text with the admitted rates of the classes that are not admitted in full."""
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
            f"; an HTTPRoute cannot limit a rate: limit {', '.join(above)} by a policy of the gateway (routing.json has the "
            "rates)"
        )
    return text


def _routes_pending(world: Observation, outcome: Outcome, spec: PlanSpec | None) -> str | None:
    """Text about an HTTPRoute that a gateway has not acknowledged; one that was just written is one. None: all are."""
    if spec is None or spec.gateway.http_route is None:
        return None
    for action in outcome.done:
        if isinstance(action, ApplyObject) and action.manifest["kind"] == HTTP_ROUTE:
            return f"HTTPRoute {action.manifest['metadata']['name']} was just written"
    routes = [live for live in world.objects if live.kind == HTTP_ROUTE and live.ours]
    return next((item.message for live in routes for item in complaints(live)), None)


def _not_acknowledged(gateway: GatewayFacts, revision: int) -> str:
    has = ", ".join("no answer" if found is None else str(found) for found in gateway.revisions)
    seen = gateway.problem or f"replicas of the gateway have: {has}"
    return f"weights are those of the plan; revision {revision} is published, {seen}"


def routing_after(situation: Situation, outcome: Outcome) -> dict[str, Any] | None:
    """The routing document after the turn; None if there is none."""
    for action in outcome.done:
        if isinstance(action, ApplyObject) and ROUTING_KEY in action.manifest.get("data", {}):
            document: dict[str, Any] = json.loads(action.manifest["data"][ROUTING_KEY])
            return document
    return situation.published


def is_routing(item: Refused) -> bool:
    """Whether the refused write is one of routing."""
    action = item.action
    if isinstance(action, DeleteObject):
        return action.object_kind == HTTP_ROUTE
    return isinstance(action, ApplyObject) and (
        action.manifest["kind"] == HTTP_ROUTE or ROUTING_KEY in action.manifest.get("data", {})
    )
