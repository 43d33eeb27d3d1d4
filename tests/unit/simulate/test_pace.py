"""What is emulated is what was planned: rate, time per token, and the share of requests that start in time."""

import random
from statistics import mean

import pytest

from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.estimate import Estimate, estimate
from servingplan.profiles.queueing import max_utilization
from servingplan.simulate.engine import Engine, run
from servingplan.simulate.pace import Pace

PERCENTILE = 95
CONTEXT = 8192
CASES = [
    # model, precision, GPU, TP, PP, input, output, TTFT limit, TPOT limit
    ("llama-3.1-70b", "fp8", "H100-SXM-80GB", 2, 1, 496, 253, 2.0, 0.1),
    ("llama-3.1-70b", "fp8", "H100-SXM-80GB", 1, 1, 2455, 18, 2.0, 0.1),
    ("llama-3.1-8b", "bf16", "A100-SXM4-80GB", 1, 1, 496, 18, 1.0, 0.05),
    ("llama-3.1-8b", "bf16", "A100-SXM4-80GB", 1, 1, 2455, 253, 1.0, 0.05),
    ("llama-3.1-8b", "bf16", "L40S", 1, 1, 496, 253, 1.0, 0.05),
    ("llama-3.1-70b", "bf16", "L40S", 2, 4, 496, 253, 4.0, 0.15),
]


class Case:
    """A replica, what the planner thinks of it, and engines of it."""

    def __init__(self, model, precision, gpu, tensor, pipeline, input_tokens, output_tokens, ttft, tpot):
        replica = {
            "model": find_model(model),
            "precision": precision,
            "gpu": find_gpu(gpu),
            "tensor_parallel": tensor,
            "pipeline_parallel": pipeline,
        }
        self.lengths, self.ttft, self.tpot = (input_tokens, output_tokens), ttft, tpot
        self.plan = estimate(
            **replica,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            context_tokens=CONTEXT,
            ttft_seconds=ttft / 2,  # planning.question leaves the other half for waiting
            tpot_seconds=tpot,
        )
        assert isinstance(self.plan, Estimate)
        self.utilization = max_utilization(
            percentile=PERCENTILE,
            slots_per_copy=self.plan.batch,
            service_seconds=self.plan.slot_seconds,
            wait_budget_seconds=ttft - self.plan.ttft_seconds,
        )[0]
        self._pace = Pace(**replica, max_model_len=CONTEXT)

    def engine(self):
        return Engine(self._pace, max_num_seqs=self.plan.batch, max_num_batched_tokens=CONTEXT)

    def under_poisson(self, rate, requests):
        """The later three quarters of the requests of a Poisson stream, when it has warmed up."""
        source, now, arrivals = random.Random(7), 0.0, []
        for _ in range(requests):
            now += source.expovariate(rate)
            arrivals.append((now, *self.lengths))
        return run(self.engine(), arrivals)[requests // 4 :]

    def in_time(self, served):
        return mean(sequence.first_token - sequence.arrived <= self.ttft for sequence in served)


@pytest.fixture(scope="module", params=CASES, ids=lambda row: "-".join(map(str, row[:7])))
def case(request):
    return Case(*request.param)


def test_saturated_it_serves_the_estimated_rate(case):
    batch = case.plan.batch
    served = run(case.engine(), [(0.0, *case.lengths)] * (12 * batch))
    ends = sorted(sequence.finished for sequence in served)
    # Equal requests go in waves of one batch: whole waves are compared.
    rate = 6 * batch / (ends[9 * batch] - ends[3 * batch])
    assert rate == pytest.approx(case.plan.requests_per_second, rel=0.03)


def test_at_the_planned_load_the_promised_share_starts_in_time(case):
    served = case.under_poisson(case.utilization * case.plan.requests_per_second, 2500)
    assert case.in_time(served) >= PERCENTILE / 100
    assert mean(sequence.time_per_output_token for sequence in served) <= case.tpot


def test_beyond_what_it_can_serve_it_soon_breaks_the_promise(case):
    served = case.under_poisson(1.3 * case.plan.requests_per_second, 2500)
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
        context_tokens=CONTEXT,
        ttft_seconds=None,
        tpot_seconds=None,
        max_batch=1,
    )
    assert served.finished == pytest.approx(alone.slot_seconds, rel=0.02)


def test_the_stretch_is_the_measured_one_at_a_measured_point():
    pace = Pace(
        model=find_model("llama-3.1-70b"),
        precision="fp8",
        gpu=find_gpu("H200-SXM-141GB"),
        max_model_len=CONTEXT,
    )
    measured = estimate(
        model=find_model("llama-3.1-70b"),
        precision="fp8",
        gpu=find_gpu("H200-SXM-141GB"),
        tensor_parallel=1,
        pipeline_parallel=1,
        input_tokens=1024,
        output_tokens=1024,
        context_tokens=CONTEXT,
        ttft_seconds=None,
        tpot_seconds=None,
        max_batch=32,
    )
    engine = Engine(pace, max_num_seqs=32, max_num_batched_tokens=CONTEXT)
    served = run(engine, [(0.0, 1024, 1024)] * 320)
    ends = sorted(sequence.finished for sequence in served)
    assert measured.source == "measured"
    assert (320 - 128) / (ends[-64] - ends[64]) == pytest.approx(measured.requests_per_second, rel=0.05)
