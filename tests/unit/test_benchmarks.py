"""The benchmarks load, and what they find becomes a page. How long anything takes is not tested here."""

import importlib
import random

import pytest

from benchmarks.report import Row, Section, page, percentile, spread
from servingplan.cli.imagine import imagined_world
from servingplan.planning.question import pose
from servingplan.planning.situation import Situation
from servingplan.solve import solve

MODULES = [
    "apply_to_weights",
    "at_rest",
    "capacity",
    "command_line",
    "gateway",
    "large_cluster",
    "loss_to_weights",
    "rates",
    "solving",
    "standby",
]


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_can_be_run_alone(name):
    assert callable(importlib.import_module(f"benchmarks.{name}").measure)


def test_running_all_runs_every_one_of_them():
    whole = importlib.import_module("benchmarks.__main__").ALL
    assert sorted(module.__name__ for module in whole) == [f"benchmarks.{name}" for name in MODULES]


def served(manifest):
    """The requests/s that a plan is planned to serve, and the nodes that it uses, by pool."""
    situation = Situation(imagined_world(manifest))
    assert [*situation.spec_errors, *situation.pool_errors] == []
    posed, errors = pose(spec=situation.spec, pools=situation.pools, incumbent=None)
    assert not errors
    answer = solve(posed.question, method="anytime", deadline_seconds=5)
    return sum(sum(rates.values()) for rates in answer.rates.values()), answer.nodes


def test_the_plans_of_benchmarks_serve():
    losses = importlib.import_module("benchmarks.loss_to_weights")
    assert served(losses.plan())[1] == dict.fromkeys(losses.POOLS, 1)  # or there is nothing to lose
    assert served(losses.searched_plan("searched", "1"))[0] > 0
    assert served(importlib.import_module("benchmarks.many_plans").plan("1"))[0] == pytest.approx(1)
    assert served(importlib.import_module("benchmarks.large_cluster").plan(5, 2))[0] == pytest.approx(40)


def test_plans_with_drawn_timings_keep_more_where_engines_are_faster():
    """What `python -m benchmarks.drawn_timings` does for the table in docs/fleet.md, with one plan and few seconds."""
    drawn = importlib.import_module("benchmarks.drawn_timings")
    plan = drawn.Drawn("8B", "T1", 30.0, "0.75")
    sets = len(plan.fleet.replica_sets)
    speeds = list(plan.slowdowns(random.Random(1)))
    assert len(speeds) == sets
    assert all(0.2 < speed < 5 for speed in speeds)
    fast, slow = (drawn.kept(plan.run([slowdown] * sets, 20.0, 1)) for slowdown in (0.5, 4.0))
    assert fast.plan
    assert slow.classes < fast.classes == fast.of == 9
    assert drawn.least_in_time(0.95, 0) == 0
    assert 0.95 * 400 - 12 < drawn.least_in_time(0.95, 400) < 0.95 * 400 - 9


def test_the_page_says_for_each_figure_whether_the_goal_is_met():
    rows = (
        Row("turns", "0.10 s", "0.20 s", True),
        Row("memory", "300 MiB", "250 MiB", False),
        Row("requests", "7"),
    )
    text = page([Section("One part", "How it was done.", rows)])
    assert "## One part\n\nHow it was done.\n\n| what | measured | goal | |\n|---|---|---|---|\n" in text
    assert "| turns | 0.10 s | 0.20 s | met |" in text
    assert "| memory | 300 MiB | 250 MiB | not met |" in text
    assert "| requests | 7 |  |  |" in text


def test_the_page_names_the_machine():
    text = page([])
    assert "cores" in text
    assert "Python" in text
    assert "servingplan 0." in text


def test_a_percentile_is_a_value_that_was_seen():
    assert percentile([3, 1, 2, 4], 50) == 2
    assert percentile([3, 1, 2, 4], 99) == 4
    assert percentile([5], 1) == 5


def test_a_spread_names_the_middle_and_the_ends():
    assert spread([1.0, 3.0, 2.0]) == "median 2.00 s, 1.00 to 3.00 (3 runs)"


@pytest.mark.slow
def test_plans_made_with_predictions_serve_most_of_what_was_asked():
    regret = importlib.import_module("benchmarks.regret")
    bold, careful = (regret.regret(regret.questions(6, seed=3), (confidence,)) for confidence in (0.5, 0.75))
    for least, most in zip(bold, careful, strict=True):
        assert most.knowledge == least.knowledge
        assert most.mean_cost >= least.mean_cost
        assert most.mean_served >= 0.9


def sampled(**more):
    return {
        "backend": "vllm",
        "backend_version": "0.12.0",
        "model_path": "Qwen/Qwen3-32B",
        "system": "h100_sxm",
        "precision": "fp8",
        "isl": "1024",
        "osl": "128",
        "batch_size": "8.0",
        "tp_size": "2.0",
        "attention_dp_size": "",
        "moe_tp_size": "1.0",
        "moe_ep_size": "1.0",
        "silicon_ttft_ms": "154.248",
        "silicon_tpot_ms": "18.037",
        "concurrency": "8",
    } | more


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"precision": ""}, "precision not stated"),
        ({"attention_dp_size": "2.0"}, "data-parallel attention"),
        ({"tp_size": "16.0"}, "more than 8 GPUs"),
        ({"moe_tp_size": "2.0", "moe_ep_size": "4.0"}, "tensor and expert parallelism mixed"),
        ({"concurrency": "4096", "isl": "30000"}, "impossible"),
        ({"silicon_ttft_ms": "155.0"}, "another run of one point"),
    ],
)
def test_published_times_that_cannot_be_used_are_left_out_with_their_reason(odd, reason):
    reduce = importlib.import_module("benchmarks.reduce_latencies")
    kept, why = reduce.reduced([sampled(), sampled(**odd)])
    assert why == {reason: 1}
    assert [(row["precision"], row["concurrency"], row["ttft_seconds"]) for row in kept] == [("fp8", "8", "0.154248")]


def test_what_is_kept_keeps_what_it_states():
    reduce = importlib.import_module("benchmarks.reduce_latencies")
    first, second = reduce.reduced([sampled(concurrency="", batch_size="24.0"), sampled(backend_version="")])[0]
    assert (first["concurrency"], first["engine_version"]) == ("24", "0.12.0")
    assert (second["concurrency"], second["engine_version"]) == ("8", "unstated")


def test_more_confidence_breaks_fewer_limits_on_latency_and_refuses_more():
    limits = importlib.import_module("benchmarks.limits")
    bold, careful = (limits.closed_loops("ttft", 0.5, "nothing", confidence, "fit") for confidence in (0.5, 0.9))
    assert careful.broken < bold.broken
    assert careful.planned < bold.planned
    assert careful.refused > bold.refused


def test_a_curve_of_a_closed_loop_is_of_one_run():
    limits = importlib.import_module("benchmarks.limits")
    found = limits.curves(lambda row: (row.settings, row.requests_per_client))
    assert len(found) > 100
    for curve in found:
        assert len({(row.settings, row.input_tokens, row.output_tokens) for row in curve.rows}) == 1
        running = [row.concurrency for row in curve.rows]
        assert running == sorted(set(running))
