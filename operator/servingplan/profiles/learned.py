"""What was learned about replicas from their engines, and how it corrects estimates.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. ``learning`` compares what engines measured with
what was predicted for the same load. Three factors come of it: of the rate, and of both mean latencies at an equal share of
that rate. If all iterations of an engine take g times as long, its rate is divided by g and its latencies at an equal share are
multiplied by g, so the three agree with each other. Two more are of tails: a percentile over its mean, observed over predicted.
A percentile is corrected by the factor of its mean and by that of its tail.

A factor has a weight w from 0 to 1, which grows with the evidence. The logarithm of true / predicted is then taken as

    (1 - w) (that of the profile's band)  +  w (the learned one, with its own least band)

so that a band narrows from the profile's to the least one while its middle moves to what was observed.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

if TYPE_CHECKING:
    from servingplan.profiles.estimate import Estimate
    from servingplan.profiles.promise import Limits, Promise

Learnable = Literal["rate", "ttft", "tpot", "ttft_tail", "tpot_tail"]
LEARNABLE: tuple[Learnable, ...] = ("rate", "ttft", "tpot", "ttft_tail", "tpot_tail")
LEAST_BAND: dict[Learnable, float] = {"rate": 0.05, "ttft": 0.15, "tpot": 0.05, "ttft_tail": 0.15, "tpot_tail": 0.1}
"""Half the least width of the central 80 %, as a fraction: however much was observed, another hour may differ by this. A time
to first token also depends on how prompts happen to meet, so it has the widest one. Tails come from counts between
wide bounds (``learning.tails``), whose percentile is off by up to a tenth where the times are not log-normal."""
MOSTLY = 0.5
"""The weight from which on an estimate is called learned."""
_HALF_OF_80_PERCENT = NormalDist().inv_cdf(0.9)


class Factor(NamedTuple):
    """One learned factor."""

    log: float = 0.0
    """ln(true / predicted), the mean of what was observed."""
    weight: float = 0.0
    """How much it counts against the profile, 0 to 1."""

    @property
    def shift(self) -> float:
        """The logarithm of the factor that counts."""
        return self.weight * self.log


class Learned(NamedTuple):
    """What is known of one kind of replica."""

    rate: Factor = Factor()
    """The factor of the highest rate."""
    ttft: Factor = Factor()
    """The factor of the time to the first token, at an equal share of the highest rate."""
    tpot: Factor = Factor()
    """The factor of the time per further token, likewise."""
    ttft_tail: Factor = Factor()
    """The factor of a percentile of the time to the first token over its mean."""
    tpot_tail: Factor = Factor()
    """The same of the time per further token."""

    def __bool__(self) -> bool:
        return any(factor.weight > 0 for factor in self)

    @property
    def rate_shift(self) -> float:
        """The logarithm of the factor of the rate that counts: what was seen of the rate itself, and where that is little, what
        goes with slower tokens. That tokens come faster than predicted raises no rate before it was seen."""
        return self.rate.shift - (1 - self.rate.weight) * max(0.0, self.tpot.shift)

    @property
    def caution_left(self) -> float:
        """The part of the profile's caution that latencies still need, 0 to 1."""
        return 1.0 - min(self.ttft.weight, self.tpot.weight)

    def times(self, confidence: float) -> tuple[float, float]:
        """The factors of mean TTFT and TPOT that true ones do not exceed with this probability, as far as they are learned."""
        return _time(confidence, ttft=self.ttft), _time(confidence, tpot=self.tpot)

    def percentile_times(self, confidence: float) -> tuple[float, float]:
        """The same for percentiles. The errors of a mean and of its tail are taken to be independent."""
        return (
            _time(confidence, ttft=self.ttft, ttft_tail=self.ttft_tail),
            _time(confidence, tpot=self.tpot, tpot_tail=self.tpot_tail),
        )


def eased(limits: Limits, learned: Learned, confidence: float) -> Limits:
    """The limits that the profile's percentiles must keep so that the corrected ones keep the given limits."""
    ttft, tpot = learned.percentile_times(confidence)
    return limits._replace(
        ttft_seconds=None if limits.ttft_seconds is None else limits.ttft_seconds / ttft,
        tpot_seconds=None if limits.tpot_seconds is None else limits.tpot_seconds / tpot,
    )


