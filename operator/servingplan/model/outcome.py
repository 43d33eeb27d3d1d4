"""The results of a turn's actions."""

from __future__ import annotations

from servingplan.model.actions import AnyAction
from servingplan.model.fleet import Part


class Refused(Part):
    """An action that the API server refused."""

    action: AnyAction
    reason: str
    """The API server's reason, or NameTaken."""
    message: str


class Outcome(Part):
    """The results of a turn's actions, in order."""

    done: tuple[AnyAction, ...] = ()
    refused: tuple[Refused, ...] = ()
