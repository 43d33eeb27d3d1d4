"""A change of the rate is seen within a minute; a steady rate is none for a day."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from servingplan.demand.change import dispersion, gain_over, latest_change, likelihood_gain, threshold
from servingplan.demand.estimate import estimate
from tests.unit.demand.arrivals import START, counted

PROPERTY = settings(max_examples=60)
POLL_SECONDS = 10.0
BEFORE_SECONDS = 3600


def estimated_after(seconds, *, rate, factor, scrape, window, seed):
    """The estimate at the last poll before this many seconds after a step, whatever the phases of scrapes and polls."""
    stream = counted(
        lambda moment: rate * (factor if moment >= BEFORE_SECONDS else 1),
        scrape=scrape,
        seconds=BEFORE_SECONDS + seconds - scrape,
        seed=seed,
        phase=(0.618 * seed) % 1 * scrape,
    )
    now = START + BEFORE_SECONDS + seconds - (0.37 * seed) % 1 * POLL_SECONDS
    seen = [item for item in stream if item[0] <= now and item[0] - item[1] >= now - window]
    return estimate(seen, quantile=0.9, horizon_seconds=300).requests_per_second


@pytest.mark.parametrize("window", [60, 300, 3600])
@pytest.mark.parametrize("scrape", [5, 15])
@pytest.mark.parametrize("rate", [10, 100])
def test_a_step_of_three_is_estimated_within_15_percent_in_60_seconds(rate, scrape, window):
    for seed in range(20):
        found = estimated_after(60, rate=rate, factor=3, scrape=scrape, window=window, seed=seed)
        assert found == pytest.approx(3 * rate, rel=0.15), seed


@pytest.mark.parametrize("scrape", [5, 15])
def test_a_step_down_is_followed_within_90_seconds(scrape):
    for seed in range(20):
        found = estimated_after(90, rate=100, factor=1 / 3, scrape=scrape, window=300, seed=seed)
        assert found == pytest.approx(100 / 3, rel=0.15), seed


@pytest.mark.parametrize(("rate", "scrape", "window"), [(1, 15, 300), (10, 15, 300), (100, 15, 300), (10, 30, 3600)])
def test_a_steady_rate_raises_no_alarm_in_24_hours(rate, scrape, window):
    stream = counted(lambda _: rate, scrape=scrape, seconds=86_400, seed=rate)
    length = window // scrape
    assert len(stream) == 86_400 // scrape
    alarms = [end for end in range(length, len(stream) + 1) if latest_change(stream[end - length : end])]
    assert alarms == []


def test_a_single_interval_of_ten_times_the_rate_is_no_change():
    stream = counted(lambda _: 10, scrape=15, seconds=300, seed=1)
    end, length, count = stream[-1]
    assert latest_change([*stream[:-1], (end, length, 10 * count)]) == 0


def test_the_latest_of_several_changes_counts():
    def rate(moment):
        return 10 if moment < 1000 else 40 if moment < 2000 else 20

    stream = counted(rate, scrape=10, seconds=3000, seed=3)
    first = latest_change(stream)
    assert stream[first][0] - START == pytest.approx(2010, abs=10)


def test_bursts_that_are_usual_are_no_change():
    """Counts of ten times Poisson's variance, an hour of windows."""
    chance = numpy.random.default_rng(7)
    counts = chance.negative_binomial(300 / 9, 1 / 10, size=240)
    stream = [(START + 15.0 * index, 15.0, float(count)) for index, count in enumerate(counts)]
    assert dispersion(stream) == pytest.approx(10, rel=0.3)
    assert [end for end in range(20, 241) if latest_change(stream[end - 20 : end])] == []


def test_a_lull_between_bursts_is_no_fall():
    stream = counted(lambda moment: 30 if moment % 100 < 50 else 10, scrape=10, seconds=600, seed=1)
    assert stream[-1][2] < 200
    assert estimate(stream, quantile=0.9, horizon_seconds=300).requests_per_second == pytest.approx(30, rel=0.1)


@PROPERTY
@given(
    total=st.integers(1, 400),
    s=st.floats(1, 1000),
    t=st.floats(1, 1000),
    h=st.floats(0.5, 25),
)
def test_the_bound_on_false_alarms_holds_for_every_count(total, s, t, h):
    """Given the sum, y is binomial: the exact probability of G >= h, beside the bound that the threshold stands on."""
    telling = [y for y in range(total + 1) if likelihood_gain(total - y, s, y, t) >= h]
    chance = binom.pmf(telling, total, t / (s + t)).sum() if telling else 0.0
    assert chance <= 2 * math.exp(-h) * (1 + 1e-6)


@PROPERTY
@given(x=st.integers(0, 1000), s=st.floats(1, 1000), y=st.integers(0, 1000), t=st.floats(1, 1000))
def test_the_gain_is_that_of_the_two_likelihoods(x, s, y, t):
    """Against the log-likelihoods of Poisson counts, written out; the factorials cancel."""

    def log_likelihood(count, mean):
        return (count * math.log(mean) if count else 0.0) - mean

    both = (x + y) / (s + t)
    apart = log_likelihood(x, x) + log_likelihood(y, y)
    together = log_likelihood(x, both * s) + log_likelihood(y, both * t) if x + y else 0.0
    assert likelihood_gain(x, s, y, t) == pytest.approx(apart - together, abs=1e-6)


def test_the_gain_over_a_given_rate_is_zero_at_it_and_grows_both_ways():
    assert gain_over(10, 150, 15) == pytest.approx(0, abs=1e-9)
    assert gain_over(10, 450, 15) > gain_over(10, 300, 15) > gain_over(10, 160, 15) > 0
    assert gain_over(10, 0, 15) == pytest.approx(150)


def test_the_threshold_grows_with_the_number_of_looks():
    often = counted(lambda _: 1, scrape=1, seconds=300, seed=0)
    seldom = counted(lambda _: 1, scrape=15, seconds=300, seed=0)
    assert threshold(often) == pytest.approx(math.log(2 * 300 * 86_400 / 1e-3))
    assert threshold(seldom) == pytest.approx(math.log(2 * 20 * 5760 / 1e-3))
