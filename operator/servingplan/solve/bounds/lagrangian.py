"""Decomposes the question by model: bounds and plans from one small program per model.

This is a step of `anytime`.

Models share nothing but nodes and budget. If every GPU has a price, taken from the dual values of the linear relaxation, each
model can be served by itself at the least price. Every plan pays at least the sum of these prices for its GPUs, and no plan has
more GPUs than stock and budget allow, so the sum bounds all plans (Lagrangian relaxation, Geoffrion 1974). Copies are whole
numbers within each model. So the bound is far tighter than the linear one if replicas are large against the budget, and the
copies of all models together are nearly a plan. The work is the sum of the models' searches; one search over all models at once
takes nearer to their product.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from servingplan.solve.bounds.relaxation import Relaxation
from servingplan.solve.problem.constraints import Cut, PlanProgram, build
from servingplan.solve.problem.instance import Instance, most_utilization
from servingplan.solve.solver.effort import Effort
from servingplan.solve.solver.program import Limits, Term

PART_NODES = 1_500
"""Work limit of one model's program, in branch-and-bound nodes. They are cheap, because there are no trial branchings."""
FINEST_GAP = 1e-3
"""One model's program is not proved to a smaller gap; the search over all models closes the rest."""
ROUNDING = 1e-8
"""Relative slack for the solver's tolerances in sums of bounds."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of GPUs and of dollars, in units of the relaxation's objective."""

    per_gpu: tuple[float, ...]
    """Price of one GPU, by pool."""
    dollar: float
    """Price of one dollar of the hourly budget: 1 if dollars are minimised and counted in dollars."""
    rent: float
    """What nodes are worth beyond their price in dollars, over all that the stock allows; negative if minimum nodes cost."""
    scarce: bool = True
    """Whether a model that is served by itself has only the stock of each pool. If not, it may have all GPUs of the question in
    the place of those of any pool, which is quicker and weakens the bound."""

    @classmethod
    def of_nodes(cls, instance: Instance) -> "Prices":
        """The price of every GPU is its part of the node's price, in dollars; no stock counts as scarce, unless pools share
        quotas."""
        per_gpu = tuple(pool.dollars_per_node_hour / pool.gpus_per_node for pool in instance.pools)
        return cls(per_gpu, 1.0, 0.0, scarce=bool(instance.question.quotas))

    @classmethod
    def of(cls, instance: Instance, relaxation: Relaxation) -> "Prices | None":
        """Prices from the relaxation that was optimised last.

        None if it has no dual values, or if the question is MinimizeCost and the clock stopped the relaxation at a level of
        service: duals of service put no price on dollars.

        Let d be the reduced cost of a node of pool p (objective minimised), price[p] its dollars and b the worth of a dollar.
        Then its G GPUs are worth b price[p] - d. So n nodes are worth b price[p] n - d n, and over all pools at most

            b budget + sum_p max(-d min_nodes, -d nodes_limit).

        This holds for every choice of prices, so rounding of the prices weakens the bound but never breaks it.
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
        """The most that the GPUs of any plan within the stock and this budget can be worth."""
        return self.rent + self.dollar * budget_dollars


@dataclass(frozen=True, slots=True)
class Part:
    """One model served by itself."""

    shapes: tuple[int, ...]
    least: float
    """The model's copies are worth at least this in every plan that serves the rates; infinite if no plan can."""
    worth: float = math.inf
    """What the copies that were found are worth."""
    copies: tuple[int, ...] = ()
    """Copies of each of `shapes`; empty if none were found."""


