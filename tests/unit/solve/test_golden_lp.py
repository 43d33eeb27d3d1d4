"""One LP file per constraint family: a change to the mathematics is a readable difference.

`UPDATE_GOLDEN=1 pytest tests/unit/solve/test_golden_lp.py` rewrites the files.
"""

import os
from pathlib import Path

import pytest

from servingplan.model.question import Pool, Question, Quota, RequestClass, Running, Shape
from servingplan.solve.problem import constraints, objective
from servingplan.solve.problem.constraints import Loss, PlanProgram
from servingplan.solve.problem.instance import instance_of
from servingplan.solve.solver.program import Program

GOLDEN = Path(__file__).parents[2] / "golden" / "lp"

QUESTION = Question(
    objective="MinimizeCost",
    budget_dollars_per_hour=60.0,
    pools=(
        Pool(name="h100", gpus_per_node=8, dollars_per_node_hour=20.0, max_nodes=2),
        Pool(name="l40s", gpus_per_node=8, dollars_per_node_hour=4.0, min_nodes=1, max_nodes=5, capacity_type="Spot"),
    ),
    classes=(
        RequestClass(name="chat", model="m", requests_per_second=8.0, priority=10, quality_loss_limit=0.01),
        RequestClass(name="batch", model="m", requests_per_second=2.0),
    ),
    shapes=(
        Shape(name="tp2", model="m", gpus={"h100": 2}, requests_per_second={"chat": 5.0, "batch": 4.0}),
        Shape(
            name="tp8x2",
            model="m",
            gpus={"h100": 16},
            requests_per_second={"chat": 50.0},
            max_copies=1,
            max_utilization=(0.5, 0.8),
        ),
        Shape(
            name="fp8x3", model="m", gpus={"l40s": 3}, requests_per_second={"chat": 2.0}, quality_loss={"chat": 0.02}
        ),
        Shape(
            name="fp8x2",
            model="m",
            gpus={"l40s": 2},
            requests_per_second={"chat": 1.0, "batch": 1.0},
            quality_loss={"chat": 0.02},
            max_utilization=(0.5, 0.75),
        ),
    ),
    quotas=(Quota(name="team", pools=("h100", "l40s"), max_gpus=40),),
    running=Running(replicas={"tp2": 1}),
)


def empty():
    """A program with the variables of the question and no row yet."""
    instance = instance_of(QUESTION)
    plan = PlanProgram(instance, instance.reachable_targets, Program("golden"))
    constraints.define_nodes(plan)
    constraints.define_copies(plan)
    constraints.define_shares(plan)
    return plan


def pool(plan, name):
    return plan.instance.pool_index[name]


def survival_of_spot(plan):
    constraints.define_demand(plan)
    gone = frozenset(c for c, shape in enumerate(plan.instance.shapes) if "l40s" in shape.gpus)
    constraints.define_survival(plan, Loss(name="spot", protected=(0,), gone=gone))


def survival_of_a_node(plan):
    constraints.define_demand(plan)
    constraints.define_utilization_tables(plan)
    constraints.define_contents(plan, pool(plan, "l40s"))
    content, _ = plan.contents[pool(plan, "l40s")][-1]
    constraints.define_survival(plan, Loss(name="node", protected=(0,), pool=pool(plan, "l40s"), lost=content))


def less_capacity(plan):
    constraints.define_utilization_tables(plan)
    constraints.define_load(plan)
    plan.set_capacity(0.5)


def service(plan):
    constraints.define_demand(plan)
    return objective.Objective(plan).service()[0]


FAMILIES = {
    "nodes-and-copies": lambda plan: objective.Objective(plan).tie_break(),
    "utilization-tables": constraints.define_utilization_tables,
    "demand": constraints.define_demand,
    "load": lambda plan: (constraints.define_utilization_tables(plan), constraints.define_load(plan)),
    "load-at-half-capacity": less_capacity,
    "totals": constraints.define_totals,
    "presence": constraints.define_presence,
    "quality": constraints.define_quality,
    "budget": constraints.define_budget,
    "quotas": constraints.define_quotas,
    "packing-chain": lambda plan: constraints.define_packing(plan, pool(plan, "h100")),
    "packing-arcs": lambda plan: constraints.define_packing(plan, pool(plan, "l40s")),
    "contents": lambda plan: constraints.define_contents(plan, pool(plan, "l40s")),
    "survival-spot-pools": survival_of_spot,
    "survival-any-node": survival_of_a_node,
    "level-served-fraction": service,
    "level-dollars": lambda plan: objective.Objective(plan).dollars(unit=20.0),
    "level-moves": lambda plan: objective.Objective(plan).moves(),
}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_rows_of_a_family_are_the_golden_ones(family, tmp_path):
    plan = empty()
    terms, sense = (), "max"
    match FAMILIES[family](plan):
        case objective.Stage() as stage:
            terms, sense = stage.terms, stage.sense
        case list() as least:
            terms, sense = least, "min"
    plan.program.write_lp(tmp_path / "found.lp", terms, sense)
    found = (tmp_path / "found.lp").read_text()
    golden = GOLDEN / f"{family}.lp"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(found)
    assert found == golden.read_text()


def test_every_golden_file_has_its_family():
    assert sorted(path.stem for path in GOLDEN.glob("*.lp")) == sorted(FAMILIES)
