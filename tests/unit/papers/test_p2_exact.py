"""P2's model as printed: worked by hand, against exhaustive search, and against the facility form."""

import itertools

import pytest

from papers.p2.evaluate import evaluate
from papers.p2.instance import Plan, generate
from papers.p2.milp import solve_exactly
from papers.p2.ours import solve
from tests.unit.papers.instances import kind, tier, tiny

TWO_TIERS = (tier("slow", 1.0), tier("fast", 3.0, gpus_for_all=1.0))


def by_exhaustion(instance, steps=4):
    """The cheapest plan among all sizes and all shares that are multiples of 1 / steps, by the evaluator alone."""
    pairs = [(j, k) for j in range(len(instance.models)) for k in range(len(instance.tiers))]
    splits = [split for split in itertools.product(range(steps + 1), repeat=len(pairs)) if sum(split) <= steps]
    best = None
    for sizes in itertools.product((None, *instance.shapes), repeat=len(pairs)):
        active = {pair: size for pair, size in zip(pairs, sizes, strict=True) if size}
        for shares in itertools.product(splits, repeat=len(instance.query_types)):
            routes = {
                (i, *pair): amount / steps
                for i, split in enumerate(shares)
                for pair, amount in zip(pairs, split, strict=True)
                if amount
            }
            unserved = tuple(1.0 - sum(split) / steps for split in shares)
            result = evaluate(instance, Plan(active, routes, unserved, frozenset(routes)))
            if result.feasible and (best is None or result.cost.total < best):
                best = result.cost.total
    return best


def exact(instance):
    answer = solve_exactly(instance, deadline_seconds=30)
    assert answer.proved
    result = evaluate(instance, answer.plan)
    assert result.violations == ()
    assert result.cost.total == pytest.approx(answer.cost, abs=1e-6)
    return answer.cost


def test_two_gpus_carry_everybody():
    assert exact(tiny()) == pytest.approx(2 * 1.0 + 0.5)  # rent 2 GPUs, half a second each by tensor parallelism


def test_a_budget_for_one_gpu_serves_half():
    assert exact(tiny(budget=1.5)) == pytest.approx(1.0 + 0.5 * 1.0 + 0.5 * 10.0)


def test_weights_that_need_two_gpus():
    assert exact(tiny(kind(arrivals_per_hour=1.0), weights_gb=30.0)) == pytest.approx(2.0 + 0.5)


def test_the_mean_over_routes_may_meet_what_one_route_does_not():
    """Half on the slow tier (1 s) and half on the fast one (0.5 s) make 0.75 s; M1 would refuse the slow tier."""
    instance = tiny(kind(delay_slo_seconds=0.75), tiers=TWO_TIERS, seconds=[1.0, 0.5], parallel=(1,), budget=4.0)
    assert exact(instance) == pytest.approx(3.0 + 0.5)  # the fast tier alone
    no_room = tiny(
        kind(delay_slo_seconds=0.75),
        tiers=(TWO_TIERS[0], tier("fast", 3.0, gpus_for_all=2.0)),
        seconds=[1.0, 0.5],
        parallel=(1,),
    )
    assert exact(no_room) == pytest.approx(1.0 + 3.0 + 0.75)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"budget": 3.5},
        {"errors": [0.4, 0.05]},
        {"seconds": [8.0, 3.0]},
        {"weights_gb": 40.0},
    ],
)
def test_exact_is_what_exhaustive_search_finds(changes):
    kinds = (kind(error_slo=0.225, delay_slo_seconds=5.5), kind(name="B", arrivals_per_hour=500.0, unmet_penalty=6.0))
    instance = tiny(*kinds, tiers=TWO_TIERS, **{"seconds": [2.0, 1.0], **changes})
    found = by_exhaustion(instance)
    answer = exact(instance)
    assert answer <= found + 1e-6
    assert answer == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_printed_and_the_facility_form_agree(seed):
    instance = generate((2, 3, 3), seed)
    ours = solve(instance, deadline_seconds=30, relative_gap=1e-7)
    assert ours.proved
    assert ours.cost == pytest.approx(exact(instance), rel=1e-5)


def test_no_time_is_no_proof():
    answer = solve_exactly(generate((4, 4, 5), 0), deadline_seconds=0.0)
    assert (answer.plan, answer.cost, answer.gap, answer.proved) == (None, None, None, False)
    assert answer.bound == 0.0
