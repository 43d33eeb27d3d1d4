"""What became of the actions of a turn."""

from __future__ import annotations

from servingplan.model.actions import AnyAction
from servingplan.model.fleet import Part


class Refused(Part):
    """An action that the API server did not take."""

    action: AnyAction
    reason: str
    """The reason that the API server gives, or NameTaken."""
    message: str


class Outcome(Part):
    """Results of a turn's actions, in order."""

    done: tuple[AnyAction, ...] = ()
    refused: tuple[Refused, ...] = ()
