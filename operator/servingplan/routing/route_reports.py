"""What gateways report of an HTTPRoute: whether each of its parents has taken it in its present form.

A gateway reports in ``status.parents``, with one entry for each parent and controller, and the conditions ``Accepted`` and
``ResolvedRefs``. A condition counts only for the generation of the object that it names. It comes from the gateway's
controller, which may be some milliseconds before or after the proxies; ``drainSeconds`` cover that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from servingplan.model.world import LiveObject

PENDING = "NotAcknowledged"
"""The reason while a gateway has not reported anything about the present generation."""
_CONDITIONS = {"Accepted": "NotAccepted", "ResolvedRefs": "RefsNotResolved"}
"""The conditions that must be True, and the reason of our own condition if one is not."""

Json = dict[str, Any]


class Complaint(NamedTuple):
    """Why a parent does not serve an HTTPRoute in its present form."""

    reason: str
    """NotAccepted, RefsNotResolved, or ``PENDING``."""
    message: str


def complaints(route: LiveObject) -> Iterator[Complaint]:
    """Why parents of an HTTPRoute do not serve it in its present form; empty if all have taken it."""
    generation = route.manifest["metadata"].get("generation")
    parents = (route.manifest.get("status") or {}).get("parents") or []
    for ref in route.manifest["spec"]["parentRefs"]:
        where = f"HTTPRoute {route.name}, Gateway {ref['namespace']}/{ref['name']}"
        where += f", listener {ref['sectionName']}" if "sectionName" in ref else ""
        entries = [entry for entry in parents if _same(entry.get("parentRef") or {}, ref)]
        if not entries:
            yield Complaint(PENDING, f"{where}: no word; is the Gateway there, and does a controller look after it?")
        for entry in entries:
            yield from _of_entry(entry, where, generation)


def _of_entry(entry: Json, where: str, generation: int | None) -> Iterator[Complaint]:
    found = {item.get("type"): item for item in entry.get("conditions") or ()}
    for kind, reason in _CONDITIONS.items():
        condition = found.get(kind) or {}
        if condition.get("observedGeneration") != generation:
            yield Complaint(PENDING, f"{where}: {kind} is not said of generation {generation} yet")
        elif condition.get("status") != "True":
            said = f"{condition.get('reason', '')}: {condition.get('message', '')}"
            yield Complaint(reason, f"{where}: {said}")


def _same(said: Json, ref: Json) -> bool:
    """Whether a gateway reports about this parent. The report may leave out the route's own namespace."""
    keys = ("name", "sectionName")
    return said.get("namespace") in (None, ref["namespace"]) and [said.get(key) for key in keys] == [
        ref.get(key) for key in keys
    ]
