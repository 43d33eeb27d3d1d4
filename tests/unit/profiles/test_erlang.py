"""Utilisation tables against closed forms, Erlang's formula written another way, and a simulated queue."""

import heapq
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.profiles.erlang import max_utilization, wait_probability


def erlang_c(slots, utilization):
    """The textbook sum over states, in logarithms; no recursion."""
    offered = slots * utilization
    terms = [n * math.log(offered) - math.lgamma(n + 1) for n in range(slots)]
    last = slots * math.log(offered) - math.lgamma(slots + 1) - math.log1p(-utilization)
    top = max(*terms, last)
    return math.exp(last - top) / (math.exp(last - top) + sum(math.exp(term - top) for term in terms))


def simulated_late_share(*, slots, utilization, service_seconds, wait_seconds, requests, seed):
    """First come, first served over ``slots`` servers: share of requests that wait longer."""
    source = random.Random(seed)
    rate = utilization * slots / service_seconds
    free_at = [0.0] * slots
    now, late = 0.0, 0
    for _ in range(requests):
        now += source.expovariate(rate)
        start = max(now, free_at[0])
        late += start - now > wait_seconds
        heapq.heapreplace(free_at, start + source.expovariate(1 / service_seconds))
    return late / requests


def test_one_slot_is_the_mm1_queue():
    # P(W > w) = rho exp(-(1 - rho) w / S); with w = 0 the 95th percentile asks rho = 0.05.
    assert wait_probability(utilization=0.5, slots=1, service_seconds=2, wait_seconds=4) == pytest.approx(
        0.5 * math.exp(-1)
    )
    assert max_utilization(
        percentile=95, slots_per_copy=1, service_seconds=1, wait_budget_seconds=0, max_copies=1
    ) == pytest.approx((0.05,))


def test_two_slots_by_hand():
    # Erlang C of two servers is 2 rho^2 / (1 + rho) = 1/3 at rho = 1/2.
    assert wait_probability(utilization=0.5, slots=2, service_seconds=1, wait_seconds=0) == pytest.approx(1 / 3)


@pytest.mark.parametrize("slots", [3, 40, 256])
@pytest.mark.parametrize("utilization", [0.3, 0.8, 0.98])
def test_small_pools_are_erlang_c(slots, utilization):
    got = wait_probability(utilization=utilization, slots=slots, service_seconds=1, wait_seconds=0)
    assert got == pytest.approx(erlang_c(slots, utilization), rel=1e-9)


@pytest.mark.parametrize("slots", [257, 600, 2000])
@pytest.mark.parametrize("percentile", [80, 95, 99, 99.9])
@pytest.mark.parametrize("wait", [0.0, 0.05])
def test_large_pools_are_close_to_erlang_c_from_below(slots, percentile, wait):
    (got,) = max_utilization(
        percentile=percentile, slots_per_copy=slots, service_seconds=1, wait_budget_seconds=wait, max_copies=1
    )
    late = 1 - percentile / 100

    def exact(utilization):
        return erlang_c(slots, utilization) * math.exp(-slots * (1 - utilization) * wait)

    assert exact(got) <= late * 1.005
    assert exact(min(got + 0.02, 1 - 1e-9)) > late


@pytest.mark.parametrize(
    ("slots_per_copy", "copies", "percentile", "wait"), [(4, 1, 90, 0.5), (8, 3, 95, 0.1), (32, 2, 90, 0.05)]
)
def test_the_percentile_holds_in_a_simulated_queue(slots_per_copy, copies, percentile, wait):
    table = max_utilization(
        percentile=percentile, slots_per_copy=slots_per_copy, service_seconds=1, wait_budget_seconds=wait
    )
    late = simulated_late_share(
        slots=slots_per_copy * copies,
        utilization=table[copies - 1],
        service_seconds=1,
        wait_seconds=wait,
        requests=150_000,
        seed=7,
    )
    assert late == pytest.approx(1 - percentile / 100, rel=0.25)


@settings(max_examples=40)
@given(
    percentile=st.floats(50, 99.9),
    slots=st.integers(1, 1024),
    service=st.floats(0.01, 100),
    wait=st.floats(0, 10),
)
def test_a_fraction_that_never_falls_with_copies_or_patience(percentile, slots, service, wait):
    def table(**changed):
        asked = {"percentile": percentile, "slots_per_copy": slots, "service_seconds": service}
        return max_utilization(**(asked | {"wait_budget_seconds": wait, "max_copies": 5} | changed))

    got = table()
    assert len(got) == 5
    assert all(0 < value < 1 for value in got)
    assert list(got) == sorted(got)
    tolerance = 1e-9
    assert all(more >= less - tolerance for more, less in zip(table(wait_budget_seconds=wait + 1), got, strict=True))
    stricter = table(percentile=percentile + (100 - percentile) / 2)
    assert all(less <= more + tolerance for less, more in zip(stricter, got, strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        {"percentile": 0},
        {"percentile": 100},
        {"slots_per_copy": 0},
        {"service_seconds": 0},
        {"wait_budget_seconds": -1},
        {"max_copies": 0},
    ],
)
def test_arguments_out_of_range_are_refused(wrong):
    good = {"percentile": 95, "slots_per_copy": 8, "service_seconds": 1.0, "wait_budget_seconds": 1.0}
    with pytest.raises(ValueError, match="must be"):
        max_utilization(**(good | wrong))
