"""Makes a proposal from a tally: the classes for every k, their losses, the recommended k, and the bound of each class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from servingplan.api.v1alpha1 import PlanSpec
from servingplan.classes.cells import Cells, cells_of
from servingplan.classes.cost import Price, enough_for, finest, price_of, with_classes
from servingplan.classes.fit import GAIN, Fit, enough, fit
from servingplan.classes.tally import Tally
from servingplan.classes.work import Bound, Replica, bound_of, pace_of, replicas_on
from servingplan.errors import InputError
from servingplan.model import question as q
from servingplan.model.answer import Answer
from servingplan.model.hardware import GpuType
from servingplan.model.llm import ModelCard
from servingplan.planning.pools import Pool


@dataclass(frozen=True)
class Proposal:
    """The proposed classes and all figures about them."""

    cells: Cells
    fits: tuple[Fit, ...]
    """The fits for k = 1, 2, ... classes."""
    replicas: tuple[Replica, ...]
    refused: tuple[InputError, ...]
    """The GPU types that cannot hold the model."""
    requests_per_second: float
    prices: tuple[Price, ...] = ()
    """The price of each fit on the plan's pools."""
    finest_price: Price | None = None
    """The price with one class per part; no choice of classes is better."""
    unservable: float = 0.0

    @property
    def recommended(self) -> int:
        """The index of the fit from which more classes gain less than 2 %. With a plan, the gain is in the served part, in
        dollars, and in work not seen; without a plan, in work planned wrongly."""
        if not self.prices:
            return enough([item.loss for item in self.fits])
        unseen = enough([abs(item.missing) for item in self.fits[: len(self.prices)]])
        return max(unseen, enough_for(self.prices, gain=GAIN))

    def bounds(self, chosen: Fit) -> list[tuple[str, Bound]]:
        """The bound of each class on each GPU type, by class name."""
        return [(item.name, bound_of(replica, item.sums)) for item in chosen.classes for replica in self.replicas]


def propose(
    tally: Tally,
    *,
    model: ModelCard,
    precision: str,
    gpus: Sequence[GpuType],
    most: int,
    requests_per_second: float,
) -> Proposal:
    """The proposal of classes for k = 1 to ``most``.

    Raises:
        InputError: no request was counted, or no GPU type can hold the model.
    """
    if not tally.cells:
        raise InputError("requests", 0, "the log has none that count; see what is wrong with its rows")
    replicas, refused = replicas_on(gpus, model=model, precision=precision, context_tokens=tally.longest_tokens)
    if not replicas:
        raise InputError("gpu", [gpu.name for gpu in gpus], "; ".join(error.advice for error in refused))
    cells = cells_of(tally)
    whole = tally.sums
    fits = fit(cells, [pace_of(replica, whole) for replica in replicas], most=most)
    return Proposal(cells, fits, replicas, refused, requests_per_second)


def priced(
    proposal: Proposal,
    *,
    spec: PlanSpec,
    pools: tuple[Pool, ...],
    model: str,
    solve: Callable[[q.Question, PlanSpec], Answer],
    before_each: Callable[[int, int], None] = lambda _done, _all: None,
) -> Proposal:
    """The proposal with the cost of the best fleet for each fit. ``before_each`` gets the number done and the total.

    Raises:
        InputError: the spec has a mistake, or nothing can serve the model.
    """
    fine = finest(
        spec=spec,
        pools=pools,
        model=model,
        cells=proposal.cells,
        fits=proposal.fits,
        requests_per_second=proposal.requests_per_second,
    )
    prices = []
    for number, item in enumerate((*fine.fits, None)):
        before_each(number, len(fine.fits) + 1)
        question = with_classes(fine, item)
        prices.append(price_of(fine, question, solve(question, spec)))
    return replace(proposal, prices=tuple(prices[:-1]), finest_price=prices[-1], unservable=fine.unservable)
