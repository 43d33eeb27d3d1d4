"""P1's instances, the second formulation against the planner on part of the grid, the direct form, the table's command."""

import pytest

from papers.p1.direct import solve_directly
from papers.p1.instance import (
    DOLLARS_PER_HOUR,
    STOCK,
    Cell,
    grid,
    homogeneous_question,
    question_of,
    question_with,
    stock_of_blocks,
)
from papers.p1.second import Optimum, contradictions, second_optimum
from papers.p1.tables import Scope, part
from papers.page import marks, write_part
from servingplan.model.answer import Level
from servingplan.replay.mixes import MIXES
from servingplan.solve import solve
from tests.unit.solve.questions import worked_example

FAST = [Cell("70B", "T1", 15.0, 2), Cell("70B", "T3", 15.0, 4), Cell("8B", "T2", 30.0, 1), Cell("8B", "T3", 60.0, 3)]


def test_the_printed_tables():
    assert [sum(mix) for mix in MIXES.values()] == [100, 100, 100]
    assert [sum(stock) for stock in STOCK.values()] == [62, 91, 104, 100]
    rent = [sum(n * p for n, p in zip(stock, DOLLARS_PER_HOUR.values(), strict=True)) for stock in STOCK.values()]
    assert rent == pytest.approx([66.10, 96.05, 118.96, 90.04])
    assert len(list(grid())) == 3 * 3 * 4 * 3


@pytest.mark.parametrize("gpus", [4, 8, 16, 24, 32, 48])
def test_the_axis_of_figure_9(gpus):
    assert sum(stock_of_blocks(gpus).values()) == gpus


def test_the_baselines_rent_what_the_budget_pays():
    counts = {gpu: homogeneous_question(Cell("70B", "T1", 60.0, 1), gpu).pools[0].max_nodes for gpu in DOLLARS_PER_HOUR}
    assert (counts["RTX4090"], counts["A6000"], counts["H100-SXM-80GB"]) == (113, 72, 20)


@pytest.mark.slow
@pytest.mark.parametrize("cell", FAST, ids=lambda cell: cell.name)
def test_the_second_formulation_agrees_on_the_grid(cell):
    question = question_of(cell)
    second = second_optimum(question, relative_gap=1e-3, first_level_only=True)
    answer = solve(question, relative_gap=1e-3)
    assert contradictions(answer.levels[:1], second, tolerance=1e-6) == []
    assert answer.scale == pytest.approx(second[0].value, rel=2e-3)
    assert answer.scale >= solve(question, method="homogeneous", relative_gap=1e-3).scale * (1 - 1e-3)


def test_the_worked_example_by_other_forms():
    second = second_optimum(worked_example(), relative_gap=1e-6)
    assert second[0].value == pytest.approx(51 / 1450, rel=1e-6)
    direct = solve_directly(worked_example(), deadline_seconds=30, relative_gap=1e-6)
    assert direct.makespan_seconds == pytest.approx(1450 / 51, rel=1e-6)
    assert direct.gap == pytest.approx(0.0, abs=1e-6)


def test_the_direct_form_agrees_on_the_smallest_stock():
    question = question_with("70B", "T1", 9.0, stock_of_blocks(4))
    direct = solve_directly(question, deadline_seconds=30, relative_gap=1e-6)
    assert 1 / direct.makespan_seconds == pytest.approx(solve(question).scale, rel=1e-4)


def test_contradictions_are_told():
    ours = (Level(name="scale", value=2.0, bound=2.1, gap=0.05, proved=False),)
    assert contradictions(ours, (Optimum("scale", 2.05, 2.2),)) == []
    assert "planner proves" in contradictions(ours, (Optimum("scale", 2.15, 2.2),))[0]
    assert "second solver proves" in contradictions(ours, (Optimum("scale", 1.8, 1.9),))[0]
    dollars = (Level(name="dollars", value=5.0, bound=4.0, gap=0.2, proved=False),)
    assert contradictions(dollars, (Optimum("dollars", 4.5, 4.0),)) == []
    assert "planner proves" in contradictions(dollars, (Optimum("dollars", 3.0, 3.0),))[0]


@pytest.mark.slow
def test_the_part_stands_before_p2(tmp_path):
    page = tmp_path / "papers.md"
    text = part(Scope(cells=(Cell("8B", "T1", 15.0, 1),), figure_9_gpus=(4,), ablated=(("T1", 15.0),)))
    write_part(page, "P2", "\n".join(marks("P2")) + "\n")
    write_part(page, "P1", text)
    written = page.read_text()
    assert 0 < written.index(marks("P1")[0]) < written.index(marks("P1")[1]) < written.index(marks("P2")[0])
    write_part(page, "P1", text)
    assert page.read_text() == written
    for heading in (
        "### Gain over the best",
        "0 contradictions",
        "### Binary search and the direct form",
        "### Ablation",
    ):
        assert heading in written
    lines = [line for line in written.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)
