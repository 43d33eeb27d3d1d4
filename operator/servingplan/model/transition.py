"""The way from the live fleet to a plan, as a list of steps: printable, comparable, checked by tests that share no code."""

from __future__ import annotations

from pydantic import Field

from servingplan.model.fleet import Part


class PoolChange(Part):
    """Another number of nodes of a pool."""

    pool: str
    before: int
    nodes: int


class TransitionStep(Part):
    """What goes on at the same time, and is over before the next step begins."""

    grow: tuple[PoolChange, ...] = ()
    """Nodes that come."""
    come: dict[str, int] = Field(default_factory=dict)
    """Replicas that start, by Deployment."""
    drain: dict[str, int] = Field(default_factory=dict)
    """Replicas that get no new requests and finish those that they have, by Deployment."""
    go: dict[str, int] = Field(default_factory=dict)
    """Replicas that are removed, by Deployment."""
    shrink: tuple[PoolChange, ...] = ()
    """Nodes that are given back."""
    held: int = 0
    """Replicas that wait behind somebody else's scheduling gate."""
    dollars_per_hour: float | None
    """Spend once the step is over; None where a price is unknown."""
    seconds: float | None = None
    """How long it is expected to take; None where that is not known of some part of it."""


class Transition(Part):
    """All steps from a moment on."""

    steps: tuple[TransitionStep, ...] = ()
    reaches: bool
    """Whether the plan is there after the last step. Else there are more steps (``more``), or something keeps it from coming,
    as the conditions say."""
    more: bool = False
    """There are more steps than were looked at."""
