"""Reduces a question to few of its shapes if numbering all of them would take too much of the deadline.

`entry` calls this before it numbers the question. One pass over the shapes finds the cheapest ones and a bound on all plans.
The plan is then searched among the cheapest shapes, and its levels get bounds that hold for the whole question.
"""

import heapq
import math
from dataclasses import dataclass

from servingplan.model.goal import DOLLARS, SCALE, Goal, Kind
from servingplan.model.question import Question
from servingplan.solve.plan.plan import Found
from servingplan.solve.problem.instance import floor_dollars, most_utilization
from servingplan.solve.solver.clock import Stopwatch
from servingplan.solve.solver.effort import NUMBERING_SECONDS_PER_PAIR
from servingplan.solve.solver.tolerance import EQUAL, TOLD

NUMBERING_PART = 1 / 8
"""The part of the remaining time that numbering may take by the estimate; a busy machine takes a few times longer."""
LOOKING_PART = 0.1
"""One pass over the shapes takes about this part of the time that numbering them takes."""
LEAST_PER_CLASS = 4
"""The least number of shapes per class that are kept, however short the deadline is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinned:
    """A question with only some of the shapes of the whole question."""

    question: Question
    bounds: dict[Goal, float]
    """Bounds of the whole question: on the scale, or on the dollars for full service."""


def thinned(question: Question, clock: Stopwatch) -> Thinned | None:
    """The question with its running shapes and, for each class, the shapes with the least price per request.

    Only shapes that fit the stock and the quality limit of the class are taken, as many as can be numbered in time. None if
    all shapes can be numbered in time, or if nodes are free, so that prices cannot rank the shapes. The bounds are those of
    `bounds.price`, over all shapes.
    """
    pairs = sum(len(shape.requests_per_second) for shape in question.shapes)
    left, begun = clock.remaining_seconds(), clock.elapsed_seconds()
    if left is None or pairs * NUMBERING_SECONDS_PER_PAIR <= NUMBERING_PART * left:
        return None
    asked = {cls.name: cls.requests_per_second for cls in question.classes if cls.requests_per_second > 0}
    loss_limits = {cls.name: cls.quality_loss_limit for cls in question.classes}
    least: dict[str, float] = {}
    by_class: dict[str, list[tuple[float, str]]] = {name: [] for name in asked}
    per_gpu = {pool.name: pool.dollars_per_node_hour / pool.gpus_per_node for pool in question.pools}
    room = {pool.name: pool.max_nodes * pool.gpus_per_node for pool in question.pools}
    for shape in question.shapes:
        if any(gpus > room[name] for name, gpus in shape.gpus.items()):
            continue
        price = sum(gpus * per_gpu[name] for name, gpus in shape.gpus.items()) / most_utilization(shape)
        for name, rate in shape.requests_per_second.items():
            if name in asked:
                least[name] = min(price / rate, least.get(name, math.inf))
                limit = loss_limits[name]
                if limit is None or shape.quality_loss.get(name, 0.0) <= limit:
                    by_class[name].append((price / rate, shape.name))
    dollars = math.fsum(asked[name] * price for name, price in least.items()) * (1 - EQUAL)
    if question.objective == "MinimizeCost":
        bounds = {DOLLARS: dollars}
    elif dollars > 0 and math.isfinite(question.budget_dollars_per_hour / dollars):
        bounds = {SCALE: question.budget_dollars_per_hour / dollars}
    else:
        return None
    seconds_per_pair = max(NUMBERING_SECONDS_PER_PAIR, (clock.elapsed_seconds() - begun) / pairs / LOOKING_PART)
    affordable = NUMBERING_PART * (clock.remaining_seconds() or 0.0) / seconds_per_pair
    each = max(LEAST_PER_CLASS, int(affordable * len(question.shapes) / pairs / max(1, len(asked))))
    kept = {name for prices in by_class.values() for _, name in heapq.nsmallest(each, prices)}
    kept |= {name for name, count in question.running.replicas.items() if count} if question.running else set()
    shapes = tuple(shape for shape in question.shapes if shape.name in kept)
    return Thinned(question=question.model_copy(update={"shapes": shapes}), bounds=bounds)


def widened(found: Found, thin: Thinned, *, relative_gap: float) -> Found:
    """What was found among few shapes, with bounds that hold for all shapes: the asked rates, and the bounds by price."""
    plan = found.plan
    if plan is None:
        return found
    for goal, bound in found.bounds.items():
        wide = _trivial_bound(thin.question, goal)
        if goal in thin.bounds and (plan.in_full or goal != DOLLARS):
            wide = goal.tighter(wide, thin.bounds[goal])
        tolerance = TOLD if goal.is_promise else relative_gap
        found.record(goal, wide, value=plan.values[goal], unit=bound.unit, tolerance=tolerance)
    found.stopped = "proved" if found.proved else "deadline"
    return found


def _trivial_bound(question: Question, goal: Goal) -> float:
    """The best value that a level could have with unlimited supply."""
    match goal.kind:
        case Kind.SCALE:
            return math.inf
        case Kind.SERVED_FRACTION:
            return 1.0
        case Kind.SERVED_TOTAL:
            return math.fsum(cls.requests_per_second for cls in question.classes if cls.priority == goal.priority)
        case Kind.DOLLARS:
            return floor_dollars(question)
        case Kind.MOVES:
            return 0.0
