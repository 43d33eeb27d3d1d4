"""Whether deadlines are kept beside other processes: the figures of ``docs/planner.md``.

    python -m benchmarks.deadlines [BUSY_PROCESSES [REPEATS]]

As many processes as are asked for (default 3) count for nothing meanwhile; ended by their own handles. Every answer passes
the verifier, outside the time that is measured.
"""

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.planner import coral, near_tied
from benchmarks.solving import example_question
from servingplan.model.question import Question, Running
from servingplan.solve import solve
from servingplan.solve.solver.program import load
from servingplan.verify import verify

DEADLINES_SECONDS = (0.3, 0.5, 1.0, 2.0, 5.0)
AFTER_A_LOSS_SECONDS = 0.08
"""The same as `decide.replan.HURRIED_SECONDS`."""


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Run so many processes, each of which takes all of a core that it gets, until the block ends."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def answered(question: Question, *, method: str, deadline_seconds: float) -> tuple[float, float]:
    """Wall and CPU seconds of one answer, which must be right."""
    wall, cpu = time.monotonic(), time.process_time()
    answer = solve(question, method=method, deadline_seconds=deadline_seconds, why_infeasible=False)
    spent = time.monotonic() - wall, time.process_time() - cpu
    faults = verify(question, answer)
    assert not faults, faults
    return spent


def after_a_loss(question: Question) -> Question:
    """The question of a fleet that runs as planned, once the pool with most nodes has lost one."""
    plan = solve(question, method="anytime", relative_gap=0.02, deadline_seconds=10)
    lost = max(sorted(plan.nodes), key=lambda name: plan.nodes[name])
    left = plan.nodes[lost] - 1
    pools = tuple(
        pool.model_copy(update={"max_nodes": left, "min_nodes": min(left, pool.min_nodes)})
        if pool.name == lost
        else pool
        for pool in question.pools
    )
    running = Running(nodes={**plan.nodes, lost: left}, replicas=plan.replicas)
    return question.model_copy(update={"pools": pools, "running": running})


def main(processes: int, repeats: int) -> None:
    """Print both tables."""
    load()
    questions = {
        "near-ties, 30 $/h": near_tied(1, 30.0),
        "Coral 3 x 12 x 2": coral(3, 12, 2, stock=9),
        "Coral 6 x 20 x 3": coral(6, 20, 3, stock=9),
        "20 x 20 x 4": coral(20, 20, 4, stock=9),
        "40 x 20 x 6": coral(40, 20, 6, stock=9),
        "60 x 20 x 10": coral(60, 20, 10, stock=9),
    }
    with busy(processes):
        print("| question | shapes | deadline s | answers | late | median s | slowest s | part of a core |")
        print("|---|---|---|---|---|---|---|---|")
        for (name, question), deadline in itertools.product(questions.items(), DEADLINES_SECONDS):
            spent = [
                answered(question, method=method, deadline_seconds=deadline)
                for method in ("anytime", "exact")
                for _ in range(repeats)
            ]
            walls = [wall for wall, _ in spent]
            late = sum(wall > 1.1 * deadline + 0.05 for wall in walls)
            core = sum(cpu for _, cpu in spent) / sum(walls)
            print(
                f"| {name} | {len(question.shapes)} | {deadline:g} | {len(walls)} | {late} "
                f"| {statistics.median(walls):.2f} | {max(walls):.2f} | {core:.0%} |",
                flush=True,
            )
    print("\n| first plan after a loss | busy processes | median s | 90 % within s | slowest of 40 s |")
    print("|---|---|---|---|---|")
    for name, question in {
        "examples/chat.yaml": example_question(),
        "Coral 6 x 20 x 3": coral(6, 20, 3, stock=9),
    }.items():
        hurried = after_a_loss(question)
        for others in (0, processes):
            with busy(others):
                walls = sorted(
                    answered(hurried, method="anytime", deadline_seconds=AFTER_A_LOSS_SECONDS)[0] for _ in range(40)
                )
            print(
                f"| {name} | {others} | {statistics.median(walls):.3f} | {walls[35]:.3f} | {walls[-1]:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:3]]
    main(*(numbers + [3, 2][len(numbers) :]))
