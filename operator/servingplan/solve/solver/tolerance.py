"""How near is equal: every tolerance of the solver, from the finest to the coarsest, and the gap of a bound.

Place in the flow: observe -> model -> **solve** -> render -> apply -> status. The order holds the levels apart: what HiGHS
calls equal (1e-9) < the slack with which a level is held (1e-7) < the gap that is told and that the verifier allows (1e-6).
"""

SERVICE_GAP = 1e-6
"""Service levels of MinimizeCost are proved this tightly whatever gap is asked: served in full must mean it."""
HELD_SLACK = 1e-7
"""Relative slack of a level while later ones are optimised; below the verifier's tolerance of 1e-6."""


def gap_of(value: float, bound: float) -> float:
    """`|bound - value| / max(|bound|, |value|)`; 0 when both are 0."""
    largest = max(abs(value), abs(bound))
    return abs(bound - value) / largest if largest else 0.0


PROVED = 1e-6
"""Service levels under MinimizeCost count as proved within this, whatever gap is asked."""
FEASIBILITY_TOLERANCE = 1e-9
"""Absolute, on rows and on integrality; the programs are scaled so that a row's activity is of order 1."""
