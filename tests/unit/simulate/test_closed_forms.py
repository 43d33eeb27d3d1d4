"""One engine that serves one request at a time is a queue with one server, whose waits are known in closed form."""

import math
import random

import pytest

from servingplan.simulate.engine import Engine, run

SECONDS_PER_TOKEN = 1e-4
SERVICE_SECONDS = 0.05
"""In the mean: 500 tokens."""
REQUESTS = 200_000


class Linear:
    """A replica whose prompts take time in proportion to their tokens, and nothing else takes any."""

    kv_blocks = 10_000_000
    max_model_len = 10_000_000
    stages = 1
    tokens_per_step = 1.0
    positions_per_step = 1

    def blocks(self, tokens):
        return math.ceil(tokens / 16)

    def step_seconds(self, sequences, context_tokens):
        return 0.0

    def prefill_seconds(self, start, stop, before):
        return (stop - start) * SECONDS_PER_TOKEN

    def stretch(self, sequences, mean_input, mean_output):
        return 1.0


def sojourns(load, lengths, *, seed):
    """Seconds from arrival to answer of a Poisson stream at this load."""
    chance = random.Random(seed)
    engine = Engine(Linear(), max_num_seqs=1, max_num_batched_tokens=10_000_000)
    now, requests = 0.0, []
    for _ in range(REQUESTS):
        now += chance.expovariate(load / SERVICE_SECONDS)
        requests.append((now, lengths(chance), 1))
    return [served.finished - served.arrived for served in run(engine, requests)]


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.3, 0.7])
def test_equal_requests_wait_as_long_as_in_m_d_1(load):
    """Pollaczek and Khinchine: the mean wait is load x service / (2 (1 - load))."""
    times = sojourns(load, lambda chance: 500, seed=1)
    expected = SERVICE_SECONDS * (1 + load / (2 * (1 - load)))
    assert sum(times) / len(times) == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.3, 0.7])
def test_exponential_requests_wait_as_long_as_in_m_m_1(load):
    """The whole time is exponential with the rate (1 - load) / service: mean and 95th percentile."""
    times = sorted(sojourns(load, lambda chance: max(1, round(chance.expovariate(1 / 500))), seed=2))
    mean = SERVICE_SECONDS / (1 - load)
    assert sum(times) / len(times) == pytest.approx(mean, rel=0.03)
    assert times[int(0.95 * len(times))] == pytest.approx(mean * math.log(20), rel=0.04)


@pytest.mark.slow
def test_of_all_lengths_with_one_mean_and_variance_the_mean_wait_is_that_of_pollaczek_and_khinchine():
    """load x service (1 + variation^2) / (2 (1 - load)): here 50 or 950 tokens, a variation of 0.9."""
    load = 0.6
    times = sojourns(load, lambda chance: chance.choice((50, 950)), seed=3)
    expected = SERVICE_SECONDS * (1 + load * (1 + 0.9**2) / (2 * (1 - load)))
    assert sum(times) / len(times) == pytest.approx(expected, rel=0.03)
