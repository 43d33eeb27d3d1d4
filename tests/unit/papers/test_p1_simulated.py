"""P1's plans in simulated engines: every request is served, shares are the plan's, what was run is not run again."""

from collections import Counter

import pytest

from papers.p1 import simulated, simulated_tables
from papers.p1.instance import Cell, question_of, shape_named, shapes_of
from papers.p1.simulated import HOMOGENEOUS, OURS, Kept, Rented, Simulated
from papers.p1.simulated_tables import PAPER, Scope, part
from papers.page import marks
from servingplan.solve import solve

CELL = Cell("70B", "T2", 15.0, 1)
MODEL = "Llama-3.1-70B"


@pytest.fixture(scope="module")
def answer():
    return solve(question_of(CELL), method="exact", relative_gap=1e-3)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(simulated, "BATCH_SECONDS", 60.0)
    monkeypatch.setattr(simulated, "STREAM_SECONDS", 60.0)
    monkeypatch.setattr(simulated_tables, "COMPARATORS", (HOMOGENEOUS, "melange", "greedy-cost"))


def test_the_name_of_a_shape_says_what_it_is():
    for shape in shapes_of(MODEL, "A40"):
        model, gpu, tp, pp = shape_named(shape.name)
        assert (model, {gpu: tp * pp}) == (shape.model, shape.gpus)


def test_requests_are_dealt_by_the_plans_shares_and_evenly_over_copies(answer):
    rented = Rented(CELL, answer)
    of = {id(engine): shape for shape, engines in rented.engines.items() for engine in engines}
    assert {shape: len(engines) for shape, engines in rented.engines.items()} == answer.replicas
    for name, rates in answer.rates.items():
        dealt = Counter(id(rented.next(name)) for _ in range(1000))
        for shape, rate in rates.items():
            copies = [dealt[id(engine)] for engine in rented.engines[shape]]
            assert sum(copies) == pytest.approx(1000 * rate / sum(rates.values()), abs=1)
            assert max(copies) - min(copies) <= 1
        assert {of[number] for number in dealt} <= set(rates)


def test_a_batch_is_served_whole_and_not_faster_than_it_can_be(short, answer):
    kept = []
    cell = Simulated(CELL, {}, lambda name, _: kept.append(name))
    run = cell.batch(OURS, 1)
    assert run.planned == pytest.approx(answer.scale, rel=2e-3)
    assert 0.5 * run.planned < run.served < 1.05 * run.planned
    assert 0 < run.busy <= 1
    assert run.dollars_per_hour == pytest.approx(answer.dollars_per_hour)
    assert run.dollars_per_hour <= 15
    assert list(run.ends) == sorted(run.ends)
    requests = 500 * max(1, round(run.planned * 60 / 500))
    assert run.ends[-1] == pytest.approx(requests / run.served)
    assert kept == [f"{CELL.name}: batch {OURS} 1"]


def test_the_shape_that_works_longest_ends_the_batch(short, answer, tmp_path):
    file = tmp_path / "runs.jsonl"
    run = Simulated(CELL, {}, Kept(file).keep).batch(OURS, 1)
    assert set(run.worked) == {shape for shape, copies in answer.replicas.items() if copies}
    # The batch is short: the engine that works longest has little else to do, and none works after its end.
    assert 0.9 < max(run.worked.values()) * run.served / run.planned <= 1 + 1e-9
    (shape, _), *_ = sorted(run.worked.items(), key=lambda item: -item[1])
    _, gpu, tp, pp = shape_named(shape)
    assert simulated_tables._worked(run).startswith(f"{run.worked[shape]:.0%} ({gpu} tp{tp} pp{pp})")
    assert Kept(file).runs == {f"{CELL.name}: batch {OURS} 1": run}


def test_a_stream_is_the_same_each_time_and_another_for_another_seed(short):
    runs = [Simulated(CELL, {}, lambda _, __: None).stream(OURS, 0.8, seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert 0 < runs[0].ends[0] <= runs[0].ends[-1]


@pytest.mark.slow
def test_the_part_goes_on_from_what_was_kept(short, tmp_path, monkeypatch):
    scope = Scope((CELL,), (CELL,), (CELL,), seeds=2)
    keep = tmp_path / "runs.jsonl"
    first = part(scope, keep)
    lines = keep.read_text()
    assert len(Kept(keep).runs) == len(lines.splitlines()) > 8

    def never(*_):
        raise AssertionError("it was run already")

    monkeypatch.setattr(Rented, "run", never)
    assert _tables(part(scope, keep)) == _tables(first)
    assert keep.read_text() == lines
    begin, end = marks(PAPER)
    assert first.startswith(begin)
    assert first.endswith(end + "\n")
    for heading in ("### The batch", "### The stream", "### Budgets"):
        assert heading in first
    assert "Over the budget: none" in first


def _tables(text):
    return [line for line in text.splitlines() if line.startswith(("|", "* "))]
