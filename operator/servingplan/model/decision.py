"""The decision of a turn, as one value that can be printed, compared and replayed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from servingplan.model.actions import AnyAction
from servingplan.model.fleet import FailedShape, Fleet, LearnedKind, Part, PoolStock, StartTimes


class Finding(Part):
    """Something that a condition reports."""

    condition: str
    reason: str
    message: str
    holds: bool = False
    """Whether the condition is True all the same."""


class ClassDemand(Part):
    """The rate of a class that the turn plans for."""

    model: str
    name: str
    requests_per_second: float
    source: Literal["Measured", "LastGood", "Declared"] = "Declared"


class Notice(Part):
    """A budget too small for any part of the plan in force. It is announced before it is carried out."""

    least_dollars_per_hour: float
    """$/h of the cheapest node on which replicas of the plan run."""
    since: str
    """When it was announced, RFC 3339."""
    until: str | None
    """When it is carried out, RFC 3339. None: it waits for approval."""
    approve: str | None
    """The hash of the plan that is proposed instead, if approval is required."""
    seconds_left: float | None
    """Seconds until it is carried out. None: it waits for approval."""

    @property
    def pending(self) -> bool:
        """Whether it is not carried out yet."""
        return self.seconds_left is None or self.seconds_left > 0


Reason = Literal[
    "FirstPlan",
    "SpecChanged",
    "Approved",
    "DemandChanged",
    "NoLongerHeld",
    "Improvement",
    "FloorsExcludePlan",
    "Unknown",
]
"""Why a plan came into force; ``docs/operator.md`` explains each reason."""


class Decision(Part):
    """Everything that a turn decided, and why."""

    fleet: Fleet | None = None
    """The plan in force."""
    moved: Reason | None = None
    """Why this turn brought another plan into force; None if it did not."""
    in_force_since: str | None = None
    """Since when the plan has been in force, RFC 3339."""
    in_force_generation: int = 0
    """The generation of the spec for which the plan in force was made."""
    may_grow: bool = False
    """Whether this turn may add nodes or replicas."""
    waiting: Fleet | None = None
    """A plan that waits for approval or is only shown."""
    first: tuple[AnyAction, ...] = ()
    """What must be written before anything else is done."""
    grow: tuple[AnyAction, ...] = ()
    routing: tuple[AnyAction, ...] = ()
    shrink: tuple[AnyAction, ...] = ()
    """Actions that wait until the routing is written."""
    findings: tuple[Finding, ...] = ()
    asked: str | None = None
    """The digest of the question that this turn posed; None if it posed none."""
    searching: bool = False
    """Whether the answer to that question is still being searched beside the turns."""
    demand: tuple[ClassDemand, ...] = ()
    """The rates that are planned for; empty if the turn could not determine them."""
    spend_dollars_per_hour: float | None = None
    """The present spend; None if it cannot be computed."""
    stock: dict[str, PoolStock] = Field(default_factory=dict)
    """What is known of the pools that the plan sizes."""
    failed_shapes: dict[str, FailedShape] = Field(default_factory=dict)
    """The replicas that did not start, by Deployment."""
    learned: dict[str, LearnedKind] = Field(default_factory=dict)
    """What was learned from running replicas, by Deployment of the plan in force."""
    start_times: dict[str, StartTimes] = Field(default_factory=dict)
    """How long replicas took to start, by ``model/variant/pool``."""
    notice: Notice | None = None
    """The budget that keeps nothing, after it was announced; None if there is none."""
    held_back: bool = False
    unplaced: int = 0
    """The number of planned replicas that have no node yet."""
    ready: dict[str, int] = Field(default_factory=dict)
    wake_in_seconds: float | None = None

    @property
    def actions(self) -> tuple[AnyAction, ...]:
        """All writes in their order."""
        return (*self.first, *self.grow, *self.routing, *self.shrink)
