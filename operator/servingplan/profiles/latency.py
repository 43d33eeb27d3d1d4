"""Distributions of time to first token, time per token and end-to-end time, under open-loop load and with fixed clients.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. ``tabulate`` makes a table of ``steps.StepTimes``
for pairs of a replica and a class, and all functions here take such a table. The planner gets from ``capacity`` the load that
copies may have. The formulas are in ``latency_model``; ``docs/latency.md`` has their measured errors.
"""

import math
from typing import NamedTuple

import numpy as np

from servingplan.profiles.kernels import Numbers
from servingplan.profiles.latency_model import Part, batch_at, clients_of, rate_of, states
from servingplan.profiles.latency_table import TINY, Spread, Table, at_pace, cautious, part_of, stack, tabulate
from servingplan.profiles.tails import Array, quantile

__all__ = [
    "Capacity",
    "ClosedLoop",
    "OpenLoop",
    "Spread",
    "Table",
    "at_pace",
    "capacity",
    "cautious",
    "closed_loop",
    "highest_rate",
    "open_loop",
    "part_of",
    "stack",
    "tabulate",
]


class OpenLoop(NamedTuple):
    """The latencies of requests that arrive at a rate, independent of earlier requests. Arrays have the shape of the rates."""

    utilization: Array
    """The rate divided by the highest sustained rate."""
    running: Array
    """The mean number of requests in the batch of one copy."""
    running_most: Array
    """The number of requests in the batch that is exceeded a thousandth of the time."""
    ttft_seconds: Array
    tpot_seconds: Array
    """The mean over requests of their mean time per further token; 0 for answers of one token."""
    e2e_seconds: Array
    ttft_percentile_seconds: Array
    tpot_percentile_seconds: Array
    e2e_percentile_seconds: Array


class Capacity(NamedTuple):
    """The load that copies may have, by pair and number of copies 1, 2, ...; the last holds for more."""

    requests_per_second: Array
    """(pairs, copies): the rate of each copy."""
    utilization: Array
    """(pairs, copies): that rate divided by ``highest_rate``; 0 if even an almost idle copy cannot keep the limits."""
    highest_rate: Array
    """(pairs,): the requests/s that one copy sustains without limits on latency."""


class ClosedLoop(NamedTuple):
    """Rate and latencies of a fixed number of clients. Each sends its next request when its answer is complete."""

    requests_per_second: Array
    ttft_seconds: Array
    tpot_seconds: Array
    """Mean times."""
    running: Array
    """The number of requests that decode, as the mean over iterations."""


def highest_rate(table: Table) -> Array:
    """The highest rate that one copy sustains within its slots, KV room and token budget, in requests/s, by pair."""
    return table.top_rate


_THOUSANDTH = 3.09
"""A normal variable exceeds its mean by this many standard deviations with probability 0.001."""


def open_loop(
    table: Table,
    requests_per_second: Numbers,
    *,
    copies: Numbers = 1,
    percentile: Numbers = 95.0,
    end_to_end: bool = True,
) -> OpenLoop:
    """The latencies under Poisson arrivals.

    Args:
        requests_per_second: the rate of one copy, shape (pairs,) or (pairs, points).
        copies: the number of copies that share the queue, a number or an array that is broadcast against the rates. Each
            request goes to the least loaded copy.
        percentile: the percentile of requests, in (0, 100), likewise.
        end_to_end: whether end-to-end times are asked for; they are not numbers (NaN) otherwise. They take a third of the time.

    Returns:
        Arrays of the shape of the rates, in seconds and requests; times are infinite if the rate is not sustained.

    Raises:
        ValueError: a rate is not above 0, copies are below 1, or the percentile is outside (0, 100).
    """
    rates = np.asarray(requests_per_second, float)
    flat = rates.ndim < 2
    rates = np.broadcast_to(rates, (len(table),))[:, None] if flat else rates
    number = np.broadcast_to(_columns(copies, flat), rates.shape)
    share = np.broadcast_to(_columns(percentile, flat), rates.shape)
    if not (rates > 0).all() or not (number >= 1).all():
        raise ValueError(f"requests_per_second {requests_per_second} must be above 0 and copies {copies} at least 1")
    _check_percentile(share)
    top = highest_rate(table)[:, None]
    within = rates < top
    rates_within = np.minimum(rates, 0.9999 * top)
    state = states(table, rates_within, batch_at(table, rates_within), number)
    late = 1.0 - share / 100.0
    latencies = [state.ttft, state.tpot, *([state.e2e()] if end_to_end else [])]
    means = [it.mean for it in latencies]
    tails = [_at_percentile(it, late) for it in latencies]
    if not end_to_end:
        unknown = np.full(rates.shape, np.nan)
        means, tails = [*means, unknown], [*tails, unknown]
    found = [np.where(within, it, np.inf) for it in (*means, *tails)]
    slots = np.minimum(table.sequences, table.kv_requests)[:, None]
    most = np.minimum(slots, state.running + _THOUSANDTH * np.sqrt(state.running_variance) + 1.0)
    running = (np.where(within, it, slots) for it in (state.running, most))
    answers = (rates / top, *running, *found)
    return OpenLoop(*(it[:, 0] if flat else it for it in answers))


