"""What came of a rehearsal, as JSON, tables and reports have it, beside the figures of its fleet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from servingplan.rehearse.run import Rehearsal
from servingplan.rehearse.spans import Counts
from servingplan.replay.figures import DIGITS

Json = dict[str, Any]


def of_rehearsal(rehearsal: Rehearsal) -> Json:
    """What the operator did and what became of the requests meanwhile. Times are in seconds from the first arrival. A
    request counts by its arrival; one that was cut, by the moment at which it was."""
    course, end = rehearsal.course, rehearsal.seconds
    return {
        "budget_dollars_per_hour": rehearsal.stage.budget,
        "most_dollars_per_hour": round(rehearsal.stage.most_dollars_per_hour, DIGITS),
        "spend": [
            {"at": round(at, DIGITS), "dollars_per_hour": round(dollars, DIGITS)} for at, dollars in course.spend
        ],
        "moves": dict(sorted(course.moves.items())),
        "steps": [{"at": round(at, DIGITS), "what": what} for at, what in course.steps],
        "phases": _phases(rehearsal, end),
        "timeline": [
            {
                "at": round(start, DIGITS),
                **_sum(counts),
                "unserved": {
                    _key(rehearsal, number): {"429": item.turned_away - item.unavailable, "503": item.unavailable}
                    for number, item in enumerate(counts)
                    if item.turned_away
                },
            }
            for start, counts in rehearsal.minutes.all()
        ],
    }


def _phases(rehearsal: Rehearsal, end: float) -> list[Json]:
    phases = rehearsal.course.phases
    ends = [*(phase.since for phase in phases[1:]), end]
    return [
        {
            "phase": phase.name,
            "event": phase.event,
            "from": round(phase.since, DIGITS),
            "to": round(until, DIGITS),
            "classes": [{"class": _key(rehearsal, number), **_sum([item])} for number, item in enumerate(counts)],
        }
        for phase, until, (_, counts) in zip(phases, ends, rehearsal.phases.all(), strict=True)
    ]


def _sum(counts: Sequence[Counts]) -> Json:
    arrived, in_time = sum(item.arrived for item in counts), sum(item.in_time for item in counts)
    unavailable = sum(item.unavailable for item in counts)
    return {
        "arrived": arrived,
        "in_time_share": round(in_time / arrived, DIGITS) if arrived else None,
        "status_429": sum(item.turned_away for item in counts) - unavailable,
        "status_503": unavailable,
        "cut": sum(item.cut for item in counts),
    }


def _key(rehearsal: Rehearsal, number: int) -> str:
    found = rehearsal.classes[number]
    return f"{found.model}/{found.name}"
