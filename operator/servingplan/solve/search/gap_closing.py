"""Close the gap from both sides with the programs of `lagrangian`: better plans from below, better bounds from above.

A step of `anytime`.

MinimizeCost, all served: every model at its least price, for the bound, and for the shapes that are worth a search.

MaximizeService, in three steps. (1) Scales are tried by price alone: where the price is above what GPUs and budget are
worth, no plan reaches the scale; where it is not, the copies that the models chose are nearly a plan. (2) A search over
the shapes that were chosen, for the best plan. (3) A search over all shapes for a plan just better than the tolerance,
with what each model costs at least as rows (cuts): that there is none is the proof that the plan is good enough. (As
rows of a search for the least dollars, the same cuts were measured to make the solver slower.)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from servingplan.model.goal import DOLLARS, SCALE, Goal
from servingplan.solve.bounds.lagrangian import ByModel, Prices
from servingplan.solve.plan.judge import judge
from servingplan.solve.plan.plan import Plan, best_of
from servingplan.solve.problem.constraints import Cut, build
from servingplan.solve.problem.instance import Instance
from servingplan.solve.search.partial_plan import Draft
from servingplan.solve.search.rounding import rounded_and_completed
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import TOLD

NOTHING = 1e-6
"""Part of the scale that the search for fewer dollars may lose to tolerances; where a fleet runs, it may keep that fleet's
scale, which is within the asked tolerance."""
SearchAmong = Callable[[Sequence[int], Plan | None], Plan | None]
"""The best plan of these shapes, at least as good as the one given."""


@dataclass(slots=True)
class Closed:
    """What was reached."""

    plan: Plan | None
    bounds: dict[Goal, float]
    """Of the scale, or of the dollars for full service."""
    shapes: set[int] = field(default_factory=set)
    """Shapes that some model chose: where a search over all models should look."""
    cuts: tuple[Cut, ...] = ()
    """What each model costs at least at the plan's scale."""
    tried: bool = True
    """Whether models were served apart at all."""


def closed(
    instance: Instance,
    effort: Effort,
    *,
    prices: Prices,
    bounds: Mapping[Goal, float],
    plan: Plan | None,
    search_among: SearchAmong,
) -> Closed:
    """The plan or a better one, with bounds at least as tight as those given; not for questions with `survive`."""
    work = _Closing(instance, prices, effort, Closed(plan, dict(bounds)), search_among)
    if DOLLARS in bounds:
        work.price_full_service()
    elif SCALE in bounds:
        work.try_scales()
        work.search_chosen()
        work.prove()
        work.price_reached()
    return work.result


