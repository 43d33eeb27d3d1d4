"""M1 to M3, GH, AGH and our method: examples by hand, feasibility by the evaluator, and who may be cheaper than whom."""

import itertools

import pytest

from papers.p2.arrays import arrays_of
from papers.p2.evaluate import evaluate
from papers.p2.heuristics import Search, State
from papers.p2.instance import SIZES, generate
from papers.p2.ours import solve
from tests.unit.papers.instances import kind, tier, tiny

TWO_TIERS = (tier("slow", 1.0), tier("fast", 3.0, gpus_for_all=1.0))
CASES = [*itertools.product(SIZES[:2], range(5)), (SIZES[4], 0)]


def search(instance):
    return Search(arrays_of(instance))


def checked(instance, plan, cost):
    result = evaluate(instance, plan)
    assert result.violations == ()
    assert result.cost.total == pytest.approx(cost, abs=1e-6)
    return cost


@pytest.mark.parametrize(
    ("delay_slo", "weights_gb", "gpus"),
    [(1.0, 10.0, 1), (0.6, 10.0, 2), (1.0, 30.0, 2), (0.4, 10.0, None), (1.0, 60.0, None)],
)
def test_m1_takes_the_fewest_gpus_that_hold_the_weights_in_time(delay_slo, weights_gb, gpus):
    found = search(tiny(kind(delay_slo_seconds=delay_slo), weights_gb=weights_gb))
    size = found.select(0, 0)
    assert (None if size is None else found.arrays.gpus[size]) == gpus


def test_m1_prefers_tensor_parallelism_among_equals():
    arrays = arrays_of(generate((4, 4, 5), 0))
    assert arrays.shapes == ((1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4))


def test_m2_puts_full_coverage_first_then_cost():
    instance = tiny(kind(error_slo=0.2), tiers=TWO_TIERS, errors=[0.4, 0.1])
    found = search(instance)
    ranking = found.rank(State(found.arrays), 0)
    assert ranking.order.tolist() == [1, 0]  # the slow tier is cheaper but its errors let only half through
    assert ranking.cost.tolist() == [1.0 + 1.0, 3.0 + 1.0]
    full = search(tiny(tiers=TWO_TIERS))
    assert full.rank(State(full.arrays), 0).order.tolist() == [0, 1]


def test_m3_pays_only_for_the_gpus_it_adds():
    found = search(tiny(kind(), kind(name="B", delay_slo_seconds=0.6)))
    state = State(found.arrays)
    state.route(0, 0, 0, 0.5)
    ranking = found.rank(state, 1)
    assert found.select(1, 0, 0) == 1
    assert ranking.cost.tolist() == [1.0 + 0.5]  # one GPU more, and half a second for everybody of type B


def test_gh_leaves_idle_what_phase_one_bought_and_agh_does_not():
    """Phase 1 covers by count per dollar and knows no load: it buys one GPU, which carries half."""
    instance = tiny(tiers=TWO_TIERS)
    found = search(instance)
    greedy, adaptive = found.greedy(), found.adaptive(0)
    assert checked(instance, greedy.plan(), greedy.cost) == pytest.approx(1.0 + 3.0 + 1.0)
    assert checked(instance, adaptive.plan(), adaptive.cost) == pytest.approx(3.0 + 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "seed"), CASES)
def test_every_method_is_feasible_and_none_is_dearer_than_what_it_starts_from(size, seed):
    instance = generate(size, seed)
    found = search(instance)
    greedy, adaptive = found.greedy(), found.adaptive(seed)
    ours = solve(instance, seed=seed, deadline_seconds=0.25)
    gh, agh = checked(instance, greedy.plan(), greedy.cost), checked(instance, adaptive.plan(), adaptive.cost)
    assert checked(instance, ours.plan, ours.cost) <= agh * (1 + 1e-9)
    assert agh <= gh * (1 + 1e-9)
    assert 0.0 <= ours.bound <= ours.cost


@pytest.mark.parametrize("seed", range(3))
def test_no_bound_passes_the_optimum(seed):
    instance = generate((3, 3, 4), seed)
    optimum = solve(instance, deadline_seconds=30, relative_gap=1e-7)
    assert optimum.proved
    hasty = solve(instance, nodes=0, deadline_seconds=30)
    assert hasty.bound <= optimum.cost * (1 + 1e-6)
    assert hasty.cost >= optimum.cost * (1 - 1e-6)
    filtered = solve(instance, deadline_seconds=30, per_route=True)
    assert filtered.cost >= optimum.cost * (1 - 1e-6)
    for gap in (0.2, 0.05, 0.02, 0.005):  # the exact part leaves out what cannot improve by the gap
        rough = solve(instance, deadline_seconds=30, relative_gap=gap)
        assert rough.proved
        assert rough.bound <= optimum.cost * (1 + 1e-6)
        assert optimum.cost * (1 - 1e-6) <= rough.cost <= optimum.cost / (1 - gap)
    agh = search(instance).adaptive(seed)
    assert filtered.bound * (1 - 1e-9) <= agh.cost


def test_the_same_seed_gives_the_same_plan():
    instance = generate((4, 4, 5), 3)
    assert generate((4, 4, 5), 3) == instance
    assert generate((4, 4, 5), 4) != instance
    found = search(instance)
    assert found.adaptive(1).plan() == found.adaptive(1).plan()
    assert solve(instance, deadline_seconds=30).plan == solve(instance, deadline_seconds=30).plan
