"""Tails of distributions that are known by three moments, for ``latency``.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. All functions take and return arrays.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

type Array = npt.NDArray[np.float64]

_LEAST_SKEWNESS = 0.02
"""With this skewness a lognormal distribution is practically normal. With less, its formulas lose precision."""

_BISECTIONS = 18


def normal_density(score: Array) -> Array:
    """The density of the standard normal distribution."""
    density: Array = np.exp(-0.5 * score * score) * 0.3989422804014327
    return density


def normal_tail(score: Array) -> Array:
    """The probability that a standard normal variable exceeds ``score``; the absolute error is below 7.5e-8.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.2.17.
    """
    size = np.abs(score)
    t = 1.0 / (1.0 + 0.2316419 * size)
    series = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    beyond = normal_density(size) * series
    tail: Array = np.where(score > 0.0, beyond, 1.0 - beyond)
    return tail


@dataclass(frozen=True, slots=True)
class Shifted:
    """Shifted lognormal distributions, ``shift + scale exp(sigma Z)``, with given first three cumulants.

    The times here have a fixed part and a skewed one. If the skewed part is the time to read a lognormal prompt, the form is
    exact. Source of the moment equations: Johnson, Kotz, Balakrishnan, Continuous Univariate Distributions 1, ch. 14.
    """

    shift: Array
    scale: Array
    sigma: Array

    @classmethod
    def of(cls, mean: Array, variance: Array, third: Array) -> "Shifted":
        """The distributions with these means, variances and third central moments; the skewness is at least about 0."""
        deviation = np.sqrt(np.maximum(variance, 1e-24))
        skewness = np.maximum(third / deviation**3, _LEAST_SKEWNESS)
        root = np.cbrt(1.0 + 0.5 * skewness * skewness + skewness * np.sqrt(1.0 + 0.25 * skewness * skewness))
        omega = root + 1.0 / root - 1.0  # exp(sigma^2)
        scale = deviation / np.sqrt(omega * (omega - 1.0))
        return cls(mean - scale * np.sqrt(omega), scale, np.sqrt(np.log(omega)))

    def tail(self, value: Array) -> Array:
        """The probability of more than ``value``."""
        above = (value - self.shift) / self.scale
        with np.errstate(divide="ignore"):
            score = np.log(np.maximum(above, 0.0)) / self.sigma
        return normal_tail(score)


def quantile(tail: Callable[[Array], Array], beyond: Array | float, low: Array, high: Array) -> Array:
    """The value that is exceeded with probability ``beyond``, by bisection between two positive bounds on a logarithmic scale.

    The probability of more than the returned value is at most ``beyond``. If the bounds do not enclose the value, the nearer
    bound is returned.
    """
    low, high = np.log(low), np.log(high)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        more = tail(np.exp(middle)) > beyond
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    found: Array = np.exp(high)
    return found
