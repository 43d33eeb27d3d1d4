"""The utilisation at which a percentile of requests starts in time, by a simple queue.

The planner takes utilisations from ``profiles.latency.capacity``; the tests compare its waiting with this model.

Model: an M/M/c queue. A copy has a number of slots (its running batch), and a request holds one slot for its service time S.
The y copies of a replica form one pool of ``c = y x slots`` servers at utilisation rho. Then

    P(wait > w) = P(wait > 0) exp(-c (1 - rho) w / S)                     exact for M/M/c
    P(wait > 0) = Erlang's C formula                                      up to 256 slots
                = 1 / (1 + b Phi(b) / phi(b)),  b = (1 - rho) sqrt(c)     for more slots

The last line is the heavy-traffic limit of Halfin and Whitt, "Heavy-traffic limits for queues with many exponential servers",
Operations Research 29 (1981), with Phi and phi of the normal distribution. It needs no sum over slots. With more than 256 slots
its utilisation is up to 0.02 below that of Erlang C for percentiles up to 99.9, and never noticeably above (the tests check
both).

Limits: arrivals are Poisson; bursts need more room. Service times are exponential; those of one class vary less, so the model
is on the safe side, also because a slot runs faster while others are idle. One pooled queue represents a gateway that sends
each request to the least loaded copy; with random splitting requests wait longer. The percentile of TTFT is the mean plus the
wait for a slot; the spread of the prefill is not included.
"""

import math
from functools import lru_cache
from itertools import accumulate

EXACT_SLOTS = 256
"""The largest number of slots for which Erlang's formula is summed."""

_BISECTIONS = 40


def wait_probability(*, utilization: float, slots: int, service_seconds: float, wait_seconds: float) -> float:
    """The probability that a request waits longer than ``wait_seconds`` for a slot, by the formulas above.

    Args:
        utilization: the busy share of all slots, in (0, 1).
        slots: the number of slots of all copies.
        service_seconds: the mean time for which a request holds a slot.
        wait_seconds: the wait, at least 0.
    """
    if slots <= EXACT_SLOTS:
        offered = utilization * slots
        blocked = 1.0  # Erlang's B formula, by its recursion over servers
        for server in range(1, slots + 1):
            blocked = offered * blocked / (server + offered * blocked)
        any_wait = blocked / (1.0 - utilization * (1.0 - blocked))
    else:
        slack = (1.0 - utilization) * math.sqrt(slots)
        density = math.exp(-slack * slack / 2.0) / math.sqrt(2.0 * math.pi)
        any_wait = density / (density + slack * 0.5 * (1.0 + math.erf(slack / math.sqrt(2.0))))
    return any_wait * math.exp(-slots * (1.0 - utilization) * wait_seconds / service_seconds)


@lru_cache(maxsize=4096)
def max_utilization(
    *,
    percentile: float,
    slots_per_copy: int,
    service_seconds: float,
    wait_budget_seconds: float,
    max_copies: int = 16,
) -> tuple[float, ...]:
    """The largest utilisation at which the percentile starts in time, by number of copies; the last one holds for more.

    Args:
        percentile: the percentage of requests that must start in time, in (0, 100), as in a plan's ``slo``.
        slots_per_copy: the running requests of one copy, ``Estimate.batch``.
        service_seconds: the mean time for which a request holds a slot, ``Estimate.slot_seconds``.
        wait_budget_seconds: the longest wait, which is the TTFT limit less ``Estimate.ttft_seconds``; with 0 that percentage
            must not wait at all.

    Returns:
        ``max_copies`` fractions in (0, 1), which never fall from one to the next, because copies share one queue.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 0 < percentile < 100:
        raise ValueError(f"percentile is {percentile}; it must be above 0 and below 100")
    if slots_per_copy < 1 or max_copies < 1:
        raise ValueError(f"slots_per_copy {slots_per_copy} and max_copies {max_copies} must be at least 1")
    if not (service_seconds > 0 and wait_budget_seconds >= 0):
        raise ValueError(
            f"service_seconds is {service_seconds} and must be above 0; "
            f"wait_budget_seconds is {wait_budget_seconds} and must be at least 0"
        )
    late = 1.0 - percentile / 100.0

    def limit(copies: int) -> float:
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            probability = wait_probability(
                utilization=middle,
                slots=copies * slots_per_copy,
                service_seconds=service_seconds,
                wait_seconds=wait_budget_seconds,
            )
            low, high = (middle, high) if probability <= late else (low, middle)
        return low

    # Each formula gives limits that never fall. The running maximum removes the step between the two formulas.
    return tuple(accumulate((limit(copies) for copies in range(1, max_copies + 1)), max))
