"""Tables of the step times of replicas for classes of requests; ``latency`` computes with them.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from servingplan.profiles.kernels import Numbers
from servingplan.profiles.steps import StepTimes
from servingplan.profiles.tails import Array

PROMPT_SPREAD = 0.6
ANSWER_SPREAD = 0.8
"""Default coefficients of variation of the lengths inside one class; lengths are lognormal. From the Azure traces of 2023, cut
into classes by prompt length: prompts 0.96 (one class), 0.54 to 0.72 (two), 0.27 to 0.76 (three); answers of the conversation
trace 0.77, 0.66 to 0.79, 0.49 to 0.84. Answers of the code trace (mean 28 tokens) have 2.0 to 2.2."""

GRID = 13
"""The number of batches at which step times are looked up, in equal ratios from 1 to the largest."""

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
"""Gauss-Hermite quadrature: lengths and weights that represent a lognormal distribution."""

_BLOCK_TOKENS = 16
TINY = 1e-12
"""The least value of quantities that must not be zero."""


class Spread(NamedTuple):
    """Coefficients of variation of the lengths of one class of requests; with 0 all lengths are equal."""

    prompt: float = PROMPT_SPREAD
    answer: float = ANSWER_SPREAD


@dataclass(frozen=True, slots=True)
class Table:
    """Pairs of a replica and a class of requests: step times by batch, and quantities that follow from the lengths.

    Arrays have one entry, or one row over the grid of batches, for each pair. ``tabulate`` makes them.
    """

    further_iterations: Array
    """Mean iterations of an answer after the one that reads the prompt; each gives a token, or more with speculation."""
    tokens_per_iteration: Array
    answer_spread: Array
    sequences: Array
    """The most requests that run at the same time."""
    kv_requests: Array
    """Requests of mean size whose KV cache fits, with room to admit a prompt beside them."""
    kv_spread: Array
    """Coefficient of variation of the KV tokens of one running request."""
    budget_prompts: Array
    """Prompts of mean length that one iteration can read."""
    length_square: Array
    """The mean square of the prompts' lengths divided by the square of their mean."""
    chunks: Array
    """Mean number of iterations that read one prompt."""
    stages: Array
    floor: Array
    """Seconds to the first token that are not part of any iteration."""
    pace: Array
    """The factor by which ``at_pace`` has multiplied the times."""
    ttft_ratio: Array
    tpot_ratio: Array
    """The first token, and each further one, takes at least this many times as long as before ``at_pace``; see ``cautious``."""
    alone: Array
    """(pairs, 3): raw moments of the seconds to the first token on an idle engine, without the floor."""
    batch: Array
    """(pairs, GRID): the batches of the grid."""
    step: Array
    """(pairs, GRID): seconds of an iteration without its prompts. It is less than the time of an iteration that only decodes,
    by the mean saving of the first prompt in an iteration."""
    read: Array
    """(pairs, GRID, 3): raw moments of the seconds that one prompt adds to an iteration that already reads another."""
    step_slope: Array
    read_slope: Array
    """(pairs, GRID): slopes of the step and of the mean of ``read``, by batch."""
    rate: Array
    """(pairs, GRID): requests/s that keep the batch at this size; it never falls from one batch to the next."""
    top_batch: Array
    top_rate: Array
    """The batch with the highest rate, and that rate in requests/s."""
    unshared: Array
    """(pairs, GRID): mean seconds that a prompt saves if it is the only one of its iteration."""

    def __len__(self) -> int:
        return len(self.further_iterations)


