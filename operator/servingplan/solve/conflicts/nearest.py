"""Finds the smallest sufficient change of one limit by bisection: if a value is sufficient, every looser one is."""

from collections.abc import Callable

REAL_STEPS = 20
"""Bisection steps for a limit that is not a whole number; they find it to a millionth of its range."""


def least_integer(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """The least number above `low`, up to `high`, for which `holds` is true; None if there is none."""
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
    """The value nearest to `now`, between `now` and `far`, for which `holds` is true, to a millionth of the way; None if
    `holds` is false at `far` too."""
    if far == now or not holds(far):
        return None
    near = now
    for _ in range(REAL_STEPS):
        middle = (near + far) / 2
        near, far = (near, middle) if holds(middle) else (middle, far)
    return far