@dataclass(frozen=True, slots=True)
class Apart:
    """All models served at one scale, each by itself."""

    parts: tuple[Part, ...]
    """The parts, in the order of the models' first classes."""

    @property
    def least(self) -> float:
        """The least that the GPUs of any plan at this scale are worth."""
        return sum(part.least for part in self.parts) * (1 - ROUNDING)

    def copies(self, shapes_count: int) -> list[int]:
        """Copies by shape for all models together. They may exceed stock and budget; a model without a solution has none."""
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
        """What one copy is worth, by shape."""
        models = list(dict.fromkeys(cls.model for cls in instance.classes))
        classes: dict[str, list[int]] = {model: [] for model in models}
        shapes: dict[str, list[int]] = {model: [] for model in models}
        for k, cls in enumerate(instance.classes):
            classes[cls.model].append(k)
        for c, shape in enumerate(instance.shapes):
            if shape.model in shapes:
                shapes[shape.model].append(c)
        self._scarce = prices.scarce
        limits = zip(instance.pools, instance.nodes_limit, strict=True)
        gpus = sum(pool.gpus_per_node * limit for pool, limit in limits)
        sizes = [sum(shape.gpus.values()) for shape in instance.shapes]
        self._largest = max(sizes, default=1)
        # No plan has more copies, and a copy takes at most a node for each GPU: what replaces a plan's copies fits in any case.
        self._most = gpus // min(sizes, default=1)
        self._classes = list(classes.values())
        self._all_shapes = list(shapes.values())
        self._shapes = self._all_shapes if prices.scarce else list(map(self._undominated, self._all_shapes))
        self.smallest = [min((self.worth[c] for c in shapes), default=0.0) for shapes in self._shapes]
        """What the smallest copy of each model is worth."""
        self._parts = [self._part(m) for m in range(len(models))]
        self._units = [self._unit(classes) for classes in self._classes]
        self._known: list[list[tuple[float, Part]]] = [[] for _ in models]
        self._programs: dict[int, tuple[float, PlanProgram]] = {}

    def serve(self, scale: float, effort: Effort, *, enough: float = math.inf) -> Apart:
        """Serve this multiple of the rates, the model that costs most first.

        It ends early once `least` exceeds `enough`. A model whose search was cut short counts with the bound that it reached.
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

    def in_turn(self, scale: float, effort: Effort, *, dearest_last: bool = False) -> list[int] | None:
        """Copies by shape that serve this multiple of the rates within the stock; their dollars may exceed the budget.

        The models are served one after the other, each at the prices and with the GPUs that the earlier ones leave; first the
        model whose smallest copy is worth most, because it fits in the fewest ways, or this one last. The last one is served
        for the fewest dollars, since nobody needs what it leaves. None if the search finds no copies of some model.
        """
        instance = self._instance
        copies = [0] * len(instance.shapes)
        free = {
            pool.name: limit * pool.gpus_per_node
            for pool, limit in zip(instance.pools, instance.nodes_limit, strict=True)
        }
        order = sorted(range(len(self.smallest)), key=lambda m: (-self.smallest[m], m))
        order = order[1:] + order[:1] if dearest_last else order
        for m in order:
            if not effort.affords(self._parts[m]):
                return None
            plan = self._program(m, scale, free=free)
            unit, terms = self._objective(m, scale, plan)
            if m == order[-1]:
                prices = [instance.share_price(c) for c in self._shapes[m]]
                unit = max(prices, default=0.0) or 1.0
                terms = [(column, price / unit) for column, price in zip(plan.copies, prices, strict=True)]
            limits = effort.limits(gap=effort.params.turn_gap, nodes=effort.params.turn_nodes, part=0.5)
            outcome = plan.program.optimise(terms, "min", replace(limits, bound_first=True, trial_branchings=0))
            if not outcome.values:
                return None
            for column, c in zip(plan.copies, self._shapes[m], strict=True):
                copies[c] = round(outcome.values[column])
                for name, gpus in instance.shapes[c].gpus.items() if copies[c] else ():
                    free[name] -= gpus * copies[c]
        return copies

    def cuts(self, apart: Apart) -> tuple[Cut, ...]:
        """Rows that say what each model's copies are worth at least, at the scale of `apart` and above it."""
        return tuple(
            Cut(f"model{m}", tuple((c, self.worth[c]) for c in self._all_shapes[m]), part.least)
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
        """The answer that other scales imply: copies for a larger scale, if their worth is within the gap of the bound from
        smaller scales; else None."""
        least = max((part.least for at, part in self._known[m] if at <= scale), default=0.0)
        enough = [part for at, part in self._known[m] if at >= scale and part.copies]
        if not enough:
            return None
        cheapest = min(enough, key=lambda part: part.worth)
        return replace(cheapest, least=least) if cheapest.worth <= least * (1 + _gap(effort.relative_gap)) else None

    def _part(self, m: int) -> Instance:
        """The instance with one model only, and with the stock that it may have (`Prices.scarce`)."""
        whole, shapes = self._instance, self._shapes[m]
        part = whole.only(shapes, self._classes[m])
        if self._scarce:
            return part
        copies = tuple(self._most if self._plain(c) else whole.copies_limit[c] for c in shapes)
        return replace(part, copies_limit=copies, nodes_limit=(self._most * self._largest,) * len(part.pools))

    def _undominated(self, shapes: Sequence[int]) -> list[int]:
        """The shapes without those that another shape replaces copy by copy, for no more worth, if its stock has no end."""
        instance, kept, replacing = self._instance, list[int](), list[dict[int, float]]()
        for c in sorted(shapes, key=lambda c: (self.worth[c], c)):
            shape = instance.shapes[c]
            first, most = instance.utilization(c, 1), most_utilization(shape)
            rates = [(k, instance.rate(c, k) * most) for k in instance.served_by[c]]
            if not any(all(other.get(k, 0.0) >= rate for k, rate in rates) for other in replacing):
                kept.append(c)
                if self._plain(c):
                    replacing.append({k: instance.rate(c, k) * first for k in instance.served_by[c]})
        return sorted(kept)

    def _plain(self, c: int) -> bool:
        """Whether a copy of the shape fits, all copies do the same, however many there are, and none loses quality."""
        shape, fits = self._instance.shapes[c], self._instance.copies_limit[c] > 0
        return fits and isinstance(shape.max_utilization, float) and shape.max_copies is None and not shape.quality_loss

    def _program(self, m: int, scale: float, *, free: Mapping[str, int] | None = None) -> PlanProgram:
        """The program of one model in full service, built once, as a scale changes few factors; with all nodes of the stock, or
        with those that have room for the `free` GPUs (by pool)."""
        if m not in self._programs:
            self._programs[m] = scale, self._built(m, scale)
        at, plan = self._programs[m]
        plan.set_capacity(at / scale)
        plan.program.start_from(())
        part = self._parts[m]
        for pool, column, limit in zip(part.pools, plan.nodes, part.nodes_limit, strict=True):
            nodes = limit if free is None else max(0, free[pool.name] // pool.gpus_per_node)
            plan.program.set_bounds(column, lower=nodes, upper=nodes)
        return plan

    def _built(self, m: int, scale: float) -> PlanProgram:
        part = self._parts[m]
        plan = build(part, [scale * self._rates[k] for k in self._classes[m]], where=lambda family: family.per_model)
        for column in dict.fromkeys(plan.served):
            plan.program.set_bounds(column, lower=1.0, upper=1.0)
        return plan

    def _objective(self, m: int, scale: float, plan: PlanProgram) -> tuple[float, list[Term]]:
        """The worth of a model's copies, as a unit and terms in that unit: the solver's tolerances need values near 1."""
        unit = scale * self._units[m]
        columns = zip(plan.copies, self._shapes[m], strict=True)
        return unit, [(column, self.worth[c] / unit) for column, c in columns]

    def _unit(self, classes: Sequence[int]) -> float:
        """The least that the rates of these classes are worth, each request where it is cheapest; 1 if that is 0."""
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
