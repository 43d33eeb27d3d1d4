"""What a turn decided, as one value: printable, comparable, replayable."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from servingplan.model.actions import AnyAction
from servingplan.model.fleet import FailedShape, Fleet, LearnedKind, Part, PoolStock, StartTimes


class Finding(Part):
    """Something that a condition is to say."""

    condition: str
    reason: str
    message: str
    holds: bool = False
    """The condition is True all the same."""


class ClassDemand(Part):
    """The rate of a class that the turn plans for."""

    model: str
    name: str
    requests_per_second: float
    source: Literal["Measured", "LastGood", "Declared"] = "Declared"


class Notice(Part):
    """A budget that keeps nothing of the plan in force, told before it is carried out."""

    least_dollars_per_hour: float
    """The cheapest node that replicas of the plan run on."""
    since: str
    """RFC 3339; when it was told."""
    until: str | None
    """RFC 3339; when it is carried out. None: it waits for approval."""
    approve: str | None
    """Hash of the plan that is proposed instead, where approval is asked for."""
    seconds_left: float | None
    """Until it is carried out; None: it waits for approval."""

    @property
    def pending(self) -> bool:
        """It is not carried out yet."""
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
"""Why a plan took over; ``docs/operator.md`` says what each means."""


class Decision(Part):
    """All that a turn decided, and why."""

    fleet: Fleet | None = None
    """The plan in force."""
    moved: Reason | None = None
    """Why this turn took another plan into force; absent where it did not."""
    in_force_since: str | None = None
    """RFC 3339; since when the plan has been in force."""
    in_force_generation: int = 0
    """Generation of the spec that the plan in force was made for."""
    may_grow: bool = False
    """Whether this turn may add nodes or replicas."""
    waiting: Fleet | None = None
    """A plan that waits for approval or is only shown."""
    first: tuple[AnyAction, ...] = ()
    """What must be written down before anything else is done."""
    grow: tuple[AnyAction, ...] = ()
    routing: tuple[AnyAction, ...] = ()
    shrink: tuple[AnyAction, ...] = ()
    """Only once the routing is written."""
    findings: tuple[Finding, ...] = ()
    asked: str | None = None
    """Digest of the question that this turn posed; absent where it posed none."""
    searching: bool = False
    """Whether the answer to that question is still sought, beside the turns."""
    demand: tuple[ClassDemand, ...] = ()
    """What is planned for; empty where the turn could not tell."""
    spend_dollars_per_hour: float | None = None
    """Now; absent where it cannot be computed."""
    stock: dict[str, PoolStock] = Field(default_factory=dict)
    """What is known of the pools that the plan sizes."""
    failed_shapes: dict[str, FailedShape] = Field(default_factory=dict)
    """Replicas that did not start, by Deployment."""
    learned: dict[str, LearnedKind] = Field(default_factory=dict)
    """What the fleet has taught, by Deployment of the plan in force."""
    start_times: dict[str, StartTimes] = Field(default_factory=dict)
    """How long replicas took to start, by ``model/variant/pool``."""
    notice: Notice | None = None
    """The budget takes everything down, and this was told first."""
    held_back: bool = False
    unplaced: int = 0
    """Planned replicas that have no node yet."""
    ready: dict[str, int] = Field(default_factory=dict)
    wake_in_seconds: float | None = None

    @property
    def actions(self) -> tuple[AnyAction, ...]:
        """All writes in order."""
        return (*self.first, *self.grow, *self.routing, *self.shrink)
