"""The deadline's clock. No other module of the solver reads a clock."""

import time


class Stopwatch:
    """Measures the seconds since it was made and the rest of a deadline."""

    def __init__(self, deadline_seconds: float | None) -> None:
        self._start = time.monotonic()
        self._deadline_seconds = deadline_seconds

    def elapsed_seconds(self) -> float:
        """Wall-clock seconds since the start."""
        return time.monotonic() - self._start

    def remaining_seconds(self) -> float | None:
        """Wall-clock seconds until the deadline, not below 0; None without a deadline."""
        if self._deadline_seconds is None:
            return None
        return max(0.0, self._deadline_seconds - self.elapsed_seconds())

    def limited(self) -> bool:
        """Whether there is a deadline."""
        return self._deadline_seconds is not None

    def expired(self) -> bool:
        """Whether the deadline has passed."""
        remaining = self.remaining_seconds()
        return remaining is not None and remaining <= 0.0
