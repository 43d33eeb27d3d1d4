"""``servingplan plan examples/chat.yaml`` from the shell."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.ground import EXAMPLE
from benchmarks.report import Row, Section, alone, percentile, spread

GOAL_SECONDS = 2.0


def measure(quick: bool) -> Section:
    """Five processes, one after the other, after one that warms the file cache."""
    seconds = [_once() for _ in range(2 if quick else 6)][1:]
    row = Row("the whole command", spread(seconds), f"{GOAL_SECONDS:g} s", percentile(seconds, 50) < GOAL_SECONDS)
    return Section("A plan from the shell", "`servingplan plan examples/chat.yaml`, a new process each time.", (row,))


def _once() -> float:
    command = [str(Path(sys.executable).with_name("servingplan")), "plan", str(EXAMPLE)]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - started


if __name__ == "__main__":
    alone(measure)
