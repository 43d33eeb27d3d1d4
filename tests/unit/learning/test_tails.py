"""What counts by bound teach of percentiles, against samples of distributions whose percentiles are known."""

import math
import random
from dataclasses import replace
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servingplan.learning.figures import WINDOW_SECONDS as WINDOW
from servingplan.learning.learn import (
    HALF_LIFE_SECONDS,
    LARGEST_FACTOR,
    TAIL_MIX,
    in_use,
    learned,
)
from servingplan.learning.tails import FEWEST_BEYOND, percentile_of, together, usual_ratio
from servingplan.model.readings import Histogram
from servingplan.profiles.expected import Expected, Latencies
from servingplan.profiles.learned import Factor, Learned
from servingplan.simulate.tally import FIRST_TOKEN_BOUNDS, TOKEN_BOUNDS
from servingplan.simulate.tally import Histogram as Tallied
from tests.unit.learning.feed import OBSERVED, at, counts_of, expecting, highest_rate, simulated

HOUR = 12
"""Windows of five minutes."""
DRAWN = {
    "log-normal, narrow": lambda chance: chance.lognormvariate(-(0.3**2) / 2, 0.3),
    "log-normal, wide": lambda chance: chance.lognormvariate(-(0.8**2) / 2, 0.8),
    "exponential": lambda chance: chance.expovariate(1.0),
    "gamma, narrow": lambda chance: chance.gammavariate(16, 1 / 16),
    "gamma": lambda chance: chance.gammavariate(4, 1 / 4),
    "Weibull": lambda chance: chance.weibullvariate(1.128, 2),
    "constant and exponential": lambda chance: 0.6 + chance.expovariate(1 / 0.4),
    "two humps": lambda chance: chance.gammavariate(16, 1 / 16) * (4 if chance.random() < 0.1 else 0.667),
}
"""Times with a mean of about 1."""


def drawn(name, count, *, seed=13, times=1.0):
    chance = random.Random(seed)
    return [times * DRAWN[name](chance) for _ in range(count)]


def counted(values, bounds=FIRST_TOKEN_BOUNDS):
    histogram = Tallied(bounds)
    for value in values:
        histogram.observe(value)
    return counts_of(histogram)


def true_percentile(values, percentile):
    return sorted(values)[int(len(values) * percentile / 100)]


@pytest.mark.parametrize("percentile", [90, 95, 99])
@pytest.mark.parametrize("name", DRAWN)
def test_a_percentile_lies_between_the_bounds_around_the_true_one(name, percentile):
    for times in (0.03, 0.05, 0.12, 0.35, 1.0, 3.0):
        for bounds in (FIRST_TOKEN_BOUNDS, TOKEN_BOUNDS):
            values = drawn(name, 5000, times=times)
            true = true_percentile(values, percentile)
            found = percentile_of(counted(values, bounds), percentile)
            low = max((bound for bound in bounds if bound < true), default=0.0)
            high = min(bound for bound in bounds if bound >= true)
            assert found is None or low <= found <= high
            assert found is not None or low == 0.0


@pytest.mark.parametrize("name", [name for name in DRAWN if name != "two humps"])
def test_the_95th_of_times_with_one_hump_is_right_within_a_tenth(name):
    """Two humps may hide between two bounds: then only these are certain."""
    for times in (0.03, 0.05, 0.08, 0.12, 0.2, 0.35, 0.6, 1.0, 1.7, 3.0):
        values = drawn(name, 20_000, times=times)
        found = percentile_of(counted(values), 95)
        assert found == pytest.approx(true_percentile(values, 95), rel=0.1)


def test_what_counts_do_not_tell_is_not_guessed():
    few = counted(drawn("exponential", 99))
    assert percentile_of(few, 95) is None
    assert percentile_of(counted(drawn("exponential", 100)), 95) is not None
    assert percentile_of(counted(drawn("exponential", 499)), 99) is None, f"{FEWEST_BEYOND} must be beyond"
    many = drawn("exponential", 1000)
    assert percentile_of(counted(many), 50) is None, "medians are too near to the middle"
    assert percentile_of(counted([1e-4] * 1000), 95) is None, "below the first bound"
    assert percentile_of(counted([1e5] * 1000), 95) is None, "above the last one"
    assert percentile_of(None, 95) is None


@given(st.lists(st.floats(1e-3, 2000), min_size=100, max_size=300), st.sampled_from([90.0, 95.0]))
def test_any_counts_give_a_percentile_between_two_bounds_or_none(values, percentile):
    found = percentile_of(counted(values), percentile)
    if found is not None:
        below = sum(
            value <= min(bound for bound in FIRST_TOKEN_BOUNDS if bound >= found * (1 - 1e-9)) for value in values
        )
        assert below / len(values) >= percentile / 100


