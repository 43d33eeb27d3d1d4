"""The changes that another plan would bring, as one value."""

from __future__ import annotations

from servingplan.model.fleet import Part
from servingplan.model.transition import Transition


class ClassChange(Part):
    """The rate that a class gets, before and after."""

    model: str
    name: str
    before: float
    """Requests/s that the plan in force serves; 0 if there is none."""
    after: float
    """Requests/s that the other plan serves."""


class Proposal(Part):
    """A plan beside the one in force, and what it would change."""

    hash: str
    in_force: str | None
    """The hash of the plan in force."""
    created: tuple[str, ...] = ()
    """The objects, as ``Kind/name``."""
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    dollars_per_hour_before: float
    """The cost of the plan in force, $/h; 0 if there is none."""
    dollars_per_hour_after: float
    classes: tuple[ClassChange, ...] = ()
    transition: Transition
    """The steps from the live fleet to the proposed plan."""
