"""The curve of a spec, and those of the fleets on one pool alone beside it, as figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.errors import InputError
from servingplan.frontier.curve import Ask, answers_along, never_falling
from servingplan.frontier.sweep import Sweep
from servingplan.model.answer import Answer
from servingplan.model.question import Question, QuestionError
from servingplan.planning.question import Posed, pose
from servingplan.planning.shapes import class_key
from servingplan.planning.situation import Situation
from servingplan.solve import solve
from servingplan.solve.conflicts.limits import changed
from servingplan.solve.solver.clock import Stopwatch

NODE_LIMIT = 1_000
"""Work limit of each level of each point, in branch-and-bound nodes."""
DIGITS = 9
"""Decimals of the figures."""
SECONDS_PER_HOUR = 3600.0
TOKENS_PER_MILLION = 1e6


@dataclass(frozen=True)
class Point:
    """The best plan at one value of what is varied. Without a plan: no dollars, no gap, nothing served."""

    x: float
    """The value in the unit of ``Sweep.kind``."""
    dollars_per_hour: float | None
    served: float
    """Requests/s of all classes together."""
    served_share: float
    """Part of what is asked for; under MaximizeService the multiple of the mix, which may exceed 1."""
    dollars_per_million_tokens: float | None
    """$/h over millions of tokens per hour, prompts and answers together; None where nothing is served."""
    nodes: Mapping[str, int]
    """The number of nodes by pool."""
    gap: float | None
    """The gap of the first goal that is not proved, as a fraction; 0: the best plan there is."""
    replicas: Mapping[str, int] = field(default_factory=dict)
    """Copies by shape."""


@dataclass(frozen=True)
class Frontier:
    """The curve of a spec."""

    sweep: Sweep
    points: tuple[Point, ...]
    """The points by rising ``x``."""
    homogeneous: Mapping[str, tuple[Point, ...]]
    """The same for the best fleet on each pool alone, within the same limits."""
    answers: tuple[Answer, ...]
    """The answers behind ``points``."""
    without: Mapping[str, Answer]
    """The answer at the largest value if a pool were not there, by pool."""


Found = Callable[[str | None, Point], None]
"""Told of each point as it is found, with the pool of a homogeneous fleet, else None."""


def frontier(
    situation: Situation,
    sweep: Sweep,
    *,
    deadline_seconds: float | None = None,
    on_point: Found = lambda _pool, _point: None,
) -> Frontier:
    """The curve of the situation's spec. Deterministic unless the deadline ends it early.

    Raises:
        InputError: the spec poses no question, or has no such pool; one line per fault.
    """
    posed = _posed(situation, sweep)
    assert posed.question is not None, "_posed raises else"
    search = _Curves(situation.spec, posed, sweep, _asker(deadline_seconds), on_point)
    answers = search.curve(posed.question, None)
    pools = sorted({part.pool.name for part in posed.parts.values()})
    homogeneous = {pool: search.points(search.curve(search.alone(pool), pool)) for pool in pools}
    last = search.at(posed.question, sweep.values[-1])
    without = {} if len(pools) < 2 else {pool: search.ask(search.lacking(last, pool), {}) for pool in pools}
    return Frontier(sweep, search.points(answers), homogeneous, tuple(answers.values()), without)


def _posed(situation: Situation, sweep: Sweep) -> Posed:
    posed, errors = pose(
        spec=situation.spec,
        pools=situation.pools,
        incumbent=None,
        across_nodes=situation.world.leader_worker_sets,
        rows=situation.rows,
        lessons=situation.lessons,
        catalogue=situation.known.catalogue,
    )
    problems = [*situation.spec_errors, *situation.pool_errors, *errors]
    problems += [InputError(field, None, why) for field, _, why in (line.partition(": ") for line in posed.unfit)]
    if problems:
        raise problems[0] if len(problems) == 1 else InputError("spec", None, "; ".join(map(str, problems)))
    if posed.question is None:
        raise InputError("spec.nodePools", None, "no node of the pools can take a replica; see servingplan explain")
    if sweep.kind == "stock" and sweep.pool not in posed.parts:
        raise InputError("--stock", sweep.pool, f"is no pool of whole nodes; give one of: {', '.join(posed.parts)}")
    floor = posed.parts[sweep.pool].min_nodes if sweep.kind == "stock" else 0
    if sweep.kind == "stock" and sweep.values[0] < floor:
        least = (
            f"starts below the {floor} nodes that pool {sweep.pool} keeps at least; start there, or lower its minNodes"
        )
        raise InputError("--stock", int(sweep.values[0]), least)
    return posed


def _asker(deadline_seconds: float | None) -> Ask:
    stopwatch = Stopwatch(deadline_seconds)

    def ask(question: Question, start: Mapping[str, int]) -> Answer:
        left = stopwatch.remaining_seconds()
        try:
            return solve(
                question,
                method="anytime",
                deadline_seconds=None if left is None else max(0.05, left),
                node_limit=NODE_LIMIT,
                why_infeasible=False,
                start=start,
            )
        except QuestionError as error:
            return Answer(status="Infeasible", method="anytime", reasons=(str(error),))

    return ask


@dataclass(frozen=True)
class _Curves:
    spec: PlanSpec
    posed: Posed
    sweep: Sweep
    ask: Ask
    on_point: Found

    def at(self, question: Question, value: float) -> Question:
        return self.sweep.question(question, value, sunk_dollars_per_hour=self.posed.sunk_dollars_per_hour)

    def curve(self, question: Question, pool: str | None) -> dict[float, Answer]:
        """The answers by rising value."""
        found: dict[float, Answer] = {}
        ask = self.ask if _mix_is_servable(question) else _nothing
        sunk = self.posed.sunk_dollars_per_hour
        for value, answer in answers_along(self.sweep, question, ask, sunk_dollars_per_hour=sunk):
            found[value] = answer
            self.on_point(pool, self.point(value, answer))
        return never_falling(self.sweep, question, found, sunk_dollars_per_hour=sunk)

    def points(self, answers: Mapping[float, Answer]) -> tuple[Point, ...]:
        return tuple(self.point(value, answer) for value, answer in answers.items())

    def alone(self, pool: str) -> Question:
        """The question with the shapes of this pool only. Floors of other pools are paid all the same."""
        assert self.posed.question is not None
        parts = self._parts(pool)
        shapes = tuple(shape for shape in self.posed.question.shapes if set(shape.gpus) <= parts)
        return self.posed.question.model_copy(update={"shapes": shapes})

    def lacking(self, question: Question, pool: str) -> Question:
        """The question without this pool."""
        return changed(question, {f"pool:{part}": 0.0 for part in self._parts(pool)})

    def _parts(self, pool: str) -> set[str]:
        return {name for name, part in self.posed.parts.items() if part.pool.name == pool}

    def point(self, value: float, answer: Answer) -> Point:
        nodes = dict.fromkeys(sorted({part.pool.name for part in self.posed.parts.values()}), 0)
        if answer.status == "Infeasible":
            return Point(value, None, 0.0, 0.0, None, nodes, None)
        for part, count in answer.nodes.items():
            nodes[self.posed.parts[part].pool.name] += count
        dollars = answer.dollars_per_hour or 0.0
        rates = {key: math.fsum(by_shape.values()) for key, by_shape in answer.rates.items()}
        served = math.fsum(rates.values())
        asked = self._asked(value)
        tokens = math.fsum(rate * self._tokens[key] for key, rate in rates.items())
        return Point(
            x=value,
            dollars_per_hour=round(dollars, DIGITS),
            served=round(served, DIGITS),
            served_share=round(served / asked, DIGITS) if asked else 1.0,
            dollars_per_million_tokens=round(dollars / (tokens * SECONDS_PER_HOUR / TOKENS_PER_MILLION), DIGITS)
            if tokens
            else None,
            nodes=nodes,
            gap=None if answer.gap is None else round(answer.gap, DIGITS),
            replicas=dict(answer.replicas),
        )

    def _asked(self, value: float) -> float:
        """Requests/s of all classes together at a value."""
        assert self.posed.question is not None
        rate = math.fsum(cls.requests_per_second for cls in self.posed.question.classes)
        return rate * value if self.sweep.kind == "demand" else rate

    @property
    def _tokens(self) -> dict[str, int]:
        """Tokens of one request by class, prompt and answer together."""
        return {
            class_key(model.name, item.name): item.input_tokens + item.output_tokens
            for model in self.spec.models
            for item in model.effective_classes
        }


def _mix_is_servable(question: Question) -> bool:
    """Whether some shape can serve each class, without which MaximizeService has no plan."""
    served = {name for shape in question.shapes for name in shape.requests_per_second}
    asked = {cls.name for cls in question.classes if cls.requests_per_second > 0}
    return question.objective == "MinimizeCost" or asked <= served


def _nothing(question: Question, start: Mapping[str, int]) -> Answer:
    del question, start
    return Answer(status="Infeasible", method="anytime", reasons=("no shape serves some class of the mix",))
