"""Measures the error of predictions: the estimator predicts measurements that are hidden from it.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. It evaluates ``estimate`` for
``servingplan profile check``, for the calibration of the bands and for the tests.

An estimator predicts better the more similar measurements it knows. So every measurement is predicted under several
conditions; each hides some measurements:

    version      those of its engine's version; another version of that engine is known at the same lengths
    lengths      those of the same pair of lengths; other lengths of the group are known
    engine       those of its engine; the group is known on another engine
    group        those of the whole group (card, model, precision, tensor-parallel size)
    card         those of the card; only its data sheet is known

Errors are |predicted / measured - 1|. The bias is the median of predicted / measured - 1. The interval score of a band
[l, u] at a truth y, in logarithms, is  u - l + 2/a max(l - y, 0) + 2/a max(y - u, 0)  with a = 0.2 for a central 80 %
[Gneiting and Raftery, J. Am. Stat. Assoc. 102 (2007), equation 43]. A smaller score is better; the mean score is least for the
true 10 and 90 % quantiles. The best constant band has one low and one high end for all rows, chosen for the least mean score on
these same rows. It is a strong competitor, because it knows the measurements.

Groups differ in size by a factor of a hundred. So medians, shares and means weigh all groups equally, and all rows within a
group.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from servingplan.model.hardware import GpuType
from servingplan.model.llm import ModelCard
from servingplan.profiles.bands import Basis, Load, Quantity, band
from servingplan.profiles.catalogue import UnknownGpuError, UnknownModelError, find_gpu, find_model
from servingplan.profiles.estimate import Estimate, estimate
from servingplan.profiles.measured import MeasuredRow, MeasuredRows
from servingplan.profiles.split import Part, part_of

Condition = Literal["version", "lengths", "engine", "group", "card"]
CONDITIONS: tuple[Condition, ...] = ("version", "lengths", "engine", "group", "card")

NOTHING = MeasuredRows(tuple)
"""No measurements."""

STEADY_SHARE = 0.5
"""The least part of a row's TTFT that is no wait, so that the row tells of plans. Other TTFTs are mostly a wait for a slot, or
for the prompts of clients that started at the same time. A plan has neither: it sets the slots itself, and its requests arrive
one by one."""

INSIDE = 0.8
"""The share of true values that a band promises to contain."""

Group = tuple[str, str, str, int]


class Predicted(NamedTuple):
    """One measured quantity, and its prediction without the hidden measurements."""

    row: MeasuredRow
    condition: Condition
    quantity: Quantity
    basis: Basis
    log_error: float
    """ln(predicted / measured)."""
    log_low: float
    """ln(low / predicted) for the low end of the 80 % band; not above 0."""
    log_high: float
    """ln(high / predicted) for the high end; not below 0."""

    @property
    def group(self) -> Group:
        """The group of the row."""
        return group_of(self.row)

    @property
    def part(self) -> Part:
        """Whether the group is for fitting or for judging."""
        gpu, model, precision, size = self.group
        return part_of(gpu=gpu, model=model, precision=precision, tensor_parallel=size)

    @property
    def load(self) -> Load:
        """The kind of load in the measurement."""
        return "saturated" if self.row.concurrency is None else "concurrency"

    @property
    def residual(self) -> float:
        """ln(measured / predicted)."""
        return -self.log_error


class Summary(NamedTuple):
    """One line of the report."""

    rows: int
    groups: int
    median_error: float
    p90_error: float
    bias: float
    inside: float
    """The share of true values inside the 80 % band."""
    score: float
    """The mean interval score of the bands."""
    constant_score: float
    """The mean interval score of the best constant band of the table."""


class Line(NamedTuple):
    """A line of the report with its part, table and name."""

    part: Part
    table: str
    name: str
    summary: Summary


QUANTITIES: dict[str, tuple[Quantity, Load | None]] = {
    "saturated rate": ("rate", "saturated"),
    "rate by concurrency": ("rate", "concurrency"),
    "mean TTFT": ("ttft", None),
    "mean TTFT, hardly waiting": ("first token", None),
    "mean TPOT": ("tpot", None),
}
"""The tables of the report: the quantity, and the kind of load if only one counts."""


def group_of(row: MeasuredRow) -> Group:
    """The group of a measurement, as in ``split``."""
    return row.gpu, row.model, row.precision, row.tensor_parallel


def predictions(
    rows: Sequence[MeasuredRow], known: MeasuredRows, conditions: Iterable[Condition] = CONDITIONS
) -> Iterator[Predicted]:
    """The predictions of every measurement under each condition that applies to it.

    Args:
        rows: the measurements to predict.
        known: the measurements that the estimator knows, apart from those that the condition hides.
    """
    visible = defaultdict(list)
    for row in known.rows:
        visible[group_of(row)].append(row)
    for condition in conditions:
        hidden: dict[object, list[MeasuredRow]] = defaultdict(list)
        for row in rows:
            hidden[_hiding_key(row, condition)].append(row)
        for key in sorted(hidden, key=repr):
            first = hidden[key][0]
            group = visible[group_of(first)]
            left = [row for row in group if not _is_hidden(row, first, condition)]
            seen = MeasuredRows(lambda left=left: left)  # type: ignore[misc]
            for row in hidden[key]:
                if _applies(row, left, condition):
                    yield from _predicted(row, condition, seen)


def _hiding_key(row: MeasuredRow, condition: Condition) -> object:
    """The key of a row; rows with the same key are predicted from the same measurements."""
    match condition:
        case "version":
            return (*group_of(row), row.settings.engine, row.settings.version)
        case "engine":
            return (*group_of(row), row.settings.engine)
        case "lengths":
            return (*group_of(row), row.input_tokens, row.output_tokens)
        case "group" | "card":
            return group_of(row)


def _is_hidden(row: MeasuredRow, asked: MeasuredRow, condition: Condition) -> bool:
    """Whether a row of the same group is hidden for the prediction of ``asked``."""
    return condition in ("group", "card") or _hiding_key(row, condition) == _hiding_key(asked, condition)


def _applies(row: MeasuredRow, left: Sequence[MeasuredRow], condition: Condition) -> bool:
    if condition == "version":
        return any(_same_point(row, other) and other.settings.engine == row.settings.engine for other in left)
    return condition in ("group", "card") or bool(left)


def _same_point(row: MeasuredRow, other: MeasuredRow) -> bool:
    return (row.input_tokens, row.output_tokens, row.concurrency) == (
        other.input_tokens,
        other.output_tokens,
        other.concurrency,
    )


def _predicted(row: MeasuredRow, condition: Condition, seen: MeasuredRows) -> Iterator[Predicted]:
    try:
        model, gpu = find_model(row.model), find_gpu(row.gpu)
    except (UnknownModelError, UnknownGpuError):
        return
    if condition == "card":
        # Under another name only its figures are known.
        gpu = gpu.model_copy(update={"name": f"{gpu.name}, by its data sheet", "aliases": ()})
    found = predict(row, model=model, gpu=gpu, rows=seen)
    if found is None:
        return
    rate = found.requests_per_second
    edges = math.log(found.low / rate), math.log(found.high / rate)
    yield Predicted(row, condition, "rate", found.basis, math.log(rate / row.requests_per_second), *edges)
    latencies: list[tuple[Quantity, float | None, float, tuple[float, float]]] = [
        ("ttft", row.ttft_seconds, found.ttft_seconds, found.ttft_band),
        ("tpot", row.tpot_seconds, found.tpot_seconds, found.tpot_band),
    ]
    if _hardly_waits(row, found, model=model, gpu=gpu):
        first = band("first token", found.basis)
        latencies.append(("first token", row.ttft_seconds, found.ttft_seconds, (min(1, first.low), max(1, first.high))))
    for quantity, measured, mean, edges in latencies:
        if measured is not None and measured > 0 and mean > 0:
            low, high = math.log(edges[0]), math.log(edges[1])
            yield Predicted(row, condition, quantity, found.basis, math.log(mean / measured), low, high)


def _hardly_waits(row: MeasuredRow, found: Estimate, *, model: ModelCard, gpu: GpuType) -> bool:
    """Whether by formula at least ``STEADY_SHARE`` of a row's TTFT is that of a steady state, in which all clients run."""
    if row.concurrency is None or row.ttft_seconds is None:
        return False
    running = row._replace(concurrency=min(row.concurrency, float(found.batch)))
    (together, steady) = (
        predict(it, model=model, gpu=gpu, rows=NOTHING) for it in (row, running._replace(requests_per_client=math.inf))
    )
    assert together is not None, "the row itself was predicted"
    assert steady is not None
    return steady.ttft_seconds >= STEADY_SHARE * together.ttft_seconds


