"""The split of layers over stages against every split there is."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.profiles.layers import split_layers

RISING = st.lists(st.integers(0, 6), min_size=0, max_size=8).map(lambda steps: list(itertools.accumulate(steps)))


def every_split(layers, seconds):
    for split in itertools.product(*(range(1, len(row) + 1) for row in seconds)):
        if sum(split) == layers:
            times = [row[held - 1] for row, held in zip(seconds, split, strict=True)]
            yield (max(times), sum(times)), split


@pytest.mark.slow
@settings(max_examples=400)
@given(layers=st.integers(1, 10), seconds=st.lists(RISING, min_size=1, max_size=4))
def test_no_split_has_a_faster_slowest_stage_or_with_that_a_smaller_sum(layers, seconds):
    found = split_layers(layers, seconds)
    best = min(every_split(layers, seconds), default=None)
    if best is None:
        assert found is None
        return
    times = [row[held - 1] for row, held in zip(seconds, found, strict=True)]
    assert sum(found) == layers
    assert min(found) >= 1
    assert (max(times), sum(times)) == best[0]


@settings(max_examples=200)
@given(layers=st.integers(2, 128), speeds=st.lists(st.floats(0.1, 10), min_size=1, max_size=8))
def test_an_even_split_is_never_better(layers, speeds):
    if len(speeds) > layers:
        return
    seconds = [[held / speed for held in range(1, layers + 1)] for speed in speeds]
    split = split_layers(layers, seconds)
    even = [layers // len(speeds) + (number < layers % len(speeds)) for number in range(len(speeds))]
    slowest = max(row[held - 1] for row, held in zip(seconds, split, strict=True))
    assert slowest <= max(row[held - 1] for row, held in zip(seconds, even, strict=True))


@settings(max_examples=200)
@given(
    layers=st.integers(1, 128),
    stages=st.lists(st.tuples(st.floats(0.1, 10), st.integers(0, 128)), min_size=1, max_size=8),
)
def test_no_stage_holds_more_than_its_memory_does(layers, stages):
    seconds = [[held / speed for held in range(1, most + 1)] for speed, most in stages]
    split = split_layers(layers, seconds)
    fits = sum(most for _, most in stages) >= layers >= len(stages) and min(most for _, most in stages) >= 1
    assert (split is not None) == fits
    if split is not None:
        assert all(1 <= held <= most for held, (_, most) in zip(split, stages, strict=True))


def test_layers_go_by_speed_until_memory_ends():
    three_times_as_fast = [[held / 3 for held in range(1, 25)], [float(held) for held in range(1, 25)]]
    assert split_layers(24, three_times_as_fast) == (18, 6)
    little_memory = [three_times_as_fast[0][:10], three_times_as_fast[1]]
    assert split_layers(24, little_memory) == (10, 14)


@pytest.mark.parametrize("seconds", [[[], [1.0, 2.0]], [[1.0]], [[1.0]] * 3])
def test_stages_that_cannot_hold_the_layers_have_no_split(seconds):
    assert split_layers(2, seconds) is None


def test_no_like_stage_holds_more_than_its_even_part_rounded_up():
    row = [math.sqrt(2) * held for held in range(1, 127)]
    assert max(split_layers(126, [row] * 4)) == 32
