"""Every tolerance of the solver, from the finest to the coarsest, and the comparisons that use them.

The order separates the levels:

    rounding (DUST) < what HiGHS calls equal (EQUAL) < the slack of a held level (HELD) < what is reported and verified (TOLD)

So an error that one stage allows is never a difference to the next one. `tests/unit/solve/test_tolerance.py` tests this.
"""

DUST = 1e-12
"""Relative: rounding of double precision in sums of some hundred terms."""
EQUAL = 1e-9
"""Absolute in HiGHS, on rows and on integrality; relative in our own comparisons. The programs are scaled so that a row's
activity is of order 1."""
HELD = 1e-7
"""Relative slack of a level while later ones are optimised, of a cut, and of service after a loss."""
TOLD = 1e-6
"""Relative. Levels that differ by less are equal; a level within it of its bound is proved, even if a smaller gap is asked; and
the verifier allows no larger error."""


def gap_of(value: float, bound: float) -> float:
    """The relative gap `|bound - value| / max(|bound|, |value|)`; 0 if both are 0."""
    largest = max(abs(value), abs(bound))
    return abs(bound - value) / largest if largest else 0.0


def reaches(value: float, wanted: float) -> bool:
    """Whether a value is at least `wanted`, within the solver's tolerance."""
    return value >= wanted * (1 - EQUAL)


def is_within(amount: float, limit: float) -> bool:
    """Whether an amount is at most `limit`, within the solver's tolerance."""
    return amount <= limit * (1 + EQUAL) + EQUAL


def is_left(rest: float, whole: float) -> bool:
    """Whether the rest of a whole is more than the solver's rounding."""
    return rest > EQUAL * whole