_LOADS = np.array([0.0, 0.001, 0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.87, 0.93, 0.97, 0.995])
"""The utilisations that ``capacity`` tries first. It then refines twice the interval after the last one that keeps the limits.
If only utilisations below the second one keep them, the copy is useless, and the limits count as not kept."""
_PARTS = np.linspace(0.0, 1.0, 10)
_TINY_LOAD = 1e-6


def capacity(
    table: Table,
    *,
    ttft_seconds: Numbers | None,
    tpot_seconds: Numbers | None,
    percentile: Numbers = 95.0,
    max_copies: int = 16,
) -> Capacity:
    """The largest rate per copy with which the percentiles of TTFT and TPOT keep their limits, by number of copies.

    Args:
        ttft_seconds: the limits by pair, or one for all; infinite or None means no limit.
        tpot_seconds: likewise.
        percentile: the percentage of requests that must keep each limit, in (0, 100), by pair or one for all.
        max_copies: the largest number of copies; its entry holds for more.

    Raises:
        ValueError: the percentile is outside (0, 100), or ``max_copies`` is below 1.
    """
    if max_copies < 1:
        raise ValueError(f"max_copies is {max_copies}; it must be at least 1")
    pairs = len(table)
    share = np.broadcast_to(np.asarray(percentile, float), (pairs,))
    _check_percentile(share)
    late = (1.0 - share / 100.0)[:, None] * (1 + 1e-9)
    top = highest_rate(table)
    limits = [
        np.broadcast_to(np.inf if it is None else np.asarray(it, float), (pairs,))[:, None]
        for it in (ttft_seconds, tpot_seconds)
    ]

    copies = np.arange(1.0, max_copies + 1)
    used = np.zeros((pairs, max_copies))
    loads = np.broadcast_to(_LOADS, (pairs, max_copies, len(_LOADS)))
    for known in (None, -1, -1):
        # The first load of each row is known to keep the limits. Once refined, the last one is known not to, or equals the
        # first. So only the others are computed.
        asked = np.maximum(loads[..., 1:known], _TINY_LOAD)
        rates = asked.reshape(pairs, -1) * top[:, None]
        state = states(table, rates, batch_at(table, rates), np.repeat(copies, asked.shape[-1])[None, :])
        meets = (state.ttft.tail(limits[0]) <= late) & (state.tpot.tail(limits[1]) <= late)
        reached = np.logical_and.accumulate(meets.reshape(pairs, max_copies, -1), axis=-1).sum(axis=-1)[..., None]
        used = np.take_along_axis(loads, reached, axis=-1)[..., 0]
        after = np.take_along_axis(loads, np.minimum(reached + 1, loads.shape[-1] - 1), axis=-1)[..., 0]
        loads = used[..., None] + (after - used)[..., None] * _PARTS
    used = np.maximum.accumulate(np.where(used >= _LOADS[1], used, 0.0), axis=1)  # more copies share one queue
    return Capacity(used * top[:, None], used, top)


def closed_loop(table: Table, clients: Numbers, *, requests_per_client: float = math.inf) -> ClosedLoop:
    """The rate (requests/s) and the mean times (seconds) with a fixed number of clients.

    Args:
        clients: the number of requests in flight, shape (pairs,) or (pairs, points), at least 1.
        requests_per_client: the requests of each client in the run. All clients start together, so the first prompt of each
            waits for half of the others on average. Published curves have 10; if it is infinite, only the steady state
            counts.

    Raises:
        ValueError: clients are below 1.
    """
    count = np.asarray(clients, float)
    flat = count.ndim < 2
    count = np.broadcast_to(count, (len(table),))[:, None] if flat else count
    if not (count >= 1).all():
        raise ValueError(f"clients {clients} must be at least 1")
    most, top = table.top_batch, table.top_rate
    decodes = table.further_iterations[:, None] > 0

    def at(part: Array) -> tuple[Array, Array, Array, Array]:
        """The clients, rate and times with this part of the largest batch (of the highest rate if nothing decodes)."""
        batch = np.where(decodes, part * most[:, None], 0.0)
        rate = np.where(decodes, rate_of(table, batch), part * top[:, None])
        return clients_of(table, rate, batch, count, 1.0 / requests_per_client)

    low, high = np.full(count.shape, 1e-6), np.full(count.shape, 1.0)
    for _ in range(30):
        middle = 0.5 * (low + high)
        more = at(middle)[0] < count
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    _, rate, ttft, tpot = at(high)
    # Clients beyond the slots wait; their time is by Little's law over all clients.
    ttft = np.maximum(ttft, count / rate - table.further_iterations[:, None] * tpot)
    answers = rate, ttft, tpot / table.tokens_per_iteration[:, None], high * most[:, None]
    return ClosedLoop(*(it[:, 0] if flat else it for it in answers))


def _at_percentile(part: Part, late: Array) -> Array:
    """The value that this share of requests exceeds, to 3 parts in 10^5, between 0.02 and 100 times the mean."""
    return quantile(part.tail, late, part.mean * 0.02 + TINY, (part.mean + TINY) * 100.0)


def _columns(value: Numbers, flat: bool) -> Array:
    array = np.asarray(value, float)
    return array[..., None] if flat and array.ndim == 1 else array


def _check_percentile(share: Array) -> None:
    if not ((share > 0) & (share < 100)).all():
        raise ValueError(f"percentile is {share}; it must be above 0 and below 100")
