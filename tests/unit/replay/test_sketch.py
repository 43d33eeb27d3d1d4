"""Percentiles of a stream: within half a per cent of those of the sorted values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servingplan.replay.sketch import PERCENTILES, Sketch


@given(st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=200))
def test_percentiles_are_those_of_the_sorted_values(values):
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    ranked = sorted(values)
    for percent in PERCENTILES:
        exact = ranked[max(1, math.ceil(percent / 100 * len(ranked) - 1e-9)) - 1]
        assert sketch.percentile(percent) == pytest.approx(exact, rel=0.00502)
    assert sketch.percentiles()["p100"] == max(values)
    assert sketch.mean == pytest.approx(sum(values) / len(values))


def test_zeros_count_and_nothing_has_no_percentile():
    sketch = Sketch()
    assert sketch.percentiles() == {}
    assert sketch.percentile(50) is None
    for value in (0.0, 0.0, 0.0, 5.0):
        sketch.add(value)
    assert sketch.percentile(50) == 0.0
    assert sketch.percentile(100) == 5.0


def test_memory_does_not_grow_with_the_stream():
    sketch = Sketch()
    for number in range(20_000):
        sketch.add(1 + (number * 7919 % 1000) / 1000)
    assert len(sketch._buckets) <= math.log(2) / math.log(1.01) + 2