def test_counts_of_several_pods_are_one_histogram_and_none_if_one_is_missing():
    values = drawn("gamma", 400)
    parts = [counted(values[:150]), counted(values[150:])]
    assert together(parts) == counted(values)
    assert together([*parts, None]) is None
    assert together([parts[0], counted(values, TOKEN_BOUNDS)]) is None
    assert together([]) is None


def test_the_usual_ratio_is_that_of_log_normal_lengths():
    chance = random.Random(5)
    sigma = math.sqrt(math.log1p(0.6**2))
    lengths = [chance.lognormvariate(-(sigma**2) / 2, sigma) for _ in range(200_000)]
    assert usual_ratio(0.6, 95) == pytest.approx(true_percentile(lengths, 95) * len(lengths) / sum(lengths), rel=0.02)
    assert usual_ratio(0.0, 95) == 1


# --- what is learned -----------------------------------------------------------------------------------------------------


TAIL = 2.0
"""Percentile over mean, by the profile."""


def profile(highest=6.0, ttft=0.3, tpot=0.05):
    """A profile that says the same of every load."""
    return lambda: Expected(highest, lambda utilization: Latencies(ttft, tpot, TAIL * ttft, TAIL * tpot))


PROFILE = profile()


def looked(kind, number, expect=PROFILE, **changed):
    """What is known after a window; its number gives the time."""
    usual = {"ttft_seconds": 0.3, "tpot_seconds": 0.05, "prompt_ratio": usual_ratio(0.6, 95.0)}
    seen = replace(OBSERVED, **{"at": at(number * WINDOW), **usual, **changed})
    return learned(kind, seen.at, seen, expect)


def after(windows, kind=None, first=1, **changed):
    for number in range(first, first + windows):
        kind = looked(kind, number, **changed)
    return kind


def window_of(values):
    """What a window shows of these times."""
    return {
        "requests": float(len(values)),
        "ttft_seconds": sum(values) / len(values),
        "ttft_percentile_seconds": percentile_of(counted(values), 95.0),
    }


def corrected_percentile(kind):
    """The percentile that plans count on at the median, by the profile's own and what was learned."""
    return TAIL * 0.3 * in_use(kind).percentile_times(0.5)[0]


@pytest.mark.parametrize("name", [name for name in DRAWN if name != "two humps"])
def test_percentiles_of_drawn_times_are_learned_within_an_hour(name):
    kind = None
    for number in range(1, HOUR + 1):
        kind = looked(kind, number, **window_of(drawn(name, 300, seed=number, times=0.4)))
    everything = drawn(name, 100_000, seed=99, times=0.4)
    true = true_percentile(everything, 95)
    assert corrected_percentile(kind) == pytest.approx(true, rel=0.12)
    means_alone = TAIL * 0.3 * in_use(kind).times(0.5)[0]
    assert abs(math.log(corrected_percentile(kind) / true)) <= abs(math.log(means_alone / true)) + 0.03
    assert kind.look.expected_ttft_percentile_seconds == pytest.approx(corrected_percentile(kind), rel=0.05)


def test_with_confidence_the_percentile_is_rarely_above_what_plans_count_on():
    """One window of 300 requests after an hour, forty times over: at 0.9 most of them stay below."""
    below, rounds = 0, 40
    for round_ in range(rounds):
        kind = None
        for number in range(1, HOUR + 1):
            kind = looked(kind, number, **window_of(drawn("gamma", 300, seed=1000 * round_ + number, times=0.4)))
        counts_on = TAIL * 0.3 * in_use(kind).percentile_times(0.9)[0]
        below += true_percentile(drawn("gamma", 300, seed=1000 * round_, times=0.4), 95) <= counts_on
    assert below >= 0.8 * rounds


def test_an_engine_that_is_only_slower_has_the_tail_of_its_profile():
    slower = {"ttft_seconds": 0.6, "ttft_percentile_seconds": 0.6 * TAIL}
    kind = after(HOUR, **slower, tpot_seconds=0.075, tpot_percentile_seconds=0.075 * TAIL)
    known = in_use(kind)
    assert known.ttft_tail.shift == pytest.approx(0.0, abs=1e-6)
    assert known.tpot_tail.shift == pytest.approx(0.0, abs=1e-6)
    assert known.ttft_tail.weight > 0.9