def tabulate(
    steps: StepTimes,
    input_tokens: Numbers,
    output_tokens: Numbers,
    spread: Spread | None = None,
    *,
    floor_seconds: float = 0.0,
) -> Table:
    """The table of one replica for classes of requests.

    Args:
        input_tokens: mean prompt lengths, an array of one dimension or a number, at least 1.
        output_tokens: mean answer lengths, likewise.
        spread: the spread of the lengths; the default is ``Spread()``.
        floor_seconds: the time to the first token outside all iterations, see ``floor.first_token_seconds``.

    Raises:
        ValueError: a length is below 1, or the KV room does not hold one request.
    """
    spread = Spread() if spread is None else spread
    prompts, answers = np.broadcast_arrays(
        np.atleast_1d(np.asarray(input_tokens, float)), np.atleast_1d(np.asarray(output_tokens, float))
    )
    if prompts.min(initial=1.0) < 1 or answers.min(initial=1.0) < 1:
        raise ValueError(f"input_tokens {input_tokens} and output_tokens {output_tokens} must be at least 1")
    settings = steps.settings
    stages = float(steps.stages)
    longest = float(settings.max_model_len)
    found = settings.prefix_cache_hit_share

    # At a random moment, a running request holds its prompt and g tokens of its answer. Among the answers that run at a
    # moment, long ones are more frequent, in proportion to their length.
    ratio = 1.0 + spread.answer**2
    generated, generated_square = answers * ratio / 2.0, answers**2 * ratio**3 / 3.0
    held = prompts + generated + _BLOCK_TOKENS / 2
    held_variance = (spread.prompt * prompts) ** 2 + generated_square - generated**2
    longer = steps.held_tokens(held + prompts * spread.prompt**2)
    # Beyond a window a token takes less room. So longer prompts take less than proportional room, and the room varies less.
    taken = steps.held_tokens(held)
    slope = (steps.held_tokens(1.1 * held) - steps.held_tokens(0.9 * held)) / (0.2 * held)
    kv_requests = (steps.kv_room_tokens - (longer - taken)) / taken
    if kv_requests.min(initial=1.0) < 1:
        short = int(np.argmin(kv_requests))
        raise ValueError(
            f"input_tokens {prompts[short]:g} and output_tokens {answers[short]:g}: the KV room of "
            f"{steps.kv_room_tokens:g} tokens does not hold one request"
        )
    sequences = np.full_like(prompts, float(settings.max_num_seqs))
    yielded = settings.tokens_per_step
    further = (answers - 1.0) / yielded
    budget = stages * settings.max_num_batched_tokens
    prompts_read = prompts * (1.0 - found)
    # n <= (o - 1) x T, and an iteration reads at most its budget less n.
    by_budget = further * budget / (prompts_read + further)
    decoding = further / (further + 1.0)
    top = np.maximum(np.minimum(np.minimum(sequences, kv_requests) * decoding, by_budget), 1.0)
    batch = top[:, None] ** np.linspace(0.0, 1.0, GRID)
    context = (prompts + generated)[:, None]
    step = np.broadcast_to(np.asarray(steps.decode_seconds(batch, context)), batch.shape)

    width = np.sqrt(np.log1p(spread.prompt**2))
    lengths = np.minimum(prompts[:, None] * np.exp(width * _NODES - width**2 / 2), max(longest - 1.0, 1.0))
    fresh, past = lengths * (1.0 - found), lengths * found
    room = np.maximum(budget - batch, 1.0)
    chunks = np.ceil(fresh[:, None, :] / room[:, :, None])
    chunk = fresh[:, None, :] / chunks
    behind = past[:, None, :] + (fresh[:, None, :] - chunk) / 2

    # The first prompt of an iteration adds less than the next ones. A request decodes o - 1 iterations, so each iteration
    # has a Poisson number of prompts with mean n/(o - 1). The saving of the first one is subtracted from the step.
    mixed = steps.beside(batch[:, :, None], context[:, :, None])
    other = np.clip(room[:, :, None] - chunk, 0.0, prompts_read[:, None, None])
    alone_in_it = mixed(chunk, behind)
    together = mixed(chunk + other, behind) - mixed(other, np.zeros_like(other))
    # Prompts do not attend to each other, so the attention between them is subtracted.
    together = together - (mixed(chunk, behind + other) - alone_in_it)
    added = np.maximum(chunks * together, TINY)
    read = np.stack([(added**power) @ _WEIGHTS for power in (1, 2, 3)], axis=-1)
    first = np.maximum(chunks * (alone_in_it - step[:, :, None]), TINY) @ _WEIGHTS
    saving = np.clip(read[..., 0] - first, 0.0, 0.9 * step)
    per_iteration = batch / stages / np.maximum(further, 1.0)[:, None]
    step = step - saving * -np.expm1(-per_iteration)

    pieces = np.ceil(fresh / budget)
    alone_by_length = pieces * np.asarray(steps.prefill_seconds(fresh / pieces, past + (fresh - fresh / pieces) / 2))
    alone = np.stack([(alone_by_length**power) @ _WEIGHTS for power in (1, 2, 3)], axis=-1)
    one_token = further == 0
    if one_token.any():
        # Nothing decodes. An iteration without its prompts takes the time of one prompt less what a second one would add.
        piece = fresh / pieces
        second = np.asarray(steps.prefill_seconds(2 * piece, past)) - np.asarray(steps.prefill_seconds(piece, past))
        second = np.clip(pieces * second, TINY, alone_by_length)
        moments = np.stack([(second**power) @ _WEIGHTS for power in (1, 2, 3)], axis=-1)
        read = np.where(one_token[:, None, None], moments[:, None, :], read)
        fixed = np.maximum((alone_by_length - second) @ _WEIGHTS, TINY)
        step = np.where(one_token[:, None], fixed[:, None], step)
        saving = np.where(one_token[:, None], 0.0, saving)
    share = read[..., 0] / stages
    rates = batch / np.maximum(further[:, None] * step + batch * share, TINY)
    best = np.argmax(rates, axis=1)  # a larger batch may be slower
    row = np.arange(len(prompts))
    prompts_at_most = np.maximum(budget - top, 1.0) / prompts_read
    together = np.minimum(prompts_at_most, np.minimum(sequences, kv_requests))
    full = together / (step[:, 0] + together * share[:, 0])  # iterations full of prompts
    return Table(
        further_iterations=further,
        tokens_per_iteration=np.full_like(prompts, yielded),
        answer_spread=np.full_like(prompts, spread.answer),
        sequences=sequences,
        kv_requests=kv_requests,
        kv_spread=slope * np.sqrt(held_variance) / taken,
        budget_prompts=prompts_at_most,
        length_square=np.full_like(prompts, 1.0 + spread.prompt**2),
        chunks=pieces @ _WEIGHTS,
        stages=np.full_like(prompts, stages),
        floor=np.full_like(prompts, floor_seconds),
        pace=np.ones_like(prompts),
        ttft_ratio=np.zeros_like(prompts),
        tpot_ratio=np.zeros_like(prompts),
        alone=alone,
        batch=batch,
        step=step,
        read=read,
        rate=np.maximum.accumulate(rates, axis=1),
        top_batch=batch[row, best],
        top_rate=np.where(one_token, full, rates[row, best]),
        step_slope=_slopes(batch, step),
        read_slope=_slopes(batch, read[..., 0]),
        unshared=saving * np.exp(-per_iteration),
    )


