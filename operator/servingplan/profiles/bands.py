"""The errors of predictions: quantiles of true / predicted, by the basis of the prediction.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. ``estimate`` asks once for the rate and for each
latency. The quantiles are not assumed: ``python -m benchmarks.calibrate`` predicts measurements that were hidden from the
estimator, and writes the quantiles to ``data/bands.csv``.

How one class of predictions gets its quantiles (``calibrated``): its residuals are r = ln(true / predicted). Residuals of one
group (card, model, precision, tensor-parallel size) resemble each other, so the groups, not the rows, are taken as
exchangeable. The probability is divided among the G groups and one future group: each of the G has 1/(G+1), spread over its
rows, and the future group has 1/(G+1), at minus infinity for lower quantiles and at plus infinity for upper ones. The quantiles
of that distribution cover a new row of a new group with at least their probability [Dunn, Wasserman and Ramdas,
"Distribution-free prediction sets for two-layer hierarchical models", J. Am. Stat. Assoc. 118 (2023), section 3.1, pooling
CDFs]. Lower and upper quantiles are found separately, so a band may be asymmetric. If 1/(G+1) exceeds the asked probability, no
finite quantile has that guarantee; such a class takes the band of a wider class.

Between the probabilities of the file, and outside them, ln(true / predicted) is linear in the normal score of the probability.
Below 5 % and above 95 % this is an extrapolation with a normal tail, without a guarantee.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from itertools import pairwise
from statistics import NormalDist
from typing import Literal, NamedTuple

from servingplan.model.llm import ModelCard

Quantity = Literal["rate", "ttft", "first token", "tpot"]
"""``ttft`` is the mean time to the first token at any load. ``first token`` is the same for the runs whose clients hardly wait
for one another, although they start together: these are the nearest to open arrivals that was measured."""
Kind = Literal["dense", "mixture"]
Load = Literal["saturated", "concurrency"]
"""The load of an engine: as many requests as its memory holds, or fewer."""

PROBABILITIES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""The probabilities of the quantiles in the file."""
LEAST_GROUPS = 12
"""A class with fewer groups takes the band of a wider class. With 9 groups, the 10 % quantile would be the lowest residual of
all. That is too cautious: on average 19 of 20 true values are above it instead of 9 of 10."""

PIPELINE_WIDENING = 2.0
"""The band of replicas with several stages is this many times as wide as the widest one. This is a rule, not a measurement.
Without it a plan prefers such replicas as soon as their formula is optimistic."""

_SCORES = tuple(NormalDist().inv_cdf(probability) for probability in PROBABILITIES)
_ANY = "any"


class Basis(NamedTuple):
    """The properties of a prediction on which its error depends."""

    load: str
    """A ``Load``. Latency is only measured by concurrency, so its bands are the same for both loads."""
    source: str
    """The source, as in ``Estimate.source``."""
    engine: Literal["same", "other"] = "same"
    """Whether the measurements behind it are of the same engine or of another one."""
    kind: Kind = "dense"
    """Whether the model is dense or a mixture of experts."""
    reach: Literal["inside", "beyond", "pipeline"] = "inside"
    """``beyond`` if lengths or batch lie outside those of the measurements; ``pipeline`` if the replica has several stages, for
    which no measurements are published."""


class Band(NamedTuple):
    """Quantiles of true / predicted."""

    logs: tuple[float, ...]
    """ln(true / predicted) at ``PROBABILITIES``, ascending."""
    groups: int = 0
    """The number of groups of measurements behind it."""
    basis: str = ""
    """The class that was calibrated: the asked class, or the wider one whose band it takes."""

    def ratio(self, probability: float) -> float:
        """The quantile of true / predicted at this probability, which lies between 0 and 1."""
        score = NormalDist().inv_cdf(probability)
        spans = list(zip(pairwise(_SCORES), pairwise(self.logs), strict=True))
        (left, right), (low, high) = next((span for span in spans if score <= span[0][1]), spans[-1])
        return math.exp(low + (high - low) * (score - left) / (right - left))

    @property
    def low(self) -> float:
        """The 10 % quantile."""
        return math.exp(self.logs[PROBABILITIES.index(0.1)])

    @property
    def high(self) -> float:
        """The 90 % quantile."""
        return math.exp(self.logs[PROBABILITIES.index(0.9)])

    def mixed(self, other: "Band", share: float) -> "Band":
        """A band between this one (``share`` 0) and the other one (``share`` 1), for predictions between two kinds."""
        logs = tuple(own + share * (theirs - own) for own, theirs in zip(self.logs, other.logs, strict=True))
        nearer = self if share <= 0.5 else other
        return nearer._replace(logs=logs)


def kind_of(model: ModelCard) -> Kind:
    """The kind of a model for ``Basis``."""
    return "dense" if model.active_parameters is None else "mixture"


