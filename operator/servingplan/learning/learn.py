"""Updates what is known of a kind of replica by one look at its replicas.

A look gives the ratios of observed to expected. Those of the latencies are at an equal share of the highest rate. Which share
arrives depends on the true highest rate. As far as that was not seen itself, the time per token tells it: if all iterations
take g times as long, the rate is divided by g, and

    observed time per token = g x expected(share x g)

has one solution g, since both factors grow with g.

The ratio of a tail is percentile / mean, observed over expected at the same share: 1 for an engine that is only slower.

What is known is the mean of the logarithms of ratios, each look weighted by its requests, and the requests behind it, the
evidence n. Its weight against the profile is n / (n + ``PRIOR_REQUESTS``): the mean of normal variables whose prior is worth so
many requests. Evidence fades exponentially, so an old observation counts less than a new one, and nothing is known for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from servingplan.model.fleet import LearnedFactor, LearnedKind, LearnedLook, UsedFactor
from servingplan.model.times import seconds_between
from servingplan.profiles.expected import Expected, Latencies
from servingplan.profiles.learned import LEARNABLE, Factor, Learnable, Learned

PRIOR_REQUESTS = 50.0
"""What the profile counts against observations, in requests. Latencies of single requests scatter by one to two times their
mean, profiles by a quarter (``docs/profiles.md``): (1 to 2)^2 / 0.25^2 is 16 to 64."""
MOST_PER_LOOK = 500.0
"""The most requests of one look that count: more tell little more about the next look."""
MOST_REQUESTS = 2000.0
"""The most evidence, in requests, so that four looks with many requests weigh as much as all before."""
HALF_LIFE_SECONDS = 6 * 3600.0
"""Evidence is halved in this time. A quiet night leaves a quarter of it, a quiet weekend nothing."""
FADE_EVERY_SECONDS = 1800.0
"""How often evidence is written down as faded while nothing is observed."""
FEWEST_REQUESTS = 20.0
"""A window with fewer requests is left out: single long answers would decide it."""
LARGEST_FACTOR: dict[Learnable, float] = {"rate": 2.0, "ttft": 3.0, "tpot": 3.0, "ttft_tail": 2.0, "tpot_tail": 2.0}
"""Factors are kept within this, in both directions. Nearly all of the shipped measurements are within 2 of the
formulas; latencies scatter more than rates."""
LARGEST_RATIO = 5.0
"""A ratio beyond this is no error of a profile: the replica is not what the plan takes it for, or the metrics are not its."""
OUTLIER = math.log(1.5)
"""A ratio that differs by more from what is known, once this is known well, is not believed at first."""
BELIEVED_AT_LAST = 3
"""So many of these in a row are believed, and what was known before is forgotten."""
WELL_KNOWN = 0.5
"""The weight from which on a factor is known well."""
MIX = 1.3
"""Mean lengths may differ by this factor from those of the classes that are routed there."""
TAIL_MIX = 1.4
"""The percentile of prompts over their mean may differ by this factor from that of the classes: a few far longer prompts make
the tail of latencies, and the plan is not made for them."""
TRUSTED_UTILIZATION = (0.1, 0.85)
"""Latencies are compared at these shares of the highest rate. Below, iterations are mostly launches and say little of others;
beyond, the formulas are much less exact (``docs/latency.md``)."""
FULL_QUEUE = 1.0
"""A replica is full if at least so many requests waited at every moment of the window."""
AGREES = math.log(1.15)
"""A rate is taken as confirmed by a time per token that differs by less from what would go with it."""
TELLING = 0.02
"""A plan takes over corrections if one of them changed by more than this, in logarithms, while evidence grows."""
TELLING_WHEN_FULL = 0.05
"""The same once evidence is at its most: the mean over the last looks still moves by one to two per cent."""
TELLING_WEIGHT = 0.25
"""The same for a weight, on which the band depends."""
BISECTIONS = 14
"""2 ln 5 / 2^14 is 0.0002."""
NEGLIGIBLE = 0.02
"""What is known with less weight is forgotten."""


@dataclass(frozen=True)
class Observed:
    """What the engines of one kind of replica measured over a window."""

    at: str
    """The end of the window, RFC 3339."""
    window_seconds: float
    """The length of the window."""
    replicas: int
    """The number of replicas."""
    requests: float
    """The number of requests that ended on all of them."""
    requests_per_second: float
    """The rate of one replica."""
    input_tokens: float
    """The mean length of prompts."""
    output_tokens: float
    """The mean length of answers."""
    ttft_seconds: float | None
    """The mean time to the first token; None: it is not known."""
    tpot_seconds: float | None
    """The mean time per further token; None: it is not known."""
    least_waiting: float
    """The fewest requests that waited at any moment, at any of the replicas."""
    in_time: bool
    """Whether the mean latencies are within the limits of the classes that are routed there."""
    planned_input_tokens: float
    """The mean length of prompts of these classes."""
    planned_output_tokens: float
    """The mean length of their answers."""
    percentile: float = 95.0
    """The percentile of requests that must keep the limits of these classes, the highest of them."""
    ttft_percentile_seconds: float | None = None
    """That of the time to the first token; None: it is not known."""
    tpot_percentile_seconds: float | None = None
    """That of the time per further token of each request; None: it is not known."""
    prompt_ratio: float | None = None
    """The percentile of the lengths of prompts over their mean; None: it is not known."""
    planned_prompt_ratio: float | None = None
    """The same of these classes."""


type Expect = Callable[[], Expected | None]
"""What the profile expects of the observed requests."""


def learned(before: LearnedKind | None, now: str, observed: Observed | None, expect: Expect) -> LearnedKind | None:
    """What is known after a look; None if nothing is.

    Args:
        observed: the last look; None if there is none. A look that was taken before the last one ended is not new, and
            nothing is learned from it again.
        expect: is asked only about a look that is learned from.
    """
    if observed is None or (before is not None and not _is_new(before, observed)):
        return _faded(before, now)

    def named(*factors: LearnedFactor) -> dict[str, LearnedFactor]:
        return {str(name): factor for name, factor in zip(LEARNABLE, factors, strict=True)}

    known = before or LearnedKind(at=observed.at)
    passed = seconds_between(known.at, observed.at)
    rate, ttft, tpot, ttft_tail, tpot_tail = (_older(getattr(known, name), passed) for name in LEARNABLE)
    why = _refusal(observed)
    expectation = None if why else expect()
    if expectation is None:
        why = why or "the profile knows no rate for such lengths"
        older = named(rate, ttft, tpot, ttft_tail, tpot_tail)
        return _used(known.model_copy(update={**older, "at": observed.at, "look": _look(observed, why)}))
    count = min(observed.requests, MOST_PER_LOOK)
    told: list[str] = []
    tail_refusal = None

    def take(name: Learnable, factor: LearnedFactor, ratio: float) -> LearnedFactor:
        after = _taken(name, factor, math.log(ratio), count)
        if after.doubted:
            told.append(f"{name} {ratio:.2f} times what is expected is not believed yet")
        return after

    share = observed.requests_per_second / expectation.highest_requests_per_second
    full = observed.least_waiting >= FULL_QUEUE
    exceeds = observed.in_time and math.log(share) > max(0.0, _factor(rate).shift)
    if full or exceeds:
        rate = take("rate", rate, share)
    slower = _slower(observed, expectation, share, _factor(rate))
    utilization = _utilization(share, _factor(rate), slower)
    least, most = TRUSTED_UTILIZATION
    if not full and least <= utilization <= most:
        at = expectation.at(utilization)
        if observed.ttft_seconds:
            ttft = take("ttft", ttft, observed.ttft_seconds / at.ttft_seconds)
        if observed.tpot_seconds and at.tpot_seconds > 0:
            ratio = observed.tpot_seconds / at.tpot_seconds
            tpot = take("tpot", tpot, ratio)
            if not exceeds and abs(math.log(ratio) + known.rate.log) <= AGREES:
                rate = known.rate  # confirmed, so it does not fade
        ratios = _tail_ratios(observed, at)
        tail_refusal = _tail_refusal(observed) if ratios else None
        if tail_refusal is None:
            ttft_tail = take("ttft_tail", ttft_tail, ratios["ttft"]) if "ttft" in ratios else ttft_tail
            tpot_tail = take("tpot_tail", tpot_tail, ratios["tpot"]) if "tpot" in ratios else tpot_tail
    elif not full and not exceeds:
        told.append(f"{utilization:.0%} of the highest rate arrives, from {least:.0%} to {most:.0%} can be compared")
    fresh = named(rate, ttft, tpot, ttft_tail, tpot_tail)
    corrections = Learned(*map(_factor, fresh.values()))
    look = _look(observed, ", ".join(told) or None, expectation, share, corrections)
    look = look.model_copy(update={"tail_refused": tail_refusal})
    return _used(known.model_copy(update={**fresh, "at": observed.at, "look": look}))


def _tail_ratios(observed: Observed, at: Latencies) -> dict[str, float]:
    """Percentile over mean, observed over expected, of the latencies for which all four are known."""
    found: dict[str, float] = {}
    for name in ("ttft", "tpot"):
        seen, mean = (getattr(observed, f"{name}_{word}seconds") for word in ("percentile_", ""))
        late, usual = (getattr(at, f"{name}_{word}seconds") for word in ("percentile_", ""))
        if seen and mean and usual > 0 and late > 0:
            found[name] = seen / mean / (late / usual)
    return found


def _tail_refusal(observed: Observed) -> str | None:
    """Why nothing can be learned of tails from a look that teaches means."""
    if observed.prompt_ratio is None or observed.planned_prompt_ratio is None:
        return "how long the longest prompts are is not known, so percentiles are not compared"
    off = observed.prompt_ratio / observed.planned_prompt_ratio
    if 1 / TAIL_MIX <= off <= TAIL_MIX:
        return None
    return (
        f"the {observed.percentile:g}th percentile of prompts is {observed.prompt_ratio:.2f} times their mean, that of the "
        f"classes {observed.planned_prompt_ratio:.2f} times, so percentiles are not compared"
    )


def _utilization(share: float, rate: Factor, slower: float) -> float:
    """The share of the true highest rate, if this share of the profile's arrives: by the learned rate as far as it is known,
    and else by how much slower tokens come."""
    return share * math.exp((1 - rate.weight) * math.log(slower) - rate.shift)


def _slower(observed: Observed, expectation: Expected, share: float, rate: Factor) -> float:
    """g of the module's docstring; 1 if no time per token is known."""
    seen = observed.tpot_seconds
    if not seen or expectation.at(share).tpot_seconds <= 0:
        return 1.0
    low, high = -math.log(LARGEST_RATIO), math.log(LARGEST_RATIO)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        slower = math.exp(middle)
        if slower * expectation.at(_utilization(share, rate, slower)).tpot_seconds < seen:
            low = middle
        else:
            high = middle
    return math.exp(0.5 * (low + high))


