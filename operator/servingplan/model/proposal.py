"""What another plan would change, as one value."""

from __future__ import annotations

from servingplan.model.fleet import Part
from servingplan.model.transition import Transition


class ClassChange(Part):
    """The rate that a class gets, before and after."""

    model: str
    name: str
    before: float
    """Requests/s that the plan in force serves; 0 where there is none."""
    after: float
    """Requests/s that the other one serves."""


class Proposal(Part):
    """A plan beside the one in force, and what it would change."""

    hash: str
    in_force: str | None
    """Hash of the plan in force."""
    created: tuple[str, ...] = ()
    """Objects, as ``Kind/name``."""
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    dollars_per_hour_before: float
    """Cost of the plan in force, $/h; 0 where there is none."""
    dollars_per_hour_after: float
    classes: tuple[ClassChange, ...] = ()
    transition: Transition
    """The steps from the live fleet."""
