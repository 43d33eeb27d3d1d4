"""How far a prediction may be from the truth: quantiles of true over predicted, by what the prediction rests on.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. ``estimate`` asks here once for the rate and
for each latency. The quantiles are not assumed: ``python -m benchmarks.calibrate`` predicts measurements that were hidden
from the estimator, and writes what it finds to ``data/bands.csv``.

How one class of predictions gets its quantiles (``calibrated``). Its residuals are r = ln(true / predicted). Residuals
of one group (card, model, precision, tensor-parallel size) resemble each other, so the groups, not the rows, are taken as
exchangeable. G groups and the one that is still to come share the probability: each of the G holds 1/(G+1), spread over
its rows, and the one to come holds 1/(G+1) that is put at minus infinity for lower quantiles and at plus infinity for
upper ones. The quantiles of that distribution cover a new row of a new group with at least the probability that they
name [Dunn, Wasserman and Ramdas, "Distribution-free prediction sets for two-layer hierarchical models", J. Am. Stat.
Assoc. 118 (2023), section 3.1, pooling CDFs]. Lower and upper quantiles are found apart, so a band need not be
symmetric. Where 1/(G+1) exceeds the probability asked for, no finite quantile has that guarantee: such a class inherits
from a wider one.

Between the probabilities of the file, and beyond them, ln(true / predicted) is linear in the normal score of the
probability: beyond 5 and 95 % that is an extrapolation with a normal tail, without a guarantee.
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

Quantity = Literal["rate", "ttft", "tpot"]
Kind = Literal["dense", "mixture"]
Load = Literal["saturated", "concurrency"]
"""How an engine is driven: with as many requests as its memory holds, or with fewer."""

PROBABILITIES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""At which quantiles are kept."""
LEAST_GROUPS = 12
"""A class with fewer groups inherits from a wider one. With 9, the 10 % quantile would be the lowest residual of all, which
costs more than it must: on average 19 of 20 truths are above it instead of 9 in 10."""

PIPELINE_WIDENING = 2.0
"""Replicas with several stages have the widest band so many times over: a rule, not a measurement. Without it a plan
prefers them as soon as their formula is optimistic."""

_SCORES = tuple(NormalDist().inv_cdf(probability) for probability in PROBABILITIES)
_ANY = "any"


class Basis(NamedTuple):
    """What a prediction is of and what it rests on, as far as its error depends on it."""

    load: str
    """A ``Load``. Latency is measured by concurrency alone, so its bands are the same for both."""
    source: str
    """As in ``Estimate.source``."""
    engine: Literal["same", "other"] = "same"
    """Whether what was measured, was measured on the engine that is asked about."""
    kind: Kind = "dense"
    """Whether the model is a mixture of experts."""
    reach: Literal["inside", "beyond", "pipeline"] = "inside"
    """Whether lengths, batch or tensor-parallel size lie beyond those that the prediction rests on; or whether the replica
    has several stages, which nobody has published measurements of."""


class Band(NamedTuple):
    """Quantiles of true over predicted."""

    logs: tuple[float, ...]
    """ln(true / predicted) at ``PROBABILITIES``, ascending."""
    groups: int = 0
    """Groups of measurements behind it."""
    basis: str = ""
    """The class that was calibrated: the one asked for, or the wider one that it inherits from."""

    def ratio(self, probability: float) -> float:
        """True over predicted is at most this with the given probability, which lies between 0 and 1."""
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
        """Quantiles that are ``share``, in [0, 1], of the way from these to others: for predictions between two kinds."""
        logs = tuple(own + share * (theirs - own) for own, theirs in zip(self.logs, other.logs, strict=True))
        nearer = self if share <= 0.5 else other
        return nearer._replace(logs=logs)


def kind_of(model: ModelCard) -> Kind:
    """The kind of a model, as ``Basis`` has it."""
    return "dense" if model.active_parameters is None else "mixture"


@lru_cache(maxsize=1024)
def band(quantity: Quantity, basis: Basis) -> Band:
    """The quantiles that were calibrated for predictions of this kind, or for the nearest wider kind that has any.

    Every quantity has at least the widest class.
    """
    if basis.reach == "pipeline":
        widest = band(quantity, Basis("any", "any"))
        middle = widest.logs[PROBABILITIES.index(0.5)]
        logs = tuple(middle + PIPELINE_WIDENING * (log - middle) for log in widest.logs)
        return widest._replace(logs=logs, groups=0, basis=f"{PIPELINE_WIDENING:g} times {widest.basis}: not measured")
    *classes, everything = wider_classes(basis if quantity == "rate" else basis._replace(load="concurrency"))
    found = (_shipped().get((quantity, *wider)) for wider in classes)
    return next((own for own in found if own), _shipped()[quantity, *everything])


def planned_ratio(basis: Basis, confidence: float) -> float:
    """True over predicted rate that a plan may count on: the truth is at least that with probability ``confidence``.

    Below saturation never more than at saturation: a limit on latency makes no plan bolder.
    """
    loads = {basis.load, "saturated"}
    return min(band("rate", basis._replace(load=load)).ratio(1 - confidence) for load in loads)


def wider_classes(basis: Basis) -> Iterable[tuple[str, ...]]:
    """The class of a basis, then ever wider ones: any reach, any kind, any engine, any source, any load."""
    full = tuple(basis)
    for kept in range(len(full), -1, -1):
        yield (*full[:kept], *[_ANY] * (len(full) - kept))


def calibrated(residuals: Mapping[object, Sequence[float]]) -> tuple[float, ...]:
    """Quantiles at ``PROBABILITIES`` that cover a new row of a new group, by the rule in the docstring above.

    Args:
        residuals: ln(true / predicted) by group; no group is empty.

    Returns:
        The quantiles, ascending. With G groups, those below 1/(G+1) and above G/(G+1) are not finite by the rule; in
        their place the outermost residuals are taken for the quantiles at those two and pushed out with a normal tail.
    """
    groups = len(residuals)
    weighted = sorted((value, 1 / ((groups + 1) * len(rows))) for rows in residuals.values() for value in rows)
    logs = [_lower(weighted, probability, groups) for probability in PROBABILITIES if probability < 0.5]
    logs.append(_median(weighted))
    mirrored = [(-value, weight) for value, weight in reversed(weighted)]
    logs += [-_lower(mirrored, 1 - probability, groups) for probability in PROBABILITIES if probability > 0.5]
    # Where few groups push a quantile inwards past the median, the median stands.
    middle = PROBABILITIES.index(0.5)
    for index in range(middle - 1, -1, -1):
        logs[index] = min(logs[index], logs[index + 1])
    for index in range(middle + 1, len(logs)):
        logs[index] = max(logs[index], logs[index - 1])
    return tuple(logs)


def _lower(weighted: Sequence[tuple[float, float]], probability: float, groups: int) -> float:
    """The largest value that at most ``probability`` lies below, the group to come counted as below."""
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
