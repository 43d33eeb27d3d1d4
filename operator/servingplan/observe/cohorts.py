"""The GPUs that a queue of Kueue's may still take of one resource in one flavor, if it shares quota with others in a cohort.

Cohorts form trees, with ClusterQueues as leaves. A member has the quota of its own and of all below it. What its
``lendingLimit`` keeps from its parent is its *guaranteed* part; others may use the rest. What a member uses beyond its
guaranteed part counts as use of its parent. Kueue itself admits by this arithmetic (kueue: pkg/cache/scheduler,
``resource_node.go``, functions ``available``, ``localQuota`` and ``accumulateFromChild``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple


class Member(NamedTuple):
    """A ClusterQueue or a Cohort, and its quota of one resource in one flavor, in GPUs."""

    name: str
    cohort: str | None
    """The cohort that it belongs to; None: it shares with nobody."""
    nominal: int = 0
    borrowing_limit: int | None = None
    """What it may use beyond its quota; None: nothing bounds it."""
    lending_limit: int | None = None
    """What others may use of its quota; None: all."""
    used: int = 0
    """What its own workloads have reserved. A Cohort has none."""


class _Tally(NamedTuple):
    """A member with all that is below it."""

    quota: int
    used: int
    guaranteed: int


def available(queue: Member, queues: Iterable[Member], cohorts: Iterable[Member]) -> int | None:
    """The GPUs that a queue may take beside what it uses. Negative where more is used than there is.

    ``queues`` and ``cohorts`` are all that are known. A cohort without an object has no quota of its own and no limits. Kueue
    admits nobody in a cohort that is below itself: None there.
    """
    named = {item.name: item for item in cohorts}
    above: list[Member] = []
    name = queue.cohort
    while name is not None:
        if any(item.name == name for item in above):
            return None
        above.append(named.get(name, Member(name, None)))
        name = above[-1].cohort
    below: dict[str, list[Member]] = defaultdict(list)
    for item in named.values():
        if item.cohort is not None:
            below[item.cohort].append(item)
    leaves: dict[str, list[Member]] = defaultdict(list)
    for item in queues:
        if item.cohort is not None:
            leaves[item.cohort].append(item)

    def tally_of(cohort: Member) -> _Tally:
        parts = [_tally(item, item.nominal, item.used) for item in leaves[cohort.name]]
        parts += [tally_of(item) for item in below[cohort.name]]
        lent = sum(part.quota - part.guaranteed for part in parts)
        borrowed = sum(max(0, part.used - part.guaranteed) for part in parts)
        return _tally(cohort, cohort.nominal + lent, borrowed)

    left: int | None = None
    for member, tally in [
        *((item, tally_of(item)) for item in reversed(above)),
        (queue, _tally(queue, queue.nominal, queue.used)),
    ]:
        left = _left(member, tally, left)
    assert left is not None
    return left


def _tally(member: Member, quota: int, used: int) -> _Tally:
    kept = 0 if member.lending_limit is None or member.cohort is None else max(0, quota - member.lending_limit)
    return _Tally(quota, used, kept)


def _left(member: Member, tally: _Tally, of_parent: int | None) -> int:
    """What a member may take beside what is used, if so much is left of its parent; None: it has none."""
    if of_parent is None:
        return tally.quota - tally.used
    if member.borrowing_limit is not None:
        in_parent = tally.quota - tally.guaranteed - max(0, tally.used - tally.guaranteed)
        of_parent = min(of_parent, in_parent + member.borrowing_limit)
    return max(0, tally.guaranteed - tally.used) + of_parent