def predict(row: MeasuredRow, *, model: ModelCard, gpu: GpuType, rows: MeasuredRows) -> Estimate | None:
    """The estimate of a measured point from other measurements, with the point's settings and load; None if ``estimate``
    says that the replica does not fit."""
    settings = row.settings.model_copy(
        update={"max_model_len": max(row.settings.max_model_len, row.input_tokens + row.output_tokens)}
    )
    found = estimate(
        model=model,
        precision=row.precision,
        gpu=gpu,
        tensor_parallel=row.tensor_parallel,
        pipeline_parallel=row.pipeline_parallel,
        settings=settings,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        ttft_seconds=None,
        tpot_seconds=None,
        clients=row.concurrency,
        requests_per_client=row.requests_per_client,
        rows=rows,
    )
    return found if isinstance(found, Estimate) else None


def report(found: Iterable[Predicted]) -> tuple[Line, ...]:
    """The lines of the error report, by what was known and by the kind of model; unmeasured rates also by load and by card."""
    everything = list(found)
    lines: list[Line] = []
    for part in ("fit", "judge"):
        of_part = [item for item in everything if item.part == part]
        for title, items, name in (
            *((title, _of(of_part, title), known_words) for title in QUANTITIES),
            ("rate without a measurement", [item for item in of_part if _unmeasured(item)], load_words),
            ("rate without a measurement, by card", [item for item in of_part if _unmeasured(item)], _card),
        ):
            lines += (Line(part, title, name, line) for name, line in summarised(items, name).items())
    return tuple(lines)