def in_use(kind: LearnedKind) -> Learned:
    """The corrections that plans are made with."""
    return Learned(
        *(Factor(kind.used[name].log, kind.used[name].weight) if name in kind.used else Factor() for name in LEARNABLE)
    )


def _is_new(before: LearnedKind, observed: Observed) -> bool:
    return seconds_between(before.at, observed.at) >= observed.window_seconds


def _faded(before: LearnedKind | None, now: str) -> LearnedKind | None:
    if before is None or (passed := seconds_between(before.at, now)) < FADE_EVERY_SECONDS:
        return before
    older: dict[str, Any] = {name: _older(getattr(before, name), passed) for name in LEARNABLE}
    return _used(before.model_copy(update={**older, "at": now, "look": None}))


def _older(factor: LearnedFactor, seconds: float) -> LearnedFactor:
    left = factor.requests * 2.0 ** (-max(0.0, seconds) / HALF_LIFE_SECONDS)
    return factor.model_copy(update={"requests": round(left, 3)})


def _refusal(observed: Observed) -> str | None:
    """Why nothing can be learned from a look."""
    if observed.requests < FEWEST_REQUESTS:
        return f"{observed.requests:.0f} requests ended, at least {FEWEST_REQUESTS:.0f} are needed"
    for name, seen, planned in (
        ("prompts", observed.input_tokens, observed.planned_input_tokens),
        ("answers", observed.output_tokens, observed.planned_output_tokens),
    ):
        if not planned / MIX <= seen <= planned * MIX:
            return f"{name} have {seen:.0f} tokens in the mean, the classes that are routed there {planned:.0f}"
    return None


