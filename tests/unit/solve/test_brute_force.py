"""The solver against enumeration: every vector of copies, every packing, routing by a linear program built apart."""

import functools
import itertools
import math

import highspy
import numpy as np
import pytest

from servingplan.solve import METHODS, solve
from servingplan.verify import verify
from tests.unit.solve.questions import random_question

COMPARATORS = [name for name in METHODS if name not in ("exact", "anytime")]
SIZES = {"small": (60, 600), "tiny": (240, 16)}
"""Questions by size, and the most vectors of copies that such a question may have."""
BLOCKS = 6


def small_questions(size):
    _, most_vectors = SIZES[size]
    for seed in itertools.count(0 if size == "small" else 100_000):
        question = random_question(seed, most_nodes=3, most_shapes=4)
        if math.prod(most_copies(question, shape) + 1 for shape in question.shapes) <= most_vectors:
            yield seed, question


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("size", SIZES)
def test_every_level_equals_the_best_of_all_plans(size, block):
    count = SIZES[size][0] // BLOCKS
    for seed, question in itertools.islice(small_questions(size), block * count, block * count + count):
        best = best_values(question)
        for method in ("exact", "anytime"):
            answer = solve(question, method=method, relative_gap=0.0)
            assert verify(question, answer) == (), seed
            if best is None:
                assert answer.status == "Infeasible", seed
                continue
            assert answer.status == "Optimal", (seed, method)
            found = [level.value for level in answer.levels]
            assert len(answer.levels) == len(best), seed
            assert found == pytest.approx([abs(value) for value in best], rel=3e-6, abs=1e-7), (seed, method)
        method = COMPARATORS[seed % len(COMPARATORS)]
        answer = solve(question, method=method)
        assert verify(question, answer) == (), (seed, method)
        if answer.status != "Infeasible":
            assert bounds_hold(answer, best), (seed, method)


def bounds_hold(answer, best):
    """Whether no plan beats a bound; a level's bound is only for plans that are as good on the levels before."""
    for level, value in zip(answer.levels, best, strict=True):
        sign = -1.0 if level.name == "dollars" else 1.0
        reach = 1e-5 * max(1.0, abs(value))
        if value > sign * level.bound + reach or sign * level.value > value + reach:
            return False
        if abs(sign * level.value - value) > reach:
            return True
    return True


def best_values(question):
    """Level values of the best plan (dollars negative); None where floors cost too much or no mix can be served."""
    best = None
    for copies in itertools.product(*(range(most_copies(question, shape) + 1) for shape in question.shapes)):
        nodes = [fewest_nodes(question, pool, copies) for pool in question.pools]
        if any(count is None for count in nodes):
            continue
        dollars = sum(pool.dollars_per_node_hour * count for pool, count in zip(question.pools, nodes, strict=True))
        if dollars > question.budget_dollars_per_hour + 1e-9:
            continue
        values = (*service(question, copies), -dollars)
        if best is None or better(values, best):
            best = values
    if best is not None and question.objective == "MaximizeService" and best[0] <= 1e-9:
        return None
    return best


def better(left, right):
    for a, b in zip(left, right, strict=True):
        if abs(a - b) > 1e-7 * max(1.0, abs(a)):
            return a > b
    return False


