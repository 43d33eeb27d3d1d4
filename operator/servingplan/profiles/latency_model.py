"""The formulas of ``latency``: iterations, waiting and times per token at given rates.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status.

An engine with continuous batching works in iterations. Each iteration gives a token to the n running requests and reads the
prompts that arrived during the previous one. Let x be the rate of requests per copy, o the tokens of an answer, and

    s(n)      seconds of an iteration that only decodes n requests
    b, b2, b3 moments of the seconds that reading one prompt adds to the iterations that read it
    r = x b   share of the time that is spent on prompts

The steps are as follows; ``states`` refers to their numbers.

1. The mean iteration is T = s/(1 - r), and n = x (o - 1) T, since a request decodes o - 1 iterations. So
   x = n/((o-1) s(n) + n b), in closed form by n. This is also the closed-loop rate, and at the largest n the saturated rate.
2. n varies. If T is linear in n near its mean, the number of running requests of c pooled copies is negative binomial. This is
   the stationary distribution of a processor-sharing queue with that speed, for any lengths (Cohen, "The multiple phase service
   network with generalized processor sharing", Acta Informatica 12, 1979).
3. Iterations vary: T' = s + the prompts of a Poisson number of arrivals with mean x T. This is the gated queue of Takagi,
   Queueing Analysis 1, 1991, ch. 2; cumulants follow by recursion. An arrival meets an iteration with probability
   proportional to its length.
4. Time to the first token = the rest of the running iteration + the next iteration (its own prompt and all prompts that arrive
   before it begins).
5. The budget of tokens per iteration bounds T by Tmax. Prompts that do not fit wait like work in an M/G/1 queue.
6. Slots (``max_num_seqs`` and KV room): the probability of waiting is by Halfin and Whitt, Operations Research 29, 1981, with
   the variance of step 2. The wait is exponential; its mean is by Allen and Cunneen, (1 + cv^2)/2 of that of the M/M/c queue.
7. Time per token of a request = the mean T over its life. It depends on the mean n, on the prompts that arrive in that time (a
   delay busy period), and on the prompts that waited behind its own, which matter more for shorter answers.

Percentiles come from the sum of these parts by three moments (``tails.Shifted``), with the waits for a slot as a mixture. A
plan may count on slower tokens (``latency_table.cautious``).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from servingplan.profiles.latency_table import GRID, TINY, Table
from servingplan.profiles.tails import Array, Shifted, normal_density, normal_tail

_FEW_NODES, _FEW_WEIGHTS = np.polynomial.hermite_e.hermegauss(3)
_FEW_WEIGHTS = _FEW_WEIGHTS / _FEW_WEIGHTS.sum()
"""Gauss-Hermite quadrature over a normal distribution, for the lengths of answers."""


class Part(NamedTuple):
    """A latency in seconds: its mean, and its distribution as a mixture of ``Shifted``."""

    mean: Array
    shares: tuple[Array | float, ...]
    parts: tuple[Shifted, ...]
    most: Array | None = None
    """The largest possible value; None if there is none."""

    def tail(self, value: Array) -> Array:
        """The probability of more than ``value``."""
        total: Array = np.zeros(np.shape(self.mean))
        for share, part in zip(self.shares, self.parts, strict=True):
            total = total + share * part.tail(value)
        return total if self.most is None else np.where(value >= self.most, 0.0, total)


class State(NamedTuple):
    rate: Array
    running: Array
    running_variance: Array
    """The variance of the running requests of one copy, if all copies are equally full."""
    ttft: Part
    tpot: Part
    e2e: Callable[[], Part]
    """Computed when it is called, since limits are on the other two."""


class Looked(NamedTuple):
    """Columns of a table at some batches."""

    step: Array
    read: Array
    step_slope: Array
    read_slope: Array
    unshared: Array


def _at(table: Table, batch: Array) -> Looked:
    """The columns at these batches, interpolated linearly between grid points."""
    top = np.log(table.batch[:, -1:])
    place = np.log(np.maximum(batch, 1.0)) / np.maximum(top, TINY) * (GRID - 1)
    index = np.clip(place.astype(int), 0, GRID - 2)
    row = np.arange(len(table))[:, None]
    left, right = table.batch[row, index], table.batch[row, index + 1]
    part = np.clip((batch - left) / np.maximum(right - left, TINY), 0.0, 1.0)

    def between(column: Array) -> Array:
        share = part[..., None] if column.ndim == 3 else part
        low = column[row, index]
        value: Array = low + share * (column[row, index + 1] - low)
        return value

    return Looked(*(between(getattr(table, name)) for name in Looked._fields))


def rate_of(table: Table, batch: Array) -> Array:
    """Step 1: the rate in requests/s with which ``batch`` requests decode on average over iterations."""
    at = _at(table, batch)
    further, share = table.further_iterations[:, None], at.read[..., 0] / table.stages[:, None]
    return batch / np.maximum(further * at.step + batch * share, TINY)


def batch_at(table: Table, rates: Array) -> Array:
    """The inverse of step 1: the batch that decodes at these rates, which must be below ``highest_rate``.

    Between two grid points, step and read are linear in n, so x ((o - 1) s(n) + n b(n)) = n is quadratic.
    """
    row = np.arange(len(table))[:, None]
    index = np.clip((table.rate[:, None, :] <= rates[..., None]).sum(axis=-1) - 1, 0, GRID - 2)
    further, stages = table.further_iterations[:, None], table.stages[:, None]
    left, right = table.batch[row, index], table.batch[row, index + 1]
    width = np.maximum(right - left, TINY)
    step, read = table.step[row, index], table.read[row, index, 0] / stages
    steeper = (table.step[row, index + 1] - step) / width
    dearer = (table.read[row, index + 1, 0] / stages - read) / width
    below = rates < table.rate[:, :1]
    steeper, dearer = np.where(below, 0.0, steeper), np.where(below, 0.0, dearer)
    square = rates * dearer
    linear = rates * (further * steeper + read - dearer * left) - 1.0
    constant = rates * further * (step - steeper * left)
    root = np.sqrt(np.maximum(linear * linear - 4.0 * square * constant, 0.0))
    batch = 2.0 * constant / np.maximum(root - linear, TINY)
    inside: Array = np.clip(batch, np.where(below, 0.0, left), np.where(below, left, right))
    return np.where(further == 0, 0.0, np.minimum(inside, table.top_batch[:, None]))


class Iteration(NamedTuple):
    """Steps 1, 3 and 5: the iterations of one copy at a rate, and those that an arriving request meets."""

    step: Array
    step_slope: Array
    share: Array
    """r, the share of the time that is spent on prompts."""
    square: Array
    """b2 and b3 of the time by which a prompt delays all others; in a pipeline this is the time of one stage."""
    cube: Array
    own: Array
    """Moments of the seconds that a prompt takes to read, and the saving to subtract from their mean."""
    unshared: Array
    mean: Array
    """T"""
    slope: Array
    """The slope of T over n."""
    most: Array
    """Tmax"""
    seen: Array
    """Mean and second moment of the iteration that an arrival meets."""
    seen_square: Array
    line: Array
    """The probability to wait for longer than the next iteration, and the mean of the further wait."""
    line_seconds: Array


def iterations_at(table: Table, rate: Array, batch: Array) -> Iteration:
    step, own, step_slope, read_slope, unshared = _at(table, batch)
    stages = table.stages[:, None]
    read, square, cube = own[..., 0] / stages, own[..., 1] / stages**2, own[..., 2] / stages**3
    share = np.minimum(rate * read, 0.999)
    mean = step / (1.0 - share)
    slope = np.maximum(step_slope / (1 - share) + step * rate * read_slope / stages / (1 - share) ** 2, 0.0)
    # Cumulants of T' = step + prompts of a Poisson number rate T.
    variance = rate * square * mean / (1 - share**2)
    third = (mean * rate * cube + 3 * variance * share * rate * square) / (1 - share**3)
    seen = (variance + mean**2) / mean
    seen_square = (third + 3 * variance * mean + mean**3) / mean
    # The budget bounds an iteration. Prompts beyond it wait in a queue that full iterations serve.
    prompts = table.budget_prompts[:, None]
    most = step + prompts * read
    room, excess = np.maximum(most - mean, TINY), np.maximum(seen - mean, TINY)
    bounded = (mean - excess * np.expm1(-room / excess)) / seen
    full = read + step / prompts
    busy = np.minimum(rate * full, 0.999)
    line_seconds = full * table.length_square[:, None] / (2 * (1 - busy))
    line = busy * np.exp(-most / np.maximum(line_seconds, TINY))
    return Iteration(
        step=step,
        step_slope=step_slope,
        share=share,
        square=square,
        cube=cube,
        own=own,
        unshared=unshared,
        mean=mean,
        slope=slope,
        most=most,
        seen=seen * bounded,
        seen_square=seen_square * bounded**2,
        line=line,
        line_seconds=line_seconds,
    )


def states(table: Table, rate: Array, batch: Array, copies: Array) -> State:
    """The latencies at these rates per copy, with the batch of step 1."""
    it = iterations_at(table, rate, batch)
    further, chunks = table.further_iterations[:, None], table.chunks[:, None]
    yielded = table.tokens_per_iteration[:, None]
    busy = 1.0 - it.share

    # Step 2: T = a + slope n gives the negative binomial of mean n + e/(c (1 - e)) and variance mean/(c (1 - e)).
    feedback = np.clip(rate * further * it.slope, 0.0, 0.98)
    mean_batch = batch + feedback / (copies * (1 - feedback))
    batch_variance = mean_batch / (copies * (1 - feedback))

    # Step 4.
    own, own_square, own_cube = it.own[..., 0], it.own[..., 1], it.own[..., 2]
    own_variance, own_third = own_square - own**2, own_cube - 3 * own_square * own + 2 * own**3
    seen_variance = np.maximum(it.seen_square - it.seen**2, 0.0)
    after = 0.5 + it.share
    waited = it.line * it.line_seconds
    waited_variance = 2 * it.line * it.line_seconds**2 - waited**2
    waited_third = 6 * it.line * it.line_seconds**3 - 6 * waited * it.line * it.line_seconds**2 + 2 * waited**3
    met = after * it.seen + chunks * it.step + own - it.unshared + waited
    met_variance = (
        after**2 * seen_variance
        + it.seen_square / 12
        + rate * it.square * it.seen
        + own_variance
        + (1.5 * it.slope) ** 2 * batch_variance
        + waited_variance
    )
    met_third = (
        own_third
        + rate * it.cube * it.seen
        + 2 * after**3 * seen_variance**2 / np.maximum(it.seen, TINY)
        + waited_third
    )
    nobody = np.where(
        feedback > 1e-6,
        (1 - feedback) ** (mean_batch * (1 - feedback) / np.maximum(feedback, 1e-9)),
        np.exp(-mean_batch),
    )
    idle = nobody * busy
    raw = [idle * table.alone[:, None, power] for power in range(3)]
    first = raw[0] + (1 - idle) * met  # without the floor, which shifts all times by the same amount
    second = raw[1] + (1 - idle) * (met_variance + met**2)
    third = raw[2] + (1 - idle) * (met_third + 3 * met_variance * met + met**3)
    ttft_variance, ttft_third = second - first**2, third - 3 * first * second + 2 * first**3

    # Step 7: the prompts that waited behind the own one are read while this request decodes.
    reading = chunks * it.step + own - it.unshared + it.share * it.seen
    behind = it.share * np.maximum(reading + waited - it.mean, 0.0) / busy
    room = np.maximum(it.most - it.mean, TINY)
    usual = it.mean + it.slope * (mean_batch - batch + 1.0)

    def per_token(tokens: Array) -> Array:
        """The mean seconds of each of ``tokens`` further tokens of one request."""
        extra = behind * (1 - it.share**tokens) / np.maximum(tokens, TINY)
        return np.where(tokens > 0, usual - room * np.expm1(-extra / room), 0.0)

    token_mean = per_token(further)
    running = rate * (further * token_mean + reading)

    # Step 6.
    top = table.top_rate[:, None]
    slack = np.maximum(1.0 - rate / top, 1e-4)
    waits = np.zeros_like(rate)
    for limit, spread in ((table.sequences, 0.0), (table.kv_requests, table.kv_spread[:, None])):
        waits = np.maximum(
            waits,
            wait_probability(
                copies * limit[:, None], copies * running, copies * running * (1 / (1 - feedback) + spread**2), slack
            ),
        )
    wait = (1 + table.answer_spread[:, None] ** 2) / (2 * copies * top * slack)

    # Step 7: the distribution, by length of the answer.
    width = np.sqrt(np.log1p(table.answer_spread[:, None] ** 2))
    shares, means, parts = [], [], []
    batch_part = batch_variance * it.slope**2 * (1 - waits)
    slower = np.maximum(1.0, table.tpot_ratio / table.pace)[:, None]
    for node, weight in zip(_FEW_NODES, _FEW_WEIGHTS, strict=True):
        tokens = np.maximum((further + 1) * np.exp(width * node - width**2 / 2) - 1, 1.0)
        life = np.maximum(tokens / np.maximum(further, 1.0) * (1 - feedback), 1e-6)
        averaged = batch_part * 2 / life**2 * (life + np.expm1(-life))
        prompts = rate * it.square * it.step / (tokens * busy**3)
        line = (it.share / (busy * tokens)) ** 2 * (own_variance + it.share**2 * seen_variance + waited_variance)
        prompts_third = it.step / tokens**2 * (rate * it.cube / busy**4 + 3 * (rate * it.square) ** 2 / busy**5) + (
            it.share / (busy * tokens)
        ) ** 3 * (own_third + waited_third)
        batch_third = averaged**1.5 * (1 + feedback) / np.sqrt(np.maximum(mean_batch * copies * (1 - feedback), TINY))
        shares.append(weight)
        variance, third = averaged + prompts + line, prompts_third + batch_third
        means.append(np.where(further > 0, per_token(tokens), 0.0))
        told = slower / yielded
        parts.append(Shifted.of(means[-1] * told, variance * told**2, third * told**3))
    tpot_mean = np.average(means, axis=0, weights=shares)
    most = it.most + 3 * it.step_slope * np.sqrt(batch_variance)

    def with_wait(mean: Array, variance: Array, third: Array) -> Part:
        waiting = Shifted.of(mean + wait, variance + wait**2, third + 2 * wait**3)
        return Part(mean + waits * wait, (1 - waits, waits), (Shifted.of(mean, variance, third), waiting))

    floor = table.floor[:, None]
    unscaled = table.ttft_ratio[:, None] * (first / table.pace[:, None] + floor)
    later = np.maximum(1.0, unscaled / (first + floor))

    def e2e() -> Part:
        spread = table.answer_spread[:, None]
        length_variance = ((further + 1) * spread) ** 2
        length_third = (further + 1) ** 3 * spread**4 * (spread**2 + 3)
        decode_variance = (
            length_variance * token_mean**2
            + (further**2 + length_variance) * batch_part * 0.74
            + further * rate * it.square * it.step / busy**3
        )
        return with_wait(
            first + further * token_mean + floor,
            ttft_variance + decode_variance,
            ttft_third + length_third * token_mean**3,
        )

    return State(
        rate=rate,
        running=running,
        running_variance=running / (copies * (1 - feedback)),
        ttft=with_wait(later * (first + floor), later**2 * ttft_variance, later**3 * ttft_third),
        tpot=Part(slower * tpot_mean / yielded, tuple(shares), tuple(parts), slower * most / yielded),
        e2e=e2e,
    )


def wait_probability(slots: Array, mean: Array, variance: Array, slack: Array) -> Array:
    """Step 6: the probability that all slots are taken.

    Below ``slots``, the number of requests has a gamma distribution with this mean and variance (score by Wilson and Hilferty,
    PNAS 17, 1931). Above, the probability falls by a factor of 1 - slack per request.
    """
    shape = mean**2 / variance
    root = np.sqrt(9 * shape)
    relative = np.cbrt((slots - 0.5) / mean)
    score = (relative - 1 + 1 / (9 * shape)) * root
    density = normal_density(score) * root / (3 * relative**2 * mean)
    full = density / (slack * np.maximum(normal_tail(-score), 1e-300))
    probability: Array = full / (1 + full)
    return probability


def clients_of(
    table: Table, rate: Array, batch: Array, clients: Array, started_together: float
) -> tuple[Array, Array, Array, Array]:
    """The number of closed-loop clients that give this rate and batch, the rate (requests/s), and the mean TTFT and TPOT in
    seconds; ``clients`` is a first estimate of their number."""
    # A client does not meet its own requests, so the rate of the others is lower by its share.
    it = iterations_at(table, rate * (clients - 1) / clients, batch)
    chunks = table.chunks[:, None]
    others = np.minimum(batch, clients - 1) / np.maximum(clients - 1, 1.0)
    ttft = (
        (0.5 + it.share) * it.seen * others
        + chunks * it.step
        + it.own[..., 0]
        - it.unshared
        + it.line * it.line_seconds
        + table.floor[:, None]
        + started_together * 0.5 * (clients - 1) * it.own[..., 0]
    )
    tpot = it.step / (1 - np.minimum(rate * it.own[..., 0] / table.stages[:, None], 0.999))
    return batch + rate * ttft, rate, ttft, tpot
