"""P2's rolling horizon (Table 4 of v1): a day of five-minute windows whose arrival rates walk at random.

From window to window the rate of each query type is multiplied by exp(N(0, sigma)); whether all types share one walk is not
printed: here each has its own [R]. A method plans for the first rates and then keeps its placement, or plans again for a
window's rates and takes the new plan if it is the cheaper one there. In every window the routing is redone (`stress.reroute`),
and the day costs the mean over the windows of what 24 hours at that window's rates would cost. As in the paper a change of plan
costs nothing, and budget and storage, which hold for every new plan, are not asked again of one that is kept.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median

from papers.p2.arrays import arrays_of
from papers.p2.evaluate import VIOLATION_SHARE, evaluate
from papers.p2.heuristics import Search
from papers.p2.instance import Instance, Plan
from papers.p2.ours import solve
from papers.p2.stress import reroute
from papers.page import header, row, say, spread

WINDOWS = 288  # of five minutes [T]
FOUR_HOURS = 48
"""Windows"""
SIGMAS = (0.01, 0.02, 0.03, 0.04, 0.05)  # [T]
SURELY_CHEAPER = 1.0 - 1e-9
OURS_GAP = 0.02
"""Ours stops at this gap here, or after 2 s."""

Planner = Callable[[Instance, int], Plan]


@dataclass(frozen=True, slots=True)
class Method:
    """Who plans, and who plans again how often."""

    name: str
    first: Planner
    again: tuple[tuple[Planner, int], ...] = ()
    """Planner and windows from one of its plans to the next"""
    printed: tuple[float, ...] = ()
    """Mean $ by sigma, Table 4 [T]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """What became of one method over all windows."""

    cost: float
    """$, mean over the windows"""
    violated: float
    """Share of (window, query type) with more than 1 % unserved"""
    over: float
    """Share of windows in which the plan in force passes the budget or the storage cap"""
    changes: int
    """How often a new plan took over"""


def greedy(instance: Instance, _: int) -> Plan:
    """GH's plan."""
    return Search(arrays_of(instance)).greedy().plan()


def adaptive(instance: Instance, seed: int) -> Plan:
    """AGH's plan."""
    return Search(arrays_of(instance)).adaptive(seed).plan()


def ours(instance: Instance, seed: int) -> Plan:
    """Our plan."""
    return solve(instance, seed=seed, relative_gap=OURS_GAP).plan


_GH = (468.0, 471.0, 475.0, 472.0, 498.0)
METHODS = (
    Method("exact once (DM-24h); here ours", ours, (), (381.0, 447.0, 507.0, 793.0, 909.0)),
    Method("ours each 4 hours, AGH each window", ours, ((adaptive, 1), (ours, FOUR_HOURS))),
    Method("GH once", greedy, (), _GH),
    Method("GH each window", greedy, ((greedy, 1),), _GH),
    Method("AGH once (AGH-24h)", adaptive, (), (414.0, 418.0, 430.0, 525.0, 564.0)),
    Method("AGH each window (AGH-5min)", adaptive, ((adaptive, 1),), (414.0, 420.0, 432.0, 434.0, 474.0)),
)
BASE = 4
"""The method of METHODS that the others are compared with"""


class Trial:
    """An instance, its rates in every window, and the plans made so far; the same seed draws the same steps for every sigma.

    `first` keeps the plans for the first rates, so that the trials of all sigmas begin with the same ones.
    """

    def __init__(
        self, instance: Instance, sigma: float, windows: int, seed: int, first: dict[Planner, Plan] | None = None
    ) -> None:
        dice = random.Random(seed)
        kinds = instance.query_types
        self.windows = []
        for _ in range(windows):
            steps = [math.exp(sigma * dice.gauss()) for _ in kinds]
            kinds = tuple(
                replace(kind, arrivals_per_hour=kind.arrivals_per_hour * step)
                for kind, step in zip(kinds, steps, strict=True)
            )
            self.windows.append(replace(instance, query_types=kinds))
        self._instance, self._seed = instance, seed
        self._first: dict[Planner, Plan] = {} if first is None else first
        self._plans: dict[tuple[Planner, int], Plan] = {}

    def day(self, method: Method) -> Day:
        """Run one method through the windows."""
        plan = self._first.get(method.first) or method.first(self._instance, self._seed)
        self._first[method.first] = plan
        costs, violated, over, changes = [], 0, 0, 0
        for number, window in enumerate(self.windows):
            now = _routed(window, plan)
            for planner, every in method.again:
                if number % every == 0:
                    other = _routed(window, self._planned(planner, number))
                    if other.cost < now.cost * SURELY_CHEAPER:
                        plan, now, changes = self._planned(planner, number), other, changes + 1
            costs.append(now.cost)
            violated += now.violated
            over += now.over
        count = len(self.windows)
        types = len(self._instance.query_types)
        return Day(cost=mean(costs), violated=violated / count / types, over=over / count, changes=changes)

    def _planned(self, planner: Planner, number: int) -> Plan:
        """The plan for a window."""
        key = (planner, number)
        if key not in self._plans:
            self._plans[key] = planner(self.windows[number], self._seed)
        return self._plans[key]


@dataclass(frozen=True, slots=True)
class _Window:
    """A plan with one window's routing."""

    cost: float
    violated: int
    over: bool


def _routed(window: Instance, plan: Plan) -> _Window:
    routed = reroute(window, plan)
    result = evaluate(window, routed)
    return _Window(
        result.cost.total,
        sum(left > VIOLATION_SHARE for left in routed.unserved),
        any(map(_of_stock, result.violations)),
    )


def _of_stock(violation: str) -> bool:
    return violation.startswith(("(5c)", "(5h)"))


def table(instances: list[Instance], windows: int, sigmas: Sequence[float]) -> list[str]:
    """Table 4: theirs and ours as multiples of AGH once, and what a day of ours looks like; a trial is an instance."""
    days: dict[float, list[list[Day]]] = {}
    first: list[dict[Planner, Plan]] = [{} for _ in instances]
    for sigma in sigmas:
        days[sigma] = [[] for _ in METHODS]
        for seed, instance in enumerate(instances):
            trial = Trial(instance, sigma, windows, seed, first[seed])
            for method, found in zip(METHODS, days[sigma], strict=True):
                found.append(trial.day(method))
            say(f"rolling horizon, sigma {sigma:g}, trial {seed + 1} of {len(instances)}")
    ratios = header(("method", *(text for sigma in sigmas for text in (f"{sigma:g}: paper", "here"))))
    inside = header(("method", *(f"{sigma:g}" for sigma in sigmas)))
    for number, method in enumerate(METHODS):
        cells, details = [method.name], [method.name]
        for sigma in sigmas:
            mine, base = days[sigma][number], days[sigma][BASE]
            theirs, beside = (dict(zip(SIGMAS, which.printed, strict=False)) for which in (method, METHODS[BASE]))
            cells.append(f"{theirs[sigma] / beside[sigma]:.2f}" if sigma in theirs else "not printed")
            cells.append(spread([one.cost / other.cost for one, other in zip(mine, base, strict=True)], "{:.2f}"))
            details.append(
                f"{median(one.cost for one in mine):.1f} $, {100 * median(one.violated for one in mine):.0f} %,"
                f" {100 * median(one.over for one in mine):.0f} %, {median(one.changes for one in mine):g}"
            )
        ratios.append(row(cells))
        inside.append(row(details))
    return [*ratios, "", _INSIDE, "", *inside]


_INSIDE = """\
Medians of ours: $ a day; share of (window, query type) with more than 1 % unserved; share of windows over the budget or the
storage cap; changes of plan."""
