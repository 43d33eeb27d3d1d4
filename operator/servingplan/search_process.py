"""EFFECT. The process of a search: what it is asked, and the loop in which it answers (``solvers`` starts and ends it).

It imports the solver and little else. Loading all of the operator would take it twice the time and memory.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from servingplan.errors import ServingPlanError

if TYPE_CHECKING:
    from servingplan.api.status_v1alpha1 import ExplanationStatus
    from servingplan.model.answer import Answer
    from servingplan.model.question import Question
    from servingplan.model.world import Observation

OPERATOR_BYTES = 600 * 2**20
"""The memory that is left to the operator itself, by its goal at 1,000 nodes and 15,000 pods (docs/benchmarks.md)."""
LEAST_BYTES = 256 * 2**20
"""A process has as much in any case: it needs a third of that to start."""


class SolverCrashed(ServingPlanError):  # noqa: N818 (a fact of an answer)
    """The process of a search ended, or did not end in time; the message says how."""


class Task[T](Protocol):
    """Work for a process. It can be pickled, and so can its result."""

    @property
    def deadline_seconds(self) -> float:
        """The time that it takes at most."""
        ...

    def run(self) -> T:
        """The result. It is called in the process."""
        ...


@dataclass(frozen=True)
class Searched:
    """One search."""

    question: Question
    method: str
    deadline_seconds: float

    def run(self) -> Answer:
        """The answer of the solver."""
        from servingplan.solve import solve

        return solve(self.question, method=self.method, deadline_seconds=self.deadline_seconds)


@dataclass(frozen=True)
class Explained:
    """One explanation."""

    world: Observation
    asked: str
    deadline_seconds: float

    def run(self) -> ExplanationStatus | None:
        """The same as ``explaining.Explain``."""
        from servingplan.status.explained import explain

        return explain(self.world, self.asked, self.deadline_seconds)


def work(descriptor: int, nice: int) -> None:
    """Answer questions until the operator ends. It runs in the search process."""
    connection = Connection(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with suppress(OSError):
        os.nice(nice)
    with suppress(OSError):  # if memory is short, this process is killed before the operator
        Path("/proc/self/oom_score_adj").write_text("800")
    if (most := memory_of_a_search(memory_of_the_container())) is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    import servingplan.solve  # noqa: F401 (loads slowly, so before the first question)

    while True:
        try:
            task: Task[Any] = connection.recv()
        except (EOFError, OSError):
            return
        try:
            found: Any = task.run()
        except Exception as error:
            found = _portable(error)
        try:
            connection.send(found)
        except (EOFError, OSError):
            return


def _end_with(parent: int) -> None:
    """Exit when the parent process ends, however it ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """The error if it can be pickled; else an error with its text."""
    import pickle

    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return SolverCrashed(f"{type(error).__name__}: {error}")
    return error


def memory_of_a_search(container_bytes: int | None) -> int | None:
    """The bytes that the process of a search may take; None where the container has no limit. Half of what the operator leaves:
    two large searches at a time are rare, three more so."""
    return None if container_bytes is None else max(LEAST_BYTES, (container_bytes - OPERATOR_BYTES) // 2)


def memory_of_the_container() -> int | None:
    """The memory limit of this process's control group in bytes."""
    with suppress(OSError, ValueError):
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    return None
