"""The steady state of an engine with continuous batching in which requests of one class always run.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. There are B running requests of i prompt and o
answer tokens (m = B/s of them in each of the micro-batches of s stages). While every request gets its o tokens, all B are
replaced once. So during o iterations m prompts are read in each micro-batch, spread over

    N = max(min(m, o), m i / T)      iterations with a chunk of m i / N tokens (T: the most tokens of one iteration)
    cycle = N mixed(chunk) + (o - N)+ decode
    rate  = B / cycle

A request holds its slot for one cycle (Little's law). Its time to the first token has these parts: the reading of its own
prompt; a floor outside all iterations; and, unless it is alone, half of the running iteration and a wait for other prompts.
That wait is as in an M/D/1 queue whose utilisation is the share of time in which prompts are read. The rest of the cycle is
the time of the further tokens. Speculation divides o by the tokens that one iteration gives; a prefix cache shortens i.

Published closed loops start all clients at once. Of the k requests of each client, the first waits for half of the other
prompts, which are read one after the other. So the mean time to the first token is longer by (B - 1) / (2 k) prompts.
"""

import math
from typing import NamedTuple

import numpy as np

from servingplan.profiles.kernels import Array, Numbers
from servingplan.profiles.steps import StepTimes


class Point(NamedTuple):
    """The mean rate and times of one running batch."""

    batch: float
    requests_per_second: float
    ttft_seconds: float
    tpot_seconds: float


class Steady(NamedTuple):
    """The mean rates and times of running batches, by batch."""

    batch: Array
    requests_per_second: Array
    ttft_seconds: Array
    tpot_seconds: Array

    def at(self, number: int) -> Point:
        """The point of one of the batches."""
        return Point(*(float(values[number]) for values in self))

    def part(self, which: slice) -> "Steady":
        """The steady state of some of the batches."""
        return Steady(*(values[which] for values in self))


def steady(
    steps: StepTimes,
    batch: Numbers,
    input_tokens: Numbers,
    output_tokens: Numbers,
    *,
    floor_seconds: float = 0.0,
    requests_per_client: Numbers = math.inf,
) -> Steady:
    """The steady state in which ``batch`` requests of one class always run. Arguments may be arrays and are broadcast.

    Args:
        floor_seconds: the time to the first token outside all iterations (``floor.first_token_seconds``).
        requests_per_client: the requests of each client in a run whose clients start together; if it is infinite, only the
            steady state counts.
    """
    settings = steps.settings
    batch, prompt, answer = (np.asarray(it, dtype=float) for it in (batch, input_tokens, output_tokens))
    batch, prompt, answer = np.broadcast_arrays(batch, prompt, answer)
    requests = np.maximum(1.0, batch / steps.stages)
    cached = settings.prefix_cache_hit_share * prompt
    fresh = np.maximum(1.0, prompt - cached)
    turns = np.maximum(1.0, answer / settings.tokens_per_step)
    most = float(settings.max_num_batched_tokens)
    reading = np.maximum(np.minimum(requests, turns), requests * fresh / most)
    chunk = requests * fresh / reading
    context = prompt + answer / 2.0
    # A chunk is a part of one prompt, or several whole prompts.
    prompts = np.maximum(1.0, chunk / fresh)
    past = cached + (fresh - chunk / prompts) / 2.0
    # If reading the prompts takes more iterations than the answers, the other requests of the batch wait to be read.
    decoding = batch * turns / np.maximum(turns, reading)
    alone = np.asarray(steps.mixed_seconds(chunk, past, decoding, context, prompts))
    step = np.asarray(steps.decode_seconds(decoding, context))
    cycle = reading * alone + np.maximum(0.0, turns - reading) * step
    rate = batch / cycle
    pieces = np.maximum(1.0, fresh / most)
    own = pieces * alone
    busy = np.minimum(1.0, reading * alone / cycle)
    wait = step / 2.0 + np.clip((cycle - own - step) / 2.0, 0.0, alone * busy / 2.0)
    ttft = np.minimum(cycle, own + (1.0 - 1.0 / np.maximum(batch, 1.0)) * wait)
    others = 0.5 * np.maximum(batch - 1.0, 0.0) / np.asarray(requests_per_client, dtype=float)
    ttft = np.minimum(cycle, ttft + floor_seconds + others * np.asarray(steps.prefill_seconds(fresh, cached)))
    further = np.maximum(answer - 1.0, 1.0)
    tpot = np.where(answer > 1.0, np.maximum(0.0, cycle - ttft) / further, 0.0)
    ttft = np.where(answer > 1.0, ttft, cycle)
    return Steady(batch, rate, ttft, tpot)
