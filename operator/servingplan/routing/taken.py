"""Whether the gateways have taken the published weights. Replicas drain only when they have."""

from __future__ import annotations

from servingplan.model.manifests import in_place
from servingplan.planning.situation import Situation
from servingplan.rollout.drains import POLL_SECONDS
from servingplan.routing.httproute import KIND as HTTP_ROUTE
from servingplan.routing.publishing import rendered_routes
from servingplan.routing.route_reports import complaints


def gateway_follows(situation: Situation) -> bool | None:
    """Whether all gateways that can be asked have taken the published weights; None if none can be asked."""
    words = [word for word in (_files_taken(situation), _routes_taken(situation)) if word is not None]
    return all(words) if words else None


def gateway_is_due_in(situation: Situation) -> float | None:
    """Seconds until a gateway that answers is asked again whether it has the weights; None if no gateway is behind. One
    that does not answer is asked again with the next regular turn. Reports about HTTPRoutes wake the plan by themselves."""
    gateway = situation.world.gateway
    behind = _files_taken(situation) is False and gateway is not None and gateway.answers
    return POLL_SECONDS if behind else None


def _files_taken(situation: Situation) -> bool | None:
    """Whether the gateway that reads the ConfigMap has taken the published weights; None if it cannot be asked."""
    gateway, published = situation.world.gateway, situation.published
    if situation.spec.gateway.ack_url is None or gateway is None:
        return None
    return published is not None and gateway.taken == published.get("revision")


def _routes_taken(situation: Situation) -> bool | None:
    """Whether the parents of the HTTPRoutes, which must be those of the published weights, have taken them. None if the
    plan asks for no HTTPRoutes, or if they cannot be read."""
    world, spec, published = situation.world, situation.spec, situation.published
    if spec.gateway.http_route is None or world.http_routes_unread is not None:
        return None
    if published is None:
        return False
    for manifest in rendered_routes(world, spec, published):
        live = world.live(HTTP_ROUTE, manifest["metadata"]["name"])
        if live is None or not in_place(live, manifest) or any(complaints(live)):
            return False
    return True