def _taken(name: Learnable, factor: LearnedFactor, log: float, count: float) -> LearnedFactor:
    """The factor after one more ratio. A ratio that is not believed leaves it as it is, but is counted."""
    beyond = abs(log) > math.log(LARGEST_RATIO)
    known = _factor(factor)
    doubtful = beyond or (known.weight >= WELL_KNOWN and abs(log - factor.log) > OUTLIER)
    doubted = factor.doubted + 1 if doubtful else 0
    if doubtful and (beyond or doubted < BELIEVED_AT_LAST):
        return factor.model_copy(update={"doubted": min(doubted, BELIEVED_AT_LAST)})
    old = 0.0 if doubtful else factor.requests
    most = math.log(LARGEST_FACTOR[name])
    log = min(most, max(-most, log))
    mean = (old * factor.log + count * log) / (old + count)
    return LearnedFactor(log=round(mean, 6), requests=round(min(MOST_REQUESTS, old + count), 3))


def _factor(factor: LearnedFactor) -> Factor:
    return Factor(factor.log, factor.requests / (factor.requests + PRIOR_REQUESTS))


def _used(kind: LearnedKind) -> LearnedKind | None:
    """The kind with the corrections that plans use from now on; None if nothing is known of it any more."""
    fresh = {name: _factor(getattr(kind, name)) for name in LEARNABLE}
    old = in_use(kind)
    known = any(factor.weight >= NEGLIGIBLE for factor in fresh.values())
    if not known and not old:
        return kind if kind.look is not None else None
    if not known:
        return kind.model_copy(update={"used": {}})
    telling = {
        name: TELLING if getattr(kind, name).requests < MOST_REQUESTS else TELLING_WHEN_FULL for name in LEARNABLE
    }
    changed = any(
        abs(fresh[name].shift - before.shift) > telling[name]
        or abs(fresh[name].weight - before.weight) > TELLING_WEIGHT
        for name, before in zip(LEARNABLE, old, strict=True)
    )
    if not changed:
        return kind
    used = {
        name: UsedFactor(log=factor.log, weight=round(factor.weight, 6))
        for name, factor in fresh.items()
        if factor.weight >= NEGLIGIBLE
    }
    return kind.model_copy(update={"used": used})


