"""What each step of ``anytime`` is good for: the same questions without it. The table of ``docs/planner.md``.

    python -m benchmarks.ablation [SECONDS [STEP ...]]

A step is left out by putting something idle in its place; nothing else changes. Every answer passes the verifier. SECONDS
(default 40) of wall clock end a search; where none is ended so, plans and gaps do not depend on the machine. CPU seconds are
told, one thread, since the machine may be shared. "Plan worse" is the largest loss of the scale or of the dollars against all
steps, over all questions, where both plans serve the same.
"""

import importlib
import inspect
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.planner import coral, near_tied
from papers.p1.instance import grid, question_of
from servingplan.model.goal import DOLLARS, SCALE
from servingplan.model.question import Question, SurviveRule, question_from_json
from servingplan.solve import solve
from servingplan.solve.plan.plan import Found
from servingplan.verify import verify

CHAT = Path(__file__).parents[1] / "examples" / "questions" / "chat.json"


def module(name: str) -> Any:
    """A module of the planner; some share their name with a function."""
    return importlib.import_module(f"servingplan.solve.{name}")


anytime, closing = module("methods.anytime"), module("search.gap_closing")
greedy, constraints = module("search.greedy"), module("problem.constraints")


@dataclass(frozen=True)
class Step:
    """One step, and what stands in its place when it is left out."""

    idle: Mapping[tuple[Any, str], Callable[..., Any]]
    """The replacements by the owner and the name of what is replaced."""
    sources: tuple[Any, ...]
    """Modules, classes and functions that no other step needs."""

    def lines(self) -> int:
        """Lines of its sources."""
        return sum(len(inspect.getsource(source).splitlines()) for source in self.sources)


def nothing(*_: Any, **__: Any) -> None:
    """Do nothing, in place of a step that only improves."""


STEPS: dict[str, Step] = {
    "greedy covers as the first plan": Step({(greedy, "_covered"): nothing}, (greedy,)),
    "rounding of the relaxation": Step(
        {(anytime, "relaxed_plans"): lambda *_: iter(())}, (module("search.rounding"), anytime._relaxed)
    ),
    "models apart at prices": Step(
        {(anytime, "_worth_taking_apart"): lambda *_: False},
        (closing, module("bounds.lagrangian"), anytime._apart, anytime._worth_taking_apart, constraints.define_totals),
    ),
    "- its search over chosen shapes": Step(
        {(closing._Closing, "search_chosen"): nothing}, (closing._Closing.search_chosen,)
    ),
    "- its proofs": Step(
        {(closing._Closing, "prove"): nothing}, (closing._Closing.prove, closing._Closing._decided)
    ),
    "- its cuts for the dollars": Step(
        {(closing._Closing, "price_reached"): nothing}, (closing._Closing.price_reached,)
    ),
    "- columns for what models share": Step({(constraints, "define_totals"): nothing}, (constraints.define_totals,)),
    "kernel search": Step(
        {(anytime, "_kernel_searched"): lambda *given: given[3].plan},
        (anytime._kernel_searched, module("search.kernel").Kernel.near),
    ),
    "bounds that settle levels": Step({(anytime, "_settled_levels"): lambda *_: {}}, (anytime._settled_levels,)),
    "the whole program": Step({(anytime, "_whole"): lambda *_: Found(stopped="work-limit")}, (anytime._whole,)),
    "reserve against losses": Step(
        {(anytime, "with_reserve"): nothing},
        (module("search.reserve"), constraints.define_average_loss, module("problem.placement").Packing.spread),
    ),
}  # fmt: skip


def questions() -> Iterator[tuple[str, Question, float]]:
    """Name, question and the gap that is asked."""
    for models in ("70B", "pair"):
        for cell in grid(models):
            if cell.stock == 1 and cell.mix == "T2":
                yield f"{models}/{cell.budget_dollars_per_hour:g}", question_of(cell), 1e-3
    for seed in range(2):
        yield f"near-tied/{seed}", near_tied(seed, 15.0), 0.01
        yield f"Coral/{seed}", coral(3, 12, 2, stock=20, seed=seed), 0.01
    chat = question_from_json(CHAT.read_bytes())
    rule = SurviveRule(event="AnyNode", min_priority=100)
    yield "chat/0", chat.model_copy(update={"survive": (rule,), "budget_dollars_per_hour": 300.0}), 0.01


@dataclass(frozen=True)
class Run:
    """One search."""

    value: float
    """The scale, or dollars for what is served, the less the better; infinite without a plan."""
    rises: bool
    gap: float
    cpu_seconds: float
    unserved: float
    """Requests/s."""


def run(question: Question, gap: float, seconds: float, step: Step | None) -> Run:
    """One verified answer without a step."""
    with ExitStack() as left_out:
        for (owner, name), idle in (step.idle if step else {}).items():
            left_out.enter_context(patch.object(owner, name, idle))
        begun = time.process_time()
        answer = solve(question, method="anytime", deadline_seconds=seconds, relative_gap=gap, why_infeasible=False)
        spent = time.process_time() - begun
    assert not verify(question, answer)
    rises = question.objective == "MaximizeService"
    own = next((level for level in answer.levels if level.goal in (SCALE, DOLLARS)), None)
    unserved = sum(answer.unserved.values())
    if own is None:
        return Run(0.0 if rises else math.inf, rises, 1.0, spent, unserved)
    return Run(own.value, rises, own.gap, spent, unserved)


def worse(found: Run, best: Run) -> float:
    """How much worse a plan is, as a part of the best plan's value; infinite where it serves less."""
    if found.unserved > best.unserved * (1 + 1e-6) + 1e-9:
        return math.inf
    if not best.value:
        return 0.0
    return (best.value - found.value if best.rises else found.value - best.value) / best.value


def main(seconds: float, chosen: list[str]) -> None:
    """Print the table, one row per step."""
    asked = list(questions())
    kinds = list(dict.fromkeys(name.rpartition("/")[0] for name, _, _ in asked))
    print("| without | lines | within the gap | plan worse by | CPU s " + "".join(f"| {kind} " for kind in kinds) + "|")
    print("|---" * (5 + len(kinds)) + "|")
    run(asked[0][1], asked[0][2], seconds, None)  # loads the solver
    best: dict[str, Run] = {}
    for name, step in {"(all steps)": None, **STEPS}.items():
        if step is not None and chosen and name not in chosen:
            continue
        found = {title: run(question, gap, seconds, step) for title, question, gap in asked}
        best = best or found
        done = sum(found[title].gap <= gap * (1 + 1e-6) for title, _, gap in asked)
        loss = max(worse(found[title], best[title]) for title in found)
        spent = {kind: sum(r.cpu_seconds for title, r in found.items() if title.startswith(kind)) for kind in kinds}
        lines = "" if step is None else str(step.lines())
        told = "serves less" if loss == math.inf else f"{max(0.0, loss):.2%}"
        print(f"| {name} | {lines} | {done} of {len(asked)} | {told} | {sum(spent.values()):.1f} "
              + "".join(f"| {spent[kind]:.1f} " for kind in kinds) + "|", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 40.0, sys.argv[2:])
