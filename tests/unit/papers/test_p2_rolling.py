"""The rolling horizon: the walk, who keeps and who changes a plan, and what a day counts."""

import itertools
import statistics
from dataclasses import replace
from math import log

import pytest

from papers.p2 import rolling
from papers.p2.instance import Plan, generate
from papers.p2.rolling import CHARGED, METHODS, Method, Trial, adaptive, greedy, ours, switching_dollars
from tests.unit.papers.instances import kind, tier, tiny

ONE = tiny(kind(arrivals_per_hour=500.0))


def rates(trial, i=0):
    return [window.query_types[i].arrivals_per_hour for window in trial.windows]


def test_the_walk_has_the_printed_step_and_scales_with_sigma():
    small, large = (Trial(ONE, sigma, 2000, seed=3) for sigma in (0.01, 0.03))
    path = [500.0, *rates(small)]
    steps = [log(after / before) for before, after in itertools.pairwise(path)]
    assert statistics.stdev(steps) == pytest.approx(0.01, rel=0.1)
    assert statistics.mean(steps) == pytest.approx(0.0, abs=0.001)
    assert [log(rate / 500.0) for rate in rates(large)] == pytest.approx(
        [3 * log(rate / 500.0) for rate in rates(small)]
    )


def test_every_type_walks_by_itself():
    trial = Trial(tiny(kind(), kind(name="B")), 0.05, 10, seed=1)
    assert rates(trial, 0) != rates(trial, 1)


def test_a_day_without_change_costs_the_plan():
    trial = Trial(ONE, 0.0, 5, seed=0)
    for method in METHODS:
        day = trial.day(method)
        assert (day.cost, day.violated, day.over, day.changes) == (pytest.approx(1.0 + 1.0), 0.0, 0.0, 0)


def on_rates(instance, *per_hour):
    """A trial with these rates."""
    trial = Trial(instance, 0.0, len(per_hour), seed=0)
    trial.windows = [
        replace(instance, query_types=(replace(instance.query_types[0], arrivals_per_hour=rate),)) for rate in per_hour
    ]
    return trial


def test_who_plans_again_rents_a_second_gpu_when_one_is_not_enough():
    """One GPU carries 500 an hour; at 1000 it leaves half, which costs 5 $, and a second one 1 $."""
    trial = on_rates(ONE, 500.0, 1000.0)
    once, again = (trial.day(Method("", ours, planners)) for planners in ((), ((ours, 1),)))
    assert once.cost == pytest.approx((2.0 + 1.0 + 0.5 + 5.0) / 2)
    assert again.cost == pytest.approx((2.0 + 2.0 + 0.5) / 2)
    assert (once.violated, again.violated, once.changes, again.changes) == (0.5, 0.0, 0, 1)


def test_a_dearer_plan_is_not_taken():
    """GH rents the cheap tier and then the fast one (see the heuristics' tests); AGH the fast one alone."""
    instance = tiny(tiers=(tier("slow", 1.0), tier("fast", 3.0, gpus_for_all=1.0)))
    day = on_rates(instance, 1000.0, 1000.0).day(Method("", adaptive, ((greedy, 1),)))
    assert (day.cost, day.changes) == (pytest.approx(3.0 + 1.0), 0)


def test_a_plan_that_is_kept_may_pass_the_storage_cap_and_is_counted():
    roomy = tiny(
        kind(arrivals_per_hour=500.0, stored_kb_per_token=100.0), tiers=(tier("cheap", 1.0, gpus_for_all=0.5),)
    )
    instance = replace(roomy, storage_cap_gb=10.5)
    day = on_rates(instance, 500.0, 500.0, 500.0, 1000.0).day(Method("", adaptive))
    assert day.over == 0.25  # 10 GB of weights, and 0.5 GB of tokens at 500 an hour


def test_planning_in_every_window_is_never_dearer_than_once_where_rates_only_fall():
    instance = generate((4, 4, 5), 0)
    trial = Trial(instance, 0.05, 6, seed=0)
    falling = [
        replace(
            instance,
            query_types=tuple(replace(k, arrivals_per_hour=k.arrivals_per_hour * 0.9**n) for k in instance.query_types),
        )
        for n in range(6)
    ]
    trial.windows = falling
    once, again = (trial.day(Method("", adaptive, planners)) for planners in ((), ((adaptive, 1),)))
    assert again.cost <= once.cost * (1 + 1e-9)


def fleet(**shapes):
    pairs = {(0, int(name[1:])): shape for name, shape in shapes.items()}
    return Plan(shapes=pairs, routes={}, unserved=(0.0,), placed=frozenset())


def test_a_change_costs_the_rent_of_what_starts_for_the_time_of_a_start():
    instance = tiny(tiers=(tier("cheap", 1.0), tier("fast", 3.0)))
    price = instance.tiers[1].price_per_hour
    assert switching_dollars(instance, fleet(k0=(1, 1)), fleet(k0=(1, 1))) == 0.0
    assert switching_dollars(instance, fleet(k0=(1, 1), k1=(1, 1)), fleet(k0=(1, 1))) == 0.0
    both = switching_dollars(instance, fleet(k0=(1, 1)), fleet(k0=(1, 1), k1=(2, 2)))
    assert both == pytest.approx(4 * price * 150 / 3600)
    larger = switching_dollars(instance, fleet(k1=(1, 1)), fleet(k1=(2, 1)))
    assert larger == pytest.approx(2 * price * 150 / 3600)


def test_a_change_is_charged_and_may_have_to_pay():
    """At 1000 an hour a second GPU saves 4 $ in the hour of this instance; two GPUs that start anew cost 2 $/h x 150 s."""
    trial = on_rates(ONE, 500.0, 1000.0)
    price = 2.0 * 150 / 3600
    free, paying, dear = (
        trial.day(Method("", ours, ((ours, 1),), payback_hours=hours)) for hours in (None, 1.0, price / 4.0 * 0.9)
    )
    assert free.switching == paying.switching == pytest.approx(price)
    assert (free.changes, paying.changes, dear.changes) == (1, 1, 0)
    assert dear.switching == 0.0
    assert free.cost == paying.cost < dear.cost


def test_the_part_goes_on_from_the_days_that_were_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(rolling, "SIZE", (4, 4, 5))
    keep, scope = tmp_path / "days.jsonl", rolling.Scope(trials=1, windows=2, sigmas=(0.05,))
    first = rolling.part(scope, keep)
    assert len(keep.read_text().splitlines()) == 1

    def never(*_):
        raise AssertionError("it was run already")

    monkeypatch.setattr(Trial, "day", never)
    again = rolling.part(scope, keep)
    tables = [[line for line in text.splitlines() if line.startswith(("|", "*"))] for text in (first, again)]
    assert tables[0] == tables[1]
    assert all(any(line.startswith(f"| {method.name} |") for line in tables[0]) for method in CHARGED)


def test_a_plan_over_a_cap_gives_way_where_caps_are_kept():
    """From the third window on the tokens of the first plan's pair pass the storage cap; leaving all unserved would not."""
    roomy = tiny(
        kind(arrivals_per_hour=500.0, stored_kb_per_token=100.0), tiers=(tier("cheap", 1.0, gpus_for_all=0.5),)
    )
    trial = on_rates(replace(roomy, storage_cap_gb=10.5), 500.0, 500.0, 1000.0)
    kept, within = (trial.day(Method("", adaptive, ((adaptive, 1),), within_caps=caps)) for caps in (False, True))
    assert kept.over > 0.0
    assert within.over == 0.0
    assert within.cost > kept.cost
    assert (kept.changes, within.changes) == (0, 1)
