"""Times as the cluster has them: RFC 3339, some of them in annotations, where people can write anything."""

from __future__ import annotations

import math
from datetime import datetime, timedelta


def seconds_between(then: str, now: str) -> float:
    """Seconds from one RFC 3339 time to another."""
    return (datetime.fromisoformat(now) - datetime.fromisoformat(then)).total_seconds()


def later(moment: str, seconds: float) -> str:
    """The time that many seconds after a moment: RFC 3339, UTC, whole seconds."""
    return (datetime.fromisoformat(moment) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_since(then: str | None, now: str) -> float:
    """Seconds from one RFC 3339 time to another; infinite where the first is missing or unreadable."""
    if then is None:
        return math.inf
    try:
        return seconds_between(then, now)
    except (ValueError, TypeError):
        return math.inf
