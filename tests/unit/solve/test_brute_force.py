"""The solver against enumeration: values, bounds and verdicts on random questions with every option.

`EXHAUSTIVE=1`, which `make test` sets, asks 2,000 questions; otherwise 120.
"""

import itertools
import math
import os

import pytest

from servingplan.solve import METHODS
from servingplan.verify import verify
from tests.unit.solve.brute_force import best_values, better, most_copies, values_of
from tests.unit.solve.questions import random_question, solve

COMPARATORS = [name for name in METHODS if name not in ("exact", "anytime")]
BLOCKS = 6
EXHAUSTIVE = bool(os.environ.get("EXHAUSTIVE"))
KINDS = {
    # first seed, questions in short, exhaustively, least and most vectors of copies, options
    "small": (0, 12, 60, (1, 600), {}),
    "tiny": (100_000, 84, 1_140, (1, 16), {}),
    "survive": (200_000, 12, 300, (6, 24), {"survive": True}),
    "running": (300_000, 12, 400, (1, 16), {"running": True}),
    "quotas": (500_000, 12, 300, (4, 24), {"quotas": True}),
    "survive and quotas": (600_000, 0, 100, (6, 24), {"survive": True, "quotas": True}),
    "survive and running": (400_000, 0, 100, (6, 24), {"survive": True, "running": True}),
}


def questions(kind, block):
    """The block's share of the questions of a kind, with the seed of each."""
    first, short, exhaustive, (least, most), options = KINDS[kind]
    drawn = ((seed, random_question(seed, most_nodes=3, most_shapes=4, **options)) for seed in itertools.count(first))
    chosen = (
        (seed, calmer(question) if question.survive else question)
        for seed, question in drawn
        if least <= vectors_count(question) <= most
    )
    return itertools.islice(chosen, block, exhaustive if EXHAUSTIVE else short, BLOCKS)


def calmer(question):
    """A quarter of the demand, or few plans would survive anything."""
    classes = tuple(
        cls.model_copy(update={"requests_per_second": cls.requests_per_second / 4}) for cls in question.classes
    )
    return question.model_copy(update={"classes": classes})


def vectors_count(question):
    """Vectors of copies that the enumeration goes through."""
    return math.prod(most_copies(question, shape) + 1 for shape in question.shapes)


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("kind", KINDS)
def test_every_level_equals_the_best_of_all_plans(kind, block):
    for n, (seed, question) in enumerate(questions(kind, block)):
        best = best_values(question)
        for method in ("exact", "anytime"):
            answer = solve(question, method=method, relative_gap=0.0)
            assert verify(question, answer) == (), (seed, method)
            if best is None:
                assert answer.status == "Infeasible", (seed, method)
            elif question.change is None:
                assert answer.status == "Optimal", (seed, method)
                assert signed_values(answer) == near(best), (seed, method)
            else:
                assert_moves_only_when_worth_it(question, answer, best, (seed, method))
        if n < 60 // BLOCKS * 4 and not question.survive and question.running is None:
            method = COMPARATORS[seed % len(COMPARATORS)]
            answer = solve(question, method=method)
            assert verify(question, answer) == (), (seed, method)
            assert answer.status == "Infeasible" or bounds_hold(answer, best), (seed, method)


def signed_values(answer):
    return [-level.value if level.name in ("dollars", "moves") else level.value for level in answer.levels]


def near(values):
    return pytest.approx(list(values), rel=3e-6, abs=1e-7)


def assert_moves_only_when_worth_it(question, answer, best, where):
    """The answer is the best plan, or the running one where that gains no more than `min_gain` or does not pay back."""
    running = tuple(question.running.replicas.get(shape.name, 0) for shape in question.shapes)
    fits = all(count <= most_copies(question, shape) for shape, count in zip(question.shapes, running, strict=True))
    stay = values_of(question, running) if fits else None
    if stay is None or (question.objective == "MaximizeService" and stay[0] <= 1e-9):
        assert signed_values(answer) == near(best), where
        return
    kept = tuple(answer.replicas.get(shape.name, 0) for shape in question.shapes) == running
    gain = relative_gain(question, best[:-1], stay[:-1])
    if not kept:
        assert signed_values(answer) == near(best), where
        assert gain > question.change.min_gain - 1e-6, where
    elif better(best[:-1], stay[:-1]):
        assert signed_values(answer) == near(stay), where
        assert gain <= question.change.min_gain + 1e-6 or question.change.life_seconds is not None, where


def relative_gain(question, best, stay):
    """By how much the best plan is better, on the first level of service that differs, else in dollars."""
    *served, dollars = best
    if question.objective == "MaximizeService":
        gain = served[0] / stay[0] - 1.0
        return gain if gain > 1e-7 else 1.0 - dollars / stay[-1] if stay[-1] else 0.0
    for level, now in zip(served, stay, strict=False):
        if level - now > max(question.change.min_gain, 1e-6) * level:
            return math.inf
    return 1.0 - dollars / stay[-1] if stay[-1] else 0.0


def bounds_hold(answer, best):
    """Whether no plan beats a bound; a level's bound is only for plans that are as good on the levels before."""
    for level, value in zip(answer.levels, best, strict=True):
        sign = -1.0 if level.name in ("dollars", "moves") else 1.0
        reach = 1e-5 * max(1.0, abs(value))
        if value > sign * level.bound + reach or sign * level.value > value + reach:
            return False
        if abs(sign * level.value - value) > reach:
            return True
    return True