def _look(
    observed: Observed,
    refused: str | None,
    expectation: Expected | None = None,
    share: float = 0.0,
    known: Learned = Learned(),  # noqa: B008 (frozen)
) -> LearnedLook:
    look = LearnedLook(
        replicas=observed.replicas,
        requests_per_second=_rounded(observed.requests_per_second),
        input_tokens=round(observed.input_tokens),
        output_tokens=round(observed.output_tokens),
        ttft_seconds=None if observed.ttft_seconds is None else _rounded(observed.ttft_seconds),
        tpot_seconds=None if observed.tpot_seconds is None else _rounded(observed.tpot_seconds),
        refused=refused,
    )
    seen = {
        f"{name}_percentile_seconds": _rounded(seconds)
        for name, seconds in (("ttft", observed.ttft_percentile_seconds), ("tpot", observed.tpot_percentile_seconds))
        if seconds is not None
    }
    if seen:
        look = look.model_copy(update={**seen, "percentile": observed.percentile})
    if expectation is None:
        return look
    utilization = _utilization(share, known.rate, math.exp(known.tpot.shift))
    profile, corrected = expectation.at(share), expectation.at(utilization)
    shifts = {"ttft": known.ttft.shift + known.ttft_tail.shift, "tpot": known.tpot.shift + known.tpot_tail.shift}
    expected = {
        f"expected_{name}_percentile_seconds": _rounded(late * math.exp(shifts[name]))
        for name in shifts
        if f"{name}_percentile_seconds" in seen and (late := getattr(corrected, f"{name}_percentile_seconds")) > 0
    }
    return look.model_copy(
        update={
            **expected,
            "profile_ttft_seconds": _rounded(profile.ttft_seconds),
            "profile_tpot_seconds": _rounded(profile.tpot_seconds),
            "expected_ttft_seconds": _rounded(corrected.ttft_seconds * math.exp(known.ttft.shift)),
            "expected_tpot_seconds": _rounded(corrected.tpot_seconds * math.exp(known.tpot.shift)),
            "utilization": _rounded(utilization),
        }
    )


def _rounded(value: float) -> float:
    """The value with four digits, since more are not significant."""
    return float(f"{value:.4g}")