class _Closing:
    def __init__(
        self, instance: Instance, prices: Prices, effort: Effort, result: Closed, search_among: SearchAmong
    ) -> None:
        self._instance = instance
        self._prices = prices
        self._effort = effort
        self._search_among = search_among
        self._rates = [cls.requests_per_second for cls in instance.classes]
        self._by_model = ByModel(instance, prices, self._rates)
        self._supply = prices.supply(instance.question.budget_dollars_per_hour)
        self._searched: set[int] = set()
        self.result = result

    def price_full_service(self) -> None:
        apart = self._by_model.serve(1.0, self._effort.share(self._effort.params.apart_share))
        dollars = (apart.least - self._prices.rent) / self._prices.dollar
        self.result.bounds[DOLLARS] = max(self.result.bounds[DOLLARS], dollars)
        if self._effort.stop() and not all(part.copies for part in apart.parts):
            return  # what some models chose is no plan yet, and completing it takes time
        copies = apart.copies(len(self._instance.shapes))
        self._take(copies)
        draft = rounded_and_completed(self._instance, copies, self._rates)
        if draft is not None:
            self._take(draft.without_idle().copies)
        self.search_chosen()

    def try_scales(self) -> None:
        """Seek the largest scale that price does not exclude, until a little more than the plan has is out of reach."""
        params, factor = self._effort.params, 1 + self._effort.relative_gap
        open_scale, crossing, beyond = 0.0, 0.0, 0
        stop = self._effort.stop_after(params.trials)
        while not stop(self._gap()):
            low, high = max(self._reached(), open_scale), self.result.bounds[SCALE]
            wanted = self._reached() * factor
            beyond += open_scale > wanted
            if beyond > params.trials_beyond or high <= low * factor:
                return
            scale = _next_scale(low, high, wanted=wanted, crossing=crossing)
            apart = self._by_model.serve(scale, self._effort, enough=self._supply)
            if apart.least > self._supply:
                self.result.bounds[SCALE] = scale
                continue
            open_scale = scale
            crossing = scale * self._supply / apart.least if apart.least else 0.0
            self._take(apart.copies(len(self._instance.shapes)))
            if not self._searched or crossing <= scale * params.near:
                self.search_chosen()

    def search_chosen(self) -> None:
        """The best plan of the shapes that some model chose, unless that is known."""
        plan = self.result.plan
        shapes = self.result.shapes.union(plan.used if plan else ())
        if self._effort.stop(self._gap()) or shapes <= self._searched:
            return
        self._searched = shapes
        self.result.plan = best_of([plan, self._search_among(sorted(shapes), plan)])

    def prove(self) -> None:
        """Ask for a little more than the plan has; where neither a plan nor a proof is found, for more than that."""
        undecided = 0.0
        stop = self._effort.stop_after(self._effort.params.proofs)
        while not stop(self._gap()):
            least, high = self._reached() * (1 + self._effort.relative_gap), self.result.bounds[SCALE]
            scale = least if least > undecided else (undecided + high) / 2
            apart = self._by_model.serve(scale, self._effort, enough=self._supply)
            if apart.least > self._supply:
                self.result.bounds[SCALE] = scale
            elif not self._decided(scale, self._by_model.cuts(apart)):
                undecided = scale

    def price_reached(self) -> None:
        """What each model costs at least at the plan's own scale, for the search for fewer dollars that follows."""
        if self.result.plan is None or self._effort.stop():
            return
        given_up = self._effort.relative_gap if self._instance.question.running else NOTHING
        self.result.cuts = self._by_model.cuts(self._by_model.serve(self._reached() * (1 - given_up), self._effort))

    def _decided(self, scale: float, cuts: Sequence[Cut]) -> bool:
        """Find a plan at this scale or prove that there is none; whether either succeeded."""
        if not self._effort.affords(self._instance):
            return False
        plan = build(self._instance, [scale * rate for rate in self._rates], cuts=cuts, totals=True)
        plan.program.set_bounds(plan.served[0], lower=1.0, upper=1.0)
        unit = self._instance.question.budget_dollars_per_hour or 1.0
        prices = [pool.dollars_per_node_hour / unit for pool in self._instance.pools]
        params = self._effort.params
        limits = self._effort.with_nodes(params.proof_nodes).limits(gap=params.proof_gap, part=0.7)
        limits = replace(limits, bound_first=True, trial_branchings=params.few_branchings)
        outcome = plan.program.optimise(list(zip(plan.nodes, prices, strict=True)), "min", limits)
        if outcome.infeasible:
            self.result.bounds[SCALE] = min(self.result.bounds[SCALE], scale)
            return True
        if outcome.values:
            self._take([round(outcome.values[column]) for column in plan.copies])
        return self._reached() >= scale * (1 - TOLD)

    def _reached(self) -> float:
        return self.result.plan.values[SCALE] if self.result.plan else 0.0

    def _gap(self) -> float:
        plan, bounds = self.result.plan, self.result.bounds
        if plan is None:  # where no scale can be reached, none is as good as it gets
            return 0.0 if SCALE in bounds and bounds[SCALE] <= 0.0 else math.inf
        return plan.gap(bounds)

    def _take(self, copies: Sequence[int]) -> None:
        """Remember the shapes that were chosen, and the plan of as many copies as fit."""
        self.result.shapes.update(c for c, count in enumerate(copies) if count)
        fitting = Draft.of(self._instance, copies).copies
        self.result.plan = best_of([self.result.plan, judge(self._instance, fitting)])


def _next_scale(low: float, high: float, *, wanted: float, crossing: float) -> float:
    """Where to try between a scale that may be reached and one that is not: where price is likely to meet supply
    (`crossing`), or at what is `wanted` for a proof, that it is out of reach, where that is likely."""
    quarter = (high - low) / 4
    if wanted < high and (0.0 < crossing <= wanted or (crossing >= high and wanted >= low + quarter)):
        return wanted
    return min(crossing, high - quarter) if low < crossing < high else (low + high) / 2
