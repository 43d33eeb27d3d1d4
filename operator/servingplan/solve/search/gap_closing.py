"""Closes the gap from both sides with the programs of `lagrangian`: it improves the plan and the bound.

This is a step of `anytime`.

MinimizeCost in full service: each model is served at its least price. This gives a bound, and the shapes for a search.

MaximizeService, in four steps. (1) The models are served in turn with what is left of the stock, which soon gives a good plan.
(2) Scales are tried by price alone. If the price exceeds what GPUs and budget are worth, no plan reaches the scale; otherwise
the copies that the models chose are nearly a plan. (3) A search over the chosen shapes finds the best plan. (4) A search over
all shapes looks for a plan that is better than the tolerance allows, with the least cost of each model as rows (cuts). If there
is none, the plan is proved. The search for fewer dollars at this scale has the cuts too.
(In a search for the least dollars, the same cuts were measured to make the solver slower, so MinimizeCost has none.)
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
from servingplan.solve.search.ruin import recreated
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.tolerance import TOLD

NOTHING = 1e-6
"""The part of the scale that the search for fewer dollars may lose to tolerances. Beside a running fleet it may lose the asked
gap, because it may keep that fleet's scale."""
SearchAmong = Callable[[Sequence[int], Plan | None], Plan | None]
"""A search for the best plan of these shapes, from the given plan."""


@dataclass(slots=True)
class Closed:
    """The plan, the bounds and the shapes that were reached."""

    plan: Plan | None
    bounds: dict[Goal, float]
    """Bounds on the scale, or on the dollars for full service."""
    shapes: set[int] = field(default_factory=set)
    """Shapes that some model chose; a search over all models should look at these."""
    cuts: tuple[Cut, ...] = ()
    """The least cost of each model at the plan's scale, as rows."""
    tried: bool = True
    """Whether the question was decomposed by model at all."""


def closed(
    instance: Instance,
    effort: Effort,
    *,
    prices: Prices,
    bounds: Mapping[Goal, float],
    plan: Plan | None,
    search_among: SearchAmong,
    pricing_share: float,
) -> Closed:
    """The plan or a better one, with bounds at least as tight as the given ones. Not for questions with `survive`.

    Under MinimizeCost serving each model at its least price may take `pricing_share` of the time.
    """
    work = _Closing(instance, prices, effort, Closed(plan, dict(bounds)), search_among)
    if DOLLARS in bounds:
        work.price_full_service(effort.share(pricing_share))
    elif SCALE in bounds:
        work.serve_in_turn()
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

    def price_full_service(self, effort: Effort) -> None:
        apart = self._by_model.serve(1.0, effort)
        dollars = (apart.least - self._prices.rent) / self._prices.dollar
        self.result.bounds[DOLLARS] = max(self.result.bounds[DOLLARS], dollars)
        if self._effort.stop() and not all(part.copies for part in apart.parts):
            return  # the models' copies are no plan yet, and completing them takes time
        copies = apart.copies(len(self._instance.shapes))
        self._take(copies)
        draft = rounded_and_completed(self._instance, copies, self._rates)
        if draft is not None:
            self._take(draft.without_idle().copies)
        if self.result.plan is not None:
            self.result.plan = recreated(self._instance, self._effort, self.result.plan)
        self.search_chosen()

    def serve_in_turn(self) -> None:
        """Find a first good plan: the models are served in turn, in one order and then in the other, at scales that fall until
        the budget suffices for all of them. Each time the shapes that they chose are searched."""
        params, budget = self._effort.params, self._instance.question.budget_dollars_per_hour
        idle = params.turn_idle * sum(self._by_model.smallest)
        scale = self.result.bounds[SCALE] * max(0.5, 1 - idle / self._supply if self._supply else 0.0)
        for turn in range(params.turns):
            if scale <= self._reached() or self._effort.stop(self._gap()):
                return
            copies = self._by_model.in_turn(scale, self._effort, dearest_last=turn % 2 > 0)
            dollars = math.inf  # the stock does not suffice
            if copies is not None:
                self._take(copies)
                chosen = [c for c, count in enumerate(copies) if count]
                self.result.plan = best_of([self.result.plan, self._search_among(chosen, None)])
                dollars = sum(
                    copies[c] * self._instance.share_price(c) for c in chosen
                )  # if nodes were sold by the GPU
            if dollars <= budget:
                return
            scale *= params.turn_step if math.isinf(dollars) else min(params.turn_step, budget / dollars)

    def try_scales(self) -> None:
        """Search the largest scale that prices do not exclude, until they exclude a scale just above the plan's."""
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
        """Search the best plan of the shapes that some model chose, unless they were searched before."""
        plan = self.result.plan
        shapes = self.result.shapes.union(plan.used if plan else ())
        if self._effort.stop(self._gap()) or shapes <= self._searched:
            return
        self._searched = shapes
        self.result.plan = best_of([plan, self._search_among(sorted(shapes), plan)])

    def prove(self) -> None:
        """Decide whether a scale just above the plan's can be reached; if the search cannot decide it, try a larger scale."""
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
        """Find the least cost of each model at the plan's scale, as cuts for the search for fewer dollars that follows."""
        if self.result.plan is None or self._effort.stop():
            return
        given_up = self._effort.relative_gap if self._instance.question.running else NOTHING
        self.result.cuts = self._by_model.cuts(self._by_model.serve(self._reached() * (1 - given_up), self._effort))

    def _decided(self, scale: float, cuts: Sequence[Cut]) -> bool:
        """Search a plan at this scale or a proof that there is none. Returns whether one of them was found."""
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
        if plan is None:  # if no scale above 0 can be reached, no plan is the optimum
            return 0.0 if SCALE in bounds and bounds[SCALE] <= 0.0 else math.inf
        return plan.gap(bounds)

    def _take(self, copies: Sequence[int]) -> None:
        """Note the chosen shapes, and the plan of as many of the copies as fit if it is better."""
        self.result.shapes.update(c for c, count in enumerate(copies) if count)
        fitting = Draft.of(self._instance, copies).copies
        self.result.plan = best_of([self.result.plan, judge(self._instance, fitting)])


def _next_scale(low: float, high: float, *, wanted: float, crossing: float) -> float:
    """The next scale to try, between `low`, which may be reached, and `high`, which cannot.

    It is the scale at which price probably equals supply (`crossing`); or `wanted`, the scale whose exclusion completes the
    proof, if prices probably exclude it; or one just above `crossing`, to lower the bound, if they cannot exclude `wanted`.
    """
    if wanted < low < crossing < high:
        return crossing + (high - crossing) / 8
    quarter = (high - low) / 4
    if wanted < high and (0.0 < crossing <= wanted or (crossing >= high and wanted >= low + quarter)):
        return wanted
    return min(crossing, high - quarter) if low < crossing < high else (low + high) / 2
