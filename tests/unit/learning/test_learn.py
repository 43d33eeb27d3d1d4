"""What is learned from looks at a fleet: how fast, how far, and from what not."""

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servingplan.learning.figures import WINDOW_SECONDS as WINDOW
from servingplan.learning.learn import (
    HALF_LIFE_SECONDS,
    LARGEST_FACTOR,
    PRIOR_REQUESTS,
    TELLING,
    in_use,
    learned,
)
from servingplan.profiles.expected import Expected, Latencies
from tests.unit.learning.feed import OBSERVED, at, expecting, highest_rate, simulated

HOUR = 12
"""Windows of five minutes."""


def steady(highest=6.0, ttft=0.1, tpot=0.02):
    """A profile that says the same of every load."""
    return lambda: Expected(highest, lambda utilization: Latencies(ttft, tpot))


STEADY = steady()


def looked(kind, number, expect=STEADY, **changed):
    """What is known after a window; its number gives the time."""
    seen = replace(OBSERVED, at=at(number * WINDOW), **changed)
    return learned(kind, seen.at, seen, expect)


def after(windows, kind=None, first=1, **changed):
    for number in range(first, first + windows):
        kind = looked(kind, number, **changed)
    return kind


def factors(kind):
    return {name: math.exp(factor.shift) for name, factor in in_use(kind)._asdict().items()}


@cache
def an_hour(slowdown, share):
    """What is known after an hour in which an engine got this share of its own highest rate, and its last windows."""
    kind, windows = None, []
    for seen in simulated(slowdown=slowdown, requests_per_second=share * highest_rate() / slowdown, windows=HOUR):
        kind = learned(kind, seen.at, seen, expecting(seen))
        windows.append((seen, kind.look))
    return in_use(kind), windows[-4:]


@pytest.mark.parametrize(
    ("slowdown", "share"),
    [
        (1.5, 0.3),
        pytest.param(1.5, 0.6, marks=pytest.mark.slow),
        pytest.param(1 / 1.5, 0.3, marks=pytest.mark.slow),
        pytest.param(1 / 1.5, 0.6, marks=pytest.mark.slow),
    ],
)
def test_a_profile_that_is_wrong_by_half_is_right_within_5_percent_after_an_hour(slowdown, share):
    known, windows = an_hour(slowdown, share)
    for name in ("ttft_seconds", "tpot_seconds"):
        observed = sum(getattr(seen, name) for seen, _ in windows)
        corrected = sum(getattr(look, f"expected_{name}") for _, look in windows)
        profile = sum(getattr(look, f"profile_{name}") for _, look in windows)
        assert corrected == pytest.approx(observed, rel=0.05)
        assert abs(math.log(profile / observed)) > (0.3 if name == "tpot_seconds" else 0.05), "there is much to learn"
    # The formulas themselves differ from this engine a little, so the factor is compared with what they need anyway.
    exact, _ = an_hour(1.0, share)
    assert math.exp(known.tpot.shift - exact.tpot.shift) == pytest.approx(slowdown, rel=0.05)
    assert known.rate.weight == 0, "a replica that is not full does not tell its highest rate"
    assert known.rate_shift == pytest.approx(-max(0.0, known.tpot.shift))


def test_the_rate_of_a_full_replica_is_right_within_5_percent_after_an_hour():
    slowdown, kind, carried = 1.5, None, []
    for seen in simulated(slowdown=slowdown, requests_per_second=1.1 * highest_rate() / slowdown, windows=HOUR):
        kind = learned(kind, seen.at, seen, expecting(seen))
        carried.append(seen.requests_per_second)
    known = in_use(kind)
    assert highest_rate() * math.exp(known.rate.shift) == pytest.approx(sum(carried[-4:]) / 4, rel=0.05)
    assert max(known.ttft.weight, known.tpot.weight) == 0, "the wait in a queue that grows says nothing of a profile"


def test_a_rate_above_the_profiles_raises_it_only_if_the_limits_are_kept():
    fast = {"requests_per_second": 13.0, "expect": steady(10.0)}
    assert factors(after(HOUR, **fast))["rate"] == pytest.approx(1.3, rel=0.05)
    assert factors(after(HOUR, in_time=False, **fast))["rate"] == 1


@given(st.floats(0.55, 1.9), st.floats(0.55, 1.9), st.integers(20, 5000))
def test_steady_looks_bring_the_factors_ever_nearer_and_never_beyond(ttft, tpot, requests):
    kind, gaps = None, []
    for number in range(1, 2 * HOUR):
        kind = looked(kind, number, ttft_seconds=0.1 * ttft, tpot_seconds=0.02 * tpot, requests=float(requests))
        now = in_use(kind)
        assert abs(now.ttft.shift) <= abs(math.log(ttft)) + 1e-6
        assert abs(now.tpot.shift) <= abs(math.log(tpot)) + 1e-6
        gaps.append(abs(math.log(tpot) - now.tpot.shift))
    assert all(late <= early + TELLING for early, late in pairwise(gaps))
    enough = min(requests, 500) * HOUR
    weight = enough / (enough + PRIOR_REQUESTS)
    assert gaps[-1] <= abs(math.log(tpot)) * (1 - weight) + TELLING + 0.03


