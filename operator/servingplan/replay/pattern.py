"""The rate of a class over time, as a factor on its mean: the swing of a day, surges and a launch.

Between two moments at which an event begins or ends, the factor is ``(f + s u) (1 + a sin(2 pi t / day))``, with ``u`` the time
since the first of them. Its integral is known in closed form, so arrivals of an even stream are moved to the times at which the
integral has grown by as much.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from servingplan.replay.events import DemandEvent

DAY_SECONDS = 86_400.0
_ANGULAR = 2 * math.pi / DAY_SECONDS


@dataclass(frozen=True)
class _Piece:
    """A span of time in which no event begins or ends."""

    begins: float
    factor: float
    """The factor at its beginning, without the swing."""
    slope: float
    """By how much that grows in a second."""
    before: float
    """The integral up to its beginning."""


class Pattern:
    """Where the requests of one class go in time.

    Args:
        amplitude: the swing of the rate over a day, as a part of its mean, from 0 to 1.
        events: those that concern the class; at most one is a launch.
    """

    def __init__(self, amplitude: float = 0.0, events: Sequence[DemandEvent] = ()) -> None:
        self._amplitude = amplitude
        ends = (event.at + event.seconds for event in events if event.seconds is not None)
        moments = sorted({0.0, *(event.at for event in events), *ends})
        self._pieces: list[_Piece] = []
        before = 0.0
        for begins, end in pairwise([*moments, math.inf]):
            piece = _Piece(begins, *_factor(events, begins), before)
            self._pieces.append(piece)
            if end < math.inf:
                before += self._grown(piece, end - begins)
        self._before = [piece.before for piece in self._pieces]

    def when(self, even: float) -> float:
        """The time, in seconds, at which the integral of the factor reaches ``even``."""
        # Of pieces with the same beginning of the integral the last counts: nothing arrives in the others.
        piece = self._pieces[bisect_right(self._before, even) - 1]
        return piece.begins + self._inverse(piece, even - piece.before)

    def _grown(self, piece: _Piece, u: float) -> float:
        """The integral over the first ``u`` seconds of a piece."""
        steady = piece.factor * u + piece.slope * u * u / 2
        if self._amplitude == 0:
            return steady

        def swing(v: float) -> float:
            angle = _ANGULAR * (piece.begins + v)
            line = piece.factor + piece.slope * v
            return (piece.slope * math.sin(angle) / _ANGULAR - line * math.cos(angle)) / _ANGULAR

        return steady + self._amplitude * (swing(u) - swing(0.0))

    def _inverse(self, piece: _Piece, grown: float) -> float:
        """The seconds of a piece in which its integral grows by so much."""
        factor, slope = piece.factor, piece.slope
        if self._amplitude == 0:
            root = factor + math.sqrt(factor**2 + 2 * slope * grown)
            return 2 * grown / root if root else 0.0  # the root of a quadratic, without a difference of near numbers
        low, high = 0.0, 1.0
        while self._grown(piece, high) < grown:
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._grown(piece, middle) < grown else (low, middle)
        return high


def _factor(events: Sequence[DemandEvent], at: float) -> tuple[float, float]:
    """The factor of all events together at a moment, and by how much it grows in a second until the next moment."""
    factor, slope = 1.0, 0.0
    for event in events:
        since = at - event.at
        if event.event == "Surge":
            if since >= 0 and (event.seconds is None or at < event.at + event.seconds):
                factor, slope = factor * event.factor, slope * event.factor
        elif since < 0:
            return 0.0, 0.0
        elif event.seconds is not None and at < event.at + event.seconds:
            factor, slope = factor * since / event.seconds, factor / event.seconds
    return factor, slope
