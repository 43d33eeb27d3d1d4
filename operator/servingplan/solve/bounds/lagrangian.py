"""The question taken apart by model: bounds and plans from one small program per model.

A step of `anytime`.

Models share nothing but nodes and budget. Put a price on every GPU, from the dual values of the linear relaxation, and
each model can be served by itself at the least price. Because every plan pays at least the sum of these prices for its
GPUs, and no plan has more GPUs than stock and budget allow, the sum bounds all plans (Lagrangian relaxation, Geoffrion
1974). Copies stay whole within each model, so the bound is far tighter than the linear one where replicas are large
against the budget, and the copies that the models chose are together nearly a plan. One search over all models at once
has to multiply what it learns about each; here it adds up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.problem.constraints import Cut, PlanProgram, build
from servingplan.solve.problem.instance import Instance
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.program import Limits, Term

PART_NODES = 1_500
"""Work limit of one model's program, in branch-and-bound nodes, which are cheap: nothing is spent on choosing them."""
FINEST_GAP = 1e-3
"""One model's program is not proved tighter than this: the rest is for the search over all of them."""
ROUNDING = 1e-8
"""Relative slack for the solver's tolerances when bounds are added up."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What GPUs and dollars are worth, in units of the relaxation's objective."""

    per_gpu: tuple[float, ...]
    """By pool, per GPU."""
    dollar: float
    """Per dollar of the hourly budget: 1 where dollars are minimised and counted in dollars."""
    rent: float
    """What nodes are worth beyond their price in dollars, over all that stock allows; negative where floors cost."""

    @classmethod
    def of_nodes(cls, instance: Instance) -> "Prices":
        """Every GPU at its part of the node's price, in dollars, with no stock in short supply."""
        return cls(tuple(pool.dollars_per_node_hour / pool.gpus_per_node for pool in instance.pools), 1.0, 0.0)

    @classmethod
    def of(cls, instance: Instance, relaxation: Relaxation) -> "Prices | None":
        """Prices from the relaxation that was optimised last; None where it has no dual values, and where the clock stopped it
        before the dollars that are to be least: what service is worth puts no price on them.

        With d the reduced cost of a node of pool p (objective minimised), price[p] the dollars and b the worth of a dollar, its
        G GPUs are worth b price[p] - d. Any n nodes are then worth b price n - d n, and summed over pools at most

            b budget + sum_p max(-d min_nodes, -d nodes_limit).

        This holds for every choice of prices, so rounding in them weakens the bound and never breaks it.
        """
        stage, question = relaxation.optimised, instance.question
        if not relaxation.reduced_costs or stage is None:
            return None
        if stage.sense == "max" and question.objective == "MinimizeCost":
            return None
        budget = question.budget_dollars_per_hour
        sign, dollar = 1.0, 1.0 / stage.unit
        if stage.sense == "max":
            sign = -1.0
            dollar = max(0.0, relaxation.plan.program.dual("budget")) / budget if budget else 0.0
        per_gpu, rent = [], 0.0
        for pool, limit, column in zip(instance.pools, instance.nodes_limit, relaxation.plan.nodes, strict=True):
            beyond = -sign * relaxation.reduced_costs[column]
            if not pool.min_nodes:  # nothing is forced on it, so its GPUs may be worth their whole price
                beyond = max(0.0, beyond)
            worth = max(0.0, dollar * pool.dollars_per_node_hour + beyond)
            beyond = worth - dollar * pool.dollars_per_node_hour
            per_gpu.append(worth / pool.gpus_per_node)
            rent += max(beyond * pool.min_nodes, beyond * limit)
        return cls(tuple(per_gpu), dollar, rent)

    def supply(self, budget_dollars: float) -> float:
        """Most that the GPUs of any plan within stock and this budget are worth."""
        return self.rent + self.dollar * budget_dollars


@dataclass(frozen=True, slots=True)
class Part:
    """One model served by itself."""

    shapes: tuple[int, ...]
    """Its shapes."""
    least: float
    """Its copies are worth at least this in every plan that serves the rates; infinite where none can."""
    worth: float = math.inf
    """Of the copies found."""
    copies: tuple[int, ...] = ()
    """Of each of its shapes; empty where none were found."""


@dataclass(frozen=True, slots=True)
class Apart:
    """All models served at some scale, each by itself."""

    parts: tuple[Part, ...]
    """In the order of the models' first classes."""

    @property
    def least(self) -> float:
        """No plan at this scale has GPUs worth less."""
        return sum(part.least for part in self.parts) * (1 - ROUNDING)

    def copies(self, shapes_count: int) -> list[int]:
        """Copies of all models together, which may need more than stock and budget; none of models without a solution."""
        together = [0] * shapes_count
        for part in self.parts:
            for c, count in zip(part.shapes, part.copies, strict=True) if part.copies else ():
                together[c] = count
        return together