def paced(found: Estimate, learned: Learned) -> float:
    """The rate, requests/s, whose step times count for the limits: the planned one, or nearer to the median the more is learned
    of the latencies."""
    caution = math.log(found.planned_requests_per_second / found.requests_per_second)
    return found.requests_per_second * math.exp(learned.caution_left * caution)


def corrected_promise(promise: Promise, learned: Learned, confidence: float) -> Promise:
    """The promise with corrected latencies. More requests run as their times are longer and the rate allows (Little)."""
    ttft, tpot = learned.times(confidence)
    late_ttft, late_tpot = learned.percentile_times(confidence)
    longer = max(1.0, tpot * math.exp(learned.rate_shift))
    return promise._replace(
        batch=math.ceil(promise.batch * longer),
        most_running=math.ceil(promise.most_running * longer),
        ttft_seconds=promise.ttft_seconds * ttft,
        tpot_seconds=promise.tpot_seconds * tpot,
        ttft_percentile_seconds=promise.ttft_percentile_seconds * late_ttft,
        tpot_percentile_seconds=promise.tpot_percentile_seconds * late_tpot,
    )


def corrected(found: Estimate, learned: Learned, confidence: float) -> Estimate:
    """The estimate with the learned rate and bands. Its latencies must be corrected already if it has limits."""
    if not learned:
        return found
    median = found.requests_per_second
    sigma = math.log1p(LEAST_BAND["rate"]) / _HALF_OF_80_PERCENT

    def rate(of_profile: float, score: float) -> float:
        own = learned.rate.weight
        prior = (1 - own) * math.log(of_profile / median)
        return median * math.exp(prior + learned.rate_shift + own * score * sigma)

    update = {
        "requests_per_second": rate(median, 0.0),
        "low": rate(found.low, -_HALF_OF_80_PERCENT),
        "high": rate(found.high, _HALF_OF_80_PERCENT),
        "planned_requests_per_second": rate(found.planned_requests_per_second, -NormalDist().inv_cdf(confidence)),
        "ttft_band": _band("ttft", learned.ttft, found.ttft_band),
        "tpot_band": _band("tpot", learned.tpot, found.tpot_band),
    }
    if found.ttft_percentile_seconds is None:
        ttft, tpot = math.exp(learned.ttft.shift), math.exp(learned.tpot.shift)
        update |= {"ttft_seconds": found.ttft_seconds * ttft, "tpot_seconds": found.tpot_seconds * tpot}
    if max(factor.weight for factor in learned) >= MOSTLY:
        shifts = {"rate": learned.rate_shift, "ttft": learned.ttft.shift, "tpot": learned.tpot.shift}
        tails = {"ttft tail": learned.ttft_tail, "tpot tail": learned.tpot_tail}
        shifts |= {name: factor.shift for name, factor in tails.items() if factor.weight > 0}
        told = ", ".join(f"{name} x {math.exp(shift):.3g}" for name, shift in shifts.items())
        update |= {"source": "learned", "evidence": (f"observed in this fleet: {told}", *found.evidence)}
    return found.model_copy(update=update)


def _time(confidence: float, **factors: Factor) -> float:
    """The product of factors, by what they are of, that is not exceeded with this probability."""
    sigmas = {name: math.log1p(band) / _HALF_OF_80_PERCENT for name, band in LEAST_BAND.items()}
    error = math.hypot(*(factor.weight * sigmas[cast("Learnable", name)] for name, factor in factors.items()))
    return math.exp(sum(factor.shift for factor in factors.values()) + NormalDist().inv_cdf(confidence) * error)


def _band(name: Learnable, factor: Factor, of_profile: tuple[float, float]) -> tuple[float, float]:
    low, high = (
        math.exp((1 - factor.weight) * math.log(end) + factor.weight * sign * math.log1p(LEAST_BAND[name]))
        for end, sign in zip(of_profile, (-1, 1), strict=True)
    )
    return low, high
