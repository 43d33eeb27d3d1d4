"""Times as the cluster has them: RFC 3339, some of them in annotations, where people can write anything."""

from __future__ import annotations

import math
from datetime import datetime


def seconds_since(then: str | None, now: str) -> float:
    """Seconds from one RFC 3339 time to another; infinite where the first is missing or unreadable."""
    if then is None:
        return math.inf
    try:
        return (datetime.fromisoformat(now) - datetime.fromisoformat(then)).total_seconds()
    except (ValueError, TypeError):
        return math.inf
