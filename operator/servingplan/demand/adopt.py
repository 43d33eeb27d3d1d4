"""Chooses the rates that the plan is made for: adopted measured rates, the last good ones, or the declared ones.

Adopted rates stay until others differ by more than their error, and then until the next window; a sudden change does not wait.
So steady demand with noise gives one question and one plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from servingplan.api.scalars import seconds_of
from servingplan.api.v1alpha1 import PlanSpec, Prometheus
from servingplan.demand.change import gain_over, threshold
from servingplan.demand.estimate import Estimate, estimate
from servingplan.demand.signals import COUNTS_REFUSED
from servingplan.model.decision import Finding
from servingplan.model.fleet import AdoptedDemand
from servingplan.model.readings import Arrivals, SeenDemand
from servingplan.model.times import seconds_between
from servingplan.model.world import Observation

TELLING_RISE = 0.05
TELLING_FALL = 0.1
"""Smaller relative differences from the adopted rate are ignored. Planning for too little costs more."""
TELLING_ERRORS = 4.0
"""The same in standard errors of the estimate: the adopted rate has its own error, and there are many checks."""
LARGEST_RISE = 10.0
"""Intervals above this multiple of the larger of the adopted and declared rate are not believed before they fill the window.
Then the rate rises by this multiple at a time."""
HARD_CEILING = 1000.0
"""Intervals above this multiple of the declared rate are never believed."""
LEAST_REFERENCE = 1.0
"""Requests/s, used instead of a declared rate below it."""
LASTED = 0.8
"""The share of the window that unbelievable intervals must fill, and also the first counts of a class."""
FIRST_ERROR = 0.05
"""The relative standard error below which the first counts of a class need not fill the window."""
AT_LIMIT = 0.9
"""A class counts as limited by its admitted rate from this share of it on, since refused requests may not be counted."""

Source = Literal["Measured", "LastGood", "Declared"]


@dataclass(frozen=True)
class Demand:
    """The rates to plan for."""

    rates: Mapping[str, float]
    """Requests/s by ``model/class``, for every class of the spec."""
    adopted: AdoptedDemand | None
    """The adopted rates, for the plan record."""
    finding: Finding
    sources: Mapping[str, Source]
    """The source of each rate, by ``model/class``."""


def declared_rates(spec: PlanSpec) -> dict[str, float]:
    """The declared rates in requests/s, by ``model/class``."""
    return {
        f"{model.name}/{item.name}": float(item.requests_per_second)
        for model in spec.models
        for item in model.effective_classes
    }


def most_believable(declared: float) -> float:
    """The largest believable requests/s, by the declared rate."""
    return HARD_CEILING * max(declared, LEAST_REFERENCE)


def at_rates(spec: PlanSpec, rates: Mapping[str, float]) -> PlanSpec:
    """The spec with these rates instead of the declared ones."""
    models = tuple(
        model.model_copy(
            update={
                "classes": tuple(
                    item.model_copy(update={"requests_per_second": Decimal(repr(rates[f"{model.name}/{item.name}"]))})
                    for item in model.effective_classes
                )
            }
        )
        for model in spec.models
    )
    return spec.model_copy(update={"models": models})


def choose(
    spec: PlanSpec, world: Observation, before: AdoptedDemand | None, admitted: Mapping[str, float] | None = None
) -> Demand | None:
    """The rates to plan for; None if the spec does not ask for measured ones.

    ``admitted``: the requests/s by ``model/class`` above which a gateway turns requests away.
    """
    if spec.demand is None:
        return None
    source = spec.demand.prometheus
    declared = declared_rates(spec)
    seen = world.demand or SeenDemand(problem="Prometheus was not asked")
    arrivals = {item.key: item for item in seen.classes}
    known = {key: rate for key, rate in before.rates.items() if key in declared} if before else {}
    fresh: dict[str, Estimate] = {}
    doubted: list[str] = []
    urgent = False
    capped = {} if admitted is None or COUNTS_REFUSED.issuperset(seen.metrics) else admitted
    for key in declared:
        item = arrivals.get(key)
        if item is None or item.failing_since is not None:
            continue
        found, doubt = _believed(item, source, spec, max(declared[key], known.get(key, 0.0), LEAST_REFERENCE))
        if found is None:
            doubted += [doubt] if doubt else []
            continue
        if key in known and key in capped and AT_LIMIT * capped[key] <= found.mean < known[key]:
            found = replace(found, requests_per_second=known[key])  # requests above the limit were not counted
        elif key in known:
            urgent = urgent or (found.changed_at is not None and _refutes(found, item, known[key]))
        elif not _tells(found, item, source, declared[key]):
            doubted.append(f"{key}: too few requests were counted yet")
            continue
        fresh[key] = found
    rates = {
        key: _rounded(max(item.requests_per_second, float(source.floor) * declared[key])) for key, item in fresh.items()
    }
    due = before is None or seconds_between(before.at, world.now) >= seconds_of(spec.change.resolve_every)
    differs = any(_differs(rates[key], known[key], fresh[key].standard_error) for key in fresh if key in known)
    adopted = before
    if any(key not in known for key in fresh) or (differs and (due or urgent)):
        old_how = before.how if before else {}
        how = {**old_how, **{key: f"{item.how} of {source.window}" for key, item in fresh.items()}}
        adopted = AdoptedDemand(
            at=world.now,
            rates=dict(sorted({**known, **rates}.items())),
            how={key: how[key] for key in sorted(how) if key in declared},
        )
    return _planned(declared, adopted, seen, fresh, doubted, source, world.now)


def _planned(
    declared: Mapping[str, float],
    adopted: AdoptedDemand | None,
    seen: SeenDemand,
    fresh: Mapping[str, Estimate],
    doubted: Iterable[str],
    source: Prometheus,
    now: str,
) -> Demand:
    since = {item.key: item.failing_since for item in seen.classes}
    rates = dict(declared)
    by_source: dict[str, Source] = dict.fromkeys(declared, "Declared")
    for key, rate in adopted.rates.items() if adopted else ():
        begun = since.get(key)
        too_old = (
            key not in fresh and begun is not None and seconds_between(begun, now) > seconds_of(source.last_good_for)
        )
        if key in declared and not too_old:
            rates[key] = rate
            by_source[key] = "Measured" if key in fresh else "LastGood"
    return Demand(rates, adopted, _finding(by_source, rates, adopted, seen, sorted(doubted), source), by_source)


def _finding(
    by_source: Mapping[str, str],
    rates: Mapping[str, float],
    adopted: AdoptedDemand | None,
    seen: SeenDemand,
    doubted: list[str],
    source: Prometheus,
) -> Finding:
    """The finding for the condition. It reports the adopted rates, which do not change with noise."""
    order = ("Declared", "LastGood", "Measured")
    reason = next(item for item in order if item in by_source.values())
    parts = [seen.refused] if seen.refused else []
    for kind, text in zip(order, ("declared", "last good", "measured"), strict=True):
        how = adopted.how if adopted and kind != "Declared" else {}
        listed = [
            f"{key} {rates[key]:g}/s" + (f" ({how[key]})" if key in how else "")
            for key in sorted(by_source)
            if by_source[key] == kind
        ]
        parts += [f"{text}: {', '.join(listed)}"] if listed else []
    if seen.metrics:
        parts.append(f"counted by {', '.join(seen.metrics)}")
    if reason != "Measured":
        problem = seen.problem or "no metric counts these classes"
        parts += doubted or ([] if seen.refused else [problem])
        begun = min((item.failing_since for item in seen.classes if item.failing_since), default=None)
        if begun is not None:
            parts.append(
                f"since {begun}; the last good rates are used for {source.last_good_for}, then the declared ones"
            )
    message = "; ".join(parts)
    if seen.refused:
        return Finding(condition="DemandKnown", reason=seen.refused_reason, message=message)
    return Finding(condition="DemandKnown", reason=reason, message=message, holds=reason == "Measured")


def _believed(
    item: Arrivals, source: Prometheus, spec: PlanSpec, reference: float
) -> tuple[Estimate | None, str | None]:
    """The estimate from the believable intervals, or the reason why there is none."""
    limit = LARGEST_RISE * reference
    good = [entry for entry in item.intervals if entry[2] / entry[1] <= limit]
    high = sum(entry[1] for entry in item.intervals) - sum(entry[1] for entry in good)
    newest = item.intervals[-2:]
    if any(entry[2] / entry[1] > limit for entry in newest):
        if high < LASTED * seconds_of(source.window):
            return None, (
                f"{item.key}: more than {LARGEST_RISE:g} times {reference:g}/s, which is believed only if it lasts for "
                f"{source.window}"
            )
        good = [(end, length, min(count, limit * length)) for end, length, count in item.intervals]
    found = estimate(
        good,
        history=item.history,
        quantile=float(source.quantile),
        horizon_seconds=seconds_of(spec.change.resolve_every),
    )
    return found, None


def _tells(found: Estimate, item: Arrivals, source: Prometheus, declared: float) -> bool:
    """Whether a first rate has enough requests to replace the declared one until the next window."""
    return (
        sum(length for _, length, _ in item.intervals) >= LASTED * seconds_of(source.window)
        or found.standard_error <= FIRST_ERROR * found.mean
        or _refutes(found, item, declared)
    )


def _refutes(found: Estimate, item: Arrivals, adopted: float) -> bool:
    """Whether the requests since the last change cannot have come at the adopted rate."""
    gain = gain_over(adopted, found.mean * found.seconds, found.seconds)
    return gain >= threshold(item.intervals) * found.dispersion


def _differs(rate: float, adopted: float, standard_error: float) -> bool:
    telling = TELLING_RISE if rate > adopted else TELLING_FALL
    return abs(rate - adopted) > max(telling * adopted, TELLING_ERRORS * standard_error)


def _rounded(rate: float) -> float:
    """The rate with four digits, since more are not significant."""
    return round(float(f"{rate:.4g}"), 9)
