"""Questions for the tests: the worked example of Jiang et al., and random ones that are small but awkward."""

import random
from functools import partial
from pathlib import Path

from servingplan.model.question import (
    Change,
    Pool,
    Question,
    Quota,
    RequestClass,
    Running,
    Shape,
    SurviveRule,
    question_from_json,
)
from servingplan.solve import solve as solve_fully

solve = partial(solve_fully, why_infeasible=False)
"""Without the search for what excludes a plan, which has tests of its own and takes longer than most plans."""
EXAMPLES = Path(__file__).parents[3] / "examples" / "questions"


def worked_example(**update):
    question = question_from_json((EXAMPLES / "p1-worked-example.json").read_bytes())
    return Question.model_validate({**dict(question), **update})


def random_question(seed, *, most_nodes=4, most_shapes=7, survive=False, running=False, quotas=False, objective=None):
    """Odd node sizes, shapes over two pools or many nodes, lists of utilisation, quality limits, zero rates and prices."""
    r = random.Random(seed)
    while True:
        pools = [_pool(r, f"p{i}", most_nodes) for i in range(r.randint(1, 3 if most_shapes > 3 else 2))]
        classes = [_class(r, f"k{j}", f"m{j % 2}") for j in range(r.randint(1, 4 if most_shapes > 3 else 3))]
        shapes = [_shape(r, f"s{i}", pools, classes) for i in range(r.randint(1, most_shapes))]
        kind = objective or r.choice(["MinimizeCost", "MaximizeService"])
        served = {name for shape in shapes for name in shape.requests_per_second}
        mix = [cls for cls in classes if cls.requests_per_second > 0]
        if kind == "MaximizeService" and (not mix or any(cls.name not in served for cls in mix)):
            continue
        extra = {}
        if survive:
            event = r.choice(["AnyNode", "SpotPools"])
            extra["survive"] = (SurviveRule(event=event, min_priority=r.choice([0, 10])),)
        if running:
            extra["running"] = Running(replicas={shape.name: r.randint(0, 2) for shape in shapes})
            if r.random() < 0.5:
                extra["change"] = Change(min_gain=r.choice([0.0, 0.1]), life_seconds=r.choice([None, 600.0]))
        if quotas:
            extra["quotas"] = tuple(_quota(r, f"q{i}", pools) for i in range(r.randint(1, 2)))
        return Question(
            objective=kind,
            budget_dollars_per_hour=float(r.choice([2, 5, 10, 20])),
            pools=tuple(pools),
            classes=tuple(classes),
            shapes=tuple(shapes),
            **extra,
        )


def _pool(r, name, most_nodes):
    nodes = r.randint(0, most_nodes)
    return Pool(
        name=name,
        gpus_per_node=r.choice([1, 2, 4, 6, 8]),
        dollars_per_node_hour=float(r.choice([0, 1, 2, 3.5, 5])),
        min_nodes=r.choice([0, 0, 0, min(1, nodes)]),
        max_nodes=nodes,
        capacity_type=r.choice(["OnDemand", "Spot"]),
    )


def _quota(r, name, pools):
    shared = r.sample(pools, r.randint(1, len(pools)))
    return Quota(name=name, pools=tuple(pool.name for pool in shared), max_gpus=r.choice([0, 1, 2, 3, 5, 8, 12]))


def _class(r, name, model):
    return RequestClass(
        name=name,
        model=model,
        requests_per_second=r.choice([0.0, 0.5, 1.0, 2.0, 3.0, 7.0]),
        priority=r.choice([0, 0, 10]),
        quality_loss_limit=r.choice([None, None, 0.01]),
    )


def _shape(r, name, pools, classes):
    gpus = {}
    for pool in r.sample(pools, 1 if r.random() < 0.85 else min(2, len(pools))):
        inside = [g for g in (1, 2, 3, 4, 6, 8) if g <= pool.gpus_per_node]
        gpus[pool.name] = r.choice(inside + ([2 * pool.gpus_per_node] if r.random() < 0.3 else []))
    model = r.choice(sorted({cls.model for cls in classes}))
    names = [cls.name for cls in classes if cls.model == model]
    names = [one for one in names if r.random() < 0.85] or names[:1]
    return Shape(
        name=name,
        model=model,
        gpus=gpus,
        requests_per_second={one: r.uniform(0.3, 3) for one in names},
        quality_loss={one: r.choice([0.0, 0.02]) for one in names},
        startup_seconds=float(r.choice([0, 60, 600])),
        max_copies=r.choice([None, None, None, 2]),
        max_utilization=r.choice([1.0, 1.0, 0.8, (0.5, 0.7, 0.9), (0.6, 0.6), (0.9, 0.4)]),
    )