MIXES = {
    "longer prompts": {"input_tokens": 700.0},
    "shorter prompts": {"input_tokens": 300.0},
    "longer answers": {"output_tokens": 400.0},
    "shorter answers": {"output_tokens": 20.0},
    "few requests": {"requests": 19.0},
}


@pytest.mark.parametrize("name", MIXES)
def test_looks_that_do_not_match_teach_nothing_and_say_why(name):
    kind = after(HOUR, ttft_seconds=0.15, tpot_seconds=0.03, **MIXES[name])
    assert not in_use(kind)
    assert kind.look is not None
    assert "tokens in the mean" in kind.look.refused or "are needed" in kind.look.refused


def test_lengths_that_the_profile_does_not_know_teach_nothing():
    kind = after(HOUR, expect=lambda: None)
    assert not in_use(kind)
    assert "no rate" in kind.look.refused


def test_garbage_is_not_believed_however_long_it_lasts():
    for garbage in ({"ttft_seconds": 3000.0}, {"ttft_seconds": 1e-9}, {"tpot_seconds": 1e-6}, {"tpot_seconds": 90.0}):
        kind = after(HOUR, **garbage)
        before = after(HOUR)
        name = next(iter(garbage)).removesuffix("_seconds")
        assert getattr(in_use(kind), name).weight == 0 < getattr(in_use(before), name).weight
        assert kind.look.refused is not None
    rate = after(HOUR, requests_per_second=1e6)
    assert in_use(rate).rate.weight == 0
    assert "rate 166666.67 times" in rate.look.refused


def test_an_outlier_leaves_what_is_known_and_a_change_that_lasts_replaces_it():
    known = after(HOUR, tpot_seconds=0.03)
    before = factors(known)["tpot"]
    one = looked(known, HOUR + 1, tpot_seconds=0.012)
    assert factors(one)["tpot"] == before
    assert "tpot 0.60 times" in one.look.refused
    assert factors(looked(one, HOUR + 2, tpot_seconds=0.03))["tpot"] == before
    changed = after(HOUR, known, first=HOUR + 1, tpot_seconds=0.012)
    assert factors(changed)["tpot"] == pytest.approx(0.6, rel=0.05)


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=40))
def test_no_sequence_of_values_brings_a_factor_beyond_its_bounds(values):
    kind = None
    for number, value in enumerate(values, start=1):
        kind = looked(kind, number, ttft_seconds=value, tpot_seconds=value / 3, least_waiting=float(number % 2))
        for name, factor in factors(kind).items():
            assert 1 / LARGEST_FACTOR[name] - 1e-9 <= factor <= LARGEST_FACTOR[name] + 1e-9


def test_what_is_not_observed_any_more_is_forgotten():
    kind = known = after(HOUR, tpot_seconds=0.03)
    first = in_use(known).tpot
    seconds, weights = HOUR * WINDOW, [first.weight]
    while kind is not None and seconds < 40 * HALF_LIFE_SECONDS:
        seconds += 600
        kind = learned(kind, at(seconds), None, STEADY)
        weights.append(in_use(kind).tpot.weight if kind is not None else 0.0)
    assert kind is None
    assert weights == sorted(weights, reverse=True)
    half = learned(known, at(HOUR * WINDOW + 7 * HALF_LIFE_SECONDS), None, STEADY)
    left = known.tpot.requests / 2**7
    assert in_use(half).tpot.weight == pytest.approx(left / (left + PRIOR_REQUESTS), rel=0.01)


def test_nothing_is_written_down_between_looks():
    known = after(3, tpot_seconds=0.03)
    assert learned(known, at(3 * WINDOW + 100), None, STEADY) is known
    again = replace(OBSERVED, at=at(3 * WINDOW + 100), tpot_seconds=0.05)
    assert learned(known, again.at, again, STEADY) is known, "the windows overlap"


def test_a_small_change_is_no_other_correction():
    known = after(4 * HOUR, tpot_seconds=0.03)
    for number, tpot in enumerate((0.028, 0.032, 0.029, 0.031, 0.027, 0.033), start=4 * HOUR + 1):
        moved = looked(known, number, tpot_seconds=tpot)
        assert moved.used == known.used
        known = moved


def test_a_learned_rate_stays_while_the_time_per_token_confirms_it_and_fades_while_it_does_not():
    full = after(HOUR, requests_per_second=6.6, least_waiting=5.0, expect=steady(10.0))
    assert factors(full)["rate"] == pytest.approx(0.66, rel=0.05)
    day = 288
    confirmed = after(day, full, first=HOUR + 1, requests_per_second=3.0, expect=steady(10.0), tpot_seconds=0.03)
    assert confirmed.rate.requests == full.rate.requests
    contradicted = after(day, full, first=HOUR + 1, requests_per_second=3.0, expect=steady(10.0), tpot_seconds=0.02)
    assert contradicted.rate.requests == pytest.approx(full.rate.requests / 2**4, rel=0.01)
