"""The effort of a search: gap, work limit and deadline, and estimates of what fits into the remaining time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from servingplan.model.question import Question
from servingplan.solve.solver import params
from servingplan.solve.solver.clock import Stopwatch
from servingplan.solve.solver.params import AnytimeParams
from servingplan.solve.solver.program import TRIAL_BRANCHINGS, Limits
from servingplan.solve.solver.stop import NearEnough, OutOfTime, OutOfWork, Stop, first_of

SECONDS_PER_PAIR = 5e-5
"""The approximate time to build a program and solve its relaxation once, per pair of shape and class."""
LARGE_PAIRS = 10_000
"""With this number of pairs that time per pair doubles, because the relaxation's iterations grow with its size."""
NUMBERING_SECONDS, NUMBERING_SECONDS_PER_PAIR = 2e-3, 1e-5
"""The time to number a question, on the machine on which these constants were measured."""
ENDING_PART = 0.6
"""Routing, packing and reporting the answer take about this part of the time until a large question is numbered."""


class Sized(Protocol):
    """The size of a numbered question."""

    @property
    def pairs_count(self) -> int:
        """Pairs of shape and class."""
        ...


@dataclass(frozen=True, slots=True)
class Effort:
    """The limits of a search."""

    relative_gap: float
    node_limit: int
    stopwatch: Stopwatch
    pace: float = 1.0
    """How many times slower the machine is now than in the estimates."""
    bound_first: bool = False
    """Whether searches improve the bound first, because a good plan is known."""
    trial_branchings: int = TRIAL_BRANCHINGS
    """See `program.Limits`."""
    start: Mapping[str, int] = field(default_factory=dict)
    """Copies by shape of a plan to begin with; empty: none."""
    params: AnytimeParams = field(default_factory=lambda: params.ANYTIME)
    """Parameters of the method `anytime`."""

    def stop(self, gap: float = math.inf) -> bool:
        """Whether a search may end: the time is up, or this gap is within the tolerance."""
        return self.stop_after(1)(gap)

    def stop_after(self, rounds: int) -> Stop:
        """The same for a loop of at most `rounds` rounds; the loop calls it once before each round."""
        return first_of(OutOfTime(self.stopwatch), NearEnough(self.relative_gap), OutOfWork(rounds))

    def limits(self, *, gap: float | None = None, nodes: int | None = None, part: float = 1.0) -> Limits:
        """Limits of one optimisation that may take `part` of the remaining time."""
        left = self.stopwatch.remaining_seconds()
        return Limits(
            relative_gap=self.relative_gap if gap is None else gap,
            nodes=self.node_limit if nodes is None else nodes,
            seconds=None if left is None else left * part,
            pace=self.pace,
            bound_first=self.bound_first,
            trial_branchings=self.trial_branchings,
        )

    def affords(self, instance: Sized) -> bool:
        """Whether the remaining time probably suffices to build a program of this instance and solve its relaxation."""
        left = self.stopwatch.remaining_seconds()
        pairs = instance.pairs_count
        return left is None or left > self.pace * SECONDS_PER_PAIR * pairs * (1 + pairs / LARGE_PAIRS)

    def searches_whole(self, instance: Sized) -> bool:
        """Whether the program over all shapes is small enough to be searched."""
        return instance.pairs_count <= self.params.searched_pairs

    def with_nodes(self, nodes: int) -> "Effort":
        """The same effort with at most this work limit."""
        return replace(self, node_limit=min(self.node_limit, nodes))

    def share(self, part: float) -> "Effort":
        """The same effort with only this part of the remaining time."""
        left = self.stopwatch.remaining_seconds()
        return self if left is None else replace(self, stopwatch=Stopwatch(left * part))

    def after_numbering(self, question: Question, seconds: float) -> "Effort":
        """The effort for the methods: `seconds`, the time that numbering took, sets the pace, and all the time spent so far
        sets how much is reserved for routing and reporting at the end."""
        left = self.stopwatch.remaining_seconds()
        if left is None:
            return self
        pairs = sum(len(shape.requests_per_second) for shape in question.shapes)
        pace = seconds / (NUMBERING_SECONDS + NUMBERING_SECONDS_PER_PAIR * pairs)
        ending = ENDING_PART * self.stopwatch.elapsed_seconds()
        return replace(self, pace=max(1.0, pace), stopwatch=Stopwatch(max(0.0, left - ending)))
