"""Reads the additions of an installation to the catalogue: rows of models, GPUs and prices as text.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. A wrong row is reported by its number and left
out; the others count.

    models   JSON: one row of ``catalogue.ModelRow``, or a list of them, as ``servingplan profile add-model`` prints it
    gpus     CSV with the columns of ``data/gpus.csv``
    prices   CSV with the columns of ``data/prices.csv``: a price has a date and a source
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import cache
from typing import Any, NamedTuple

from pydantic import ValidationError

from servingplan.errors import InputError, in_words
from servingplan.model.hardware import GpuType
from servingplan.profiles.catalogue import Catalogue, ModelRow, gpu_of_row, read_rows

CAPACITY_TYPES = ("OnDemand", "Spot", "Reserved")
DEAREST = 1000.0
"""A higher price of one GPU, in dollars/hour, counts as a mistake: the price of a whole machine, or in another unit."""


class Price(NamedTuple):
    """The published price of one GPU with its part of the machine."""

    gpu: str
    """The GPU's name in the catalogue."""
    dollars_per_gpu_hour: float
    capacity_type: str
    """``OnDemand``, ``Spot`` or ``Reserved``."""
    as_of: str
    """The day in ISO 8601, or only the month."""
    source: str


class Read[Row](NamedTuple):
    """The rows of one text, and the faults of the others."""

    rows: tuple[Row, ...]
    problems: tuple[str, ...]


def read_models(text: str) -> Read[ModelRow]:
    """The rows of models in a JSON text."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Read((), (f"is no JSON ({error}); write it with servingplan profile add-model -o configmap",))
    return _read(data if isinstance(data, list) else [data], _model_of, "row")


def read_gpus(text: str) -> Read[GpuType]:
    """The rows of GPUs in a CSV text."""
    return _read(_csv(text), gpu_of_row, "line", first=2)


def read_prices(text: str, gpus: Catalogue) -> Read[Price]:
    """The prices in a CSV text, for GPUs in the catalogue ``gpus``."""
    return _read(_csv(text), lambda row: _price_of(row, gpus), "line", first=2)


@cache
def shipped_prices() -> tuple[Price, ...]:
    """Published prices with their dates. They are for offline plans; a cluster has its own prices."""
    from servingplan.profiles.catalogue import shipped

    return tuple(_price_of(row, shipped()) for row in read_rows("prices.csv"))


def price_of(prices: Iterable[Price], gpu: GpuType, capacity_type: str) -> Price | None:
    """The price to use: the median of the prices with the newest date, the lower one of the middle two; None if there is
    none."""
    found = [item for item in prices if (item.gpu, item.capacity_type) == (gpu.name, capacity_type)]
    newest = max((item.as_of for item in found), default="")
    last = sorted(
        (item for item in found if item.as_of == newest), key=lambda item: (item.dollars_per_gpu_hour, item.source)
    )
    return last[(len(last) - 1) // 2] if last else None


def _read[Row](rows: Sequence[Any], read: Callable[[Any], Row], word: str, *, first: int = 1) -> Read[Row]:
    found, problems = [], []
    for number, row in enumerate(rows, start=first):
        try:
            found.append(read(row))
        except InputError as error:
            problems.append(f"{word} {number}: {error}")
    return Read(tuple(found), tuple(problems))


def _csv(text: str) -> list[dict[str, Any]]:
    lines = (line for line in io.StringIO(text) if line.strip() and not line.startswith("#"))
    return [{key: value for key, value in row.items() if key is not None} for row in csv.DictReader(lines)]


def _model_of(data: Any) -> ModelRow:
    try:
        row = ModelRow.model_validate(data)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise InputError(
            ".".join(map(str, problem["loc"])) or "row", problem.get("input"), in_words(problem)
        ) from error
    known = Catalogue([row])
    known.cards()
    for repository in row.repositories:
        known.find_model(repository)
    return row


def _price_of(row: dict[str, str], gpus: Catalogue) -> Price:
    unknown = sorted(set(row) - set(Price._fields))
    if unknown:
        raise InputError(unknown[0], row[unknown[0]], f"is no column of prices; columns are {', '.join(Price._fields)}")
    missing = [field for field in Price._fields if not row.get(field) and field != "capacity_type"]
    if missing:
        raise InputError(missing[0], None, "is missing; a price has a GPU, an amount, a date and a source")
    gpu = gpus.find_gpu(row["gpu"])
    if gpu is None:
        raise InputError("gpu", row["gpu"], "is not in the catalogue; use one of its names, or add the GPU")
    try:
        dollars = float(row["dollars_per_gpu_hour"])
    except ValueError as error:
        raise InputError("dollars_per_gpu_hour", row["dollars_per_gpu_hour"], "is no number") from error
    if not (math.isfinite(dollars) and 0 <= dollars <= DEAREST):
        raise InputError(
            "dollars_per_gpu_hour", row["dollars_per_gpu_hour"], f"is not from 0 to {DEAREST:g}: give $/h of one GPU"
        )
    capacity_type = row.get("capacity_type") or CAPACITY_TYPES[0]
    if capacity_type not in CAPACITY_TYPES:
        raise InputError("capacity_type", capacity_type, f"must be one of {', '.join(CAPACITY_TYPES)}")
    day = row["as_of"]
    try:
        date.fromisoformat(day if len(day) > len("2026-01") else f"{day}-01")
    except ValueError as error:
        raise InputError("as_of", day, "is no day (YYYY-MM-DD) or month (YYYY-MM)") from error
    return Price(gpu.name, dollars, capacity_type, day, row["source"])
