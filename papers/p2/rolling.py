"""P2's rolling horizon (Table 4 of v1): a day of five-minute windows whose arrival rates walk at random.

From window to window the rate of each query type is multiplied by exp(N(0, sigma)); whether all types share one walk is not
printed: here each has its own [R]. A method plans for the first rates and then keeps its placement, or plans again for a
window's rates and takes the new plan if it is the cheaper one there. In every window the routing is redone (`stress.reroute`),
and the day costs the mean over the windows of what 24 hours at that window's rates would cost. As in the paper budget and
storage, which hold for every new plan, are not asked again of one that is kept.

In the paper a change of plan costs nothing, and `table` keeps to that. `part` charges it (`switching_dollars`) and has the
baseline that the paper leaves out, the exact method in each window.
"""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median

from papers.p2.arrays import arrays_of
from papers.p2.evaluate import VIOLATION_SHARE, evaluate
from papers.p2.heuristics import Search
from papers.p2.instance import Instance, Plan, generate
from papers.p2.ours import solve
from papers.p2.stress import reroute
from papers.page import header, marks, measured, row, say, spread

WINDOWS = 288  # of five minutes [T]
FOUR_HOURS = 48
"""Windows"""
SIGMAS = (0.01, 0.02, 0.03, 0.04, 0.05)  # [T]
SURELY_CHEAPER = 1.0 - 1e-9
START_HOURS = 150 / 3600
"""Hours from asking for a GPU to serving with it: a node that comes in 90 s and an engine that loads in 60 s, as in
`docs/fleet.md`. The paper has no such time."""
PAYBACK_HOURS = 1.0
"""Our choice: a change must save its cost within this time at the present rates."""
OURS_GAP = 0.02
"""Ours stops at this gap here, or after 2 s."""
UNHURRIED_SECONDS = 60.0

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
    payback_hours: float | None = None
    """Hours in which a change must save what it costs; None: its cost is not looked at, as in the paper"""
    within_caps: bool = False
    """Whether a plan that passes the budget or the storage cap in a window gives way to one that does not, whatever it costs"""


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
    switching: float
    """$ for all changes together; not in `cost`"""


def switching_dollars(instance: Instance, before: Plan, after: Plan) -> float:
    """What a change of plan costs, in $: the rent of the GPUs of every pair that is new or has another size, for `START_HOURS`
    in which they do not serve yet and the old plan is still paid. The form is Coral's penalty for added nodes (arXiv
    2605.04357): start time x price; a pair of another size starts anew, since tensor parallelism cannot be changed."""
    started = [(pair, shape) for pair, shape in after.shapes.items() if before.shapes.get(pair) != shape]
    return START_HOURS * sum(instance.tiers[k].price_per_hour * n * m for (_, k), (n, m) in started)


def greedy(instance: Instance, _: int) -> Plan:
    """GH's plan."""
    return Search(arrays_of(instance)).greedy().plan()


def adaptive(instance: Instance, seed: int) -> Plan:
    """AGH's plan."""
    return Search(arrays_of(instance)).adaptive(seed).plan()


def ours(instance: Instance, seed: int) -> Plan:
    """Our plan."""
    return solve(instance, seed=seed, relative_gap=OURS_GAP).plan


def unhurried(instance: Instance, seed: int) -> Plan:
    """Our plan by its work limit: a busy machine does not end the search."""
    return solve(instance, seed=seed, relative_gap=OURS_GAP, deadline_seconds=UNHURRIED_SECONDS).plan


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
        costs, violated, over, changes, switching = [], 0, 0, 0, 0.0
        for number, window in enumerate(self.windows):
            now = _routed(window, plan)
            for planner, every in method.again:
                if number % every == 0:
                    new = self._planned(planner, number)
                    other = _routed(window, new)
                    price = switching_dollars(window, plan, new)
                    saved_per_hour = (now.cost - other.cost) / window.horizon_hours
                    pays = method.payback_hours is None or saved_per_hour * method.payback_hours > price
                    relieves = method.within_caps and now.over and not other.over
                    worsens = method.within_caps and other.over and not now.over
                    if relieves or (other.cost < now.cost * SURELY_CHEAPER and pays and not worsens):
                        plan, now, changes, switching = new, other, changes + 1, switching + price
            costs.append(now.cost)
            violated += now.violated
            over += now.over
        count = len(self.windows)
        types = len(self._instance.query_types)
        return Day(
            cost=mean(costs), violated=violated / count / types, over=over / count, changes=changes, switching=switching
        )

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


# --- with switching costs, and the baseline that the paper leaves out

