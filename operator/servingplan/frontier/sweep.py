"""The quantity that is varied: the budget, the demand of all classes, or the nodes of one pool."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from servingplan.errors import InputError
from servingplan.model.answer import Answer
from servingplan.model.question import Question
from servingplan.solve.conflicts.limits import MOST_NODES, changed
from servingplan.solve.solver.tolerance import is_within

Kind = Literal["budget", "demand", "stock"]
MOST_POINTS = 1_000
"""The most points of one curve."""


@dataclass(frozen=True)
class Sweep:
    """Rising values of one quantity."""

    kind: Kind
    """budget: $/h; demand: factor on the rates of all classes; stock: the most nodes of ``pool``."""
    values: tuple[float, ...]
    pool: str = ""

    @property
    def nested(self) -> bool:
        """Whether every plan at a smaller value is also a plan at a larger one, and serves and costs the same there."""
        return self.kind != "demand"

    def question(self, base: Question, value: float, *, sunk_dollars_per_hour: float = 0.0) -> Question:
        """The question at a value. ``sunk_dollars_per_hour`` of a budget are spent whatever the plan is."""
        if self.kind == "budget":
            return changed(base, {"budget": max(0.0, value - sunk_dollars_per_hour)})
        if self.kind == "stock":
            return changed(base, {f"pool:{self.pool}": value})
        return changed(base, {f"class:{cls.name}": cls.requests_per_second * value for cls in base.classes})

    def still_best(self, answer: Answer, question: Question) -> bool:
        """Whether a proved answer at a larger value also answers the question at a smaller one.

        A plan that is the best of more plans is the best of fewer, as long as it is among them. Where there is no plan at a
        larger value, there is none at a smaller one.
        """
        if not self.nested or answer.stopped != "proved":
            return False
        if answer.status == "Infeasible":
            return True
        return is_within(answer.dollars_per_hour or 0.0, question.budget_dollars_per_hour) and all(
            answer.nodes[pool.name] <= pool.max_nodes for pool in question.pools
        )


def budget_sweep(text: str) -> Sweep:
    """The sweep of ``FROM:TO:POINTS``, in $/h; raises ``InputError``."""
    return Sweep("budget", _range(text, "--budget", "dollars per hour", least=0.0))


def demand_sweep(text: str) -> Sweep:
    """The sweep of ``FROM:TO:POINTS``, factors on all rates; raises ``InputError``."""
    return Sweep("demand", _range(text, "--demand", "factors on all rates", least=1e-9))


def stock_sweep(text: str) -> Sweep:
    """The sweep of ``POOL=FROM:TO``: every number of nodes from one to the other; raises ``InputError``."""
    field, example = "--stock", "give POOL=FROM:TO, such as h100=0:8"
    pool, equals, span = text.partition("=")
    ends = span.split(":")
    if not pool or not equals or len(ends) != 2:
        raise InputError(field, text, example)
    try:
        first, last = (int(end) for end in ends)
    except ValueError as error:
        raise InputError(field, text, f"FROM and TO are whole numbers of nodes; {example}") from error
    if not 0 <= first < last <= MOST_NODES:
        raise InputError(field, text, f"FROM must be 0 or more, and TO above it and at most {MOST_NODES}; {example}")
    if last - first >= MOST_POINTS:
        raise InputError(field, text, f"are {last - first + 1} points; give at most {MOST_POINTS}")
    return Sweep("stock", tuple(float(count) for count in range(first, last + 1)), pool)


def _range(text: str, field: str, unit: str, *, least: float) -> tuple[float, ...]:
    example = f"give FROM:TO:POINTS, two {unit} and a number of points, such as "
    example += "10:110:20" if field == "--budget" else "0.5:2:16"
    parts = text.split(":")
    if len(parts) != 3:
        raise InputError(field, text, example)
    try:
        first, last, points = float(parts[0]), float(parts[1]), int(parts[2])
    except ValueError as error:
        raise InputError(field, text, example) from error
    if not (math.isfinite(first) and math.isfinite(last) and least <= first < last):
        low = "0 or more" if least == 0 else "above 0"
        raise InputError(field, text, f"FROM must be {low}, and TO above FROM; {example}")
    if not 2 <= points <= MOST_POINTS:
        raise InputError(field, text, f"POINTS is {points}; give 2 to {MOST_POINTS}")
    step = (last - first) / (points - 1)
    return (*(round(first + step * index, 9) for index in range(points - 1)), last)
