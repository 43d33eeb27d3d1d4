"""Plans that must stand losses: the figures of ``docs/planner.md``.

    python -m benchmarks.losses [DEADLINE_SECONDS ...]

The example plan at 300 $/h under each rule, by `anytime` to 1 %, and 20 random questions to 2 % in 5 s. Every answer passes
the verifier.
"""

import random
import statistics
import sys
import time

from benchmarks.solving import example_question
from servingplan.model.question import Question, SurviveEvent, SurviveRule
from servingplan.solve import solve
from servingplan.solve.solver.program import load
from servingplan.verify import verify

RULES: tuple[tuple[SurviveEvent, int], ...] = (("AnyNode", 0), ("AnyNode", 100), ("SpotPools", 0))
BUDGET_DOLLARS_PER_HOUR = 300.0


def varied(seed: int) -> Question:
    """The example with rates, prices and stock of another size, and any node to lose."""
    r = random.Random(seed)
    question = example_question()
    return question.model_copy(
        update={
            "budget_dollars_per_hour": 2_000.0,
            "survive": (SurviveRule(event="AnyNode", min_priority=r.choice([0, 100])),),
            "classes": tuple(
                cls.model_copy(update={"requests_per_second": cls.requests_per_second * r.uniform(0.2, 2.0)})
                for cls in question.classes
            ),
            "pools": tuple(
                pool.model_copy(
                    update={"dollars_per_node_hour": pool.dollars_per_node_hour * r.uniform(0.6, 1.6), "max_nodes": 12}
                )
                for pool in question.pools
            ),
        }
    )


def answered(question: Question, *, seconds: float, gap: float) -> tuple[float | None, float, float]:
    """Dollars per hour, gap and CPU seconds of a verified answer."""
    begun = time.process_time()
    answer = solve(question, method="anytime", deadline_seconds=seconds, relative_gap=gap, why_infeasible=False)
    spent = time.process_time() - begun
    faults = verify(question, answer)
    assert not faults, faults
    return answer.dollars_per_hour, 1.0 if answer.gap is None else answer.gap, spent


def main(deadlines: list[float]) -> None:
    """Print both tables."""
    load()
    print("| rule | deadline s | $/h | gap | CPU s |\n|---|---|---|---|---|")
    for event, priority in RULES:
        rule = SurviveRule(event=event, min_priority=priority)
        question = example_question().model_copy(
            update={"survive": (rule,), "budget_dollars_per_hour": BUDGET_DOLLARS_PER_HOUR}
        )
        for seconds in deadlines:
            dollars, gap, spent = answered(question, seconds=seconds, gap=0.01)
            told = "none" if dollars is None else f"{dollars:.2f}"
            print(f"| {event}, priority {priority} | {seconds:g} | {told} | {gap:.1%} | {spent:.2f} |", flush=True)
    runs = [answered(varied(seed), seconds=5.0, gap=0.02) for seed in range(20)]
    found = [run for run in runs if run[0] is not None]
    median_gap = statistics.median(gap for _, gap, _ in runs)
    median_spent = statistics.median(spent for _, _, spent in runs)
    certified = sum(run[1] <= 0.02 for run in runs)
    print(
        f"\n20 random questions, 5 s: a plan in {len(found)}, to 2 % in {certified}; "
        f"medians: gap {median_gap:.1%}, CPU {median_spent:.2f} s"
    )


if __name__ == "__main__":
    main([float(text) for text in sys.argv[1:]] or [0.5, 1.0, 3.0, 10.0])
