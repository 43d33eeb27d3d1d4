"""The words for sources that could not be read."""

from __future__ import annotations

from servingplan.errors import ApiError, Forbidden
from servingplan.kube import PLANS, PODS, Resource
from servingplan.model.world import Failure


def failure(source: str, error: ApiError, since: str | None = None) -> Failure:
    """The failure of a source that could not be read. ``since``: when it was last heard of, RFC 3339."""
    if isinstance(error, Forbidden):
        message = f"the operator may not read {source}: {error.message}; grant it with the chart's ClusterRole"
        return Failure(source=source, reason="ReadForbidden", message=message, since=since)
    when = f" since {since}" if since is not None else ""
    return Failure(
        source=source, reason="ReadFailed", message=f"{source} could not be read{when}: {error}", since=since
    )


def unsure(resource: Resource, name: str, error: ApiError) -> Failure:
    """The failure of a write without an answer. Its source is the whole kind, so nothing that needs this kind relies on it."""
    source = {PODS: "pods", PLANS: "plans"}.get(resource, f"{resource.kind}s")
    message = f"whether {resource.kind} {name} was written could not be read: {error}"
    return Failure(source=source, reason="ReadFailed", message=message)
