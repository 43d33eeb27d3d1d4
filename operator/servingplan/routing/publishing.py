"""What a turn writes of routing: the ConfigMap of the document, and HTTPRoutes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.model import names
from servingplan.model.actions import AnyAction, ApplyObject, DeleteObject
from servingplan.model.decision import Finding
from servingplan.model.fleet import Fleet
from servingplan.model.manifests import in_place
from servingplan.model.times import seconds_since
from servingplan.model.world import LiveObject, Observation
from servingplan.planning.record import routing_as_published
from servingplan.planning.situation import Situation
from servingplan.rollout.drains import GATEWAY_PATIENCE_SECONDS
from servingplan.routing.document import LARGEST_BYTES, bytes_of, routing_config_map, routing_document
from servingplan.routing.httproute import KIND as HTTP_ROUTE
from servingplan.routing.httproute import MOST_BACKENDS, coming_since, cut_shares, http_routes
from servingplan.routing.route_reports import PENDING, complaints


def routing_actions(
    situation: Situation, spec: PlanSpec, fleet: Fleet, ready: Mapping[str, int]
) -> tuple[AnyAction, ...]:
    """The writes of the routing document and of HTTPRoutes; none if they are already there in this form. ``spec`` is the
    one behind the fleet, ``ready`` the replicas by Deployment over which weights are spread."""
    world = situation.world
    name = names.routing_name(world.plan.name, spec.gateway.config_map)
    live = world.live("ConfigMap", name)
    if live is not None and not live.ours:
        return ()
    adopted = situation.record.demand if spec.demand is not None else None
    document = routing_document(
        plan=world.plan,
        spec=spec,
        fleet=fleet,
        facts=situation.facts(fleet),
        ready=ready,
        previous=routing_as_published(world, name),
        measured=adopted.rates if adopted is not None else (),
        contexts=situation.context_tokens,
    )
    manifest = routing_config_map(world.plan, spec, document)
    routes = http_route_actions(world, spec, document)
    if in_place(live, manifest) or bytes_of(manifest["data"]) > LARGEST_BYTES:
        return routes
    serving = sum(1 for count in ready.values() if count)
    why = f"revision {document['revision']}: weights over {sum(ready.values())} ready replicas of {serving} Deployments"
    return (ApplyObject(manifest=manifest, why=why), *routes)


def too_large(situation: Situation, spec: PlanSpec, fleet: Fleet) -> str | None:
    """Why the weights of the whole plan could not be published; None if a ConfigMap can hold them."""
    plan, facts = situation.world.plan, situation.facts(fleet)
    everything = dict.fromkeys(facts, 1)
    document = routing_document(
        plan=plan, spec=spec, fleet=fleet, facts=facts, ready=everything, previous=None, measured=()
    )
    size = bytes_of(routing_config_map(plan, spec, document)["data"])
    if size <= LARGEST_BYTES:
        return None
    return (
        f"the routing document would have {size} bytes, and a ConfigMap holds {LARGEST_BYTES}: the weights could not be "
        "published, so nothing grows; split the models over several plans, or give them fewer classes"
    )


def http_route_actions(world: Observation, spec: PlanSpec, document: dict[str, Any]) -> tuple[AnyAction, ...]:
    """The writes of HTTPRoutes that are missing or differ, and the deletions of those that are no longer asked for."""
    if world.http_routes_unread is not None:
        return ()
    wanted = spec.gateway.http_route
    rendered = (
        {} if wanted is None else {item["metadata"]["name"]: item for item in rendered_routes(world, spec, document)}
    )
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


def route_findings(situation: Situation, spec: PlanSpec) -> Iterator[Finding]:
    """What prevents HTTPRoutes from being as the plan in force says; ``spec`` is the one behind it."""
    world = situation.world
    if spec.gateway.http_route is None:
        return
    if world.http_routes_unread is not None:
        yield _finding("HTTPRoutesUnavailable", world.http_routes_unread)
        return
    for live in world.objects:
        for complaint in complaints(live) if live.kind == HTTP_ROUTE and live.ours else ():
            if complaint.reason != PENDING:
                yield _finding(complaint.reason, complaint.message)
    published = routing_as_published(world, names.routing_name(world.plan.name, spec.gateway.config_map))
    cut = cut_shares(published) if published is not None else {}
    for name, share in cut.items():
        yield _finding(
            "TooManyBackends",
            f"{name} goes to more than {MOST_BACKENDS} Services, the most that a rule of an HTTPRoute holds; the largest "
            f"{MOST_BACKENDS} take the {share:.1%} of the others too. Serve the model from fewer pools or variants, or use "
            "a gateway that reads the ConfigMap",
        )


def _finding(reason: str, message: str) -> Finding:
    return Finding(condition="RoutingPublished", reason=reason, message=message)


def rendered_routes(world: Observation, spec: PlanSpec, document: dict[str, Any]) -> list[dict[str, Any]]:
    """The manifests of the HTTPRoutes that the plan asks for, for this routing document; empty if it asks for none."""
    wanted = spec.gateway.http_route
    if wanted is None:
        return []
    ours = [live for live in world.objects if live.kind == HTTP_ROUTE and live.ours]
    standing = {live.name: live.manifest for live in ours}
    untaken = {live.name for live in ours if _is_awaited(live, world.now)}
    return http_routes(world.plan, wanted, document, standing, untaken=untaken, now=world.now)


def _is_awaited(route: LiveObject, now: str) -> bool:
    """Whether a gateway has not said yet that it has the rules. Those that are coming do not wait for it for ever."""
    since = coming_since(route.manifest)
    overdue = since is not None and seconds_since(since, now) >= GATEWAY_PATIENCE_SECONDS
    return not overdue and any(complaint.reason == PENDING for complaint in complaints(route))
