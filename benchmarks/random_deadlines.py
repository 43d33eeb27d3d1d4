"""Whether deadlines are kept on random questions with up to a million nodes in a pool, nodes of up to 64 GPUs, and free nodes.

    python -m benchmarks.random_deadlines [QUESTIONS [FIRST_SEED]]

The deadline counts CPU seconds of this process, except inside HiGHS, which counts seconds on the wall; so a busy machine makes
no answer late. Every answer passes the verifier, outside the time that is measured. The last line has the number of late
answers, which come after 1.1 deadlines and 50 ms, and of refused questions, whose losses `exact` cannot guard against.
"""

import random
import sys
import time
from types import SimpleNamespace
from typing import Literal
from unittest.mock import patch

from servingplan.model.question import Pool, Question, QuestionError, RequestClass, Running, Shape, SurviveRule
from servingplan.solve import solve
from servingplan.solve.solver import clock
from servingplan.solve.solver.program import load
from servingplan.verify import verify

DEADLINES_SECONDS = (0.05, 0.1, 0.3, 1.0)
NODE_SIZES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def random_case(seed: int) -> tuple[Question, str, float]:
    """A question, a method and a deadline in seconds."""
    r = random.Random(seed)
    pools = tuple(_pool(r, f"p{i}") for i in range(r.randint(1, 8)))
    classes = tuple(
        RequestClass(
            name=f"k{j}",
            model=f"m{j % 4}",
            requests_per_second=r.choice([0.5, 3.0, 7.0]) * 10 ** r.uniform(-1, 4),
            priority=r.choice([0, 0, 10]),
            quality_loss_limit=r.choice([None, None, 0.01]),
        )
        for j in range(r.randint(1, 12))
    )
    models = sorted({cls.model for cls in classes})
    # One shape of each model serves all its classes, so that MaximizeService has a mix to multiply.
    shapes = [_shape(r, f"all/{model}", model, pools, classes, share=1.0) for model in models]
    shapes += [_shape(r, f"s{i}", r.choice(models), pools, classes, share=0.85) for i in range(r.randint(0, 120))]
    objective: Literal["MaximizeService", "MinimizeCost"] = r.choice(["MaximizeService", "MinimizeCost"])
    event: Literal["AnyNode", "SpotPools"] = r.choice(["AnyNode", "SpotPools"])
    survive = (SurviveRule(event=event, min_priority=r.choice([0, 10])),) if r.random() < 0.25 else ()
    running = Running(replicas={shape.name: r.randint(0, 3) for shape in shapes}) if r.random() < 0.3 else None
    question = Question(
        objective=objective,
        budget_dollars_per_hour=round(10 ** r.uniform(0.5, 7), 2),
        pools=pools,
        classes=classes,
        shapes=tuple(shapes),
        survive=survive,
        running=running,
    )
    return question, r.choice(["anytime", "anytime", "exact"]), r.choice(DEADLINES_SECONDS)


def _pool(r: random.Random, name: str) -> Pool:
    return Pool(
        name=name,
        gpus_per_node=r.choice(NODE_SIZES),
        dollars_per_node_hour=float(r.choice([0.0, 0.5, 1.0, 3.5, 20.0])),
        max_nodes=int(10 ** r.uniform(0, 6)),
        capacity_type=r.choice(["OnDemand", "Spot"]),
    )


def _shape(
    r: random.Random, name: str, model: str, pools: tuple[Pool, ...], classes: tuple[RequestClass, ...], *, share: float
) -> Shape:
    pool = r.choice(pools)
    names = [cls.name for cls in classes if cls.model == model]
    served = [one for one in names if r.random() < share] or names[:1]
    utilizations: list[float | tuple[float, ...]] = [1.0, 0.8, (0.5, 0.7, 0.9)]
    sizes = [*range(1, min(12, pool.gpus_per_node) + 1), pool.gpus_per_node, 2 * pool.gpus_per_node]
    return Shape(
        name=name,
        model=model,
        gpus={pool.name: r.choice(sizes)},
        requests_per_second={one: r.uniform(0.3, 3) for one in served},
        quality_loss={one: r.choice([0.0, 0.0, 0.02]) for one in served},
        max_copies=r.choice([None, None, None, 2, 1000]),
        max_utilization=r.choice(utilizations),
    )


def main(questions: int, first_seed: int) -> None:
    """Print each late answer, and the counts."""
    load()
    late, refused, spent = 0, 0, 0.0
    with patch.object(clock, "time", SimpleNamespace(monotonic=time.process_time)):
        for seed in range(first_seed, first_seed + questions):
            question, method, deadline = random_case(seed)
            begun = time.process_time()
            try:
                answer = solve(question, method=method, deadline_seconds=deadline, why_infeasible=False)
            except QuestionError:
                refused += 1
                continue
            seconds = time.process_time() - begun
            spent += seconds
            faults = verify(question, answer)
            assert not faults, (seed, faults)
            if seconds > 1.1 * deadline + 0.05:
                late += 1
                print(f"seed {seed}: {method}, {seconds:.2f} s for {deadline:g} s, {answer.status}", flush=True)
    seeds = f"seeds {first_seed} to {first_seed + questions - 1}"
    print(f"{seeds}: {late} of {questions} late, {refused} refused; {spent:.0f} s of CPU")


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:3]]
    main(*(numbers + [1000, 0][len(numbers) :]))
