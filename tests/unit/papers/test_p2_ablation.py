"""AGH without M1, M2 or M3, worked by hand."""

import pytest

from papers.p2.ablation import (
    ByCost,
    ByIndex,
    table,
    without_m1,
    without_m1_unchecked,
    without_m3,
    without_m3_unchecked,
)
from papers.p2.arrays import arrays_of
from papers.p2.evaluate import evaluate
from papers.p2.heuristics import Search, State
from papers.p2.instance import generate
from tests.unit.papers.instances import kind, tier, tiny

TWO_TIERS = (tier("dear", 3.0, gpus_for_all=1.0), tier("cheap", 1.0, gpus_for_all=1.0))


@pytest.mark.parametrize(
    ("instance", "broken"),
    [
        (tiny(kind(arrivals_per_hour=500.0), weights_gb=30.0), "(5f)"),
        (tiny(kind(arrivals_per_hour=500.0, delay_slo_seconds=0.6)), "(5i)"),
    ],
)
def test_without_m1_one_gpu_is_too_small_or_too_slow(instance, broken):
    """M1 takes two GPUs; without it and its checks one GPU breaks what it was for."""

    def served(variant):
        search = variant(arrays_of(instance))
        return evaluate(instance, search.serve_all(State(search.arrays)).plan())

    assert served(Search).violations == ()
    assert served(Search).cost.total == pytest.approx(2.0 + 0.5)
    assert [line[:4] for line in served(without_m1_unchecked).violations] == [broken]
    checked = served(without_m1)
    assert checked.violations == ()
    assert checked.cost.unmet > 0.0


def test_without_m2_the_first_candidate_is_taken():
    instance = tiny(tiers=TWO_TIERS)
    names = [Search(arrays_of(instance)), ByIndex(arrays_of(instance))]
    firsts = [search.rank(State(search.arrays), 0).order.tolist() for search in names]
    assert firsts == [[1, 0], [0, 1]]


def test_without_coverage_the_cheapest_candidate_comes_first():
    """The cheap tier's errors let only half through: M2 puts it last."""
    instance = tiny(kind(error_slo=0.2), tiers=TWO_TIERS, errors=[0.1, 0.4])
    orders = [variant(arrays_of(instance)) for variant in (Search, ByCost)]
    assert [search.rank(State(search.arrays), 0).order.tolist() for search in orders] == [[0, 1], [1, 0]]


def test_without_m3_a_pair_keeps_its_size():
    instance = tiny(kind(), kind(name="B", delay_slo_seconds=0.6))
    upgrades = [make(arrays_of(instance)).select(1, 0, 0) for make in (Search, without_m3, without_m3_unchecked)]
    assert upgrades == [1, None, 0]
    assert [make(arrays_of(instance)).select(0, 0, 1) for make in (Search, without_m3)] == [1, 1]


def test_without_m3_and_its_check_the_delay_is_broken():
    """A runs on one GPU; B would need two."""
    instance = tiny(kind(arrivals_per_hour=10.0), kind(name="B", arrivals_per_hour=5.0, delay_slo_seconds=0.6))
    plans = []
    for variant in (Search, without_m3, without_m3_unchecked):
        search = variant(arrays_of(instance))
        state = State(search.arrays)
        state.route(0, 0, 0, 1.0)
        plans.append(search.serve_all(state, [1]).plan())
    assert [plan.unserved[1] for plan in plans] == [0.0, 1.0, 0.0]
    assert [[line[:4] for line in evaluate(instance, plan).violations] for plan in plans] == [[], [], ["(5i)"]]


def test_the_table_has_a_line_for_every_variant_and_agh_is_the_measure():
    lines = table([generate((3, 3, 4), seed) for seed in range(2)])
    assert len(lines) == 2 + 7
    assert lines[2] == "| AGH | 89.88 $ | 1.00 [1.00, 1.00] | 0 of 2 | nothing | 0 of 2 |"
    assert all(" | nothing | " in line for line in lines[2:] if "not checked" not in line)