@lru_cache(maxsize=1024)
def band(quantity: Quantity, basis: Basis) -> Band:
    """The band of predictions with this basis, or of the nearest wider class that was calibrated.

    Every quantity has at least a band of the widest class.
    """
    if basis.reach == "pipeline":
        widest = band(quantity, Basis("any", "any"))
        middle = widest.logs[PROBABILITIES.index(0.5)]
        logs = tuple(middle + PIPELINE_WIDENING * (log - middle) for log in widest.logs)
        return widest._replace(logs=logs, groups=0, basis=f"{PIPELINE_WIDENING:g} times {widest.basis}: not measured")
    *classes, everything = wider_classes(basis if quantity == "rate" else basis._replace(load="concurrency"))
    found = (_shipped().get((quantity, *wider)) for wider in classes)
    return next((own for own in found if own), _shipped()[quantity, *everything])


@lru_cache(maxsize=1024)
def planned_ratio(basis: Basis, confidence: float) -> float:
    """The ratio that a plan may count on: true / predicted rate is at least this with probability ``confidence``.

    Below saturation it is at most the ratio at saturation, so that a limit on latency makes no plan less cautious.
    """
    loads = {basis.load, "saturated"}
    return min(band("rate", basis._replace(load=load)).ratio(1 - confidence) for load in loads)


@lru_cache(maxsize=1024)
def planned_latency_ratio(quantity: Quantity, basis: Basis, confidence: float) -> float:
    """The ratio that a plan with a limit counts on: true / predicted latency is at most this with probability ``confidence``.

    Few configurations were measured twice, and a single odd run decides the outer quantiles of their classes. So a measured
    configuration counts as at least as well known as all together.
    """
    bands = [band(quantity, basis)]
    if basis.source in ("measured", "interpolated"):
        bands.append(band(quantity, Basis("any", "any")))
    return min(it.ratio(confidence) for it in bands)


def wider_classes(basis: Basis) -> Iterable[tuple[str, ...]]:
    """The class of a basis, then wider and wider classes: any reach, any kind, any engine, any source, any load."""
    full = tuple(basis)
    for kept in range(len(full), -1, -1):
        yield (*full[:kept], *[_ANY] * (len(full) - kept))


def calibrated(residuals: Mapping[object, Sequence[float]]) -> tuple[float, ...]:
    """The quantiles at ``PROBABILITIES`` that cover a new row of a new group, by the rule in the module's docstring.

    Args:
        residuals: ln(true / predicted) by group; no group is empty.

    Returns:
        The quantiles, ascending. With G groups, the rule gives no finite quantiles below 1/(G+1) and above G/(G+1).
        There, the outermost residuals count as the quantiles at these two probabilities, extended with a normal tail.
    """
    groups = len(residuals)
    weighted = sorted((value, 1 / ((groups + 1) * len(rows))) for rows in residuals.values() for value in rows)
    logs = [_lower(weighted, probability, groups) for probability in PROBABILITIES if probability < 0.5]
    logs.append(_median(weighted))
    mirrored = [(-value, weight) for value, weight in reversed(weighted)]
    logs += [-_lower(mirrored, 1 - probability, groups) for probability in PROBABILITIES if probability > 0.5]
    # With few groups, a quantile may lie on the wrong side of the median; the median then replaces it.
    middle = PROBABILITIES.index(0.5)
    for index in range(middle - 1, -1, -1):
        logs[index] = min(logs[index], logs[index + 1])
    for index in range(middle + 1, len(logs)):
        logs[index] = max(logs[index], logs[index - 1])
    return tuple(logs)


def _lower(weighted: Sequence[tuple[float, float]], probability: float, groups: int) -> float:
    """The largest value such that at most ``probability`` lies below it, if the future group counts as below."""
    least = 1 / (groups + 1)
    if probability < least:
        edge, middle = weighted[0][0], _median(weighted)
        scale = NormalDist().inv_cdf(probability) / NormalDist().inv_cdf(least)
        return middle + (edge - middle) * scale
    below = least
    for value, weight in weighted:
        below += weight
        if below > probability * (1 + 1e-12):
            return value
    return weighted[-1][0]


def _median(weighted: Sequence[tuple[float, float]]) -> float:
    half = sum(weight for _, weight in weighted) / 2
    total = 0.0
    for value, weight in weighted:
        total += weight
        if total >= half * (1 - 1e-12):
            return value
    return weighted[-1][0]


@cache
def _shipped() -> dict[tuple[str, ...], Band]:
    with (resources.files("servingplan.profiles") / "data" / "bands.csv").open(encoding="utf-8") as lines:
        return {
            (row["quantity"], *(row[name] for name in Basis._fields)): Band(
                tuple(float(row[f"q{probability:g}"]) for probability in PROBABILITIES),
                int(row["groups"]),
                "/".join(row[name] for name in Basis._fields if row[name] != _ANY) or "all",
            )
            for row in csv.DictReader(lines)
        }
