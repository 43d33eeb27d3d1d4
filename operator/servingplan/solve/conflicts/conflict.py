"""Explains why there is no plan: limits that exclude each other (a conflict), and the smallest sufficient change of each.

`sentences` puts it into words.

1. A deletion filter (Chinneck and Dravnieks 1991) drops limits, in chunks that halve, as long as the rest still has no plan.
   Limits only restrict, so what remains is an irreducible infeasible set: without any one of these limits there is a plan.
2. An irreducible set need not be a smallest one. So smaller sets are tried in order of size. A set that has a plan is extended
   as far as it still has one. Every conflict has at least one of the limits that are left out, so sets with none of them are
   skipped (the hitting sets of Reiter 1987).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import Literal

from servingplan.model.answer import Clash, Ease
from servingplan.model.question import Question, Shape
from servingplan.solve.conflicts.feasible import Feasible
from servingplan.solve.conflicts.limits import MOST_NODES, EasedKind, changed, kind_of, limits_of, without
from servingplan.solve.solver.clock import Stopwatch
from servingplan.solve.solver.effort import Effort

CONFLICT_NODES = 500
"""Work limit of each search for a conflict and for the smallest changes that end it, in branch-and-bound nodes."""
CONFLICT_SECONDS = 30.0
"""Time limit of the whole search if there is no deadline, in seconds."""
MOST_SETS = 200_000
"""The most sets of each size that are considered, most of them without a search."""


class _Unknown(Exception):  # noqa: N818 (not an error: the end of a search)
    """Raised if it is not known whether a question has a plan."""


def find_conflict(question: Question, stopwatch: Stopwatch, *, full_service: bool = False) -> Clash:
    """The limits that exclude each other, of a question that is known to have no plan; with `full_service`, to have none that
    serves every class in full.

    The search ends with the stopwatch, or after `CONFLICT_SECONDS` if that has no limit.
    """
    clock = stopwatch if stopwatch.limited() else Stopwatch(CONFLICT_SECONDS)
    feasible = Feasible(Effort(0.0, CONFLICT_NODES, clock), full_service=full_service)
    enough = enough_nodes(question)
    search = _Search(question, feasible, tuple(limits_of(question)), enough)
    names, guarantee = search.smallest()
    current = limits_of(question)
    limits = tuple(_ease(question, name, current[name], feasible, enough) for name in names)
    return Clash(
        goal="full service" if feasible.full_service else "any plan",
        guarantee=guarantee,
        limits=limits,
    )


@dataclass(slots=True)
class _Search:
    """The search for a smallest conflict."""

    question: Question
    feasible: Feasible
    names: tuple[str, ...]
    enough: int
    """A number of nodes per pool beyond which more nodes help no plan."""
    conflict: list[str] = field(init=False)
    """The smallest set of limits so far that is known to exclude every plan."""
    corrections: list[frozenset[str]] = field(default_factory=list)
    """Sets of limits without which there is a plan, so every conflict has at least one limit of each set."""

    def __post_init__(self) -> None:
        self.conflict = list(self.names)

    def smallest(self) -> tuple[Sequence[str], Literal["smallest", "irreducible", "clash"]]:
        """The conflict, and what is known about its size."""
        if not self._shrink():
            return self.conflict, "clash"
        try:
            return self._smaller_than(len(self.conflict)) or self.conflict, "smallest"
        except _Unknown:
            return self.conflict, "irreducible"

    def _shrink(self) -> bool:
        """Drop limits from the conflict in chunks that halve, down to single limits. Returns whether it is irreducible."""
        known = True
        size = len(self.conflict)
        while size > 1:
            size = (size + 1) // 2
            for start in range(len(self.conflict) - size, -size, -size):
                rest = [*self.conflict[: max(0, start)], *self.conflict[start + size :]]
                if self.feasible.spent():
                    return False
                verdict = self._verdict(rest)
                if verdict is False:
                    self.conflict = rest
                known = known if size > 1 else known and verdict is not None
        return known

    def _smaller_than(self, size: int) -> Sequence[str] | None:
        """The first conflict of fewer limits, by size and then by order; None if there is none."""
        for fewer in range(size):
            looked_at = 0
            for names in islice(combinations(self.names, fewer), MOST_SETS):
                looked_at += 1
                if all(correction & set(names) for correction in self.corrections):
                    if not self._has_plan(names):
                        return names
                    self._grow(names)
            if looked_at == MOST_SETS:
                raise _Unknown
        return None

    def _grow(self, names: Sequence[str]) -> None:
        """Extend a set that has a plan as far as it still has one, and note the limits that are left out."""
        grown = list(names)
        for name in self.names:
            if name not in grown and self._has_plan([*grown, name]):
                grown.append(name)
        self.corrections.append(frozenset(self.names) - set(grown))

    def _has_plan(self, kept: Iterable[str]) -> bool:
        verdict = self._verdict(kept)
        if verdict is None:
            raise _Unknown
        return verdict

    def _verdict(self, kept: Iterable[str]) -> bool | None:
        return self.feasible.holds(without(self.question, set(self.names) - set(kept), enough=self.enough))


def _ease(question: Question, name: str, now: float, feasible: Feasible, enough: int) -> Ease:
    """The smallest change of this limit alone that gives the whole question a plan."""
    kind, item = kind_of(name)

    def holds(value: float) -> bool:
        verdict = feasible.holds(changed(question, {name: value}))
        if verdict is None:
            raise _Unknown
        return verdict

    try:
        if isinstance(kind, EasedKind):
            return Ease(limit=name, now=now, needed=kind.nearest(question, item, holds, enough))
        needed, known = feasible.cheapest(without(question, [name], enough=enough))
        return Ease(limit=name, now=now, needed=needed, known=known)
    except _Unknown:
        return Ease(limit=name, now=now, known=False)


def enough_nodes(question: Question) -> int:
    """A number of nodes per pool beyond which more nodes help no plan.

    If some plan serves every class in full, there is one that serves each class alone, each copy on its own nodes. A class
    has two rows (its rate and its quality), so two shapes without `max_copies` suffice for it. Each of them needs
    rate / (h rho) copies, rounded up, one more against the loss of a node, and one more because a table of rho may fall.
    Shapes with `max_copies` are added, at worst all their copies.
    """
    per_node = {pool.name: pool.gpus_per_node for pool in question.pools}
    total = 1
    for cls in question.classes:
        needs = [(shape, _alone(shape, cls.name, cls.requests_per_second, per_node)) for shape in question.shapes]
        total += 2 * max((need for shape, need in needs if shape.max_copies is None), default=0)
        total += sum(need for shape, need in needs if shape.max_copies is not None)
    return min(MOST_NODES, total)


def _alone(shape: Shape, name: str, rate: float, per_node: Mapping[str, int]) -> int:
    if name not in shape.requests_per_second or rate <= 0:
        return 0
    table = shape.max_utilization
    last, length = (table, 1) if isinstance(table, float) else (table[-1], len(table))
    copies = min(float(MOST_NODES), max(length, rate / shape.requests_per_second[name] / last) + 2)
    copies = copies if shape.max_copies is None else min(copies, shape.max_copies)
    nodes = max(-(-gpus // per_node[pool]) for pool, gpus in shape.gpus.items())
    return math.ceil(copies) * nodes
