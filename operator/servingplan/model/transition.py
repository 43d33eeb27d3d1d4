"""The way from the live fleet to a plan, as a list of steps that can be printed and compared. Tests check it with code of
their own."""

from __future__ import annotations

from pydantic import Field

from servingplan.model.fleet import Part


class PoolChange(Part):
    """A change of the number of nodes of a pool."""

    pool: str
    before: int
    nodes: int


class TransitionStep(Part):
    """Changes that happen at the same time. All of them are complete before the next step begins."""

    grow: tuple[PoolChange, ...] = ()
    """The nodes that are added."""
    come: dict[str, int] = Field(default_factory=dict)
    """The replicas that start, by Deployment."""
    drain: dict[str, int] = Field(default_factory=dict)
    """The replicas that get no new requests and finish theirs, by Deployment."""
    go: dict[str, int] = Field(default_factory=dict)
    """The replicas that are removed, by Deployment."""
    shrink: tuple[PoolChange, ...] = ()
    """The nodes that are given back."""
    held: int = 0
    """The replicas that wait behind a scheduling gate of others."""
    dollars_per_hour: float | None
    """The spend after the step; None if a price is unknown."""
    seconds: float | None = None
    """The expected duration; None if some part of it is not known."""


class Transition(Part):
    """All steps from one moment on."""

    steps: tuple[TransitionStep, ...] = ()
    reaches: bool
    """Whether the plan is reached after the last step. Otherwise there are more steps (``more``), or something prevents it,
    as the conditions say."""
    more: bool = False
    """Whether there are more steps than were computed."""
