"""What a turn decided to do, as values: printable, comparable, each with its reason. Acting is ``apply``'s work."""

from __future__ import annotations

from typing import Any, override

from pydantic import BaseModel, ConfigDict

from servingplan.model import names


class Action(BaseModel):
    """One write. ``why`` is for people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str

    @override
    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.why}"


class ApplyObject(Action):
    """Server-side apply of one whole object of ours."""

    manifest: dict[str, Any]


class ScaleDeployment(Action):
    """Set the number of copies of a Deployment or LeaderWorkerSet of ours, and nothing else of it."""

    object_kind: str = names.DEPLOYMENT
    name: str
    before: int
    replicas: int
    set_by: str | None = None
    """Who else had set it, and when: noted on the Deployment."""


class DeleteObject(Action):
    """Delete one object of ours, only if it still has this uid."""

    object_kind: str
    name: str
    uid: str


class ClaimPool(Action):
    """Mark a pool object as sized by this plan; ``claimed_by`` empty releases it."""

    pool: str
    claimed_by: str


class ResizePool(Action):
    """Ask for another size of a pool, never forced."""

    pool: str
    before: int
    nodes: int


class PlacePod(Action):
    """Tie a gated pod to a node and let it go."""

    pod: str
    uid: str
    node: str
    node_affinity: dict[str, Any]
    """Required node affinity of the pod, narrowed to the node."""


class DrainPod(Action):
    """Begin the end of a replica: no more weight, first to go; it finishes what it has."""

    pod: str
    uid: str
    leave_service: bool
    """Take it out of its Service's endpoints at once: only while others of the Service go on serving."""
    since: str
    """RFC 3339; from when its drain is counted."""


class NoteUnrouted(Action):
    """Write down that the gateways have taken weights without a replica that drains: its grace begins."""

    pod: str
    uid: str
    since: str
    """RFC 3339."""


class RestorePod(Action):
    """Put a replica back into its Service."""

    pod: str
    uid: str


class DeletePod(Action):
    """Remove one replica's pod, of a group its leader, with which the others go; whoever made it makes a new one if it is still
    wanted."""

    pod: str
    uid: str


AnyAction = (
    ApplyObject
    | ScaleDeployment
    | DeleteObject
    | ClaimPool
    | ResizePool
    | PlacePod
    | DrainPod
    | NoteUnrouted
    | RestorePod
    | DeletePod
)
