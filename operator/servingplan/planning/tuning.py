"""Chooses the settings with which a layout is considered. There are few, so that the question stays small; running ones are
kept.

* Of the values of ``max_num_seqs``, the smallest that costs no class any rate. More running requests would only break the
  latency limits.
* An FP8 KV cache, if it is allowed and brings some class ``FP8_KV_GAIN``. A 16-bit one is considered beside it only if quality
  is limited.
* Running settings alone, unless others bring some class ``change.minGain`` more: replicas are not restarted for less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from servingplan.model.engine import EngineSettings
from servingplan.model.fleet import ReplicaSet
from servingplan.model.hardware import GpuType
from servingplan.planning.settings import Wish
from servingplan.profiles.estimate import Estimate
from servingplan.profiles.fit import Unfit

FP8_KV_GAIN = 0.05
"""The least gain in some class's rate for which quality is given up. Smaller differences are within the error of most
rates."""

_EQUAL = 1 + 1e-9


@dataclass(frozen=True)
class Rated:
    """The rates of the classes on one layout with some settings, and why other classes cannot be served."""

    estimates: Mapping[str, Estimate]
    refusals: Mapping[str, Unfit] = field(default_factory=dict)
    layers: tuple[int, ...] = ()
    """The layers by stage, if the replica spans nodes."""


@dataclass(frozen=True)
class Tuned:
    """Settings to consider."""

    settings: EngineSettings
    rated: Rated
    running: ReplicaSet | None = None
    """The replicas that run with these settings; None if there are none."""


@dataclass(frozen=True)
class Standing:
    """Replicas of the plan in force that still agree with the spec."""

    replica_set: ReplicaSet
    settings: EngineSettings
    """The recorded settings; in a record from before settings were written, the engine's own."""


def tuned(
    *,
    rate: Callable[[EngineSettings], Rated],
    wish: Wish,
    gpus: Iterable[GpuType],
    standing: Sequence[Standing],
    quality_limited: bool,
    min_gain: float,
) -> tuple[list[Tuned], Mapping[str, Unfit]]:
    """The settings to consider, and why classes cannot be served with any of them.

    ``rate`` gives a layout's rates with some settings. Settings with which no class can be served are left out.
    """
    rater = _Rater(rate, wish.sequences()[-1])
    widths = [_best(rater, wish, width) for width in wish.widths(gpus)]
    fresh = [item for item in _kept_widths(widths, quality_limited=quality_limited) if item.rated.estimates]
    runs = [Tuned(item.settings, rater.rated(item.settings), item.replica_set) for item in standing]
    runs = [item for item in runs if item.rated.estimates]
    asked = runs + [
        item
        for item in fresh
        if not any(item.settings == run.settings or not _gains(item.rated, run.rated, min_gain) for run in runs)
    ]
    served = {name for item in asked for name in item.rated.estimates}
    return asked, {name: why for name, why in widths[-1].rated.refusals.items() if name not in served}


def first_settings(wish: Wish, gpus: Iterable[GpuType], standing: Sequence[Standing]) -> list[EngineSettings]:
    """The settings that ``tuned`` always rates, and mostly the only ones: for each width, with as many running requests as
    are allowed."""
    most = wish.sequences()[-1]
    fresh = [wish.settings(kv_cache_dtype=width, max_num_seqs=most) for width in wish.widths(gpus)]
    return fresh + [_loose(item.settings, most) for item in standing]


def _loose(settings: EngineSettings, most: int) -> EngineSettings:
    return settings.model_copy(update={"max_num_seqs": max(most, settings.max_num_seqs)})


class _Rater:
    """Rates a layout only once for settings that differ in nothing but a ``max_num_seqs`` that none of its classes reaches."""

    def __init__(self, rate: Callable[[EngineSettings], Rated], most: int) -> None:
        self._rate, self._most = rate, most
        self._known: dict[EngineSettings, Rated] = {}

    def rated(self, settings: EngineSettings) -> Rated:
        loose = self._remembered(_loose(settings, self._most))
        return loose if largest_batch(loose) <= settings.max_num_seqs else self._remembered(settings)

    def _remembered(self, settings: EngineSettings) -> Rated:
        if settings not in self._known:
            self._known[settings] = self._rate(settings)
        return self._known[settings]


def largest_batch(rated: Rated) -> int:
    """The most requests that run together if each class is served alone."""
    return max((found.most_running for found in rated.estimates.values()), default=0)


def _best(rater: _Rater, wish: Wish, width: str) -> Tuned:
    counts = wish.sequences()
    rated = rater.rated(wish.settings(kv_cache_dtype=width, max_num_seqs=counts[-1]))
    batch = largest_batch(rated)
    enough = next((count for count in counts if count >= batch), counts[-1])
    settings = wish.settings(kv_cache_dtype=width, max_num_seqs=enough)
    return Tuned(settings, rater.rated(settings))


def _kept_widths(widths: list[Tuned], *, quality_limited: bool) -> list[Tuned]:
    wide, narrow = widths[0], widths[-1]
    if narrow is wide or not _gains(narrow.rated, wide.rated, FP8_KV_GAIN):
        return [wide]
    return [wide, narrow] if quality_limited else [narrow]


def _gains(new: Rated, old: Rated, gain: float) -> bool:
    """Whether some class gains more than this part of its rate."""
    rates = {name: found.planned_requests_per_second for name, found in old.estimates.items()}
    return any(
        found.planned_requests_per_second > rates.get(name, 0.0) * max(_EQUAL, 1 + gain)
        for name, found in new.estimates.items()
    )
