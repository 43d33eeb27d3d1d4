"""Finds who else sets the number of replicas of a Deployment of the plan: a HorizontalPodAutoscaler, KEDA, a person.

The other's number is reported with its name. A higher number is left for ``HOLD_SECONDS``, so that two programs do not undo
each other's writes every second. A lower number is not left at all, because requests would find too few replicas. Then the
plan's number is set again, and the other's name is noted on the Deployment, so that it is reported for ``TOLD_SECONDS``.
"""

from __future__ import annotations

from typing import NamedTuple

from servingplan.model import names
from servingplan.model.times import seconds_since
from servingplan.model.world import LiveObject

HOLD_SECONDS = 60.0
TOLD_SECONDS = 600.0
"""Longer than the time for which a HorizontalPodAutoscaler waits before it lowers a number (300 s), so that one that writes
repeatedly is reported all the time."""


class Contest(NamedTuple):
    """A Deployment whose number of replicas somebody else sets."""

    deployment: str
    manager: str
    """The field manager of the other's write, as the API server names it."""
    since: str
    """When the other wrote, RFC 3339."""
    replicas: int
    """The number in the object."""
    wish: int
    """The number that the plan wants."""
    hold_seconds: float
    """How long the other's number is left, in seconds."""

    @property
    def told(self) -> str:
        """The text of a condition about it."""
        what = f"Deployment {self.deployment}: spec.replicas was set by {self.manager} at {self.since}"
        if self.replicas == self.wish:
            done = f"the plan's {self.wish} was set again"
        else:
            when = f"in {self.hold_seconds:.0f} s" if self.hold_seconds else "now"
            done = f"it is {self.replicas}, the plan's {self.wish} is set {when}"
        through = (
            " (a HorizontalPodAutoscaler writes by that name)" if self.manager == "kube-controller-manager" else ""
        )
        return f"{what}{through}; {done}; the plan decides it: take the Deployment from whatever sets it"


def contest_of(live: LiveObject, *, wish: int, now: str) -> Contest | None:
    """The contest, if somebody else set the number lately and it is not the plan's own; else None."""
    replicas = int(live.manifest.get("spec", {}).get("replicas", 1))
    other = live.replicas_owner if replicas != wish else _noted(live)
    if other is None:
        return None
    manager, since = other
    age = seconds_since(since, now)
    if age >= TOLD_SECONDS:
        return None
    hold = max(0.0, HOLD_SECONDS - age) if replicas > wish else 0.0
    return Contest(live.name, manager, since, replicas, wish, hold)


def _noted(live: LiveObject) -> tuple[str, str] | None:
    text = live.manifest["metadata"].get("annotations", {}).get(names.REPLICAS_SET_BY_ANNOTATION, "")
    manager, _, since = text.rpartition(" ")
    return (manager, since) if manager else None