def most_copies(question, shape):
    pools = {pool.name: pool for pool in question.pools}
    fits = [pools[name].max_nodes * pools[name].gpus_per_node // gpus for name, gpus in shape.gpus.items()]
    return min([*fits, *([shape.max_copies] if shape.max_copies is not None else [])])


def fewest_nodes(question, pool, copies):
    """Fewest nodes that hold these pieces, by trying every node for every piece; None where the cap is too small."""
    pieces, whole = [], 0
    for shape, count in zip(question.shapes, copies, strict=True):
        gpus = shape.gpus.get(pool.name, 0)
        if gpus > pool.gpus_per_node:
            whole += count * (gpus // pool.gpus_per_node)
        elif gpus:
            pieces += [gpus] * count
    if sum(pieces) + whole * pool.gpus_per_node > pool.max_nodes * pool.gpus_per_node:
        return None
    pieces.sort(reverse=True)

    @functools.cache
    def fits(index, room):
        if index == len(pieces):
            return True
        for size in set(room):
            if size >= pieces[index]:
                rest = list(room)
                rest.remove(size)
                if fits(index + 1, tuple(sorted((*rest, size - pieces[index])))):
                    return True
        return False

    for count in range(pool.max_nodes + 1):
        if count >= max(pool.min_nodes, whole) and fits(0, (pool.gpus_per_node,) * (count - whole)):
            return count
    return None


def service(question, copies):
    """Values of the service levels for these copies."""
    classes = [cls for cls in question.classes if cls.requests_per_second > 0]
    pairs = [
        (c, k)
        for c, shape in enumerate(question.shapes)
        for k, cls in enumerate(classes)
        if copies[c] and cls.name in shape.requests_per_second
    ]
    if question.objective == "MaximizeService":
        lp = Routing(question, copies, classes, pairs)
        for k, cls in enumerate(classes):
            lp.row(
                0.0,
                0.0,
                {**{i: 1.0 for i, pair in enumerate(pairs) if pair[1] == k}, lp.extra: -cls.requests_per_second},
            )
        return (lp.maximise({lp.extra: 1.0}),)
    lp = Routing(question, copies, classes, pairs)
    for k, cls in enumerate(classes):
        lp.row(-math.inf, cls.requests_per_second, {i: 1.0 for i, pair in enumerate(pairs) if pair[1] == k})
    values = []
    for priority in sorted({cls.priority for cls in classes}, reverse=True):
        smallest = lp.column()
        members = [k for k, cls in enumerate(classes) if cls.priority == priority]
        for k in members:
            rate = classes[k].requests_per_second
            lp.row(-math.inf, 0.0, {smallest: rate, **{i: -1.0 for i, pair in enumerate(pairs) if pair[1] == k}})
        total = {i: 1.0 for i, pair in enumerate(pairs) if pair[1] in members}
        for terms in ({smallest: 1.0}, total):
            values.append(lp.maximise(terms) if terms else 0.0)
            if terms:
                lp.row(values[-1] - 1e-9, math.inf, terms)
    return tuple(values)


class Routing:
    """Rates per pair in requests/s, load and quality rows; straight to HiGHS, without the project's adapter."""

    def __init__(self, question, copies, classes, pairs):
        self.highs = highspy.Highs()
        self.highs.setOptionValue("output_flag", False)
        self.highs.setOptionValue("threads", 1)
        for _ in pairs:
            self.highs.addVar(0.0, highspy.kHighsInf)
        self.extra = self.column()
        for c, shape in enumerate(question.shapes):
            limits = shape.max_utilization if isinstance(shape.max_utilization, tuple) else (shape.max_utilization,)
            room = copies[c] * limits[min(max(copies[c], 1), len(limits)) - 1]
            busy = {i: 1.0 / shape.requests_per_second[classes[k].name] for i, (d, k) in enumerate(pairs) if d == c}
            self.row(-math.inf, room, busy)
        for k, cls in enumerate(classes):
            if cls.quality_loss_limit is not None:
                self.row(-math.inf, 0.0, {
                    i: question.shapes[c].quality_loss.get(cls.name, 0.0) - cls.quality_loss_limit
                    for i, (c, served) in enumerate(pairs) if served == k
                })  # fmt: skip

    def column(self):
        self.highs.addVar(0.0, 1e6)
        return self.highs.getNumCol() - 1

    def row(self, low, high, terms):
        index = np.array(list(terms), dtype=np.int32)
        self.highs.addRow(low, high, len(terms), index, np.array(list(terms.values()), dtype=np.float64))

    def maximise(self, terms):
        self.highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
        for column in range(self.highs.getNumCol()):
            self.highs.changeColCost(column, terms.get(column, 0.0))
        self.highs.run()
        assert self.highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
        return self.highs.getInfo().objective_function_value
