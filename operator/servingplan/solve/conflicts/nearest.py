"""The smallest change of one limit that does, by bisection: what holds at one value holds at every looser one."""

from collections.abc import Callable

REAL_STEPS = 20
"""Halvings by which a limit that is no whole number is found: to a millionth of its range."""


def least_integer(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """The least number above `low`, up to `high`, that holds; None where none does. Steps double, then halve."""
    if high <= low or not holds(high):
        return None
    step = 1
    while low + step < high and not holds(low + step):
        low, step = low + step, 2 * step
    high = min(high, low + step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def least_part(now: float, far: float, holds: Callable[[float], bool]) -> float | None:
    """The value between `now`, where it does not hold, and `far`, to a millionth of the way, on the side where it holds; None
    where it does not hold at `far` either."""
    if far == now or not holds(far):
        return None
    near = now
    for _ in range(REAL_STEPS):
        middle = (near + far) / 2
        near, far = (near, middle) if holds(middle) else (middle, far)
    return far
