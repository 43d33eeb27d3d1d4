"""How well an emulated replica agrees with what the planner thinks of it, on a virtual clock.

    python -m benchmarks.emulated_rates        prints the table of docs/emulator.md

Each row: a replica and one class of requests, saturated, then under Poisson arrivals at the planned load (the estimated rate
times the utilisation of one copy) and at 1.3 times the saturated rate.
"""

import random
from statistics import mean

from servingplan.model.engine import EngineSettings
from servingplan.planning.settings import SEQUENCES
from servingplan.profiles.catalogue import find_gpu, find_model
from servingplan.profiles.estimate import MAX_BATCH, Estimate, estimate
from servingplan.simulate.engine import Engine, run
from servingplan.simulate.pace import Pace
from servingplan.simulate.sequence import Sequence

PERCENTILE = 95
CONTEXT = 8192
SETTINGS = EngineSettings(max_model_len=CONTEXT, max_num_seqs=MAX_BATCH)
CASES = [
    # model, precision, GPU, TP, PP, input, output, TTFT limit, TPOT limit
    ("llama-3.1-70b", "fp8", "H100-SXM-80GB", 2, 1, 496, 253, 2.0, 0.1),
    ("llama-3.1-70b", "fp8", "H100-SXM-80GB", 1, 1, 2455, 18, 2.0, 0.1),
    ("llama-3.1-8b", "bf16", "A100-SXM4-80GB", 1, 1, 496, 18, 1.0, 0.05),
    ("llama-3.1-8b", "bf16", "A100-SXM4-80GB", 1, 1, 2455, 253, 1.0, 0.05),
    ("llama-3.1-8b", "bf16", "L40S", 1, 1, 496, 253, 1.0, 0.05),
    ("llama-3.1-70b", "bf16", "L40S", 2, 4, 496, 253, 4.0, 0.3),
]


class Case:
    """A replica, what the planner thinks of it, and engines of it."""

    def __init__(
        self, model, precision, gpu, tensor, pipeline, input_tokens, output_tokens, ttft, tpot, settings=SETTINGS
    ):
        replica = {
            "model": find_model(model),
            "precision": precision,
            "gpu": find_gpu(gpu),
            "tensor_parallel": tensor,
            "pipeline_parallel": pipeline,
        }
        self.lengths, self.ttft, self.tpot = (input_tokens, output_tokens), ttft, tpot
        lengths = {"input_tokens": input_tokens, "output_tokens": output_tokens}
        limits = {"ttft_seconds": ttft, "tpot_seconds": tpot, "percentile": PERCENTILE}
        plan = estimate(**replica, **lengths, settings=settings, **limits)
        assert isinstance(plan, Estimate)
        self.plan = plan
        self.utilization = plan.utilization[0]
        few = settings.model_copy(update={"max_num_seqs": next(it for it in SEQUENCES if it >= plan.most_running)})
        full = estimate(**replica, **lengths, settings=few, ttft_seconds=None, tpot_seconds=None)
        assert isinstance(full, Estimate)
        self.full = full
        """The estimate with all slots taken."""
        self._pace = Pace(**replica, settings=settings)

    def saturated_rate(self) -> float:
        """Requests/s with all slots always taken. Equal requests go in waves of one batch: whole waves are compared."""
        batch = self.full.batch
        ends = sorted(item.finished or 0.0 for item in run(self.engine(), [(0.0, *self.lengths)] * (12 * batch)))
        return 6 * batch / (ends[9 * batch] - ends[3 * batch])

    def engine(self) -> Engine:
        """An engine that runs as many sequences together as the plan lets it."""
        return Engine(self._pace, max_num_seqs=self.full.batch, max_num_batched_tokens=CONTEXT)

    def under_poisson(self, rate: float, requests: int) -> list[Sequence]:
        """The later three quarters of the requests of a Poisson stream, when it has warmed up."""
        source, now, arrivals = random.Random(7), 0.0, []
        for _ in range(requests):
            now += source.expovariate(rate)
            arrivals.append((now, *self.lengths))
        return run(self.engine(), arrivals)[requests // 4 :]

    def in_time(self, served: list[Sequence]) -> float:
        """Share of requests whose first token came within the limit."""
        return mean(float(ttft_seconds(item) <= self.ttft) for item in served)


def ttft_seconds(served: Sequence) -> float:
    """The time from a request's arrival to its first token, in seconds. The token must have come."""
    assert served.first_token is not None
    return served.first_token - served.arrived


def mean_ttft(served: list[Sequence]) -> float:
    """The mean TTFT in seconds."""
    return mean(map(ttft_seconds, served))


def mean_tpot(served: list[Sequence]) -> float:
    """The mean TPOT in seconds."""
    return mean(item.time_per_output_token or 0.0 for item in served)


def main() -> None:
    """Print the table."""
    print("| replica | in/out | batch | saturated / estimated | load | in time | TPOT, limit | 1.3 x: in time |")
    print("|---|---|---|---|---|---|---|---|")
    for row in CASES:
        case = Case(*row)
        rate = case.plan.requests_per_second
        saturated = case.saturated_rate() / case.full.requests_per_second
        planned = case.under_poisson(case.utilization * rate, 4000)
        beyond = case.under_poisson(1.3 * case.full.requests_per_second, 4000)
        print(
            f"| {row[0]} {row[1]}, {row[3]}x{row[4]} {row[2]} | {row[5]}/{row[6]} | {case.full.batch} "
            f"| {saturated:.3f} | {case.utilization:.2f} x {rate:.2f}/s | {case.in_time(planned):.1%} "
            f"| {1e3 * mean_tpot(planned):.0f} of {1e3 * case.tpot:.0f} ms | {case.in_time(beyond):.1%} |"
        )


if __name__ == "__main__":
    main()