def test_tails_have_a_band_of_their_own_and_without_them_the_percentile_has_that_of_its_mean():
    means = Learned(ttft=Factor(0.2, 1.0), tpot=Factor(0.1, 1.0))
    assert means.percentile_times(0.9) == means.times(0.9)
    tails = means._replace(ttft_tail=Factor(0.0, 1.0), tpot_tail=Factor(0.0, 1.0))
    assert tails.percentile_times(0.5) == pytest.approx(means.times(0.5))
    assert all(wide > narrow for wide, narrow in zip(tails.percentile_times(0.9), means.times(0.9), strict=True))
    sigma = math.log(1.15) / NormalDist().inv_cdf(0.9)
    wanted = math.exp(0.2 + NormalDist().inv_cdf(0.75) * math.hypot(sigma, sigma))
    assert tails.percentile_times(0.75)[0] == pytest.approx(wanted)


REFUSED = {
    "a few far longer prompts": ({"prompt_ratio": 1.1 * TAIL_MIX * usual_ratio(0.6, 95.0)}, "of prompts is"),
    "prompts of one length": ({"prompt_ratio": 1.0}, "of prompts is"),
    "unknown lengths": ({"prompt_ratio": None}, "is not known"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mix_that_is_not_that_of_the_classes_teaches_means_alone_and_says_why(name):
    changed, why = REFUSED[name]
    kind = after(HOUR, ttft_percentile_seconds=1.2, **changed)
    known = in_use(kind)
    assert known.ttft.weight > 0.9
    assert known.ttft_tail.weight == 0
    assert why in kind.look.tail_refused
    assert kind.look.refused is None


@pytest.mark.parametrize("changed", [{"input_tokens": 900.0}, {"requests": 19.0}, {"least_waiting": 3.0}])
def test_a_look_that_teaches_no_means_teaches_no_tails(changed):
    kind = after(HOUR, ttft_percentile_seconds=1.2, tpot_percentile_seconds=0.2, **changed)
    assert (in_use(kind).ttft_tail.weight, in_use(kind).tpot_tail.weight) == (0, 0)


def test_an_outlier_leaves_a_tail_as_it_is_and_garbage_is_never_believed():
    kind = after(HOUR, ttft_percentile_seconds=0.9)
    before = in_use(kind).ttft_tail
    one = looked(kind, HOUR + 1, ttft_percentile_seconds=0.4)
    assert in_use(one).ttft_tail == before
    assert "ttft_tail 0.67 times" in one.look.refused
    changed = after(HOUR, one, first=HOUR + 2, ttft_percentile_seconds=0.4)
    assert math.exp(in_use(changed).ttft_tail.shift) == pytest.approx(0.67, rel=0.05)
    assert in_use(after(HOUR, ttft_percentile_seconds=30.0)).ttft_tail.weight == 0


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30))
def test_no_sequence_of_percentiles_brings_a_tail_beyond_its_bounds(values):
    kind = None
    for number, value in enumerate(values, start=1):
        kind = looked(kind, number, ttft_percentile_seconds=value, tpot_percentile_seconds=value)
        for name in ("ttft_tail", "tpot_tail"):
            factor = math.exp(getattr(in_use(kind), name).shift)
            assert 1 / LARGEST_FACTOR[name] - 1e-9 <= factor <= LARGEST_FACTOR[name] + 1e-9


def test_what_is_not_observed_any_more_is_forgotten():
    kind = after(HOUR, ttft_percentile_seconds=0.9)
    half = learned(kind, at(HOUR * WINDOW + HALF_LIFE_SECONDS), None, PROFILE)
    assert half.ttft_tail.requests == pytest.approx(kind.ttft_tail.requests / 2, rel=0.01)
    unseen = after(6 * HOUR, kind, first=HOUR + 1)
    assert unseen.ttft_tail.requests == pytest.approx(kind.ttft_tail.requests / 2, rel=0.01), "means go on being seen"


def test_the_percentiles_of_a_simulated_engine_are_right_within_a_tenth_after_an_hour():
    kind, windows = None, []
    for seen in simulated(slowdown=1.5, requests_per_second=0.4 * highest_rate() / 1.5, windows=HOUR):
        kind = learned(kind, seen.at, seen, expecting(seen))
        windows.append((seen, kind.look))
    assert in_use(kind).ttft_tail.weight > 0.8
    for name in ("ttft_percentile_seconds", "tpot_percentile_seconds"):
        told = [(getattr(seen, name), getattr(look, f"expected_{name}")) for seen, look in windows[-4:]]
        observed = math.fsum(seen for seen, _ in told if seen is not None)
        expected = math.fsum(late for seen, late in told if seen is not None)
        assert observed > 0
        assert expected == pytest.approx(observed, rel=0.1)


def test_a_histogram_is_part_of_an_observation_that_is_written_down():
    seen = counted(drawn("gamma", 300))
    assert Histogram.model_validate_json(seen.model_dump_json()) == seen
