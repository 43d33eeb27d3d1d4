"""Why there is no plan: limits that exclude each other, and the smallest change of each that would do.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. `sentences` makes sentences of it.

1. A deletion filter (Chinneck and Dravnieks 1991), in chunks that halve, drops every limit whose absence leaves the rest
   without a plan. Limits only restrict, so what remains is irreducible: without any one of them there is a plan.
2. An irreducible clash need not be a smallest one. Smaller sets are tried in order of size. A set that has a plan is grown
   as far as it goes; every clash holds one of the limits that are left out of it, so all sets that hold none of them are
   passed over (the hitting sets of Reiter 1987).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import Literal

from servingplan.model.answer import Clash, Ease
from servingplan.model.question import Question
from servingplan.solve.conflicts.feasible import Feasible
from servingplan.solve.conflicts.limits import MOST_NODES, changed, enough_nodes, least_integer, limits_of, without

MOST_SETS = 200_000
"""How many small sets are looked at, most of them without a search."""
REAL_STEPS = 20
"""Halvings by which a limit that is no whole number is found: to a millionth of its range."""


class _Unknown(Exception):  # noqa: N818 (not an error: the end of a search)
    """Whether a question has a plan is not known."""


def find_clash(question: Question, feasible: Feasible) -> Clash:
    """The clash of a question that is known to have no plan."""
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
    """The search for a smallest clash."""

    question: Question
    feasible: Feasible
    names: tuple[str, ...]
    enough: int
    """Nodes of a pool beyond which more can help nobody."""
    clash: list[str] = field(init=False)
    """Limits that are known to clash, ever fewer."""
    corrections: list[frozenset[str]] = field(default_factory=list)
    """Sets of limits of which every clash has at least one: without these there is a plan."""

    def __post_init__(self) -> None:
        self.clash = list(self.names)

    def smallest(self) -> tuple[Sequence[str], Literal["smallest", "irreducible", "clash"]]:
        """The clash, and what is known of its size."""
        if not self._shrink():
            return self.clash, "clash"
        try:
            return self._smaller_than(len(self.clash)) or self.clash, "smallest"
        except _Unknown:
            return self.clash, "irreducible"

    def _shrink(self) -> bool:
        """Drop limits in chunks that halve; the last chunks are of one. Whether the clash is irreducible."""
        known = True
        size = len(self.clash)
        while size > 1:
            size = (size + 1) // 2
            for start in range(len(self.clash) - size, -size, -size):
                rest = [*self.clash[: max(0, start)], *self.clash[start + size :]]
                if self.feasible.spent():
                    return False
                verdict = self._verdict(rest)
                if verdict is False:
                    self.clash = rest
                known = known if size > 1 else known and verdict is not None
        return known

    def _smaller_than(self, size: int) -> Sequence[str] | None:
        """The first clash of fewer limits, by size and then by order; None where there is none."""
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
        """Note what is left out of a set with a plan, grown as far as it goes."""
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
    """The smallest change of this limit alone with which the whole question has a plan."""
    kind, _, item = name.partition(":")

    def holds(value: float) -> bool:
        verdict = feasible.holds(changed(question, {name: value}))
        if verdict is None:
            raise _Unknown
        return verdict

    try:
        if kind == "budget":
            needed, known = feasible.cheapest(without(question, ["budget"], enough=enough))
            return Ease(limit=name, now=now, needed=needed, known=known)
        return Ease(limit=name, now=now, needed=_nearest(question, kind, item, now, holds, enough))
    except _Unknown:
        return Ease(limit=name, now=now, known=False)


def _nearest(
    question: Question, kind: str, item: str, now: float, holds: Callable[[float], bool], enough: int
) -> float | None:
    """The value nearest to `now` at which it holds."""
    if kind in ("pool", "max_copies"):
        most = int(now) + enough * max(pool.gpus_per_node for pool in question.pools)
        return least_integer(int(now), min(MOST_NODES, most), holds)
    if kind == "floor":
        fewer = least_integer(0, int(now), lambda fewer: holds(now - fewer))
        return None if fewer is None else now - fewer
    if kind == "survive":
        steps = sorted({cls.priority + 1.0 for cls in question.classes if cls.priority >= now})
        index = least_integer(-1, len(steps) - 1, lambda index: holds(steps[index]))
        return None if index is None else steps[index]
    if kind == "quality":
        losses = [shape.quality_loss.get(item, 0.0) for shape in question.shapes if item in shape.requests_per_second]
        return _real(now, max(losses, default=now), holds)
    if question.objective == "MaximizeService":  # any multiple of the mix will do, so only leaving it out can help
        return 0.0 if holds(0.0) else None
    return _real(now, 0.0, holds)


def _real(now: float, far: float, holds: Callable[[float], bool]) -> float | None:
    """The value between `now`, where it does not hold, and `far`, to a millionth of the way, on the side where it holds."""
    if far == now or not holds(far):
        return None
    near = now
    for _ in range(REAL_STEPS):
        middle = (near + far) / 2
        near, far = (near, middle) if holds(middle) else (middle, far)
    return far
