"""Samples of counters, whole or broken, as requests by interval."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servingplan.demand.counts import believable, cleaned, counter_steps, gauge_steps, merged

PROPERTY = settings(max_examples=60)
ODD = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["NaN", "+Inf", "-Inf", "", "a", None, "1e400", True, [], {}]),
    st.integers(-(10**15), 10**15),
)


def every(seconds, *values, start=0.0):
    return [(start + index * seconds, float(value)) for index, value in enumerate(values)]


def test_a_counter_that_falls_has_begun_anew():
    steps = counter_steps(every(15, 100, 160, 20, 50))
    assert [count for _, _, count in steps] == [60, 20, 30]


def test_a_gap_is_one_long_interval():
    assert merged([counter_steps([(0, 0), (15, 30), (60, 120)])]) == ((15, 15, 30), (60, 45, 90))


def test_samples_that_are_no_numbers_are_left_out():
    raw = [[0, "0"], [15, "NaN"], [30, "-5"], [45, "90"], [40, "80"], [60, "+Inf"], ["x", "1"], [75], [90, "180"]]
    assert cleaned(raw) == [(0, 0), (45, 90), (90, 180)]


@PROPERTY
@given(st.lists(st.lists(ODD, max_size=3), max_size=30))
def test_no_sample_breaks_the_reading(raw):
    steps = counter_steps(cleaned(raw))
    for end, length, count in merged([steps]):
        assert math.isfinite(end)
        assert length > 0
        assert count >= 0


def test_pods_that_are_scraped_at_different_moments_add_up():
    one = counter_steps(every(15, *range(0, 1500, 150)))
    other = counter_steps(every(15, *range(0, 3000, 300), start=7))
    for _, length, count in merged([one, other]):
        assert count / length == pytest.approx(30)


def test_a_pod_that_went_does_not_hold_the_others_back_nor_one_that_came():
    steady = counter_steps(every(15, *range(0, 3000, 150)))
    gone = counter_steps(every(15, *range(0, 750, 150)))
    came = counter_steps(every(15, 0, 150, 300, start=240))
    found = merged([steady, gone, came])
    assert found[-1][0] == pytest.approx(270)
    assert [round(count / length) for _, length, count in found][:4] == [20] * 4
    assert round(found[-1][2] / found[-1][1]) == 20
    assert sum(count for _, _, count in found) == pytest.approx(18 * 150 + 4 * 150 + 2 * 150)


def test_what_runs_and_waits_counts_as_it_grows():
    finished = counter_steps(every(15, 0, 150, 300))
    waiting = gauge_steps(every(15, 0, 50, 30))
    assert [count for _, _, count in merged([finished, waiting])] == [200, 130]


def test_what_nothing_could_have_caused_is_left_out():
    intervals = ((15.0, 15.0, 150.0), (30.0, 15.0, 1e12), (45.0, 15.0, 150.0))
    assert believable(intervals, 1000.0) == (intervals[0], intervals[2])


@PROPERTY
@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=40), st.integers(1, 60))
def test_nothing_is_lost_or_made_up(increments, spacing):
    total, values = 0, [0]
    for item in increments:
        total += item
        values.append(total)
    found = merged([counter_steps(every(spacing, *values))])
    assert sum(count for _, _, count in found) == pytest.approx(total)