class ByModel:
    """One program per model, at fixed prices, for multiples of fixed rates (requests/s by class)."""

    def __init__(self, instance: Instance, prices: Prices, rates: Sequence[float]) -> None:
        self._instance = instance
        self._rates = rates
        index = instance.pool_index
        self.worth = [
            sum(gpus * prices.per_gpu[index[name]] for name, gpus in shape.gpus.items()) for shape in instance.shapes
        ]
        """Of one copy, by shape."""
        models = list(dict.fromkeys(cls.model for cls in instance.classes))
        classes: dict[str, list[int]] = {model: [] for model in models}
        shapes: dict[str, list[int]] = {model: [] for model in models}
        for k, cls in enumerate(instance.classes):
            classes[cls.model].append(k)
        for c, shape in enumerate(instance.shapes):
            if shape.model in shapes:
                shapes[shape.model].append(c)
        self._classes, self._shapes = list(classes.values()), list(shapes.values())
        self._parts = [self._part(m) for m in range(len(models))]
        self._units = [self._unit(classes) for classes in self._classes]
        self._known: list[list[tuple[float, Part]]] = [[] for _ in models]
        self._programs: dict[int, tuple[float, PlanProgram]] = {}

    def serve(self, scale: float, effort: Effort, *, enough: float = math.inf) -> Apart:
        """Serve this multiple of the rates, the model that costs most first.

        Ends early once `least` is above `enough`. What time or work limits cut short still counts with its bound.
        """
        parts = [self._remembered(m, scale, effort) for m in range(len(self._known))]
        programs = {}
        for m in (m for m, part in enumerate(parts) if part is None):
            parts[m] = Part(tuple(self._shapes[m]), 0.0)
            if not effort.affords(self._parts[m]):
                continue
            plan = programs[m] = self._program(m, scale)
            unit, terms = self._objective(m, scale, plan)
            outcome = plan.program.optimise(terms, "min", effort.limits(part=0.5), relaxed=True)
            least = unit * outcome.value if outcome.value is not None and outcome.stopped == "proved" else 0.0
            parts[m] = Part(tuple(self._shapes[m]), math.inf if outcome.infeasible else least)
        order = sorted(programs, key=lambda m: (-_of(parts, m).least, m))
        for position, m in enumerate(order):
            if sum(_of(parts, j).least for j in range(len(parts))) * (1 - ROUNDING) > enough:
                break
            if effort.stop():
                break
            share = min(0.5, 2.0 / (len(order) - position))
            parts[m] = self._solved(m, scale, programs[m], _of(parts, m), effort.limits(part=share))
            self._known[m].append((scale, _of(parts, m)))
        return Apart(tuple(part for part in parts if part is not None))

    def cuts(self, apart: Apart) -> tuple[Cut, ...]:
        """What each model's copies are worth at least, at the scale of `apart` and above it."""
        return tuple(
            Cut(f"model{m}", tuple((c, self.worth[c]) for c in part.shapes), part.least)
            for m, part in enumerate(apart.parts)
            if 0.0 < part.least < math.inf
        )

    def _solved(self, m: int, scale: float, plan: PlanProgram, relaxed: Part, limits: Limits) -> Part:
        limits = replace(
            limits,
            relative_gap=_gap(limits.relative_gap),
            nodes=min(PART_NODES, limits.nodes),
            bound_first=True,
            trial_branchings=0,
        )
        unit, terms = self._objective(m, scale, plan)
        outcome = plan.program.optimise(terms, "min", limits)
        if outcome.infeasible:
            return Part(relaxed.shapes, math.inf)
        least = max(relaxed.least, unit * (outcome.bound or 0.0))
        if outcome.value is None:
            return Part(relaxed.shapes, least)
        copies = tuple(round(outcome.values[column]) for column in plan.copies)
        return Part(relaxed.shapes, min(least, unit * outcome.value), unit * outcome.value, copies)

    def _remembered(self, m: int, scale: float, effort: Effort) -> Part | None:
        """What other scales tell: copies that serve more, where nothing much cheaper serves less."""
        least = max((part.least for at, part in self._known[m] if at <= scale), default=0.0)
        enough = [part for at, part in self._known[m] if at >= scale and part.copies]
        if not enough:
            return None
        cheapest = min(enough, key=lambda part: part.worth)
        return replace(cheapest, least=least) if cheapest.worth <= least * (1 + _gap(effort.relative_gap)) else None

    def _part(self, m: int) -> Instance:
        """The instance with one model only."""
        whole, shapes = self._instance, self._shapes[m]
        return replace(
            whole,
            classes=tuple(whole.classes[k] for k in self._classes[m]),
            shapes=tuple(whole.shapes[c] for c in shapes),
            copies_limit=tuple(whole.copies_limit[c] for c in shapes),
        )

    def _program(self, m: int, scale: float) -> PlanProgram:
        """One model in full service, with all nodes of the stock; built once, since other scales change few numbers of it."""
        if m not in self._programs:
            self._programs[m] = scale, self._built(m, scale)
        at, plan = self._programs[m]
        plan.set_capacity(at / scale)
        plan.program.start_from(())
        return plan

    def _built(self, m: int, scale: float) -> PlanProgram:
        part = self._parts[m]
        plan = build(part, [scale * self._rates[k] for k in self._classes[m]], where=lambda family: family.per_model)
        for column, limit in zip(plan.nodes, part.nodes_limit, strict=True):
            plan.program.set_bounds(column, lower=limit, upper=limit)
        for column in dict.fromkeys(plan.served):
            plan.program.set_bounds(column, lower=1.0, upper=1.0)
        return plan

    def _objective(self, m: int, scale: float, plan: PlanProgram) -> tuple[float, list[Term]]:
        """What the copies of a model are worth, in a unit of that order, as the solver's tolerances need it."""
        unit = scale * self._units[m]
        columns = zip(plan.copies, self._shapes[m], strict=True)
        return unit, [(column, self.worth[c] / unit) for column, c in columns]

    def _unit(self, classes: Sequence[int]) -> float:
        """What the rates of these classes are worth at least, each request where it is cheapest; 1 where that is nothing."""
        instance, least = self._instance, 0.0
        for k in classes:
            prices = (self.worth[c] / instance.rate(c, k) for c in instance.serving[k])
            least += self._rates[k] * min(prices, default=0.0)
        return least or 1.0


def _gap(relative_gap: float) -> float:
    return max(FINEST_GAP, relative_gap / 8)


def _of(parts: Sequence[Part | None], m: int) -> Part:
    part = parts[m]
    assert part is not None, "every model was relaxed or is remembered"
    return part
