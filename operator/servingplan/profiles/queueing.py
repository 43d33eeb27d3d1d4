"""How full copies may run so that a percentile of requests still starts in time.

Flow: observe -> model -> **profiles** -> solve -> render -> apply -> status. ``estimate`` gives the rate without
queueing; the planner loads copies only up to the fraction that this module returns. Nothing else pays for queueing.

Model: an M/M/c queue. A copy is a number of slots (its running batch); a request holds one slot for its service time;
the y copies of a replica form one pool of ``c = y x slots`` servers at utilisation rho. Then

    P(wait > w) = P(wait > 0) exp(-c (1 - rho) w / S)                     exact for M/M/c
    P(wait > 0) = Erlang's C formula                                      up to 256 slots
                = 1 / (1 + b Phi(b) / phi(b)),  b = (1 - rho) sqrt(c)     beyond

The last line is the heavy-traffic limit of Halfin and Whitt, "Heavy-traffic limits for queues with many exponential
servers", Operations Research 29 (1981), with Phi and phi of the normal distribution. Beyond 256 slots its utilisation
is up to 0.02 below that of Erlang C for percentiles up to 99.9, never noticeably above (the tests check both), and it
needs no sum over slots.

Limits. Arrivals are Poisson: bursts need more room. Service times are taken as exponential; answers of one class vary
less, which errs on the safe side, and so does a slot that runs faster while others are idle. One pooled queue stands
for a gateway that sends each request to the least loaded copy; random splitting queues more. The percentile of TTFT is
taken as the mean plus the wait for a slot; the spread of the prefill itself is not in it.
"""

import math
from functools import lru_cache
from itertools import accumulate

EXACT_SLOTS = 256
"""Largest pool for which Erlang's formula is summed."""

_BISECTIONS = 40


def wait_probability(*, utilization: float, slots: int, service_seconds: float, wait_seconds: float) -> float:
    """Probability that a request waits longer than ``wait_seconds`` for a slot, by the formulas above.

    Args:
        utilization: busy share of all slots, in (0, 1).
        slots: of all copies together.
        service_seconds: mean time that a request holds a slot.
        wait_seconds: at least 0.
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
    """The utilisation at which the percentile still holds, by number of copies; the last one holds for more.

    Args:
        percentile: share of requests that must start in time, in per cent, in (0, 100), as in a plan's ``slo``.
        slots_per_copy: running requests of one copy, ``Estimate.batch``.
        service_seconds: mean time that a request holds a slot, ``Estimate.slot_seconds``.
        wait_budget_seconds: what the SLO leaves for waiting, the TTFT bound less ``Estimate.ttft_seconds``; 0 asks
            that the share does not wait at all.

    Returns:
        ``max_copies`` fractions in (0, 1), which never fall from one to the next: pools share their slack.

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

    # The running maximum bridges the step between the two formulas; by itself the limit never falls.
    return tuple(accumulate((limit(copies) for copies in range(1, max_copies + 1)), max))
