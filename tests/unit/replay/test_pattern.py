"""The rate over time against sums over small steps of its definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servingplan.replay.events import DemandEvent
from servingplan.replay.pattern import DAY_SECONDS, Pattern

surges = st.builds(
    DemandEvent,
    at=st.floats(0, 20_000),
    event=st.just("Surge"),
    seconds=st.none() | st.floats(10, 20_000),
    factor=st.floats(0.1, 10),
)
launches = st.builds(
    DemandEvent,
    at=st.floats(0, 20_000),
    event=st.just("Launch"),
    model=st.just("m"),
    seconds=st.none() | st.floats(10, 20_000),
)


def factor(t, amplitude, events):
    """By the definition of each event."""
    found = 1 + amplitude * math.sin(2 * math.pi * t / DAY_SECONDS)
    for event in events:
        lasts = math.inf if event.seconds is None else event.seconds
        if event.event == "Surge":
            found *= event.factor if 0 <= t - event.at < lasts else 1
        else:
            found *= min(1.0, max(0.0, (t - event.at) / (event.seconds or 1e-9)))
    return found


@given(st.sampled_from([0.0, 0.5, 1.0]), st.lists(surges, max_size=3), st.lists(launches, max_size=1))
def test_as_much_has_come_by_a_time_as_the_rate_adds_up_to(amplitude, some, launch):
    events = [*some, *launch]
    pattern = Pattern(amplitude, events)
    steps, end = 8_000, 45_000.0
    width = end / steps
    even = sum(factor((step + 0.5) * width, amplitude, events) * width for step in range(steps))
    # The sum is wrong by a step at each jump, which is at most a thousandfold rate.
    found = pattern.when(even)
    missed = max(factor(end, amplitude, events), 1e-3)
    largest = math.prod(max(1.0, event.factor) for event in some) * (1 + amplitude)
    assert abs(found - end) * missed <= 8 * largest * width + 1e-6 * even


@given(st.sampled_from([0.0, 0.7]), st.lists(surges, max_size=3), st.lists(launches, max_size=1))
def test_time_never_runs_back(amplitude, some, launch):
    pattern = Pattern(amplitude, [*some, *launch])
    times = [pattern.when(even * 500.0) for even in range(100)]
    assert times == sorted(times)
    for event in launch:
        assert times[1] >= event.at


def test_nothing_changes_without_events():
    assert [Pattern().when(even) for even in (0.0, 1.5, 1e6)] == [0.0, 1.5, 1e6]


def test_a_surge_and_a_slow_launch_by_hand():
    surge = DemandEvent(at=100, event="Surge", factor=4, seconds=10)
    assert Pattern(0.0, [surge]).when(120.0) == pytest.approx(105.0)  # 100 by then, 20 more at four a second
    assert Pattern(0.0, [surge]).when(150.0) == pytest.approx(120.0)
    launch = DemandEvent(at=100, event="Launch", model="m", seconds=10)
    assert Pattern(0.0, [launch]).when(0.0) == 100.0
    assert Pattern(0.0, [launch]).when(1.25) == pytest.approx(105.0)  # a triangle: 5 x 0.5 / 2
    assert Pattern(0.0, [launch]).when(7.0) == pytest.approx(112.0)
