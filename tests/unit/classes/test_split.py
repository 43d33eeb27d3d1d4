"""The dynamic programme against every way there is."""

import math
from itertools import combinations, pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.classes.split import Rectangle, best_splits

thorough = settings(max_examples=60)


def intervals(count):
    """Every way to cut 0..count into runs."""
    for size in range(count):
        for cuts in combinations(range(1, count), size):
            edges = [0, *cuts, count]
            yield list(pairwise(edges))


def every_split(rows, columns):
    for bands in intervals(rows):
        for inside in product(list(intervals(columns)), repeat=len(bands)):
            yield [Rectangle(*band, *run) for band, runs in zip(bands, inside, strict=True) for run in runs]


@st.composite
def tables(draw):
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    sides = [Rectangle(a, b, c, d) for a in range(rows) for b in range(a + 1, rows + 1) for c in range(columns)
             for d in range(c + 1, columns + 1)]  # fmt: skip
    costs = draw(st.lists(st.integers(0, 20) | st.just(math.inf), min_size=len(sides), max_size=len(sides)))
    table = dict(zip(sides, map(float, costs), strict=True))
    table[Rectangle(0, rows, 0, columns)] = draw(st.integers(0, 60).map(float))
    return rows, columns, table


@thorough
@given(tables(), st.integers(1, 6))
def test_no_split_is_cheaper(table, most):
    rows, columns, costs = table
    found = best_splits(rows, columns, most, costs.__getitem__)
    assert len(found) == most
    for count, split in enumerate(found, start=1):
        cheapest = min(sum(costs[part] for part in way) for way in every_split(rows, columns) if len(way) <= count)
        assert split.cost == cheapest
        assert split.cost == sum(costs[part] for part in split.classes)
        assert len(split.classes) <= count
        assert list(split.classes) in list(every_split(rows, columns))
    assert all(later.cost <= earlier.cost for earlier, later in pairwise(found))


def test_of_equal_splits_the_smaller_boundary_is_taken():
    only = best_splits(3, 1, 2, lambda part: 1.0 if part.next_row - part.row == 3 else 0.0)[1]
    assert only.classes == (Rectangle(0, 1, 0, 1), Rectangle(1, 3, 0, 1))


@pytest.mark.parametrize("most", [1, 3])
def test_one_cell_is_one_class(most):
    assert [split.classes for split in best_splits(1, 1, most, lambda _: 2.0)] == [(Rectangle(0, 1, 0, 1),)] * most
