"""Nothing of a search goes on after its deadline: no thread is left, and nothing takes time from the processor."""

import threading
import time
from pathlib import Path

import pytest

from servingplan.solve import solve
from tests.unit.solve.test_anytime import large

TASKS = Path("/proc/self/task")
REST_SECONDS = 0.2


def threads():
    """Threads of this process: those that the kernel knows where it tells, since the solver's are not Python's."""
    return len(list(TASKS.iterdir())) if TASKS.exists() else threading.active_count()


@pytest.mark.parametrize("objective", ["MinimizeCost", "MaximizeService"])
@pytest.mark.parametrize("method", ["exact", "anytime"])
def test_no_thread_survives_a_deadline(method, objective):
    question = large(objective)
    solve(question, method=method, deadline_seconds=0.01)  # what the solver starts once per process is there now
    before = threads()
    answer = solve(question, method=method, deadline_seconds=0.15, relative_gap=0.0)
    assert answer.stopped == "deadline"
    assert threads() == before
    spent = time.process_time()
    time.sleep(REST_SECONDS)
    assert time.process_time() - spent < REST_SECONDS / 4
