"""Computes what fewer classes cost on a plan's own pools: the best fleet that must treat all requests of a class alike.

The question has the finest classes that any fit needs, each with its own rates on every shape. Classes are then joined inside
the question. A shape that serves a mix in fixed proportions serves it at the harmonic mean of the rates, and only if it can
serve every part. This fleet really carries the log; a plan made from mean lengths alone may promise less or more. Fewer classes
only remove choices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from servingplan.api.models_v1alpha1 import Match
from servingplan.api.v1alpha1 import PlanSpec
from servingplan.classes.cells import Cells
from servingplan.classes.fit import Fit, Proposed
from servingplan.classes.split import Rectangle
from servingplan.errors import InputError
from servingplan.model import question as q
from servingplan.model.answer import Answer
from servingplan.planning.pools import Pool
from servingplan.planning.question import pose
from servingplan.planning.shapes import class_key

FINEST = 48
"""The most parts that classes are made of."""


class Fine(NamedTuple):
    """The question with the finest classes."""

    question: q.Question
    model: str
    parts: Mapping[str, Rectangle]
    """The rectangle of each fine class of the model, by its name in the question, without those that nothing can serve."""
    fits: tuple[Fit, ...]
    """The fits that can be joined from the parts: the first ones, as many as ``FINEST`` parts allow."""
    unservable: float
    """The share of the model's requests that no shape of the pools can serve within its limits."""


class Price(NamedTuple):
    """What a fleet costs, and how much it serves."""

    dollars_per_hour: float
    served: float
    """The smallest served part of any class of the model; under MaximizeService the multiple of the mix. The planner raises
    this first, and all parts of a class are served alike, so finer classes never have less of it."""
    proved: bool
    """Whether nothing better exists, within the solver's tolerance."""


def enough_for(prices: Sequence[Price], *, gain: float) -> int:
    """The index of the first price that, up to ``gain``, serves the most and costs the least among those that do."""
    most = max(price.served for price in prices)
    serving = [price for price in prices if price.served >= most * (1 - gain)]
    least = min(price.dollars_per_hour for price in serving)
    return next(
        index for index, price in enumerate(prices) if price in serving and price.dollars_per_hour <= least * (1 + gain)
    )


def finest(
    *,
    spec: PlanSpec,
    pools: tuple[Pool, ...],
    model: str,
    cells: Cells,
    fits: Sequence[Fit],
    requests_per_second: float,
) -> Fine:
    """The plan's question with the model's classes as fine as the boundaries of all fits.

    Raises:
        InputError: the spec has a mistake, or no shape of the pools can serve any of the requests.
    """
    used, parts = _parts(cells, fits)
    whole = sum(part.sums.requests for part in parts)
    classes = tuple(part.in_plan(requests_per_second * part.sums.requests / whole) for part in parts)
    models = tuple(item.model_copy(update={"classes": classes}) if item.name == model else item for item in spec.models)
    # The objective is cost: MaximizeService must serve every class, which is impossible if no shape can serve a part.
    asked = spec.model_copy(update={"models": models, "objective": "MinimizeCost"})
    posed, errors = pose(spec=asked, pools=pools, incumbent=None)
    if errors:
        raise errors[0]
    if posed.question is None:
        raise InputError("spec.nodePools", [pool.spec.name for pool in pools], "no pool has GPUs and a price")
    rates = {class_key(model, part.name): part.sums.requests for part in parts}
    where = {class_key(model, part.name): part.where for part in parts}
    servable = {name for shape in posed.question.shapes for name in shape.requests_per_second}
    kept = {name: where[name] for name in where if name in servable}
    if not kept:
        raise InputError(f"spec.models[{model}]", model, "; ".join(posed.unfit) or "no node can take a replica of it")
    lost = sum(rates[name] for name in where if name not in kept)
    question = posed.question.model_copy(
        update={
            "objective": spec.objective,
            "classes": tuple(item for item in posed.question.classes if item.model != model or item.name in kept),
        }
    )
    return Fine(question, model, kept, used, lost / whole)


def with_classes(fine: Fine, fit: Fit | None) -> q.Question:
    """The question with the fine classes joined to those of a fit; with None they stay as they are."""
    if fit is None:
        return fine.question
    groups = {
        class_key(fine.model, item.name): [name for name, part in fine.parts.items() if _inside(part, item.where)]
        for item in fit.classes
    }
    groups = {name: members for name, members in groups.items() if members}
    fine_rates = {item.name: item.requests_per_second for item in fine.question.classes}
    old = {item.name: item for item in fine.question.classes}
    rates = {name: sum(fine_rates[member] for member in members) for name, members in groups.items()}
    classes = [item for item in fine.question.classes if item.model != fine.model] + [
        old[members[0]].model_copy(update={"name": name, "requests_per_second": rates[name]})
        for name, members in groups.items()
    ]
    shapes = []
    for shape in fine.question.shapes:
        if shape.model != fine.model:
            shapes.append(shape)
            continue
        together = {
            name: rates[name] / sum(fine_rates[member] / shape.requests_per_second[member] for member in members)
            for name, members in groups.items()
            if all(member in shape.requests_per_second for member in members)
        }
        loss = max(shape.quality_loss.values(), default=0.0)  # of the variant, the same for all classes
        if together:
            update = {
                "requests_per_second": together,
                "quality_loss": dict.fromkeys(together, loss) if loss else {},
            }
            shapes.append(shape.model_copy(update=update))
    return q.Question.model_validate(
        {
            **{field: getattr(fine.question, field) for field in q.Question.model_fields},
            "classes": tuple(classes),
            "shapes": tuple(shapes),
        }
    )


def price_of(fine: Fine, question: q.Question, answer: Answer) -> Price:
    """The cost of an answer and its service of the model."""
    if answer.scale is not None:
        return Price(answer.dollars_per_hour or 0.0, answer.scale, answer.status == "Optimal")
    asked = {item.name: item.requests_per_second for item in question.classes if item.model == fine.model}
    served = min(math.fsum(answer.rates.get(name, {}).values()) / rate for name, rate in asked.items() if rate > 0)
    return Price(answer.dollars_per_hour or 0.0, served, answer.status == "Optimal")


def _parts(cells: Cells, fits: Sequence[Fit]) -> tuple[tuple[Fit, ...], list[Proposed]]:
    """The first fits, and the parts that their classes are made of, by the boundaries of all of them."""
    used: list[Fit] = []
    parts: list[Rectangle] = []
    for item in fits:
        wanted = _grid(cells, [*used, item])
        if parts and len(wanted) > FINEST:
            break
        used.append(item)
        parts = wanted
    return tuple(used), [
        Proposed(
            name=f"part-{number:02}",
            match=Match(),
            sums=cells.part(range(part.row, part.next_row), range(part.column, part.next_column)),
            where=part,
        )
        for number, part in enumerate(parts, start=1)
    ]


def _grid(cells: Cells, fits: Sequence[Fit]) -> list[Rectangle]:
    places = [item.where for found in fits for item in found.classes]
    rows = sorted({row for place in places for row in (place.row, place.next_row)})
    columns = sorted({column for place in places for column in (place.column, place.next_column)})
    return [
        Rectangle(row, next_row, column, next_column)
        for row, next_row in pairwise(rows)
        for column, next_column in pairwise(columns)
        if cells.part(range(row, next_row), range(column, next_column)).requests
    ]


def _inside(part: Rectangle, place: Rectangle) -> bool:
    return (
        place.row <= part.row
        and part.next_row <= place.next_row
        and place.column <= part.column
        and part.next_column <= place.next_column
    )
