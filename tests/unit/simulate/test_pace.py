"""What is emulated is what was planned: rate, time per token, and the share of requests that start in time."""

import pytest

from benchmarks.emulated_rates import CASES, CONTEXT, PERCENTILE, SETTINGS, Case, mean_tpot
from servingplan.model.engine import Speculation
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.estimate import estimate
from servingplan.simulate.engine import Engine, run
from servingplan.simulate.pace import Pace


@pytest.fixture(scope="module", params=CASES, ids=lambda row: "-".join(map(str, row[:7])))
def case(request):
    return Case(*request.param)


def test_saturated_it_serves_the_estimated_rate(case):
    # Here all prompts of a wave are read at once; the profile spreads them over the iterations.
    assert case.saturated_rate() == pytest.approx(case.full.requests_per_second, rel=0.12)


def test_at_the_planned_load_the_promised_share_starts_in_time(case):
    served = case.under_poisson(case.utilization * case.plan.requests_per_second, 2500)
    assert case.in_time(served) >= PERCENTILE / 100
    assert mean_tpot(served) <= case.tpot


def test_beyond_what_it_can_serve_it_soon_breaks_the_promise(case):
    served = case.under_poisson(1.3 * case.full.requests_per_second, 2500)
    assert case.in_time(served) < 0.5


def test_alone_the_first_token_takes_what_the_formula_says():
    case = Case(*CASES[2])
    served = run(case.engine(), [(0.0, 1000, 10)])[0]
    alone = estimate(
        model=find_model("llama-3.1-8b"),
        precision="bf16",
        gpu=find_gpu("A100-SXM4-80GB"),
        tensor_parallel=1,
        pipeline_parallel=1,
        input_tokens=1000,
        output_tokens=10,
        settings=SETTINGS.model_copy(update={"max_num_seqs": 1}),
        ttft_seconds=None,
        tpot_seconds=None,
    )
    assert served.finished == pytest.approx(alone.slot_seconds, rel=0.02)


@pytest.mark.parametrize("acceptance", [0.0, 0.7, 1.0])
def test_speculation_takes_the_time_per_token_that_the_estimator_says(acceptance):
    speculation = Speculation(method="eagle3", tokens=3, acceptance=acceptance)
    spoken = Case(*CASES[4], settings=SETTINGS.model_copy(update={"speculation": speculation}))
    assert spoken.saturated_rate() == pytest.approx(spoken.full.requests_per_second, rel=0.12)
    served = run(spoken.engine(), [(0.0, *spoken.lengths)] * (12 * spoken.full.batch))
    middle = served[3 * spoken.full.batch : 9 * spoken.full.batch]
    assert mean_tpot(middle) == pytest.approx(spoken.full.tpot_seconds, rel=0.12)
    plan = spoken.under_poisson(spoken.utilization * spoken.plan.requests_per_second, 2500)
    assert spoken.in_time(plan) >= PERCENTILE / 100
    assert mean_tpot(plan) <= spoken.tpot


def test_what_is_accepted_makes_answers_faster_and_what_is_not_slower():
    times = []
    for speculation in (None, *(Speculation(method="ngram", tokens=3, acceptance=share) for share in (0.9, 0.5, 0.0))):
        settings = SETTINGS.model_copy(update={"speculation": speculation})
        pace = Pace(model=find_model("llama-3.1-8b"), precision="bf16", gpu=find_gpu("L40S"), settings=settings)
        engine = Engine(pace, max_num_seqs=8, max_num_batched_tokens=CONTEXT)
        times.append(mean_tpot(run(engine, [(0.0, 500, 250)] * 8)))
    plain, often, sometimes, never = times
    assert often < sometimes < plain < never


def test_the_stretch_is_the_measured_one_at_a_measured_point():
    pace = Pace(
        model=find_model("llama-3.1-70b"),
        precision="fp8",
        gpu=find_gpu("H200-SXM-141GB"),
        settings=SETTINGS,
    )
    measured = estimate(
        model=find_model("llama-3.1-70b"),
        precision="fp8",
        gpu=find_gpu("H200-SXM-141GB"),
        tensor_parallel=1,
        pipeline_parallel=1,
        input_tokens=1024,
        output_tokens=1024,
        settings=SETTINGS.model_copy(update={"max_num_seqs": 32}),
        ttft_seconds=None,
        tpot_seconds=None,
    )
    engine = Engine(pace, max_num_seqs=32, max_num_batched_tokens=CONTEXT)
    served = run(engine, [(0.0, 1024, 1024)] * 320)
    ends = sorted(sequence.finished for sequence in served)
    assert measured.source == "measured"
    assert (320 - 128) / (ends[-64] - ends[64]) == pytest.approx(measured.requests_per_second, rel=0.05)
