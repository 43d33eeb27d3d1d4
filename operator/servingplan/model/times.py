"""Times as the cluster has them: RFC 3339, some of them in annotations, where people can write anything."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta


def seconds_between(then: str, now: str) -> float:
    """Seconds from one RFC 3339 time to another."""
    return (datetime.fromisoformat(now) - datetime.fromisoformat(then)).total_seconds()


def text_of(moment: datetime | float) -> str:
    """A time in UTC, or Unix seconds, as RFC 3339 in whole seconds."""
    known = moment if isinstance(moment, datetime) else datetime.fromtimestamp(moment, UTC)
    return known.strftime("%Y-%m-%dT%H:%M:%SZ")


def later(moment: str, seconds: float) -> str:
    """The time that many seconds after a moment in UTC: RFC 3339, whole seconds."""
    return text_of(datetime.fromisoformat(moment) + timedelta(seconds=seconds))


def seconds_since(then: str | None, now: str) -> float:
    """Seconds from one RFC 3339 time to another; infinite where the first is missing or unreadable."""
    if then is None:
        return math.inf
    try:
        return seconds_between(then, now)
    except (ValueError, TypeError):
        return math.inf
