"""Which rates the plan is made for: measured ones that were adopted, the last good ones, or those that are declared.

Adopted rates stand until others differ by more than they are sure of, and then until the next window; a sudden change
does not wait. So equal demand, however it flickers, is one question and one plan.
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
from servingplan.model.times import seconds_between
from servingplan.model.world import Arrivals, Observation, SeenDemand

TELLING_RISE = 0.05
TELLING_FALL = 0.1
"""Relative differences from the adopted rate below which nothing is adopted anew. To plan for too little costs more."""
TELLING_ERRORS = 4.0
"""The same in standard errors of the estimate; the adopted rate has an error of its own, and looks are many."""
LARGEST_RISE = 10.0
"""Intervals above this multiple of the adopted or declared rate, the larger, are not believed before they have lasted the
window; then the rate rises by this multiple at a time."""
HARD_CEILING = 1000.0
"""Intervals above this multiple of the declared rate are never believed."""
LEAST_REFERENCE = 1.0
"""Requests/s; stands in for a declared rate below it."""
LASTED = 0.8
"""Part of the window that unbelievable intervals must fill, and that the first counts of a class must."""
FIRST_ERROR = 0.05
"""Relative standard error at which the first counts of a class need not fill the window."""
AT_LIMIT = 0.9
"""Part of the admitted rate from which on a class counts as limited by it: what was turned away may not be counted."""

Source = Literal["Measured", "LastGood", "Declared"]


@dataclass(frozen=True)
class Demand:
    """What to plan for."""

    rates: Mapping[str, float]
    """Requests/s by ``model/class``, every class of the spec."""
    adopted: AdoptedDemand | None
    """To be remembered."""
    finding: Finding
    sources: Mapping[str, Source]
    """Where each rate comes from, by ``model/class``."""


def declared_rates(spec: PlanSpec) -> dict[str, float]:
    """Requests/s by ``model/class``."""
    return {
        f"{model.name}/{item.name}": float(item.requests_per_second)
        for model in spec.models
        for item in model.effective_classes
    }


def most_believable(declared: float) -> float:
    """Requests/s that nothing could exceed, by the declared rate."""
    return HARD_CEILING * max(declared, LEAST_REFERENCE)


def at_rates(spec: PlanSpec, rates: Mapping[str, float]) -> PlanSpec:
    """The spec with these rates in place of the declared ones."""
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
    """The rates to plan for; None where the spec does not ask for measured ones.

    ``admitted``: requests/s by ``model/class``, where a gateway was told to turn away what is above.
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
            found = replace(found, requests_per_second=known[key])  # what is above the limit was not counted
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
    """For the condition. It speaks of what was adopted, not of what flickers."""
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
                f"since {begun}; the last good rates stand in for {source.last_good_for}, then the declared ones"
            )
    message = "; ".join(parts)
    if seen.refused:
        return Finding(condition="DemandKnown", reason=seen.refused_reason, message=message)
    return Finding(condition="DemandKnown", reason=reason, message=message, holds=reason == "Measured")


def _believed(
    item: Arrivals, source: Prometheus, spec: PlanSpec, reference: float
) -> tuple[Estimate | None, str | None]:
    """The estimate from what can be believed, or why nothing can."""
    limit = LARGEST_RISE * reference
    good = [entry for entry in item.intervals if entry[2] / entry[1] <= limit]
    high = sum(entry[1] for entry in item.intervals) - sum(entry[1] for entry in good)
    newest = item.intervals[-2:]
    if any(entry[2] / entry[1] > limit for entry in newest):
        if high < LASTED * seconds_of(source.window):
            return None, (
                f"{item.key}: more than {LARGEST_RISE:g} times {reference:g}/s, not believed unless it lasts for "
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
    """Whether a first rate rests on enough requests to take the place of the declared one until the next window."""
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
    """Four digits: more would only look exact."""
    return round(float(f"{rate:.4g}"), 9)
