"""Time to first token, time per token and end-to-end time as distributions, under open-loop load and with fixed clients.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. Built on ``steps.StepTimes``: ``tabulate`` looks
them up for pairs of replica and class, and everything here takes such a table. The planner takes from ``capacity`` how full
copies may run. The formulas are in ``latency_model``; ``docs/latency.md`` has their measured errors.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from servingplan.profiles.latency_model import batch_at, clients_of, rate_of, states
from servingplan.profiles.latency_table import TINY, Spread, Table, stack, tabulate
from servingplan.profiles.steps import Numbers
from servingplan.profiles.tails import Array, quantile

__all__ = [
    "Capacity",
    "ClosedLoop",
    "OpenLoop",
    "Spread",
    "Table",
    "capacity",
    "closed_loop",
    "highest_rate",
    "open_loop",
    "stack",
    "tabulate",
]


class OpenLoop(NamedTuple):
    """What requests see that arrive at a rate, whatever happened to those before. Arrays of the shape of the rates."""

    utilization: Array
    """Rate over the highest rate that is sustained."""
    running: Array
    """Mean requests in the batch of one copy."""
    ttft_seconds: Array
    tpot_seconds: Array
    """Mean over requests of the mean time per further token; 0 for answers of one token."""
    e2e_seconds: Array
    ttft_percentile_seconds: Array
    tpot_percentile_seconds: Array
    e2e_percentile_seconds: Array


class Capacity(NamedTuple):
    """How full copies may run, by pair and number of copies 1, 2, ...; the last holds for more."""

    requests_per_second: Array
    """(pairs, copies), of each copy."""
    utilization: Array
    """(pairs, copies), of ``highest_rate``; 0 where the limits cannot be met even by a copy that is almost idle."""
    highest_rate: Array
    """(pairs,): the rate that one copy sustains without limits on latency."""


class ClosedLoop(NamedTuple):
    """What a fixed number of clients see that each send the next request when an answer is complete."""

    requests_per_second: Array
    ttft_seconds: Array
    tpot_seconds: Array
    """Means."""
    running: Array
    """Requests that decode, mean over iterations."""


def highest_rate(table: Table) -> Array:
    """The rate that one copy sustains, in requests per second, by pair: slots, KV room and budget all in use."""
    return table.top_rate


def open_loop(
    table: Table, requests_per_second: Numbers, *, copies: Numbers = 1, percentile: Numbers = 95.0
) -> OpenLoop:
    """Latency under Poisson arrivals.

    Args:
        requests_per_second: of one copy, shape (pairs,) or (pairs, points).
        copies: copies that share the queue, a number or an array that is broadcast against the rates: each request goes to
            the least loaded copy.
        percentile: of requests, in (0, 100), likewise.

    Returns:
        Arrays of the shape of the rates; times are infinite where the rate is not sustained.

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
    ttft, tpot, e2e = state.ttft, state.tpot, state.e2e
    means = ttft.mean, tpot.mean, e2e.mean
    tails = (quantile(it.tail, late, it.mean * 1e-2 + TINY, (it.mean + TINY) * 1e3) for it in (ttft, tpot, e2e))
    found = [np.where(within, it, np.inf) for it in (*means, *tails)]
    answers = (rates / top, np.where(within, state.running, table.sequences[:, None]), *found)
    return OpenLoop(*(it[:, 0] if flat else it for it in answers))


_LOADS = np.array([0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.87, 0.93, 0.97, 0.995])
"""Utilisations at which ``capacity`` looks first; where the tails stop meeting the limits it bisects between two."""
_HALVINGS = 8
_LEAST_LOAD = 1e-3
"""A copy that could run only so little is of no use: the limits count as not met."""


def capacity(
    table: Table,
    *,
    ttft_seconds: Numbers | None,
    tpot_seconds: Numbers | None,
    percentile: Numbers = 95.0,
    max_copies: int = 16,
) -> Capacity:
    """The largest rate a copy at which the percentile of TTFT and of TPOT meet their limits, by number of copies.

    Args:
        ttft_seconds: limits by pair, or one for all; infinite or None: no limit.
        tpot_seconds: likewise.
        percentile: of requests that must meet each limit, in (0, 100), by pair or one for all.
        max_copies: copies to tabulate; the last entry holds for more.

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

    def meets(load: Array, copies: Array) -> npt.NDArray[np.bool_]:
        rates = load * top[:, None]
        state = states(table, rates, batch_at(table, rates), np.broadcast_to(copies, rates.shape))
        return (state.ttft.tail(limits[0]) <= late) & (state.tpot.tail(limits[1]) <= late)

    loads = np.tile(_LOADS, (pairs, 1))
    copies = np.arange(1.0, max_copies + 1)
    reached = np.stack(
        [np.logical_and.accumulate(meets(loads, np.array(it)), axis=1).sum(axis=1) for it in copies], axis=1
    )
    low = np.concatenate([[0.0], _LOADS])[reached]
    high = np.concatenate([_LOADS, _LOADS[-1:]])[reached]
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        good = meets(np.maximum(middle, _LEAST_LOAD), copies)
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    used = np.maximum.accumulate(np.where(low > _LEAST_LOAD, low, 0.0), axis=1)  # pools share their slack
    return Capacity(used * top[:, None], used, top)


def closed_loop(table: Table, clients: Numbers) -> ClosedLoop:
    """Rate and mean times with a fixed number of clients.

    Args:
        clients: requests in flight, shape (pairs,) or (pairs, points), at least 1.

    Raises:
        ValueError: clients are below 1.
    """
    count = np.asarray(clients, float)
    flat = count.ndim < 2
    count = np.broadcast_to(count, (len(table),))[:, None] if flat else count
    if not (count >= 1).all():
        raise ValueError(f"clients {clients} must be at least 1")
    most, top = table.top_batch, table.top_rate
    decodes = table.further_tokens[:, None] > 0

    def at(part: Array) -> tuple[Array, Array, Array, Array]:
        """Clients that keep this part of the largest batch (of the highest rate, where nothing decodes) going."""
        batch = np.where(decodes, part * most[:, None], 0.0)
        rate = np.where(decodes, rate_of(table, batch), part * top[:, None])
        return clients_of(table, rate, batch, count)

    low, high = np.full(count.shape, 1e-6), np.full(count.shape, 1.0)
    for _ in range(30):
        middle = 0.5 * (low + high)
        more = at(middle)[0] < count
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    _, rate, ttft, tpot = at(high)
    # Beyond the slots the rest waits: Little's law over all clients.
    ttft = np.maximum(ttft, count / rate - table.further_tokens[:, None] * tpot)
    answers = rate, ttft, tpot, high * most[:, None]
    return ClosedLoop(*(it[:, 0] if flat else it for it in answers))


def _columns(value: Numbers, flat: bool) -> Array:
    array = np.asarray(value, float)
    return array[..., None] if flat and array.ndim == 1 else array


def _check_percentile(share: Array) -> None:
    if not ((share > 0) & (share < 100)).all():
        raise ValueError(f"percentile is {share}; it must be above 0 and below 100")