PAPER = "P2-rolling"
STATIC, PAYING, AGH = "exact once", "exact each window, changed where it pays", "AGH each window"
OURS_WITHIN, AGH_WITHIN = (
    "exact each window, where it pays or a cap is passed",
    "AGH each window, where a cap is passed too",
)
CHARGED = (
    Method(STATIC, unhurried),
    Method("exact each window", unhurried, ((unhurried, 1),)),
    Method(PAYING, unhurried, ((unhurried, 1),), payback_hours=PAYBACK_HOURS),
    Method(OURS_WITHIN, unhurried, ((unhurried, 1),), payback_hours=PAYBACK_HOURS, within_caps=True),
    Method("AGH once", adaptive),
    Method(AGH, adaptive, ((adaptive, 1),)),
    Method("AGH each window, changed where it pays", adaptive, ((adaptive, 1),), payback_hours=PAYBACK_HOURS),
    Method(AGH_WITHIN, adaptive, ((adaptive, 1),), within_caps=True),
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What is run."""

    trials: int
    windows: int
    sigmas: tuple[float, ...]


QUICK = Scope(trials=2, windows=96, sigmas=(0.01, 0.02, 0.05))
FULL = Scope(trials=2, windows=WINDOWS, sigmas=(0.01, 0.02, 0.05))


def part(scope: Scope, keep: Path | None = None) -> str:
    """Run it; its part of the page. Days that stand in `keep` are not run again, and new ones are added."""
    days: dict[float, list[Mapping[str, Day]]] = {sigma: [] for sigma in scope.sigmas}
    kept = _read(keep)
    for seed in range(scope.trials):
        first: dict[Planner, Plan] = {}
        for sigma in scope.sigmas:
            key = f"sigma {sigma:g}, {scope.windows} windows, trial {seed}"
            if key not in kept:
                trial = Trial(generate(SIZE, seed), sigma, scope.windows, seed, first)
                kept[key] = {method.name: trial.day(method) for method in CHARGED}
                if keep:
                    told = {name: asdict(day) for name, day in kept[key].items()}
                    with keep.open("a") as file:
                        file.write(json.dumps({"trial": key, "days": told}) + "\n")
            days[sigma].append(kept[key])
            say(f"rolling horizon with switching costs, {key}")
    begin, end = marks(PAPER)
    lines = [begin, _CHARGED, f"{measured()}. {_told(scope)}.", "", *_charged(days), "", *_goals(days), end]
    return "\n".join(lines) + "\n"


SIZE = (6, 6, 10)


def _read(keep: Path | None) -> dict[str, Mapping[str, Day]]:
    found: dict[str, Mapping[str, Day]] = {}
    for line in keep.read_text().splitlines() if keep and keep.exists() else ():
        told = json.loads(line)
        if "trial" in told:
            found[told["trial"]] = {name: Day(**day) for name, day in told["days"].items()}
    return found


def _told(scope: Scope) -> str:
    return (
        f"Size {SIZE}, {scope.windows} windows of 5 minutes, {_count(scope.trials)} with its own instance and walk,"
        " the same for all methods"
    )


def _count(trials: int) -> str:
    return "one trial" if trials == 1 else f"{trials} trials, each"


def _charged(days: Mapping[float, Sequence[Mapping[str, Day]]]) -> list[str]:
    lines = header(("method", *(f"{sigma:g}" for sigma in days)))
    for method in CHARGED:
        cells = []
        for trials in days.values():
            mine = [trial[method.name] for trial in trials]
            ratios = [_whole(day) / _whole(trial[STATIC]) for day, trial in zip(mine, trials, strict=True)]
            cells.append(
                f"{spread(ratios, '{:.3f}')}; {median(map(_whole, mine)):.1f} $, of it {median(d.switching for d in mine):.2f};"
                f" {median(d.changes for d in mine):g}; {100 * median(d.over for d in mine):.0f} %"
            )
        lines.append(row((method.name, *cells)))
    return lines


def _goals(days: Mapping[float, Sequence[Mapping[str, Day]]]) -> list[str]:
    lines = []
    for sigma, trials in days.items():
        for ours_name, agh_name in ((PAYING, AGH), (OURS_WITHIN, AGH_WITHIN)):
            mine, static, agh = ([_whole(trial[name]) for trial in trials] for name in (ours_name, STATIC, agh_name))
            lines.append(
                f"* sigma {sigma:g}: {ours_name} costs"
                f" {spread([a / b for a, b in zip(mine, static, strict=True)], '{:.3f}')} of exact once and"
                f" {spread([a / b for a, b in zip(mine, agh, strict=True)], '{:.3f}')} of {agh_name}; dearer than that in"
                f" {sum(a > b * (1 + 1e-6) for a, b in zip(mine, agh, strict=True))} of {len(mine)} trials."
            )
    return lines


def _whole(day: Day) -> float:
    """$, changes charged."""
    return day.cost + day.switching


_CHARGED = f"""\
## P2: the rolling horizon with switching costs

Table 4 with what it leaves out: the exact method (ours, to {OURS_GAP:.0%}) in each window, and a price of changes. A pair that
is new or has another size starts its GPUs {START_HOURS * 3600:.0f} s before it serves, and the old plan is paid meanwhile.
"Where it pays" takes a plan only if it saves this within {PAYBACK_HOURS:g} hour at the present rates. Each cell has the cost as
a multiple of exact once, median [least, greatest] over trials; the median day in $, and what of it are changes; changes; share
of windows in which the plan in force passes the budget or the storage cap. As in the paper this is not asked again of a plan
that is kept, so that part of what planning again saves are caps that it passes; in the rows "a cap is passed" such a plan gives
way to one that keeps them, whatever that costs.
"""
