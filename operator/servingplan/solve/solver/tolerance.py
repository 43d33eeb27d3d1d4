"""How near is equal: every tolerance of the solver, from the finest to the coarsest, and the comparisons that use them.

The order keeps the levels apart:

    rounding (DUST) < what HiGHS calls equal (EQUAL) < the slack of a held level (HELD) < what is told and verified (TOLD)

so that what one stage lets through is never a difference to the next one. `tests/unit/solve/test_tolerance.py` states it.
"""

DUST = 1e-12
"""Relative: rounding of double precision in sums of some hundred terms."""
EQUAL = 1e-9
"""Absolute, on rows and on integrality, in HiGHS; relative in our own comparisons. The programs are scaled so that a row's
activity is of order 1."""
HELD = 1e-7
"""Relative slack of a level while later ones are optimised, of a cut, and of service after a loss."""
TOLD = 1e-6
"""Relative: levels that differ by less are equal, a level within it is proved whatever gap is asked (served in full must mean
it), and the verifier allows no more."""


def gap_of(value: float, bound: float) -> float:
    """`|bound - value| / max(|bound|, |value|)`; 0 when both are 0."""
    largest = max(abs(value), abs(bound))
    return abs(bound - value) / largest if largest else 0.0


def reaches(value: float, wanted: float) -> bool:
    """Whether a value is as much as is wanted, as far as the solver can tell."""
    return value >= wanted * (1 - EQUAL)


def is_within(amount: float, limit: float) -> bool:
    """Whether an amount keeps a limit, as far as the solver can tell."""
    return amount <= limit * (1 + EQUAL) + EQUAL


def is_left(rest: float, whole: float) -> bool:
    """Whether what is left of a whole is more than the solver's rounding."""
    return rest > EQUAL * whole
