"""Latency under load: closed forms, the simulated engine (which knows nothing of the formulas), and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import latency_error
from benchmarks.latency_error import CARDS, LENGTHS, Terms
from servingplan.model.engine import EngineSettings
from servingplan.profiles import latency
from servingplan.profiles.latency import Spread, capacity, highest_rate, open_loop, stack, tabulate
from tests.unit.profiles.erlang import wait_probability


def constant(*, slots=8, seconds=0.01, per_token=0.0, budget=8192):
    """Iterations that always last as long, with no time for prompts unless ``per_token`` says so."""
    engine = EngineSettings(max_num_seqs=slots, max_num_batched_tokens=budget, max_model_len=100_000)
    return Terms(0.0, per_token, 0.0, 0.0, seconds, 1e9, engine)


# --- closed forms


@pytest.mark.parametrize("slots", [1, 4, 32])
@pytest.mark.parametrize("load", [0.6, 0.8, 0.9])
def test_no_prefill_is_the_mmc_queue(slots, load):
    # A request holds its slot for 1000 iterations of 10 ms in the mean; a spread of 1 stands for exponential service.
    table = tabulate(constant(slots=slots), 1, 1000, Spread(0.0, 1.0))
    rate = load * float(highest_rate(table)[0])
    assert rate == pytest.approx(load * slots / 10.0, rel=2e-3)
    late = {
        it: wait_probability(utilization=load, slots=slots, service_seconds=10.0, wait_seconds=it)
        for it in (0.0, 20 / slots)
    }
    got = open_loop(table, rate, percentile=100 * (1 - late[20 / slots]))
    # Erlang's formula is met to a quarter, from above: the share that waits is a limit for many slots.
    mean_wait = late[0.0] * 10.0 / (slots * (1 - load))
    if late[0.0] > 0.1:
        assert mean_wait * 0.97 < float(got.ttft_seconds[0]) < mean_wait * 1.25
        assert 18 / slots < float(got.ttft_percentile_seconds[0]) < 28 / slots
    assert float(got.running[0]) == pytest.approx(load * slots, rel=0.01)


@pytest.mark.parametrize(("spread", "square"), [(0.0, 1.0), (1.0, 2.0), (2.0, 5.0)])
def test_one_slot_is_the_mg1_queue(spread, square):
    # Pollaczek and Khinchine: the mean wait is rate E[S^2] / (2 (1 - load)).
    table = tabulate(constant(slots=1), 1, 1000, Spread(0.0, spread))
    rate = 0.8 * float(highest_rate(table)[0])
    wait = rate * square * 100.0 / (2 * 0.2)
    assert float(open_loop(table, rate).ttft_seconds[0]) == pytest.approx(wait, rel=0.08)


def test_an_idle_engine_answers_after_one_iteration_per_chunk():
    table = tabulate(constant(per_token=1e-5, budget=1000), 2500, 10, Spread(0.0, 0.0))
    got = open_loop(table, 1e-6)
    assert float(got.ttft_seconds[0]) == pytest.approx(3 * 0.01 + 2500e-5)
    assert float(got.tpot_seconds[0]) == pytest.approx(0.01 + 1e-5, rel=1e-3)
    assert float(got.e2e_seconds[0]) == pytest.approx(0.055 + 9 * 0.01, rel=2e-3)


def test_without_spread_or_load_all_percentiles_are_the_mean():
    table = tabulate(constant(per_token=1e-5), 1000, 10, Spread(0.0, 0.0))
    for percentile in (5, 50, 95):
        assert float(open_loop(table, 1e-6, percentile=percentile).ttft_percentile_seconds[0]) == pytest.approx(
            0.02, rel=1e-2
        )


def test_an_idle_engine_takes_as_long_as_the_prompt_is():
    # The time to read a lognormal prompt is lognormal: p95 of 1000 tokens with a spread of 0.6 is 2133 of them.
    table = tabulate(constant(seconds=0.0, per_token=1e-4), 1000, 2, Spread(0.6, 0.0))
    width = np.sqrt(np.log(1.36))
    for percentile, score in ((50, 0.0), (95, 1.645), (99, 2.326)):
        want = 0.1 * np.exp(width * score - width**2 / 2)
        got = float(open_loop(table, 1e-6, percentile=percentile).ttft_percentile_seconds[0])
        assert got == pytest.approx(want, rel=0.03)


def test_the_highest_rate_is_that_of_full_slots():
    # 8 requests, each 99 iterations of 10 ms and 20 ms of reading, during which all others stand still.
    table = tabulate(constant(slots=8, per_token=2e-5), 1000, 100, Spread(0.0, 0.0))
    assert float(highest_rate(table)[0]) == pytest.approx(8 / (100 * 0.01 + 8 * 0.02), rel=0.03)


# --- the simulated engine

CASES = [
    (card, *lengths, load)
    for card in CARDS
    for lengths in LENGTHS
    for load in (0.3, 0.5, 0.7)
    # Queues for few slots take hours of simulated time to settle; test_no_prefill_is_the_mmc_queue has them.
    if not (card.endswith("slots") and load > 0.5)
]
QUICK = [CASES[1], CASES[21], CASES[39]]


def check(card, input_tokens, output_tokens, spread, load, *, requests):
    got = latency_error.errors_at(CARDS[card], load, input_tokens, output_tokens, spread, requests=requests)
    mean, _, p95, p99 = np.abs(got.ttft)
    return {"ttft mean": mean / 0.15, "ttft p95": p95 / 0.25, "ttft p99": p99 / 0.25, "tpot": abs(got.tpot[0]) / 0.10}


@pytest.mark.parametrize(("card", "input_tokens", "output_tokens", "spread", "load"), QUICK)
def test_times_are_those_of_the_simulated_engine(card, input_tokens, output_tokens, spread, load):
    over = check(card, input_tokens, output_tokens, spread, load, requests=2500)
    assert max(over.values()) < 1, over


@pytest.mark.slow
def test_times_are_those_of_the_simulated_engine_over_the_grid():
    """Mean TTFT within 15 %, its p95 and p99 within 25 %, mean TPOT within 10 %, in nine of ten cases each."""
    over = [check(*case, requests=4000) for case in CASES]
    for name in over[0]:
        missed = [(case, round(it[name], 2)) for case, it in zip(CASES, over, strict=True) if it[name] >= 1]
        assert len(missed) <= 0.1 * len(CASES), (name, missed)


@pytest.mark.slow
@pytest.mark.parametrize("clients", [1, 16, 128])
def test_a_closed_loop_is_that_of_the_simulated_engine(clients):
    steps = CARDS["h100-8b"]
    rate, run = latency_error.closed_loop(steps, clients, 1000, 250, Spread(0.3, 0.5), requests=60 * clients)
    got = latency.closed_loop(tabulate(steps, 1000, 250, Spread(0.3, 0.5)), clients)
    assert float(got.requests_per_second[0]) == pytest.approx(rate, rel=0.06)
    assert float(got.tpot_seconds[0]) == pytest.approx(run.tpot.mean(), rel=0.06)
    assert float(got.ttft_seconds[0]) == pytest.approx(run.ttft.mean(), rel=0.15)


# --- properties

REPLICAS = st.builds(
    lambda weights, token, attention, kv, fixed, room, slots, budget: Terms(
        weights,
        token,
        attention,
        kv,
        fixed,
        room,
        EngineSettings(max_num_seqs=slots, max_num_batched_tokens=budget, max_model_len=100_000),
    ),
    st.floats(1e-4, 0.05),
    st.floats(1e-6, 1e-3),
    st.floats(0, 1e-8),
    st.floats(0, 1e-6),
    st.floats(1e-4, 0.02),
    st.floats(3e4, 3e6),
    st.sampled_from([1, 4, 16, 64, 256, 1024]),
    st.sampled_from([2048, 8192, 16384]),
)
LENGTH = st.integers(1, 4000)
FEW = settings(max_examples=10, deadline=None)


@FEW
@given(REPLICAS, LENGTH, LENGTH)
def test_more_load_is_never_faster(steps, input_tokens, output_tokens):
    table = tabulate(steps, input_tokens, output_tokens)
    rates = np.linspace(0.02, 0.98, 33)[None, :] * highest_rate(table)[:, None]
    got = open_loop(table, rates, percentile=99)
    # The three-moment fit of a tail may lose some per cent where one part of it takes over from another.
    for name, slack in {
        "ttft_seconds": 0.01,
        "tpot_seconds": 0.03,
        "running": 0.03,
        "ttft_percentile_seconds": 0.1,
        "tpot_percentile_seconds": 0.12,
    }.items():
        values = getattr(got, name)[0]
        assert (np.diff(values) >= -slack * values[:-1] - 1e-9).all(), name


@FEW
@given(REPLICAS, LENGTH, LENGTH)
def test_other_times_do_not_depend_on_whether_end_to_end_times_are_asked_for(steps, input_tokens, output_tokens):
    table = tabulate(steps, input_tokens, output_tokens)
    rates = np.linspace(0.1, 1.1, 5)[None, :] * highest_rate(table)[:, None]
    whole, part = open_loop(table, rates), open_loop(table, rates, end_to_end=False)
    for name, values, told in zip(whole._fields, whole, part, strict=True):
        if name.startswith("e2e"):
            assert np.isnan(told).tolist() == [[True] * 4 + [False]]  # beyond the highest rate all times are infinite
            assert not np.isnan(values).any()
        else:
            np.testing.assert_array_equal(values, told)


@FEW
@given(REPLICAS, LENGTH, LENGTH)
def test_iterations_that_share_their_requests_take_the_same_time(steps, input_tokens, output_tokens):
    batch, context = np.array([1.0, 7.0, 60.0]), float(input_tokens + output_tokens)
    beside = steps.beside(batch, context)
    for tokens, past in ((1.0, 0.0), (float(input_tokens), 0.0), (32.0, float(input_tokens))):
        np.testing.assert_array_equal(beside(tokens, past), steps.mixed_seconds(tokens, past, batch, context))


@FEW
@given(REPLICAS, LENGTH, LENGTH, st.floats(0.05, 0.97))
def test_percentiles_are_ordered(steps, input_tokens, output_tokens, load):
    table = tabulate(steps, input_tokens, output_tokens)
    rate = load * highest_rate(table)
    ordered = [open_loop(table, rate, percentile=it) for it in (50, 90, 95, 99, 99.9)]
    for name in ("ttft", "tpot", "e2e"):
        values = [float(getattr(it, f"{name}_percentile_seconds")[0]) for it in ordered]
        assert values == sorted(values)
        assert all(np.isfinite(values))


@FEW
@given(
    REPLICAS,
    LENGTH,
    LENGTH,
    st.tuples(st.floats(0.02, 5), st.floats(0.02, 5)),
    st.tuples(st.floats(0.005, 0.3), st.floats(0.005, 0.3)),
    st.tuples(st.floats(50, 99.9), st.floats(50, 99.9)),
)
def test_capacity_follows_limits_percentile_and_copies(steps, input_tokens, output_tokens, ttft, tpot, percentile):
    table = tabulate(steps, input_tokens, output_tokens)

    def used(ttft_seconds, tpot_seconds, percentile):
        found = capacity(
            table, ttft_seconds=ttft_seconds, tpot_seconds=tpot_seconds, percentile=percentile, max_copies=4
        )
        assert (np.diff(found.utilization, axis=1) >= 0).all()
        assert ((found.utilization >= 0) & (found.utilization < 1)).all()
        assert found.requests_per_second == pytest.approx(found.utilization * found.highest_rate[:, None])
        return found.utilization

    easy = used(max(ttft), max(tpot), min(percentile))
    assert (used(min(ttft), max(tpot), min(percentile)) <= easy).all()
    assert (used(max(ttft), min(tpot), min(percentile)) <= easy).all()
    assert (used(max(ttft), max(tpot), max(percentile)) <= easy).all()
    assert (used(None, max(tpot), min(percentile)) >= easy).all()
    assert (used(None, None, min(percentile)) >= easy).all()


@FEW
@given(REPLICAS, LENGTH, LENGTH, st.sampled_from([90.0, 95.0, 99.0]), st.floats(0.1, 4), st.floats(0.01, 0.3))
def test_at_capacity_the_percentiles_are_the_limits(steps, input_tokens, output_tokens, percentile, ttft, tpot):
    table = tabulate(steps, input_tokens, output_tokens)
    found = capacity(table, ttft_seconds=ttft, tpot_seconds=tpot, percentile=percentile, max_copies=2)
    used = found.utilization[0]
    inside = used > 0
    for copies in np.flatnonzero(inside) + 1:
        got = open_loop(table, found.requests_per_second[:, copies - 1], copies=float(copies), percentile=percentile)
        assert float(got.ttft_percentile_seconds[0]) <= ttft * 1.02
        assert float(got.tpot_percentile_seconds[0]) <= tpot * 1.02


@FEW
@given(REPLICAS, LENGTH, LENGTH, st.integers(1, 500))
def test_a_closed_loop_obeys_littles_law(steps, input_tokens, output_tokens, clients):
    table = tabulate(steps, input_tokens, output_tokens)
    got = latency.closed_loop(table, clients)
    cycle = got.ttft_seconds + (output_tokens - 1) * got.tpot_seconds
    assert float((got.requests_per_second * cycle)[0]) == pytest.approx(clients, rel=0.02)
    assert float(got.requests_per_second[0]) <= float(highest_rate(table)[0]) * 1.001


def test_more_slots_never_hurt_where_memory_allows_them():
    tables = stack(tabulate(constant(slots=slots, per_token=2e-5), 500, 250) for slots in (4, 8, 16, 64, 256))
    found = capacity(tables, ttft_seconds=1.0, tpot_seconds=None, max_copies=1)
    assert (np.diff(found.requests_per_second[:, 0]) >= -1e-6).all()


def test_pairs_do_not_see_each_other_and_answers_repeat():
    pairs = [tabulate(CARDS["h100-8b"], 500, 250), tabulate(CARDS["l40s-8b-budget-2048"], [2455, 200], [18, 1000])]
    together = capacity(stack(pairs), ttft_seconds=1.0, tpot_seconds=0.1, max_copies=3)
    apart = [capacity(it, ttft_seconds=1.0, tpot_seconds=0.1, max_copies=3) for it in pairs]
    assert (together.requests_per_second == np.concatenate([it.requests_per_second for it in apart])).all()


def test_beyond_the_highest_rate_times_are_infinite():
    table = tabulate(CARDS["h100-8b"], 500, 250)
    got = open_loop(table, highest_rate(table) * 1.01)
    assert np.isinf(got.ttft_percentile_seconds[0])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"requests_per_second": 0.0}, "requests_per_second"),
        ({"copies": 0}, "copies"),
        ({"percentile": 100.0}, "percentile"),
    ],
)
def test_what_is_refused(change, named):
    table = tabulate(CARDS["h100-8b"], 500, 250)
    with pytest.raises(ValueError, match=named):
        open_loop(table, **{"requests_per_second": 1.0, **change})


def test_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="KV room"):
        tabulate(CARDS["h100-8b"], 500_000, 10)
    with pytest.raises(ValueError, match="at least 1"):
        tabulate(CARDS["h100-8b"], 0, 10)