def load_words(item: Predicted) -> str:
    """The kind of load and the kind of model, in words."""
    load = "saturated" if item.load == "saturated" else "by concurrency"
    return f"{load}; {_kind_words(item)}"


def _kind_words(item: Predicted) -> str:
    return "mixture of experts" if item.basis.kind == "mixture" else "dense"


def known_words(item: Predicted) -> str:
    """What was known for a prediction, in words. The report sorts its lines by these words."""
    words = {
        "version": "1 measured, another version",
        "lengths": "2 measured, other lengths",
        "engine": "3 measured, another engine",
        "group": f"4 not measured: {item.basis.source}",
        "card": "5 card by its data sheet",
    }[item.condition]
    beyond = ", beyond" if item.condition in ("lengths", "engine") and item.basis.reach == "beyond" else ""
    return f"{words}{beyond}; {_kind_words(item)}"


def _of(found: Iterable[Predicted], title: str) -> list[Predicted]:
    quantity, load = QUANTITIES[title]
    return [item for item in found if item.quantity == quantity and load in (None, item.load)]


def _unmeasured(item: Predicted) -> bool:
    return item.condition == "group" and item.quantity == "rate"


def _card(item: Predicted) -> str:
    return item.row.gpu


def summarised(found: Sequence[Predicted], by: Callable[[Predicted], str]) -> dict[str, Summary]:
    """The summary of the predictions of each name that ``by`` returns, by name. They have one constant band together."""
    if not found:
        return {}
    constant = best_constant([(item.residual, weight) for item, weight in weighted(found)])
    by_name: dict[str, list[Predicted]] = defaultdict(list)
    for item in found:
        by_name[by(item)].append(item)
    return {name: _summary(items, constant) for name, items in sorted(by_name.items())}


def _summary(items: Sequence[Predicted], constant: tuple[float, float]) -> Summary:
    shares = weighted(items)
    errors = [(abs(math.exp(item.log_error) - 1), weight) for item, weight in shares]
    return Summary(
        rows=len(items),
        groups=len({item.group for item in items}),
        median_error=quantile(errors, 0.5),
        p90_error=quantile(errors, 0.9),
        bias=math.exp(quantile([(item.log_error, weight) for item, weight in shares], 0.5)) - 1,
        inside=math.fsum(weight for item, weight in shares if item.log_low <= item.residual <= item.log_high),
        score=math.fsum(weight * interval_score(item.log_low, item.log_high, item.residual) for item, weight in shares),
        constant_score=math.fsum(weight * interval_score(*constant, item.residual) for item, weight in shares),
    )


def weighted(items: Sequence[Predicted]) -> list[tuple[Predicted, float]]:
    """Each item with its weight. All groups have equal weights, and so have the items within a group; the sum is 1."""
    sizes: dict[Group, int] = defaultdict(int)
    for item in items:
        sizes[item.group] += 1
    return [(item, 1 / (len(sizes) * sizes[item.group])) for item in items]


def quantile(values: Iterable[tuple[float, float]], probability: float) -> float:
    """The smallest value such that values up to it have at least ``probability`` of the weight."""
    ordered = sorted(values)
    total = math.fsum(weight for _, weight in ordered)
    reached = 0.0
    for value, weight in ordered:
        reached += weight
        if reached >= probability * total * (1 - 1e-12):
            return value
    return ordered[-1][0]


def interval_score(low: float, high: float, truth: float) -> float:
    """The width of the interval plus ten times the distance of the truth from it."""
    penalty = 2 / (1 - INSIDE)
    return high - low + penalty * (max(0.0, low - truth) + max(0.0, truth - high))


def best_constant(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The one interval with the least mean score: the weighted 10 and 90 % quantiles of the residuals."""
    tail = (1 - INSIDE) / 2
    return quantile(values, tail), quantile(values, 1 - tail)
