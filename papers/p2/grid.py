"""Every method on instances of P2's sizes: runtimes (Table 5 of v1), and the costs and gaps that the paper does not print."""

from dataclasses import dataclass
from statistics import median

from papers.p2.arrays import arrays_of
from papers.p2.evaluate import VIOLATION_SHARE, evaluate
from papers.p2.heuristics import Search, State
from papers.p2.instance import Instance, Plan, generate
from papers.p2.milp import ExactAnswer, solve_exactly
from papers.p2.ours import Answer, solve
from papers.page import Timed, header, row, spread, timed

Size = tuple[int, int, int]
PRINTED_SECONDS = {  # Table 5 of v1 [T]
    (4, 4, 5): ("0.39", "<0.01", "0.0149"),
    (6, 6, 10): ("4.2", "<0.01", "0.113"),
    (10, 10, 10): ("13.04", "0.3", "0.57"),
    (15, 15, 10): ("601.12", "0.5", "1.09"),
    (20, 20, 20): (">600", "0.9", "2.3"),
}
CERTIFIED = 0.02
"""The gap of the last column of Table 5"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Every method on one instance."""

    size: Size
    seed: int
    greedy: Timed[State]
    adaptive: Timed[State]
    ours: Timed[Answer]
    filtered: Answer
    """Ours with M1's delay limit on every route: the problem that GH and AGH solve."""
    exact: ExactAnswer | None

    @property
    def bound(self) -> float:
        """The best proved bound of all methods."""
        return max(self.ours.result.bound, self.exact.bound if self.exact else 0.0)

    @property
    def plans(self) -> tuple[Plan, Plan, Plan]:
        """The plans of GH, of AGH and of ours."""
        return self.greedy.result.plan(), self.adaptive.result.plan(), self.ours.result.plan


def run(size: Size, seed: int, *, ours_seconds: float, exact_seconds: float | None) -> Run:
    """Run all methods on one instance and have every plan evaluated."""
    instance = generate(size, seed)
    found = Run(
        size=size,
        seed=seed,
        greedy=timed(lambda: Search(arrays_of(instance)).greedy()),
        adaptive=timed(lambda: Search(arrays_of(instance)).adaptive(seed)),
        ours=timed(lambda: solve(instance, seed=seed, deadline_seconds=ours_seconds)),
        filtered=solve(instance, seed=seed, deadline_seconds=ours_seconds, per_route=True),
        exact=solve_exactly(instance, deadline_seconds=exact_seconds) if exact_seconds else None,
    )
    for name, plan in zip(("GH", "AGH", "ours"), found.plans, strict=True):
        _require_feasible(instance, plan, name)
    _require_feasible(instance, found.filtered.plan, "ours, every route in time")
    if found.exact and found.exact.plan:
        _require_feasible(instance, found.exact.plan, "exact")
    return found


def _require_feasible(instance: Instance, plan: Plan, method: str) -> None:
    violations = evaluate(instance, plan).violations
    if violations:
        raise AssertionError(f"{method}: {'; '.join(violations)}")


def runtime_table(runs: list[Run], exact_seconds: float) -> list[str]:
    """Table 5: theirs and ours."""
    lines = header(
        (
            "size (I, J, K)", "exact: paper", "here", "GH: paper", "here", "AGH: paper", "here",
            "ours: first plan", "whole", "whole, CPU s", "to 2 %",
        )
    )  # fmt: skip
    for size, group in _by_size(runs):
        theirs = PRINTED_SECONDS.get(size, ("", "", ""))
        exact = [run.exact for run in group if run.exact]
        proved = [answer.seconds for answer in exact if answer.proved]
        exact_text = "not run"
        if exact:
            exact_text = f"{len(proved)} of {len(exact)} proved in {exact_seconds:.0f} s"
            exact_text += f", median {median(proved):.1f} s" if proved else ""
        within = [run for run in group if run.ours.result.gap <= CERTIFIED]
        cells = (
            name_of(size), theirs[0], exact_text, theirs[1], _seconds([run.greedy.wall_seconds for run in group]),
            theirs[2], _seconds([run.adaptive.wall_seconds for run in group]),
            _seconds([run.ours.result.first_plan_seconds for run in group]),
            _seconds([run.ours.wall_seconds for run in group]), _seconds([run.ours.cpu_seconds for run in group]),
            f"{len(within)} of {len(group)}",
        )  # fmt: skip
        lines.append(row(cells))
    return lines


def cost_table(runs: list[Run]) -> list[str]:
    """Costs and gaps, which the paper does not print by size."""
    lines = header(
        (
            "size", "GH / ours", "AGH / ours", "AGH / ours, both with M1's limit", "AGH above the bound",
            "ours above the bound", "exact as printed / ours", "its gap at the end", "ours, median $",
            "leave > 1 % of a type: GH, AGH, ours",
        )
    )  # fmt: skip
    for size, group in _by_size(runs):
        exact = [(run.exact, run.ours.result.cost) for run in group if run.exact]
        found = [answer.cost / cost for answer, cost in exact if answer.cost is not None]
        gaps = [answer.gap for answer, _ in exact if answer.gap is not None]
        exact_text = spread(found, "{:.3f}") if found else ("no plan" if exact else "not run")
        cells = (
            name_of(size),
            spread([run.greedy.result.cost / run.ours.result.cost for run in group], "{:.2f}"),
            spread([run.adaptive.result.cost / run.ours.result.cost for run in group], "{:.2f}"),
            spread([run.adaptive.result.cost / run.filtered.cost for run in group], "{:.2f}"),
            spread([100 * (run.adaptive.result.cost / run.bound - 1) for run in group], "{:.1f} %"),
            spread([100 * (run.ours.result.cost / run.bound - 1) for run in group], "{:.2f} %"),
            exact_text,
            spread([100 * gap for gap in gaps], "{:.1f} %") if gaps else "",
            f"{median(run.ours.result.cost for run in group):.1f}",
            ", ".join(str(sum(map(_leaves_some, plans))) for plans in zip(*(run.plans for run in group), strict=True)),
        )
        lines.append(row(cells))
    return lines


def _leaves_some(plan: Plan) -> bool:
    return max(plan.unserved) > VIOLATION_SHARE


def _by_size(runs: list[Run]) -> list[tuple[Size, list[Run]]]:
    sizes = dict.fromkeys(run.size for run in runs)
    return [(size, [run for run in runs if run.size == size]) for size in sizes]


def name_of(size: Size) -> str:
    """A size as the tables write it."""
    return f"({size[0]}, {size[1]}, {size[2]})"


def _seconds(values: list[float]) -> str:
    return spread(values, "{:.3f}" if max(values) < 1.0 else "{:.2f}")
