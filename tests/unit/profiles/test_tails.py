"""Distributions by three moments against closed forms."""

from statistics import NormalDist

import numpy as np
import pytest

from servingplan.profiles.tails import Shifted, normal_tail, quantile


@pytest.mark.parametrize("score", [-6.0, -1.5, 0.0, 0.3, 2.0, 5.0])
def test_the_normal_tail(score):
    assert float(normal_tail(np.array(score))) == pytest.approx(1 - NormalDist().cdf(score), abs=8e-8)


def lognormal_moments(shift, mu, sigma):
    mean = np.exp(mu + sigma**2 / 2)
    omega = np.exp(sigma**2)
    variance = mean**2 * (omega - 1)
    return shift + mean, variance, variance**1.5 * (omega + 2) * np.sqrt(omega - 1)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 3.0])
@pytest.mark.parametrize("sigma", [0.1, 0.6, 1.2])
def test_a_lognormal_is_found_again_from_its_moments(shift, sigma):
    found = Shifted.of(*map(np.array, lognormal_moments(shift, 0.5, sigma)))
    for score in (-1.0, 0.0, 1.645, 2.326):
        value = shift + np.exp(0.5 + sigma * score)
        assert float(found.tail(np.array(value))) == pytest.approx(1 - NormalDist().cdf(score), rel=1e-3)


def test_an_exponential_is_near_in_its_tail():
    # Not a lognormal. An exponential of mean 1 has variance 1 and third central moment 2; its p95 is ln 20 and its p99 ln 100.
    found = Shifted.of(np.array(1.0), np.array(1.0), np.array(2.0))
    for share in (0.05, 0.01):
        got = quantile(found.tail, share, np.array(1e-3), np.array(1e3))
        assert float(got) == pytest.approx(-np.log(share), rel=0.06)


def test_no_variance_is_a_step():
    found = Shifted.of(np.array(2.0), np.array(0.0), np.array(0.0))
    assert float(found.tail(np.array(1.9999))) == pytest.approx(1.0)
    assert float(found.tail(np.array(2.0001))) == pytest.approx(0.0)


def test_a_quantile_is_where_the_tail_says():
    found = Shifted.of(np.array([1.0, 5.0]), np.array([0.5, 4.0]), np.array([1.0, 3.0]))
    value = quantile(found.tail, np.array([0.05, 0.2]), np.full(2, 1e-3), np.full(2, 1e3))
    assert found.tail(value) == pytest.approx([0.05, 0.2], rel=1e-3)
