"""The writes that a turn decided on, as values that can be printed and compared, each with its reason. ``apply`` carries
them out."""

from __future__ import annotations

from typing import Any, override

from pydantic import BaseModel, ConfigDict, Field

from servingplan.model import names


class Action(BaseModel):
    """One write. ``why`` is for people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str

    @override
    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.why}"


class ApplyObject(Action):
    """Server-side apply of one whole object of the plan."""

    manifest: dict[str, Any]


class ScaleDeployment(Action):
    """Set the number of copies of a Deployment or LeaderWorkerSet of the plan, and nothing else."""

    object_kind: str = names.DEPLOYMENT
    name: str
    before: int
    replicas: int
    set_by: str | None = None
    """Who else had set the number, and when. It is noted on the Deployment."""


class DeleteObject(Action):
    """Delete one object of the plan, only if it still has this uid."""

    object_kind: str
    name: str
    uid: str


class ClaimPool(Action):
    """Mark a pool object as sized by this plan. An empty ``claimed_by`` releases it."""

    pool: str
    claimed_by: str


class ResizePool(Action):
    """Ask for another size of a pool. The write is never forced."""

    pool: str
    before: int
    nodes: int
    machines: tuple[str, ...] = Field(default=(), exclude_if=lambda machines: not machines)
    """The Machines of nodes that are to go, as ``NAMESPACE/NAME``. They are marked before the size falls."""
    spared: tuple[str, ...] = Field(default=(), exclude_if=lambda spared: not spared)
    """Those of nodes that are to stay. A mark of ours on them is taken off."""


class PlacePod(Action):
    """Tie a gated pod to a node and remove the gate."""

    pod: str
    uid: str
    node: str
    node_affinity: dict[str, Any]
    """The required node affinity of the pod, narrowed to the node."""


class DrainPod(Action):
    """Begin to drain a replica: it gets no more weight, is the first to be removed, and finishes its requests."""

    pod: str
    uid: str
    leave_service: bool
    """Remove it from its Service's endpoints at once. This is done only while other pods of the Service go on serving."""
    since: str
    """The time from which its drain is counted, RFC 3339."""


class NoteUnrouted(Action):
    """Note that the gateways have weights without a draining replica. Its grace period begins then."""

    pod: str
    uid: str
    since: str
    """That time, RFC 3339."""


class RestorePod(Action):
    """Put a replica back into its Service."""

    pod: str
    uid: str


class DeletePod(Action):
    """Remove the pod of one replica; of a group its leader, with which the others are removed. Its controller makes a new
    one if it is still wanted."""

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