def _slopes(batch: Array, values: Array) -> Array:
    """The slopes at the grid points, each between its two neighbours; 0 if all batches are equal."""
    left, right = np.maximum(np.arange(GRID) - 1, 0), np.minimum(np.arange(GRID) + 1, GRID - 1)
    width = batch[:, right] - batch[:, left]
    rise = values[:, right] - values[:, left]
    return np.divide(rise, width, out=np.zeros_like(rise), where=width > TINY)


def at_pace(table: Table, factor: Array) -> Table:
    """The table with all times multiplied by a factor for each pair, for an engine that is slower by this factor. The floor
    stays as it is."""
    row = factor[:, None]
    times = {name: getattr(table, name) * row for name in ("step", "unshared", "step_slope", "read_slope")}
    powers = np.stack([factor, factor**2, factor**3], axis=-1)
    return replace(
        table,
        **times,
        pace=table.pace * factor,
        rate=table.rate / row,
        top_rate=table.top_rate / factor,
        alone=table.alone * powers,
        read=table.read * powers[:, None, :],
    )


def cautious(table: Table, ttft_ratio: Array, tpot_ratio: Array) -> Table:
    """The table for replicas whose first tokens and further tokens take at least these many times as long as the step times
    say. End-to-end times and rates stay as they are.

    ``at_pace`` slows all times by one factor. A plan that must keep a limit is not sure that this covers the error of its
    latencies; the larger of both factors counts.
    """
    return replace(table, ttft_ratio=ttft_ratio, tpot_ratio=tpot_ratio)


def stack(tables: Iterable[Table]) -> Table:
    """One table from the tables of several replicas, in their order."""
    listed = list(tables)
    return Table(**{it.name: np.concatenate([getattr(table, it.name) for table in listed]) for it in fields(Table)})


def part_of(table: Table, rows: slice) -> Table:
    """The table of some pairs of a table."""
    return Table(**{it.name: getattr(table, it.name)[rows] for it in fields(Table)})
